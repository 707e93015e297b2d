"""The check of the teacher before a run: its IoU per class, and warnings.

Losses on class scores teach the student what the teacher predicts, right or wrong. A class that the
teacher does not predict shows on a few labelled images, so these are scored first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli import registry
from freqkd_cli.errors import some
from freqkd_cli.images.dataset import spread
from freqkd_cli.recipe.command_line import eval_command
from freqkd_cli.train import baseline_run
from freqkd_cli.train.teacher_score import ClassIoU, Images, TeacherScore, teacher_score

if TYPE_CHECKING:
    from freqkd_cli.build.objective import Line
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe
    from freqkd_cli.train.loop import Loop

log = logging.getLogger(__name__)

SAMPLE, SMALLEST_SAMPLE = 32, 8
"""Images that are scored; fewer on a CPU where they have more than :data:`CPU_PIXELS` together."""

CPU_PIXELS = 2**24

LISTED = 12
"""Classes that a line lists at most, the lowest IoU first."""


def check(
    loop: Loop, labels_alone: Recipe, *, exact: bool = False, keep: bool = True
) -> dict[str, Any]:
    """Score the teacher of a loop, note its IoU, and warn; return its part of the summary.

    Nothing is done where no loss compares class scores, or ``teacher.min_iou`` is 0. The first
    process scores for all.

    Args:
        labels_alone: the recipe without its teacher. Where a run of it lies beside this run, the
            teacher is compared with it.
        exact: score every image that the student is scored on, as where such a run lies there.
        keep: keep the score for later runs.

    Raises:
        FreqKDError, DataBroken: as :func:`teacher_score` does.
    """
    recipe, processes = loop.setting.checked.recipe, loop.setting.processes
    compares = any(_reads(line) for line in loop.training.objective.lines)
    if recipe.teacher is None or not recipe.teacher.min_iou or not compares:
        return {}
    if not registry.reads_images(recipe.teacher.name):
        loop.progress.note("the teacher's outputs were saved, so it is not scored")
        return {}
    return processes.share(_checked(loop, labels_alone, exact, keep) if processes.first else None)


def _reads(line: Line) -> bool:
    """Return whether a loss compares with the teacher's class scores."""
    return line.loss.reads_logits and "logits" in line.teacher_taps


def _checked(loop: Loop, labels_alone: Recipe, exact: bool, keep: bool) -> dict[str, Any]:
    alone = baseline_run.find(loop.setting.out, labels_alone, loop.evaluation.images)
    images = _images(loop, exact=exact or bool(alone))
    if images is None:
        return {}
    score = teacher_score(loop.setting, loop.source, images, loop.progress, keep=keep)
    if score is None:
        loop.progress.note("the teacher is not scored, because it is not on this machine")
        return {}
    loop.progress.note(_line(score))
    _warn_of_low_classes(loop, score)
    facts = {
        "teacher_miou": score.miou,
        "teacher_images": len(images.indices),
        "teacher_scored_on": str(images),
    }
    if alone and all(item.covered for item in score.classes):
        baseline_run.warn_of_weak_teacher(facts, alone)
    return facts


def _images(loop: Loop, *, exact: bool) -> Images | None:
    """Return the images to score: of the validation split, else of the training split.

    None where neither has labels.
    """
    val, train = loop.evaluation.dataset, loop.setting.dataset
    if val is not None:
        length = loop.evaluation.images
        number = length if exact else _sample_size(val, loop.setting.device)
        return Images(loop.evaluation.split, val, tuple(spread(length, number)))
    if not train.labelled:
        return None
    number = _sample_size(train, loop.setting.device)
    return Images("train", train, tuple(spread(len(train), number)))


def _sample_size(dataset: Dataset, device: torch.device) -> int:
    if device.type != "cpu":
        return SAMPLE
    height, width = dataset.image_size(0)
    return max(SMALLEST_SAMPLE, min(SAMPLE, CPU_PIXELS // (height * width)))


def _line(score: TeacherScore) -> str:
    """Return the scores of a teacher as one line, the lowest class first."""
    scored = [item for item in score.classes if item.covered and item.iou is not None]
    ordered = sorted(scored, key=lambda item: item.iou)
    miou = "no class" if score.miou is None else f"{100 * score.miou:.1f} mIoU"
    kept = ", score kept from an earlier run" if score.kept else ""
    text = f"teacher on {score.images}{kept}: {miou}; {some(map(_item, ordered), LISTED)}"
    if uncovered := [item.name for item in score.classes if not item.covered]:
        text += f"; not covered by teacher.class_map: {some(uncovered, LISTED)}"
    return text


def _item(item: ClassIoU) -> str:
    return f"{item.name} {100 * item.iou:.1f}"


def _warn_of_low_classes(loop: Loop, score: TeacherScore) -> None:
    """Warn of labelled classes below ``teacher.min_iou``, with what can be done."""
    recipe = loop.setting.checked.recipe
    least = recipe.teacher.min_iou
    covered = [item for item in score.classes if item.covered]
    low = [c for c in covered if c.labelled and 100 * (c.iou or 0.0) < least]
    lines = loop.training.objective.lines
    # A loss of labels takes only weights of pixels from the teacher.
    copying = [line for line in lines if _reads(line) and not line.loss.needs_labels]
    if not low or not copying:
        return
    low.sort(key=lambda item: item.iou)
    log.warning(
        "the teacher's IoU on %s is below %g (teacher.min_iou) for %s: %s. The student learns "
        "these errors too. %s a better teacher, or %s",
        score.images,
        least,
        "1 class" if len(low) == 1 else f"{len(low)} classes",
        some(map(_item, low), LISTED),
        _first_remedy(recipe, score.images),
        ", or ".join(_remedies(recipe, lines, [line.id for line in copying])),
    )


def _first_remedy(recipe: Recipe, images: Images) -> str:
    """Return the start of the advice: to score the images of the split that were left out."""
    split = "val" if images.split == "val" else "train"  # of which a part is held out
    if split == images.split and len(images.indices) == len(images.dataset):
        return "Train"
    where = "" if split == "val" else f" of {split}"
    return f"Score it on all images{where}: {eval_command(recipe, split)}. Then train"


def _remedies(recipe: Recipe, lines: Sequence[Line], copying: Sequence[str]) -> list[str]:
    """Return the changes of a recipe that keep a weak class of the teacher from the student.

    Args:
        lines: the losses of the run.
        copying: those of them that teach the student what the teacher predicts, by id.
    """
    with_every_class = {x.id for x in lines if x.loss.reads_logits and x.compared is None}
    by_label = [
        f"--set losses.{spec.id}.only_where_right=true"
        for spec in recipe.losses
        if spec.id in copying
        and spec.id in with_every_class
        and "only_where_right" in registry.takes("losses", spec.name)
        and not spec.arguments.get("only_where_right")
    ]
    without = [f"--set losses.{id}.weight=0" for id in copying]
    others = [x for x in lines if x.id not in copying and x.loss.learns_without_labels]
    if recipe.data.pool and not any(line.teacher_taps for line in others):
        without.append("--set data.pool=null")
    return [
        *([" ".join(by_label)] if by_label else []),
        " ".join(without),
        "leave these classes out of teacher.class_map",
    ]
