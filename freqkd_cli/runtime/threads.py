"""Cores of a CPU, and work in several threads where torch runs one piece after the other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(number: int, work: Callable[[int], T]) -> list[T]:
    """Return ``work(0)`` to ``work(number - 1)``, each run in its own thread.

    torch's threads are split between them.

    Gradients are off, and inference mode is that of the caller. Autocast does not reach other
    threads, so ``work`` must start it.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(index: int) -> T:
        torch.set_num_threads(max(1, threads // number))
        torch.set_flush_denormal(
            True
        )  # set per thread, as runtime/precision.py does for the main one
        with torch.inference_mode(inference), torch.no_grad():
            return work(index)

    try:
        return list(pool(number).map(run, range(number)))
    finally:
        torch.set_num_threads(threads)


def pool(threads: int) -> ThreadPoolExecutor:
    """Return the calling thread's own pool of this size, made at its first use."""
    return _pool(os.getpid(), threading.get_ident(), threads)


@lru_cache(maxsize=32)
def _pool(process: int, caller: int, threads: int) -> ThreadPoolExecutor:
    """Return one pool per caller, so that lanes never wait for each other, and one per process.

    A forked child does not inherit its parent's threads.
    """
    return ThreadPoolExecutor(threads, thread_name_prefix="freqkd")
