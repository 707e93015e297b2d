"""Small results that are kept between commands, as JSON files in the user's cache folder.

The folder is ``$FREQKD_CACHE``, by default ``freqkd`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. It
may be deleted at any time, which costs only the time to compute the results again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from freqkd_cli.runtime.files import write_aside
from freqkd_cli.runtime.json_file import object_or_none

log = logging.getLogger(__name__)


def key_of(identity: Any) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def kept(kind: str, key: str) -> dict[str, Any] | None:
    """Return the result of a kind under a key, or None where it is missing or damaged."""
    path = _path(kind, key)
    return object_or_none(path) if path else None


def keep(kind: str, key: str, result: dict[str, Any]) -> None:
    """Keep a result. A folder that cannot be written to is no error."""
    path = _path(kind, key)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, lambda file: file.write(json.dumps(result).encode()))
    except OSError as error:
        log.debug("%s is not kept: %s", path, error)


def folder(kind: str) -> Path | None:
    """Return the folder of a kind of results; None where the user has no home folder."""
    try:
        parent = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(os.environ.get("FREQKD_CACHE") or Path(parent) / "freqkd") / kind
    except RuntimeError:
        return None


def _path(kind: str, key: str) -> Path | None:
    """Return the file of a result; None where the user has no home folder."""
    parent = folder(kind)
    return parent / f"{key}.json" if parent else None
