"""Memory on a CPU: how much is free, keep freed blocks, and recognize that it ran out."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path

MMAP_MAX, TRIM_THRESHOLD, ARENA_MAX = -4, -1, -8
"""Numbers of glibc's ``mallopt``."""

_MESSAGES = ("allocate memory", "not enough memory", "out of memory", "bad alloc", "bad_alloc")
"""Parts of messages about memory, of errors of torch and onnxruntime that have no own class."""

CONTAINER = Path("/sys/fs/cgroup")
"""Files with the memory of this container, where there is one."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors; return whether that is possible.

    glibc gives every large block back to the system, which then maps each page of the next one
    again. A training step of a Fast-SCNN on 8 images of 384x480 had 37,587 page faults, 450 with
    this, and took 0.83 of the time (two cores). The process stays as large as it once was. Nothing
    changes with another C library, or where the environment already tunes glibc.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        # No separately mapped block, nothing trimmed, and one arena for all threads.
        return all(
            mallopt(option, value) == 1
            for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (ARENA_MAX, 1))
        )
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a CPU or a GPU.

    torch raises ``OutOfMemoryError`` for a GPU, but a plain ``RuntimeError`` for a CPU, which only
    its message identifies, as it does for onnxruntime's ``Fail``. The causes of an error are
    checked too.
    """
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, MemoryError) or type(current).__name__ == "OutOfMemoryError":
            return True
        if isinstance(current, OSError) and current.errno == errno.ENOMEM:
            return True
        message, kind = str(current).lower(), type(current)
        plain = issubclass(kind, RuntimeError) or kind.__module__.startswith("onnxruntime.")
        if plain and any(part in message for part in _MESSAGES):
            return True
        current = current.__cause__
    return False


def free_memory() -> int:
    """Return the bytes of memory that this machine, or this container, has left.

    Where the system does not count them (macOS), half of its memory is taken as free. Pages of
    files that were read are free: the system drops them when memory is needed.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit, used = (int((CONTAINER / f"memory.{x}").read_text()) for x in ("max", "current"))
        lines = (CONTAINER / "memory.stat").read_text().splitlines()
        used -= sum(int(x.split()[1]) for x in lines if x.startswith("inactive_file "))
    except (OSError, ValueError):  # no limit is the word max
        return free
    return min(free, max(0, limit - used))
