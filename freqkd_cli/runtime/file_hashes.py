"""SHA-256 of files, remembered in the user's cache folder by size and time stamps.

A file counts as unchanged where its size, inode and both time stamps (mtime, ctime) do. A copy of a
data set has other stamps, so it is read once. A file that changed less than two seconds ago is not
remembered, because a second change could leave the stamps as they are.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from freqkd_cli.runtime import user_cache

KIND = "file-hashes"

SETTLED = 2_000_000_000
"""Nanoseconds after a change, from which on a file's stamps are trusted."""

_known: dict[str, dict[str, list[Any]]] = {}
"""Folder -> file name -> stamps and hash."""

_changed: set[str] = set()
"""Folders with hashes that are not kept yet."""

_trusting = True


def hash_again() -> None:
    """Read every file again, whatever is remembered of it; new hashes are kept as usual."""
    global _trusting
    _trusting = False
    _known.clear()
    sha256_of_cell.cache_clear()


def sha256_of(path: Path, status: os.stat_result) -> str:
    """Return the hash of a file whose ``status`` was just read.

    Raises:
        OSError: it cannot be read.
    """
    folder, stamps = os.path.abspath(path.parent), _stamps(status)
    if folder not in _known:
        kept = user_cache.kept(KIND, user_cache.key_of(folder)) if _trusting else None
        files = (kept or {}).get("files")
        _known[folder] = files if isinstance(files, dict) else {}
    remembered = _known[folder].get(path.name)
    if isinstance(remembered, list) and remembered[:-1] == stamps:
        return str(remembered[-1])
    started = time.time_ns()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = _stamps(os.fstat(file.fileno()))
    if after == stamps and started - max(status.st_mtime_ns, status.st_ctime_ns) > SETTLED:
        _known[folder][path.name] = [*stamps, digest]
        _changed.add(folder)
    return digest


@functools.cache
def sha256_of_cell(cell: Any, changed: int) -> str:
    """Return the hash of a cell of a table, remembered for this process.

    Args:
        cell: hashable, with the method ``open`` of a path.
        changed: time of change of the table, in nanoseconds.
    """
    return hashlib.sha256(cell.open("rb").read()).hexdigest()


def keep_new() -> None:
    """Keep the hashes that are new, for later commands."""
    for folder in sorted(_changed):
        user_cache.keep(KIND, user_cache.key_of(folder), {"files": _known[folder]})
    _changed.clear()


def _stamps(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
