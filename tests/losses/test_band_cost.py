"""The band loss costs at most 0.3 of its usual form, as a ratio in one process.

An AMD processor with AVX-512 had 0.19 to 0.27. An Intel one with AMX had 0.34 to
0.43, so there the bound is 0.5.

Another program that uses the memory slows this loss more than the usual form, which spends a larger
share of its time in arithmetic. So no other test may run at the same time, and the least of up to
three tries is asserted, as for the other bounds of time.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.masks import low_pass
from freqkd_cli.views.batch import Batch

TRIES = 3

AMX = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
STEP, WHOLE = (0.5, 0.6) if AMX else (0.3, 0.4)
"""Bounds of a step, and of a step with the teacher's half."""


def seconds(runs, rounds: int) -> list[float]:
    """Return the median processor seconds of each, with interleaved runs.

    Processor time, so that other programs count little.
    """
    times = [[] for _ in runs]
    for _ in range(rounds):
        for run, taken in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
    return [statistics.median(taken[1:]) for taken in times]


@pytest.mark.timing
@pytest.mark.parametrize("distance", ["mse", "relative"])
@pytest.mark.parametrize(("shape", "rounds"), [((4, 64, 45, 60), 16), ((4, 128, 90, 120), 6)])
def test_forward_and_backward_against_the_usual_form(shape, rounds, distance):
    number, channels, height, width = shape
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape)
    rho = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) / 0.5
    mask = torch.from_numpy(low_pass(rho, "gaussian", 0.25)).to(torch.complex64)

    def usual() -> None:
        filtered = (torch.fft.ifft2(torch.fft.fft2(x) * mask).real for x in (student, teacher))
        torch.nn.functional.mse_loss(*filtered).backward()
        student.grad = None

    loss = registry.find("losses", "band").build(
        student="s", teacher="t", distance=distance, normalize="none", adapter=False
    )
    loss.start({"s": Tap("s", 8, channels)}, {"t": Tap("t", 8, channels)}, 2)
    image = (height * 8, width * 8)
    numbers = torch.arange(number)
    batch = Batch(
        torch.zeros(number, 3, *image),
        None,
        torch.ones(number, *image, dtype=torch.bool),
        numbers,
        numbers,
    )
    target = loss.target({"t": teacher}, batch, {"s": (height, width)})

    def band() -> None:
        loss({"s": student}, target, batch, 0).backward()
        student.grad = None

    def with_target() -> None:
        fresh = loss.target({"t": teacher}, batch, {"s": (height, width)})
        loss({"s": student}, fresh, batch, 0).backward()
        student.grad = None

    least_step, least_whole = float("inf"), float("inf")
    for _ in range(TRIES):
        slow, step, whole = seconds((usual, band, with_target), rounds)
        print(
            f"{shape} {distance}: forward and backward {step / slow:.3f}, "
            f"with the teacher's half {whole / slow:.3f} of the usual form"
        )
        least_step, least_whole = min(least_step, step / slow), min(least_whole, whole / slow)
        if least_step <= STEP and least_whole <= WHOLE:
            break
    assert least_step <= STEP and least_whole <= WHOLE
