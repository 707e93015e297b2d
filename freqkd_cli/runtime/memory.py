"""How the C library keeps memory on a CPU. A network frees and asks for the same large blocks at every operation."""

from __future__ import annotations

import ctypes
import os
from functools import cache

MMAP_MAX, TRIM_THRESHOLD, ARENA_MAX = -4, -1, -8
"""Numbers of glibc's ``mallopt``."""


@cache
def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors; whether that was possible.

    glibc gives every large block back to the system, which then has to clear and map each page of the next one: a training step of a
    Fast-SCNN on 8 pictures of 384x480 met 37,587 page faults, and 450 with this; it took 0.83 of the time (two cores). The process
    stays as large as it once was. Nothing changes under another C library, or where the environment already tunes glibc.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        # No block of its own mapping, nothing trimmed, and one arena for all threads.
        return all(
            mallopt(what, value) == 1
            for what, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (ARENA_MAX, 1))
        )
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False


OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "bad alloc", "bad_alloc")
"""Parts of the messages of torch's allocators, which on a CPU raise a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a CPU or on a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in OUT_OF_MEMORY)
