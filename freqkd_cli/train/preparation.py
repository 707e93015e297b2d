"""Everything that a run needs before its first step, checked: data, teacher, student, losses."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from freqkd_cli.build import assemble, class_weights, training_images
from freqkd_cli.build.objective import Objective
from freqkd_cli.build.schedules import run_length
from freqkd_cli.build.single_values import check_norms
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.doctor import diagnosis
from freqkd_cli.errors import DataMissing, UsageError
from freqkd_cli.features.simulated_int8 import SimulatedInt8
from freqkd_cli.images.pool import WithPool
from freqkd_cli.runtime.convolutions import require_right_in_bfloat16
from freqkd_cli.runtime.precision import choose
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.teacher.absent_weights import teacher_of_cache, warn_of_absent_weights
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.train import environment, whole_batch
from freqkd_cli.train.compilation import compile_models
from freqkd_cli.train.evaluation import Drawing, Evaluation
from freqkd_cli.train.loop import Loop
from freqkd_cli.train.setting import Setting
from freqkd_cli.train.training_state import Average, Training, make_optimizer
from freqkd_cli.views.steps import Steps

if TYPE_CHECKING:
    from freqkd_cli.build.objective import Line
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe
    from freqkd_cli.views.pool_share import PoolShare

log = logging.getLogger(__name__)


def make_loop(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    processes: Processes,
    cache: Path | None,
    *,
    drawing: Drawing | None = None,
    resume: bool = False,
) -> Loop:
    """Return the loop of a recipe, ready for its first step; nothing is written.

    Args:
        resume: require the training images of the run in ``out``, and use its class weights.

    Raises:
        RecipeError, DataMissing, WeightsMissing, CacheMismatch, UsageError: reasons to refuse a
            run.
    """
    stored, train = teacher_of_cache(recipe, cache), recipe.train
    if stored and processes.first:
        warn_of_absent_weights(recipe, stored)
    checked = assemble.check(recipe, fetch=True, stored=stored)
    parts = training_parts(recipe)
    dataset, scored = parts.trained, parts.held_out or _validation_split(recipe)
    images = training_images.training_images(checked, parts.whole)
    if resume and processes.first:
        environment.require_same_images(out, images)
    pool = parts.pool_share(recipe, images)
    length = run_length(len(dataset), train, pool.share if pool else 0.0)
    steps = Steps(
        length=len(dataset),
        batch_size=train.batch_size,
        seed=train.seed,
        start=0,
        stop=length.steps * train.accumulate,
        process=processes.index,
        processes=processes.number,
        pool=pool,
        numbers=parts.numbers,
    )
    compute = choose(processes.device, train.precision, train.channels_last)
    held_out = len(parts.held)
    setting = Setting(checked, out, processes, compute, dataset, images, steps, length, held_out)
    lines = assemble.build_lines(checked)
    training_images.check_labels(checked, lines, dataset)
    source = open_source(checked, lines, cache, images, processes.device)
    if resume and processes.first:
        environment.require_same_teacher(out, source)
    if processes.first:
        look_at_labels(parts.whole, None if parts.held else scored, progress)
        if pool:
            look_at_pool(images, len(dataset), pool, progress)
    if recipe.data.keep != "none":
        _keep_images(setting, scored, parts.held, progress)
    if class_weights.rules(recipe):
        setting, lines = _with_class_weights(setting, out if resume else None, progress)
    training = _training(setting, lines)
    if train.compile:
        compile_models(setting, training, source)
    evaluation = Evaluation(scored, recipe, processes, drawing)
    return Loop(setting, training, source, progress, evaluation)


def _keep_images(
    setting: Setting, scored: Dataset | None, held: tuple[int, ...], progress: Progress
) -> None:
    """Keep decoded images, as ``data.keep`` says; those of ``held`` are read through ``scored``.

    Raises:
        UsageError: they do not fit, or the folder cannot be written.
    """
    from freqkd_cli.images.keep import keep_decoded  # not for Windows

    datasets = [setting.images] + [scored] * (scored is not None)
    keep_decoded(datasets, setting.checked.recipe.data.keep, progress, left_out=held)


def _with_class_weights(
    setting: Setting, run: Path | None, progress: Progress
) -> tuple[Setting, tuple[Line, ...]]:
    """Return the setting with the numbers that its rules for class weights give, and its lines.

    The first process counts for all. ``run`` is the folder of a run that is resumed.
    """
    checked, processes = setting.checked, setting.processes
    weights = processes.share(
        _class_weights(checked, setting.dataset, run, progress) if processes.first else None
    )
    with_numbers = class_weights.with_weights(checked.recipe, weights)
    lines = assemble.build_lines(dataclasses.replace(checked, recipe=with_numbers))
    return dataclasses.replace(setting, class_weights=weights), lines


def _class_weights(
    checked: assemble.CheckedRecipe, dataset: Dataset, run: Path | None, progress: Progress
) -> dict[str, dict[str, float]]:
    """Return the class weights that ``run`` was started with, or count them."""
    kept = None if run is None else environment.class_weights(run)
    if kept is not None and kept.keys() == class_weights.rules(checked.recipe).keys():
        if all(tuple(weights) == checked.classes for weights in kept.values()):
            return kept
    return class_weights.counted_weights(checked.recipe, checked.classes, dataset, progress)


def look_at_labels(dataset: Dataset, validation: Dataset | None, progress: Progress) -> None:
    """Run the label doctor on both splits of a run.

    Raises:
        DataBroken: labels that the run could not use.
    """
    diagnosis.require(dataset, "train", progress)
    if validation is not None:
        diagnosis.require(validation, "val", progress)


def look_at_pool(images: Dataset, trained: int, pool: PoolShare, progress: Progress) -> None:
    """Check a sample of the pool's files, and print how many images there are of each kind.

    Raises:
        DataBroken: a file that cannot be read.
    """
    assert isinstance(images, WithPool)
    diagnosis.require(images.pool, "the pool", progress)
    progress.note(
        f"{trained} training images, and {pool.length} of the pool, which fill "
        f"{pool.share:.0%} of every batch"
    )


def _validation_split(recipe: Recipe) -> Dataset | None:
    """Return the validation split; None where it has no labels, so the last weights are kept."""
    try:
        dataset = assemble.build_dataset(recipe, "val")
    except DataMissing as error:
        log.warning("nothing will be scored: %s", error.line)
        return None
    return dataset if dataset.labelled and len(dataset) else None


def _training(setting: Setting, lines: tuple[Line, ...]) -> Training:
    checked, processes, compute = setting.checked, setting.processes, setting.compute
    train, device = checked.recipe.train, processes.device
    if train.quantize and train.freeze_student:
        raise UsageError(
            "train.quantize has no effect on a frozen student",
            tip="--set train.freeze_student=false, or --set train.quantize=null",
            key="train.quantize",
        )
    student = assemble.build_student(checked)
    student.ready(device)
    student = student.to(device).train().requires_grad_(not train.freeze_student)
    if compute.dtype is torch.bfloat16:
        require_right_in_bfloat16(student, "train.precision")
    if compute.channels_last:
        student = student.to(memory_format=torch.channels_last)
    objective = Objective(student, lines, compute.autocast(device)).to(device)
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        raise UsageError(
            "train.freeze_student leaves nothing to train",
            need="a loss with parameters of its own, such as an adapter",
            key="train.freeze_student",
        )
    check_norms(
        checked,
        student,
        objective.wanted,
        processes=processes.number,
        synchronised=device.type == "cuda",
        images=len(setting.dataset),
    )
    whole_batch.convert(objective, processes)
    if train.quantize:  # its ranges are saved with the losses
        objective.quantization = SimulatedInt8.of(student, checked.view_spec.size)
    optimizer = make_optimizer(objective, train)
    return Training(objective, optimizer, Average(student, train.ema) if train.ema else None)
