"""Work side by side on a CPU, a thread each, where torch would take one piece after the other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(number: int, work: Callable[[int], T]) -> list[T]:
    """``work(0)`` to ``work(number - 1)``, without gradients, each in a thread that gets its share of torch's threads.

    Inference mode goes along; autocast is the work's own affair: it does not reach another thread.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(which: int) -> T:
        torch.set_num_threads(max(1, threads // number))
        torch.set_flush_denormal(
            True
        )  # as engine/precision.py does for the main thread: this too is set by thread
        with torch.inference_mode(inference), torch.no_grad():
            return work(which)

    try:
        return list(pool(number).map(run, range(number)))
    finally:
        torch.set_num_threads(threads)


def pool(threads: int) -> ThreadPoolExecutor:
    """The calling thread's own pool of this many, made at its first use."""
    return _pool(os.getpid(), threading.get_ident(), threads)


@lru_cache(maxsize=32)
def _pool(process: int, caller: int, threads: int) -> ThreadPoolExecutor:
    """One a caller, so that lanes do not wait for one another, and one a process: a forked child does not inherit its parent's threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="freqkd")
