"""The cost of a step compared with cross-entropy alone and with the bare teacher."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli.bench.measured_loop import (
    WARM_UP,
    BenchOptions,
    measured_loop,
    quartiles,
    synchronizer,
)
from freqkd_cli.recipe.sections import LossLine
from freqkd_cli.runtime.progress import Progress, bar
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.train.labels_alone import without_attention
from freqkd_cli.train.loop import Loop
from freqkd_cli.views.batch import Batch

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def ratios(loop: Loop, recipe: Recipe, options: BenchOptions, progress: Progress) -> dict[str, Any]:
    """Compare the step with one of cross-entropy alone, and with the bare teacher where it is live.

    All run in turn on the same batches.
    """
    lines = _cross_entropy_alone(recipe)
    dataset = loop.setting.dataset
    if not dataset.labelled or (recipe.losses == lines and options.cache is None):
        return {}
    if len(dataset) < recipe.train.batch_size:  # the pool fills its batches
        return {}
    # Nothing may run beside the timed steps.
    data = recipe.data.model_copy(update={"workers": 0, "pool": None})
    train = recipe.train.model_copy(update={"freeze_student": False})
    alone = measured_loop(
        dataclasses.replace(recipe, data=data, train=train, losses=lines, teacher=None),
        options,
        None,
    )
    model = loop.source.model if isinstance(loop.source, LiveTeacher) else None
    step, ce, teacher = _take_turns(loop, alone, model, options.steps, progress)
    result: dict[str, Any] = {
        "ce_step_ms": quartiles(ce, 1e3),
        "over_ce": quartiles([a / b for a, b in zip(step, ce, strict=True)]),
    }
    if model is None:
        return result
    both = (b + c for b, c in zip(ce, teacher, strict=True))
    return result | {
        "teacher_ms": quartiles(teacher, 1e3),
        "over_teacher_and_ce": quartiles([a / b for a, b in zip(step, both, strict=True)]),
    }


def _cross_entropy_alone(recipe: Recipe) -> tuple[LossLine, ...]:
    """Return the lines of cross-entropy without the teacher's attention; a new one for none."""
    return tuple(
        without_attention(line) if "attention" in line.arguments else line
        for line in recipe.losses
        if line.name == "cross_entropy" and line.weight > 0
    ) or (LossLine(name="cross_entropy", id="cross_entropy"),)


def _take_turns(
    loop: Loop, alone: Loop, model: torch.nn.Module | None, rounds: int, progress: Progress
) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of ``rounds`` steps, cross-entropy steps and teacher passes, in turn."""
    wait = synchronizer(loop.setting.device) or (lambda: None)
    times: tuple[list[float], list[float], list[float]] = ([], [], [])
    with closing(alone.batches()) as loaded, bar(progress, "pair", rounds):
        for done in range(-WARM_UP, rounds):
            batches = list(itertools.islice(loaded, loop.train.accumulate))
            calls: list[Callable[[], Any]] = [
                functools.partial(loop.step, iter(batches)),
                functools.partial(alone.step, iter(batches)),
            ]
            if model is not None:
                calls.append(functools.partial(_bare, model, batches, loop.setting.device))
            for column, call in zip(times, calls, strict=False):
                seconds = _seconds(call, wait)
                if done >= 0:
                    column.append(seconds)
            if done >= 0:
                progress.advance(done + 1)
    return times


@torch.no_grad()
def _bare(model: torch.nn.Module, batches: Sequence[Batch], device: torch.device) -> None:
    of_batch = getattr(model, "of_batch", None)  # of a teacher of saved outputs
    for batch in batches:
        here = batch.to(device)
        of_batch(here) if of_batch else model(here.images)


def _seconds(call: Callable[[], Any], wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start
