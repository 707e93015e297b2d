"""JSON objects from files: one that work cannot go on without, and one that may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from freqkd_cli.errors import WeightsMissing


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file holds.

    Raises:
        WeightsMissing: the file is absent or no JSON object.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsMissing(f"{path} is not there") from error
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsMissing(f"{path} cannot be read", got=error, need="a JSON object") from error
    if not isinstance(held, dict):
        raise WeightsMissing(
            f"{path} cannot be read", got=type(held).__name__, need="a JSON object"
        )
    return held


def object_or_none(path: Path) -> dict[str, Any] | None:
    """The object that a file holds; None where it is absent or damaged: for what can be written again, or is told as not recorded."""
    try:
        return read_object(path)
    except WeightsMissing:
        return None
