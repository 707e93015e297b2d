"""How long one image takes: the median of repeated forward passes, in milliseconds."""

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
    """Median milliseconds of ``call()`` after ``warm_up`` calls that do not count.

    ``wait`` is called before the clock is read, so that work still queued on a device is inside the time.
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
    """Median milliseconds of each call, taken by turns, so that what else the machine does falls on all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= warm_up:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(taken) for name, taken in times.items()}


@torch.inference_mode()
def measure_latency(
    model: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu", runs: int = 20
) -> float:
    """Median milliseconds of ``model`` on one image of ``size`` (H, W), batch 1, float32, eval mode, on torch's present thread count.

    The model is moved to ``device`` and left there; its mode is restored.
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
    """Threads that a CPU latency was measured with; a latency without this number says little."""
    return torch.get_num_threads()


@torch.inference_mode()
def latency_table(
    calls: Mapping[str, Callable[[Tensor], Any]], sizes: Sequence[tuple[int, int]], runs: int
) -> dict[str, Any]:
    """Median milliseconds of one image at every size (H, W), all calls by turns, on the CPU; no rows where ``runs`` is 0."""
    rows = []
    for size in sizes if runs else ():
        image = torch.full((1, 3, *size), 0.5)
        timed = {name: functools.partial(call, image) for name, call in calls.items()}
        rows.append({"size": [1, *size], **by_turns_ms(timed, runs=runs)})
    return {"latency_ms": rows, "latency_runs": runs, "device": "cpu", "threads": threads()}
