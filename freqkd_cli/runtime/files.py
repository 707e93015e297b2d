"""Files that are whole or not there, and errors that say which file they are about."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

SUFFIX = ".part"
"""A file of this ending is unfinished, and nobody reads it."""


def write_aside(path: Path, body: Callable[[BinaryIO], Any], *, sync: bool = False) -> None:
    """Write a file under another name, then rename it: under ``path`` there is the whole file or what was there before.

    Args:
        body: writes to the open file.
        sync: have it on the disk before the rename, see :func:`write_synced`.

    Raises:
        OSError: the disk is full, permission is gone; it names ``path``, and the unfinished file is removed where that is possible.
    """
    aside = path.with_name(path.name + SUFFIX)
    with naming(path):
        try:
            with open(aside, "wb") as file:
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
    """:func:`write_aside` for what must outlive a power cut: on the disk before it has its name, and its name too.

    Raises:
        OSError: as :func:`write_aside`.
    """
    write_aside(path, body, sync=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last through a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a table aside, its folder made where there is none; the first row holds the columns' names.

    Raises:
        OSError: as :func:`write_aside`.
    """
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write(text.getvalue().encode()))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the body say that it is about ``path``, where it names no file: one of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
