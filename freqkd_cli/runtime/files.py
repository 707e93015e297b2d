"""Files that are complete or absent, checksums, and errors that name the file they are about."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

SUFFIX = ".part"
"""Ending of an unfinished file; nothing reads it."""


def write_aside(path: Path, body: Callable[[BinaryIO], Any], *, sync: bool = False) -> None:
    """Write a file under a temporary name, then rename it, so that ``path`` is never half written.

    A symbolic link at ``path`` or at the temporary name is replaced, never followed.

    Args:
        body: writes to the open file.
        sync: put the data on the disk before the rename, see :func:`write_synced`.

    Raises:
        OSError: the disk is full or permission is missing. It names ``path``, and the unfinished
            file is removed where possible.
    """
    aside = path.with_name(path.name + SUFFIX)
    with naming(path):
        try:
            aside.unlink(missing_ok=True)
            with open(aside, "xb") as file:
                body(file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def write_synced(path: Path, body: Callable[[BinaryIO], Any]) -> None:
    """Write a file as :func:`write_aside` does, so that it also survives a power cut.

    Raises:
        OSError: as :func:`write_aside`.
    """
    write_aside(path, body, sync=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the renames in ``folder`` on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file (about 1 GiB/s on one core)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table and make its folder where it is missing; the first row is the header.

    Raises:
        OSError: as :func:`write_aside`.
    """
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write(text.getvalue().encode()))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name ``path`` in an OSError of the body that names no file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
