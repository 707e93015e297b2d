"""Whether a path can be written, before the work whose result it is to hold."""

from __future__ import annotations

import os
from pathlib import Path

from freqkd_cli.errors import FreqKDError, UsageError


def nearest_folder(option: str, path: Path) -> Path:
    """Return the folder that is there already, of those that ``path`` lies in.

    Args:
        option: that gave the path, such as ``--out``.

    Raises:
        UsageError: it is a file.
    """
    place = path.absolute()
    nearest = next(parent for parent in (*place.parents, place.parent) if parent.exists())
    if not nearest.is_dir():
        raise UsageError(
            f"{option} {path} is below {nearest}, which is a file",
            need="a folder",
            key=option.removeprefix("--"),
        )
    return nearest


def require_writable(option: str, path: Path) -> None:
    """Check that a file, or a folder with new files, can be written.

    Raises:
        UsageError: it would lie below a file.
        FreqKDError: the folder is read-only.
    """
    folder = path if path.is_dir() else nearest_folder(option, path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FreqKDError(
            f"{option} {path} cannot be written",
            got=f"{folder} is read-only",
            tip=f"use another {option}",
            key=option.removeprefix("--"),
        )
