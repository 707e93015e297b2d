"""Where decoded images are kept: a block of shared memory, or a folder with one file an image."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Protocol

from freqkd_cli.images.decoded_slot import HEADER_BYTES, Slot, has_key

SUFFIX, UNFINISHED = ".decoded", ".part"

_OLD = 3600
"""Seconds after which an unfinished file is that of a killed process."""


class Store(Protocol):
    """Bytes of decoded images by number."""

    def get(self, index: int, place: str) -> memoryview | None:
        """Return the bytes that are kept, or None. They may be of another state of the image."""
        ...

    def put(self, index: int, place: str, slot: Slot) -> None:
        """Keep the bytes of an image, for all processes.

        Raises:
            OSError: they cannot be written.
        """
        ...


class MemoryStore:
    """Shared memory that this process and its workers fill and read.

    It is a file without a name, so nothing is left when the processes end. An image is written once
    and never replaced: readers hold arrays in this memory.

    Args:
        sizes: bytes of each image's slot.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.starts = [0, *accumulate(sizes)]
        if hasattr(os, "memfd_create"):
            number = os.memfd_create("freqkd decoded images")
        else:
            with tempfile.TemporaryFile() as file:
                number = os.dup(file.fileno())
        os.ftruncate(number, self.starts[-1])
        self._open(number)

    def _open(self, number: int) -> None:
        self.number = number
        self.memory = memoryview(mmap.mmap(number, self.starts[-1], prot=mmap.PROT_READ))

    def get(self, index: int, place: str) -> memoryview | None:
        return self.memory[self.starts[index] : self.starts[index + 1]]

    def put(self, index: int, place: str, slot: Slot) -> None:
        start, end = self.starts[index : index + 2]
        with self._alone(index) as alone:
            if not alone or slot.size > end - start or any(self.memory[start : start + 8]):
                return
            at = start + HEADER_BYTES
            for part in slot.parts:
                at = self._write(part, at)
            self._write(memoryview(slot.header), start)

    def _write(self, part: memoryview, at: int) -> int:
        while part:
            written = os.pwrite(self.number, part, at)
            part, at = part[written:], at + written
        return at

    @contextlib.contextmanager
    def _alone(self, index: int) -> Iterator[bool]:
        """Whether no other process writes this image; until the end of the block."""
        try:
            fcntl.lockf(self.number, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self.number, fcntl.LOCK_UN, 1, index)

    def __getstate__(self) -> dict[str, Any]:  # for workers that are not forked
        return {"starts": self.starts, "number": DupFd(self.number)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.starts = state["starts"]
        self._open(state["number"].detach())


class DiskStore:
    """A folder with a file for each image, shared by all processes that use it.

    A file is written under a name of its own and renamed. Readers of an older file keep its bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in folder.glob(f"*/*{UNFINISHED}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _OLD:
                    path.unlink()

    def path(self, place: str) -> Path:
        """Return the file of an image."""
        name = hashlib.sha256(place.encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:]}{SUFFIX}"

    def has(self, place: str, key: bytes) -> bool:
        """Return whether the bytes of this state of an image are kept."""
        try:
            with self.path(place).open("rb") as file:
                return has_key(file.read(HEADER_BYTES), key)
        except OSError:
            return False

    def get(self, index: int, place: str) -> memoryview | None:
        try:
            with self.path(place).open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        except (OSError, ValueError):  # an empty file cannot be mapped
            return None

    def put(self, index: int, place: str, slot: Slot) -> None:
        path = self.path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        number, aside = tempfile.mkstemp(dir=path.parent, suffix=UNFINISHED)
        try:
            with open(number, "wb") as file:
                for part in (slot.header, *slot.parts):
                    file.write(part)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
