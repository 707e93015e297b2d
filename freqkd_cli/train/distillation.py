"""Train a student from a recipe. A recipe without a teacher is the same loop with fewer losses."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli.build import assemble
from freqkd_cli.build.objective import Objective
from freqkd_cli.build.schedules import run_length
from freqkd_cli.doctor import diagnosis
from freqkd_cli.errors import DataMissing, UsageError
from freqkd_cli.runtime.precision import Compute, choose
from freqkd_cli.runtime.processes import Processes, join
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.train import environment, run_folder, whole_batch
from freqkd_cli.train.evaluation import Drawing, Evaluation
from freqkd_cli.train.loop import Loop, Setting
from freqkd_cli.train.training_state import Average, Training, make_optimizer
from freqkd_cli.views.steps import Steps

if TYPE_CHECKING:
    from freqkd_cli.build.objective import Line
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe, Train

log = logging.getLogger(__name__)


def distill(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    *,
    cache: Path | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    drawing: Drawing | None = None,
) -> dict[str, Any]:
    """Train a recipe into the run folder ``out`` and return the content of ``summary.json``.

    Args:
        dry_run: train and write nothing; return what the run would cost.
        drawing: draws the previews of the run; None for none.

    Raises:
        RecipeError, DataMissing, DataBroken, WeightsMissing, CacheMismatch: before any long work.
        TrainingFailed: a loss is not finite; the term is named.
        Interrupted: SIGINT or SIGTERM; the state is saved and ``resume=True`` continues.
    """
    processes = join(device)
    finished = processes.share(
        run_folder.check(out, recipe, resume=resume, overwrite=overwrite)
        if processes.first
        else None
    )
    if finished is not None:
        progress.note(f"{out} is already finished")
        return finished
    # Before the folder is touched, since weights may be missing.
    loop = make_loop(recipe, out, progress, processes, cache, drawing=drawing)
    if dry_run:
        from freqkd_cli.train.estimate import cost

        return cost(loop)
    with _run_folder(loop, overwrite=overwrite):
        compute = loop.setting.compute.reason
        progress.note(f"computing in {compute}, {torch.get_num_threads()} threads")
        for line in _batch_notes(recipe.train, processes):
            progress.note(line)
        return loop.run(resume)


@contextmanager
def _run_folder(loop: Loop, *, overwrite: bool) -> Iterator[None]:
    """Hold the run folder in the first process, and record the environment of the run in it."""
    setting = loop.setting
    with ExitStack() as held:
        if setting.processes.first:
            with run_folder.writing(setting.out):
                recipe = setting.plan.recipe
                held.enter_context(run_folder.opened(setting.out, recipe, overwrite=overwrite))
                source = loop.source.name.split()[0]
                now = environment.describe(setting.device, setting.compute.reason, source)
                environment.record(setting.out, now | {"processes": setting.processes.number})
        yield


def labels_alone(recipe: Recipe) -> Recipe:
    """Return the recipe without its teacher and every loss that reads one: the baseline.

    Steps, seed and views stay the same.

    Raises:
        UsageError: no loss reads a teacher, or none is left without one.
    """
    lines = assemble.build_lines(assemble.check(recipe))
    kept = {line.id for line in lines if not line.teacher_taps}
    losses = tuple(line for line in recipe.losses if line.id in kept)
    if len(kept) == len(lines):
        raise UsageError(
            "--baseline compares with labels alone, and no loss of this recipe reads a teacher",
            tip="leave out --baseline",
        )
    if not losses:
        raise UsageError(
            "--baseline trains on labels alone, and no loss of this recipe reads labels",
            tip="add a line {name: cross_entropy}, or leave out --baseline",
        )
    return dataclasses.replace(recipe, losses=losses, teacher=None)


def make_loop(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    processes: Processes,
    cache: Path | None,
    *,
    drawing: Drawing | None = None,
) -> Loop:
    """Return the loop of a recipe, ready for its first step; nothing is written.

    Raises:
        RecipeError, DataMissing, WeightsMissing, CacheMismatch, UsageError: reasons to refuse a
            run.
    """
    plan, train = assemble.check(recipe, fetch=True), recipe.train
    dataset, held_out = assemble.build_dataset(recipe, "train"), _held_out(recipe)
    length = run_length(len(dataset), train)
    steps = Steps(
        length=len(dataset),
        batch_size=train.batch_size,
        seed=train.seed,
        start=0,
        stop=length.steps * train.accumulate,
        process=processes.index,
        processes=processes.number,
    )
    compute = choose(processes.device, train.precision, train.channels_last)
    setting = Setting(plan, out, processes, compute, dataset, steps, length=length)
    lines = assemble.build_lines(plan)
    assemble.check_labels(plan, lines, dataset)
    source = open_source(plan, lines, cache, dataset, processes.device)
    if processes.first:
        look_at_labels(dataset, held_out, progress)
    training = _training(plan, lines, processes, compute)
    evaluation = Evaluation(held_out, recipe, processes, drawing)
    return Loop(setting, training, source, progress, evaluation)


def look_at_labels(dataset: Dataset, held_out: Dataset | None, progress: Progress) -> None:
    """Run the label doctor on both splits of a run.

    Raises:
        DataBroken: labels that the run could not use.
    """
    diagnosis.require(dataset, "train", progress)
    if held_out is not None:
        diagnosis.require(held_out, "val", progress)


def _batch_notes(train: Train, processes: Processes) -> list[str]:
    """Return the log lines about a batch that comes in parts."""
    number, notes = processes.number, []
    if number * train.accumulate > 1:
        passes = f", {train.accumulate} passes a step" if train.accumulate > 1 else ""
        each = (
            f"{train.batch_size // number} on each of {number} process{'es' * (number > 1)}{passes}"
        )
        notes.append(f"global batch {train.batch_size * train.accumulate}: {each}")
    if number > 1 and not train.freeze_norm:
        notes.append(
            "batch norm is synchronised over the processes"
            if processes.device.type == "cuda"
            else "batch norm is per process, as on all CPUs; "
            "its running statistics are averaged over the processes"
        )
    return notes


def _held_out(recipe: Recipe) -> Dataset | None:
    """Return the validation split; None where it has no labels, so the last weights are kept."""
    try:
        dataset = assemble.build_dataset(recipe, "val")
    except DataMissing as error:
        log.warning("nothing will be scored: %s", error.line)
        return None
    return dataset if dataset.labelled and len(dataset) else None


def _training(
    plan: assemble.Plan, lines: tuple[Line, ...], processes: Processes, compute: Compute
) -> Training:
    train, device = plan.recipe.train, processes.device
    student = assemble.build_student(plan)
    student.ready(device)
    student = student.to(device).train().requires_grad_(not train.freeze_student)
    if compute.channels_last:
        student = student.to(memory_format=torch.channels_last)
    objective = Objective(student, lines, compute.autocast(device)).to(device)
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        raise UsageError(
            "train.freeze_student leaves nothing to train",
            need="a loss with parameters of its own, such as an adapter",
            key="train.freeze_student",
        )
    whole_batch.convert(objective, processes)
    optimizer = make_optimizer(objective, train)
    return Training(objective, optimizer, Average(student, train.ema) if train.ema else None)
