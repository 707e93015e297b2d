"""Measure the cost of a training step, part by part, with the training loop of ``distill``."""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli.bench.bound import bound
from freqkd_cli.bench.measured_loop import (
    WARM_UP,
    BenchOptions,
    measured_loop,
    quartiles,
    synchronizer,
)
from freqkd_cli.bench.ratios import ratios
from freqkd_cli.bench.stopwatch import REST, Stopwatch, watched
from freqkd_cli.runtime.operations import Operations
from freqkd_cli.runtime.progress import Progress, bar
from freqkd_cli.train.loop import Loop
from freqkd_cli.views.loader import ViewDataset

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def bench(recipe: Recipe, options: BenchOptions, progress: Progress) -> dict[str, Any]:
    """Run ``options.steps`` steps of ``recipe`` and return their cost; nothing is written.

    Returns:
        ``step_ms``, ``parts`` (each with ``ms``, ``share``, ``gflop``), ``images_per_second``,
        ``gflops_per_second``, ``memory_bytes``, ``data``, ``ratios``, ``bound``, and the setting of
        the measurement. Times are ``{"median", "low", "high"}``; low and high are the quartiles.

    Raises:
        FreqKDError: where ``distill`` would be refused.
    """
    loop = measured_loop(recipe, options, options.cache)
    setting, train = loop.setting, recipe.train
    progress.note(
        f"computing in {setting.compute.reason}, {torch.get_num_threads()} threads; "
        f"targets from: {loop.source.name}"
    )
    steps, operations = _steps(loop, options.steps, progress)
    memory = _memory(setting.device)
    totals = [sum(step.values()) for step in steps]
    median, gflop = statistics.median(totals), sum(operations.values()) / 1e9
    parts = _parts(steps, operations)
    return {
        "recipe": recipe.source,
        "source": loop.source.name,
        "steps": options.steps,
        "batch_size": train.batch_size,
        "accumulate": train.accumulate,
        "size": list(recipe.data.size),
        "step_ms": quartiles(totals, 1e3),
        "images_per_second": round(train.batch_size * train.accumulate / median, 2),
        "gflop": round(gflop, 2),
        "gflops_per_second": round(gflop / median, 2),
        "parts": parts,
        "memory_bytes": memory,
        "data": {"workers": recipe.data.workers, **_data(loop)},
        "ratios": ratios(loop, recipe, options, progress) if options.against_ce else {},
        "device": str(setting.device),
        "compute": setting.compute.reason,
        "threads": torch.get_num_threads(),
        "bound": bound(parts, recipe.data),
    }


def _steps(
    loop: Loop, number: int, progress: Progress
) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Return the seconds of each part for ``number`` steps, and the operations of one step.

    The steps follow each other and wait for the loader, as in a run.
    """
    watch = Stopwatch(synchronizer(loop.setting.device))
    steps = []
    with (
        closing(loop.batches()) as loaded,
        watched(loop, watch),
        bar(progress, "step", number),
    ):
        batches = watch.timed_batches(loaded)
        # The counter sees only operations of its own thread.
        with _one_thread(), Operations() as counter:
            watch.start(counter)
            loop.step(batches)
        operations = watch.operations
        if "student.backward" in operations:  # not of a frozen student
            # torch's count for the backward pass of a depth-wise convolution ignores its groups,
            # so it is counted as two forward passes.
            operations["student.backward"] = 2 * operations["student.forward"]
        for done in range(1 - WARM_UP, number):
            watch.start()
            loop.step(batches)
            watch.lap(REST)
            if done >= 0:
                steps.append(watch.seconds)
                progress.advance(done + 1)
    return steps, operations


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of tensors on a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _parts(steps: Sequence[dict[str, float]], operations: dict[str, int]) -> list[dict[str, Any]]:
    """Return the parts in the order of a step; ``share`` is of the time of all steps."""
    whole = sum(sum(step.values()) for step in steps)
    names = sorted(
        dict.fromkeys(itertools.chain.from_iterable(steps)), key=lambda name: name == REST
    )
    rows = []
    for name in names:
        seconds = [step.get(name, 0.0) for step in steps]
        rows.append(
            {
                "name": name,
                "ms": quartiles(seconds, 1e3),
                "share": sum(seconds) / whole,
                "gflop": round(operations.get(name, 0) / 1e9, 3),
            }
        )
    return rows


def _data(loop: Loop) -> dict[str, float]:
    """Return the milliseconds that one process takes to read one batch and to make its views."""
    setting, data = loop.setting, loop.setting.checked.recipe.data
    views = ViewDataset(
        setting.dataset, setting.checked.view_spec, view_seed=data.view_seed, views=data.views
    )
    reading, making = [], []
    for index in range(min(len(setting.dataset), loop.train.batch_size)):
        start = time.perf_counter()
        setting.dataset.read(index)
        read = time.perf_counter()
        views.sample((index, 0))
        reading.append(read - start)
        making.append(max(0.0, time.perf_counter() - read - reading[-1]))
    batch = loop.train.batch_size
    return {
        "read_ms": round(1e3 * batch * statistics.median(reading), 2),
        "views_ms": round(1e3 * batch * statistics.median(making), 2),
    }
