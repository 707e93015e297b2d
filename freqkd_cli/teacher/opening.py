"""Open the source of a recipe's targets: a cache, the live teacher, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from freqkd_cli.build import assemble
from freqkd_cli.build.objective import Line
from freqkd_cli.errors import UsageError
from freqkd_cli.features.class_map import ClassMap
from freqkd_cli.teacher.cached import CachedTeacher
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.recipe_cache import open_cache
from freqkd_cli.teacher.targets import NoTeacher, Source
from freqkd_cli.teacher.teacher_classes import check_teacher_classes
from freqkd_cli.views.loader import ViewDataset

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset


def ready_teacher(
    checked: assemble.CheckedRecipe, device: torch.device | str
) -> tuple[nn.Module, ClassMap | None]:
    """Return the recipe's teacher in float32 on a device, and its class map.

    Raises:
        WeightsMissing, RecipeError: the teacher cannot be built or has other classes.
    """
    teacher = assemble.build_teacher(checked.recipe, len(checked.classes))
    class_map = check_teacher_classes(checked, teacher)
    teacher.ready(torch.device(device))
    return teacher.to(device), class_map


def show_views(
    teacher: nn.Module, checked: assemble.CheckedRecipe, dataset: Dataset, views: int | None
) -> None:
    """Give a teacher of saved outputs the views of the run; other teachers need none.

    Args:
        views: stored views per image, 0 = endless, None = the view ``whole``.

    Raises:
        DataMissing: an image has no saved outputs.
    """
    if not hasattr(teacher, "show"):
        return
    spec = None if views is None else checked.view_spec
    teacher.show(
        ViewDataset(dataset, spec, view_seed=checked.recipe.data.view_seed, views=views or 0)
    )


def open_source(
    checked: assemble.CheckedRecipe,
    lines: Sequence[Line],
    cache: Path | None,
    dataset: Dataset,
    device: torch.device | str,
) -> Source:
    """Return the source of the targets of ``lines``: ``cache``, or else the recipe's teacher.

    Raises:
        CacheMismatch: the cache does not fit; every field and the right command are named.
        Missing: there is no cache.
        UsageError: it is unfinished, or the recipe draws endless views, or it reads no teacher.
        WeightsMissing, RecipeError: the teacher cannot be built.
    """
    losses = {line.id: line.loss for line in lines}
    if not any(line.teacher_taps for line in lines):
        if cache is not None:
            raise UsageError(
                "no loss of this recipe reads the teacher, so it needs no cache",
                got=f"--cache {cache}",
                tip="leave --cache out",
            )
        return NoTeacher()
    if cache is not None:
        return CachedTeacher(
            open_cache(checked, lines, cache, dataset), losses, checked.teacher_taps
        )
    teacher, class_map = ready_teacher(checked, device)
    show_views(teacher, checked, dataset, checked.recipe.data.views)
    return LiveTeacher(
        teacher,
        losses,
        checked.teacher_taps,
        dtype=checked.recipe.teacher.dtype,
        class_map=class_map,
    )
