"""One writer per folder: a lock file that the operating system releases when its process ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from freqkd_cli.errors import UsageError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        UsageError: as :class:`WriteLock`.
    """
    lock = WriteLock(folder, what)
    try:
        yield
    finally:
        lock.release()


class WriteLock:
    """An exclusive lock on ``folder/.lock``, held until ``release`` or the end of the process.

    While it is held, the file contains one line: process, host and start of the holder. The file
    stays afterwards, and the line of a killed process blocks nobody.

    Args:
        folder: an existing folder.
        what: what is being written, for the message.

    Raises:
        UsageError: another writer holds the lock, or ``.lock`` is a symbolic link.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.path = folder / LOCK
        if self.path.is_symlink():
            raise UsageError(f"{self.path} is a symbolic link", need="a plain file or none")
        self._lock = FileLock(self.path, thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"{what} is being written by {self._holder()}",
                tip="wait for it, or give another --out",
            ) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self.path.write_text(f"{_this_process()} since {since}", encoding="utf-8")

    def _holder(self) -> str:
        try:
            holder = self.path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            holder = ""
        own = holder.startswith(f"{_this_process()} ")
        return "this process" if own else holder or "another process"

    def release(self) -> None:
        """Empty the lock file and let the next writer in."""
        with contextlib.suppress(OSError):
            self.path.write_text("", encoding="utf-8")
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
