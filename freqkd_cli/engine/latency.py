"""How long one image takes: the median of repeated forward passes, in milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def median_ms(call: Callable[[], Any], *, runs: int = 20, warm_up: int = 3, wait: Callable[[], None] | None = None) -> float:
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


@torch.inference_mode()
def measure_latency(model: nn.Module, size: tuple[int, int], device: torch.device | str = "cpu", runs: int = 20) -> float:
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
