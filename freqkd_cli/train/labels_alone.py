"""The recipe of a run on labels alone, with which a distilled run is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from freqkd_cli.build import assemble
from freqkd_cli.build.schedules import run_length
from freqkd_cli.build.training_images import may_have_pool, share_of, training_images
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.errors import UsageError
from freqkd_cli.teacher.absent_weights import teacher_of_cache

if TYPE_CHECKING:
    from freqkd_cli.build.objective import Line
    from freqkd_cli.recipe.sections import LossLine, Recipe
    from freqkd_cli.train.loop import Loop


def labels_alone(recipe: Recipe, cache: Path | None = None) -> Recipe:
    """Return the recipe without its teacher and every loss that compares with one: the baseline.

    A loss of labels that weights its pixels by the teacher stays, without ``attention``. Steps,
    seed and views stay the same.

    Raises:
        UsageError: no loss reads a teacher, none is left without one, or the student is frozen.
    """
    if recipe.train.freeze_student:
        raise UsageError(
            "--baseline trains the student on labels alone, and train.freeze_student freezes it",
            tip="leave out --baseline",
        )
    checked = assemble.check(recipe, stored=teacher_of_cache(recipe, cache))
    lines = assemble.build_lines(checked)
    alone = _without_teacher(recipe, lines, _pooled_steps(checked))
    if not any(line.teacher_taps for line in lines):
        raise UsageError(
            "--baseline compares with labels alone, and no loss of this recipe reads a teacher",
            tip="leave out --baseline",
        )
    if not alone.losses:
        raise UsageError(
            "--baseline trains on labels alone, and no loss of this recipe reads labels",
            tip="add a line {name: cross_entropy}, or leave out --baseline",
        )
    return alone


def labels_alone_of(loop: Loop) -> Recipe:
    """Return the recipe of a loop on labels alone, which may have no loss left."""
    setting = loop.setting
    steps = setting.length.stages[0] if setting.steps.pool else None
    return _without_teacher(setting.checked.recipe, loop.training.objective.lines, steps)


def _pooled_steps(checked: assemble.CheckedRecipe) -> int | None:
    """Return the steps of a run with a pool, which would be others without it; else None.

    Raises:
        UsageError: the labelled images alone are fewer than a batch.
    """
    if not may_have_pool(checked.recipe):
        return None
    parts = training_parts(checked.recipe)
    pool = parts.pool_share(checked.recipe, training_images(checked, parts.whole))
    images, batch = len(parts.trained), checked.recipe.train.batch_size
    if pool and images < batch:
        raise UsageError(
            "--baseline trains on labelled images alone, and they are fewer than one batch",
            got=f"{images} images and train.batch_size {batch}",
            tip="leave out --baseline, and train labels alone with a recipe of its own",
        )
    return run_length(images, checked.recipe.train, pool.share).stages[0] if pool else None


def _without_teacher(recipe: Recipe, lines: Sequence[Line], steps: int | None) -> Recipe:
    """Return a recipe without its pool, its teacher and the ``lines`` that compare with one.

    A line of labels that weights its pixels by the teacher stays, without ``attention``.

    Args:
        steps: of the run before any extension, where it has a pool.
    """
    weighted = {line.id for line in lines if line.loss.needs_labels and line.loss.reads_logits}
    kept = {line.id for line in lines if not line.teacher_taps} | weighted
    losses = tuple(
        without_attention(line) if line.id in weighted else line
        for line in recipe.losses
        if line.id in kept
    )
    data, train = recipe.data.model_copy(update={"pool": None}), recipe.train
    if steps is not None:
        # Epochs of labelled images alone are shorter, and as many scores are to be chosen from.
        every = round(train.eval_every / (1 - share_of(recipe)))
        train = train.model_copy(update={"epochs": None, "steps": steps, "eval_every": every})
    return dataclasses.replace(recipe, data=data, train=train, losses=losses, teacher=None)


def without_attention(line: LossLine) -> LossLine:
    """Return a line that weights pixels by the teacher as a line of labels alone."""
    return line.model_copy(update={"arguments": line.arguments | {"attention": "none"}})
