"""Latency of one image: the median of repeated forward passes, in milliseconds."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def median_ms(
    call: Callable[[], Any],
    *,
    runs: int = 20,
    warm_up: int = 3,
    wait: Callable[[], None] | None = None,
) -> float:
    """Return the median milliseconds of ``call()`` after ``warm_up`` calls that do not count.

    ``wait`` is called before the clock is read, so that work queued on a device is included.
    """
    times = []
    for number in range(warm_up + runs):
        start = time.perf_counter()
        call()
        if wait is not None:
            wait()
        if number >= warm_up:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def by_turns_ms(
    calls: Mapping[str, Callable[[], Any]], *, runs: int, warm_up: int = 1
) -> dict[str, float]:
    """Return the median milliseconds of each call, run in turn so that other load affects all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= warm_up:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def measure_latency(
    model: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu", runs: int = 20
) -> float:
    """Return the median milliseconds of ``model`` on one float32 image of ``size`` (H, W).

    The model runs in eval mode with torch's current thread count. It is moved to ``device`` and
    stays there; its mode is restored.
    """
    device = torch.device(device)
    was_training = model.training
    model.to(device).eval()
    image = torch.full((1, 3, *size), 0.5, device=device)
    wait = (lambda: torch.accelerator.synchronize(device)) if device.type != "cpu" else None
    try:
        return median_ms(lambda: model(image), runs=runs, wait=wait)
    finally:
        model.train(was_training)


def threads() -> int:
    """Return the thread count of a CPU latency, without which it cannot be compared."""
    return torch.get_num_threads()


@torch.inference_mode()
def latency_table(
    calls: Mapping[str, Callable[[Tensor], Any]], sizes: Sequence[tuple[int, int]], runs: int
) -> dict[str, Any]:
    """Return the median milliseconds of one image at every size (H, W) on the CPU.

    All calls run in turn; there are no rows where ``runs`` is 0.
    """
    rows = []
    for size in sizes if runs else ():
        image = torch.full((1, 3, *size), 0.5)
        timed = {name: functools.partial(call, image) for name, call in calls.items()}
        rows.append({"size": [1, *size], **by_turns_ms(timed, runs=runs)})
    return {"latency_ms": rows, "latency_runs": runs, "device": "cpu", "threads": threads()}
