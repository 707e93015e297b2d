"""Read JSON objects from files, required ones and optional ones, and write JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.runtime.files import write_synced


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        WeightsMissing: the file is missing or contains no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsMissing(f"{path} is missing") from error
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsMissing(f"{path} cannot be read", got=error, need="a JSON object") from error
    if not isinstance(value, dict):
        raise WeightsMissing(
            f"{path} cannot be read", got=type(value).__name__, need="a JSON object"
        )
    return value


def object_or_none(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None where it is missing or damaged."""
    try:
        return read_object(path)
    except WeightsMissing:
        return None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that outlives a power cut."""
    write_synced(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))
