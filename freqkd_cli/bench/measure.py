"""What a training step of a recipe costs, part by part, and what bounds it. The steps are those of ``distill``'s own loop."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli.bench.bound import bound
from freqkd_cli.bench.stopwatch import REST, Stopwatch, watched
from freqkd_cli.recipe.sections import LossLine
from freqkd_cli.runtime.operations import Operations
from freqkd_cli.runtime.processes import join
from freqkd_cli.runtime.progress import Progress, Silent
from freqkd_cli.teacher.sources import LiveTeacher
from freqkd_cli.train.distillation import make_loop
from freqkd_cli.train.loop import Loop
from freqkd_cli.train.run_log import Unwritten
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import ViewDataset

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

WARM_UP = 2
"""Steps that do not count: the first ones reserve memory, and kernels are chosen."""
LONG = 100_000
"""Steps of the run that is benched, so that its learning rate stays what it is in a run's first steps."""


@dataclasses.dataclass(frozen=True)
class Options:
    """``steps`` are measured; ``against_ce`` measures as many pairs with a step of cross-entropy alone."""

    cache: Path | None = None
    steps: int = 10
    against_ce: bool = True
    device: str | None = None


def bench(recipe: Recipe, options: Options, progress: Progress) -> dict[str, Any]:
    """Run ``options.steps`` steps of ``recipe`` and tell what they cost; nothing is written.

    Returns:
        ``step_ms``, ``parts`` (each with ``ms``, ``share``, ``gflop``), ``images_per_second``, ``gflops_per_second``, ``memory_bytes``,
        ``data``, ``ratios``, ``bound``, and where it was measured. Times are ``{"median", "low", "high"}``, low and high the quartiles.

    Raises:
        FreqKDError: what ``distill`` would be refused for.
    """
    loop = _loop(recipe, options, options.cache)
    setting, train = loop.setting, recipe.train
    progress.note(
        f"computing in {setting.compute.reason}, {torch.get_num_threads()} threads; the teacher's half from: {loop.source.name}"
    )
    steps, operations = _steps(loop, options.steps, progress)
    memory = _memory(setting.device)
    totals = [sum(step.values()) for step in steps]
    median = statistics.median(totals)
    parts = _parts(steps, operations)
    data = {"workers": recipe.data.workers, **_data(loop)}
    images = train.batch_size * train.accumulate
    found = {
        "recipe": recipe.source,
        "source": loop.source.name,
        "steps": options.steps,
        "batch_size": train.batch_size,
        "accumulate": train.accumulate,
        "size": list(recipe.data.size),
        "step_ms": _spread(totals, 1e3),
        "images_per_second": round(images / median, 2),
        "gflop": round(sum(operations.values()) / 1e9, 2),
        "gflops_per_second": round(sum(operations.values()) / 1e9 / median, 2),
        "parts": parts,
        "memory_bytes": memory,
        "data": data,
        "ratios": _ratios(loop, recipe, options, progress) if options.against_ce else {},
        "device": str(setting.device),
        "compute": setting.compute.reason,
        "threads": torch.get_num_threads(),
    }
    return found | {"bound": bound(parts, recipe.data)}


def _loop(recipe: Recipe, options: Options, cache: Path | None) -> Loop:
    train = recipe.train.model_copy(update={"epochs": None, "steps": LONG, "eval_every": 0})
    loop = make_loop(
        dataclasses.replace(recipe, train=train),
        Path("bench"),
        Silent(),
        join(options.device),
        cache,
    )
    loop.log = Unwritten()
    return loop


