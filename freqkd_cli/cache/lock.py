"""One writer a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Self

from freqkd_cli.errors import UsageError

LOCK = ".lock"


class Lock:
    """An exclusive lockf lock on ``.lock``; the kernel drops it with the process, however that ends.

    The file stays; what a killed process left in it holds nobody up.

    Such locks belong to the process, so a second writer inside this one is caught by ``held``.

    Args:
        folder: where the lock lies; it must exist.
        what: what is being written, for the message.

    Raises:
        UsageError: somebody else writes; the message says who.
    """

    held: set[Path] = set()

    def __init__(self, folder: Path, what: str) -> None:
        self.path = (folder / LOCK).resolve()
        if self.path in self.held:
            raise UsageError(
                f"{what} is being written by this very process",
                tip="wait for it, or give another --out",
            )
        self.file = open(self.path, "a+")  # noqa: SIM115 - held until release
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.file.seek(0)
            holder = self.file.read().strip() or "another process"
            self.file.close()
            raise UsageError(
                f"{what} is being written by {holder}", tip="wait for it, or give another --out"
            ) from error
        self.held.add(self.path)
        self.file.truncate(0)
        self.file.write(
            f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        )
        self.file.flush()

    def release(self) -> None:
        self.held.discard(self.path)
        with contextlib.suppress(OSError):
            self.file.truncate(0)
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
