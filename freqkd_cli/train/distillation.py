"""Train a student after a recipe. A recipe without a teacher is the same loop with fewer lines."""

from __future__ import annotations

from contextlib import ExitStack
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
from freqkd_cli.train.loop import Loop, Setting
from freqkd_cli.train.training_state import Average, Training, make_optimizer
from freqkd_cli.views.steps import Steps

if TYPE_CHECKING:
    from freqkd_cli.build.objective import Line
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe, Train


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
) -> dict[str, Any]:
    """Run a recipe into the folder ``out``; the summary that ``summary.json`` holds.

    Args:
        dry_run: make everything ready, write and train nothing, and return what the run would cost; refused for what a run is refused for.

    Raises:
        RecipeError, DataMissing, WeightsMissing, CacheMismatch: before any long work.
        DataBroken: labels that cannot be read as the recipe says, before any long work where the label doctor sees it.
        TrainingFailed: a loss is not finite; the term is named.
        Interrupted: SIGINT or SIGTERM; the state is saved and ``resume=True`` goes on.
    """
    processes = join(device)
    finished = processes.share(
        run_folder.check(out, recipe, resume=resume, overwrite=overwrite)
        if processes.first
        else None
    )
    if finished is not None:
        progress.note(f"{out} is finished already")
        return finished
    loop = make_loop(
        recipe, out, progress, processes, cache
    )  # before the folder is touched: weights may be missing
    if dry_run:
        from freqkd_cli.train.estimate import distillation

        return distillation(loop)
    compute = loop.setting.compute.reason
    with ExitStack() as held:
        if processes.first:
            with run_folder.writing(out):
                held.enter_context(run_folder.lock(out))
                run_folder.prepare(out, recipe, overwrite=overwrite)
                facts = environment.here(processes.device, compute, loop.source.name.split()[0]) | {
                    "processes": processes.number
                }
                environment.record(out, facts, progress.note)
        progress.note(f"computing in {compute}, {torch.get_num_threads()} threads")
        for line in _batch_notes(recipe.train, processes):
            progress.note(line)
        return loop.go(resume)


def make_loop(
    recipe: Recipe, out: Path, progress: Progress, processes: Processes, cache: Path | None
) -> Loop:
    """Everything that a run is made of, ready for its first step; nothing is written.

    Raises:
        RecipeError, DataMissing, WeightsMissing, CacheMismatch, UsageError: what a run is refused for.
    """
    plan = assemble.check(recipe, fetch=True)
    compute = choose(processes.device, recipe.train.precision, recipe.train.channels_last)
    setting = _setting(plan, out, processes, compute, progress)
    lines = assemble.build_lines(plan)
    assemble.check_labels(plan, lines, setting.dataset)
    source = open_source(plan, lines, cache, setting.dataset, processes.device)
    if processes.first:
        look_at_labels(setting.dataset, setting.held_out, progress)
    return Loop(setting, _training(plan, lines, processes, compute), source, progress)


def look_at_labels(dataset: Dataset, held_out: Dataset | None, progress: Progress) -> None:
    """The label doctor on both splits of a run.

    Raises:
        DataBroken: labels that the run could not use.
    """
    diagnosis.require(dataset, "train", progress)
    if held_out is not None:
        diagnosis.require(held_out, "val", progress)


def _batch_notes(train: Train, processes: Processes) -> list[str]:
    """What the log says of the batch where it comes in parts."""
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
            else "batch norm is per process, as on all CPUs; its running statistics are averaged over the processes"
        )
    return notes


def _setting(
    plan: assemble.Plan, out: Path, processes: Processes, compute: Compute, progress: Progress
) -> Setting:
    recipe, train = plan.recipe, plan.recipe.train
    dataset = assemble.build_dataset(recipe, "train")
    per_epoch, total = run_length(len(dataset), train)
    steps = Steps(
        len(dataset),
        train.batch_size,
        train.seed,
        0,
        total * train.accumulate,
        processes.index,
        processes.number,
    )
    return Setting(
        plan, out, processes, compute, dataset, held_out(recipe, progress), steps, per_epoch, total
    )


def held_out(recipe: Recipe, progress: Progress) -> Dataset | None:
    """The val split, or None where the data set has none with labels: then nothing is scored and the last weights are kept."""
    try:
        found = assemble.build_dataset(recipe, "val")
    except DataMissing as error:
        progress.note(f"warning: nothing will be scored: {error.line}")
        return None
    return found if found.labelled and len(found) else None


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
            need="a loss with parameters of its own, an adapter say",
        )
    whole_batch.convert(objective, processes)
    optimizer = make_optimizer(objective, train)
    return Training(objective, optimizer, Average(student, train.ema) if train.ema else None)