def _steps(
    loop: Loop, number: int, progress: Progress
) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Seconds by part of ``number`` steps in a row, waiting for the loader as a run does, and the operations of one."""
    watch = Stopwatch(_wait(loop.setting.device))
    taken = []
    progress.begin("step", number)
    with closing(loop.batches()) as loaded, watched(loop, watch):
        batches = watch.waiting(loaded)
        with (
            _one_thread(),
            Operations() as counter,
        ):  # which sees the operations of its own thread alone
            watch.start(counter)
            loop.step(batches)
        # torch's count of a depth-wise convolution's backward pass leaves out its groups, so two forward passes stand for it.
        operations = watch.operations | {
            "student.backward": 2 * watch.operations["student.forward"]
        }
        for done in range(1 - WARM_UP, number):
            watch.start()
            loop.step(batches)
            watch.lap(REST)
            if done >= 0:
                taken.append(watch.seconds)
                progress.advance(done + 1)
    progress.end()
    return taken, operations


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _wait(device: torch.device) -> Callable[[], None] | None:
    return None if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)


def _memory(device: torch.device) -> int:
    """The most memory that was held so far: on a GPU what tensors took there, else what this process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _parts(steps: Sequence[dict[str, float]], operations: dict[str, int]) -> list[dict[str, Any]]:
    """Parts in the order in which a step runs them. ``share`` is of all steps' time, so shares add up to 1."""
    whole = sum(sum(step.values()) for step in steps)
    names = sorted(
        dict.fromkeys(itertools.chain.from_iterable(steps)), key=lambda name: name == REST
    )
    rows = []
    for name in names:
        taken = [step.get(name, 0.0) for step in steps]
        gflop = round(operations.get(name, 0) / 1e9, 3)
        rows.append(
            {"name": name, "ms": _spread(taken, 1e3), "share": sum(taken) / whole, "gflop": gflop}
        )
    return rows


def _spread(values: Sequence[float], factor: float = 1.0) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else [values[0]] * 3
    )
    return {
        "median": round(median * factor, 3),
        "low": round(low * factor, 3),
        "high": round(high * factor, 3),
    }


def _data(loop: Loop) -> dict[str, float]:
    """Milliseconds of one process for one batch: reading and decoding, and making views of it. Workers share this between them."""
    setting, data = loop.setting, loop.setting.plan.recipe.data
    views = ViewDataset(
        setting.dataset, setting.plan.view_spec, view_seed=data.view_seed, views=data.views
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


def _ratios(loop: Loop, recipe: Recipe, options: Options, progress: Progress) -> dict[str, Any]:
    """The step against one of cross-entropy alone, by turns on the same batches; with a live teacher also against its bare forward pass."""
    lines = tuple(line for line in recipe.losses if line.name == "cross_entropy") or (
        LossLine(name="cross_entropy", id="cross_entropy"),
    )
    if not loop.setting.dataset.labelled or (recipe.losses == lines and options.cache is None):
        return {}
    data = recipe.data.model_copy(update={"workers": 0})  # nothing may run beside what is timed
    alone = _loop(dataclasses.replace(recipe, data=data, losses=lines, teacher=None), options, None)
    wait = _wait(loop.setting.device) or (lambda: None)
    model = loop.source.model if isinstance(loop.source, LiveTeacher) else None
    rounds: list[tuple[float, ...]] = []
    progress.begin("pair", options.steps)
    with closing(alone.batches()) as loaded:
        for done in range(-WARM_UP, options.steps):
            drawn = list(itertools.islice(loaded, recipe.train.accumulate))
            calls = [lambda: loop.step(iter(drawn)), lambda: alone.step(iter(drawn))]  # noqa: B023 - called at once
            calls += [lambda: _bare(model, drawn, loop.setting.device)] if model is not None else []  # noqa: B023
            taken = tuple(_seconds(call, wait) for call in calls)
            if done >= 0:
                rounds.append(taken)
                progress.advance(done + 1)
    progress.end()
    found: dict[str, Any] = {"ce_step_ms": _spread([ce for _, ce, *_ in rounds], 1e3)}
    if model is None:
        return found | {"over_ce": _spread([step / ce for step, ce in rounds])}
    return found | {
        "teacher_ms": _spread([teacher for _, _, teacher in rounds], 1e3),
        "over_ce": _spread([step / ce for step, ce, _ in rounds]),
        "over_teacher_and_ce": _spread([step / (ce + teacher) for step, ce, teacher in rounds]),
    }


@torch.no_grad()
def _bare(model: torch.nn.Module, batches: Sequence[Batch], device: torch.device) -> None:
    for batch in batches:
        model(batch.images.to(device))


def _seconds(call: Callable[[], Any], wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start
