"""Train a student after a recipe. A recipe without a teacher is the same loop with fewer lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli.engine import assemble, checkpoint, doctor, run_folder
from freqkd_cli.engine.loop import Loop, Setting
from freqkd_cli.engine.objective import Objective
from freqkd_cli.engine.precision import Compute, choose, pick_device
from freqkd_cli.engine.progress import Progress
from freqkd_cli.engine.schedule import run_length
from freqkd_cli.engine.source import open_source
from freqkd_cli.engine.training import Average, Training, make_optimizer
from freqkd_cli.errors import DataMissing

if TYPE_CHECKING:
    from freqkd_cli.datasets._dataset import Dataset
    from freqkd_cli.engine.objective import Line
    from freqkd_cli.recipe.schema import Recipe


def distill(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    *,
    cache: Path | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run a recipe into the folder ``out``; the summary that ``summary.json`` holds.

    Raises:
        RecipeError, DataMissing, WeightsMissing, CacheMismatch: before any long work.
        DataBroken: labels that cannot be read as the recipe says, before any long work where the label doctor sees it.
        TrainingFailed: a loss is not finite; the term is named.
        Interrupted: SIGINT or SIGTERM; the state is saved and ``resume=True`` goes on.
    """
    from accelerate import Accelerator

    plan = assemble.check(recipe, fetch=True)
    where = pick_device(device)
    accelerator = Accelerator(cpu=where.type == "cpu", mixed_precision="no")
    compute = choose(where, recipe.train.precision, recipe.train.channels_last)
    setting = _setting(plan, out, where, compute, progress)
    lines = assemble.build_lines(plan)
    assemble.check_labels(plan, lines, setting.dataset)
    source = open_source(plan, lines, cache, setting.dataset, where)
    doctor.require(setting.dataset, "train", progress)
    if setting.held_out is not None:
        doctor.require(setting.held_out, "val", progress)
    training = _training(plan, lines, where, compute)  # before the folder is touched: weights may be missing
    finished = run_folder.prepare(out, recipe, resume=resume, overwrite=overwrite)
    if finished is not None:
        progress.note(f"{out} is finished already")
        return finished
    checkpoint.write_json(out / "environment.json", run_folder.environment(where, compute.reason))
    progress.note(f"computing in {compute.reason}, {torch.get_num_threads()} threads")
    return Loop(setting, training, source, accelerator, progress).go(resume)


def _setting(plan: assemble.Plan, out: Path, device: torch.device, compute: Compute, progress: Progress) -> Setting:
    recipe = plan.recipe
    dataset = assemble.build_dataset(recipe, "train")
    per_epoch, total = run_length(len(dataset), recipe.train)
    return Setting(plan, out, device, compute, dataset, _held_out(recipe, progress), per_epoch, total)


def _held_out(recipe: Recipe, progress: Progress) -> Dataset | None:
    """The val split, or None where the data set has none with labels: then nothing is scored and the last weights are kept."""
    try:
        held_out = assemble.build_dataset(recipe, "val")
    except DataMissing as error:
        progress.note(f"nothing will be scored: {error.line}")
        return None
    return held_out if held_out.labelled and len(held_out) else None


def _training(plan: assemble.Plan, lines: tuple[Line, ...], device: torch.device, compute: Compute) -> Training:
    train = plan.recipe.train
    student = assemble.build_student(plan).to(device).train()
    if compute.channels_last:
        student = student.to(memory_format=torch.channels_last)
    objective = Objective(student, lines, compute.autocast(device)).to(device)
    optimizer = make_optimizer(objective, train)
    return Training(objective, optimizer, Average(student, train.ema) if train.ema else None)
