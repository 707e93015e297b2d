"""One line of a recipe's ``losses`` as an object, checked against the taps of both models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from freqkd_cli import registry
from freqkd_cli.build.objective import Line
from freqkd_cli.build.recipe_facts import place
from freqkd_cli.errors import FreqKDError, RecipeError
from freqkd_cli.features.taps import Tap, by_name, pick
from freqkd_cli.spectral.masks import FEW_CELLS, BandCells
from freqkd_cli.views.view import MULTIPLE

if TYPE_CHECKING:
    from freqkd_cli.build.assemble import CheckedRecipe
    from freqkd_cli.features.loss import Loss
    from freqkd_cli.recipe.sections import LossLine


def _check_nodes(taps: Sequence[Tap], side: str, size: tuple[int, int]) -> None:
    """Refuse a graph whose nodes do not divide the view: the two models' nodes would not match.

    Raises:
        RecipeError: the tap, its nodes and a usable size are named.
    """
    for tap in taps:
        # Only what no multiple of 32 can fix; other sizes are a problem of data.size.
        if (
            tap.kind in ("nodes", "graph")
            and any(n % tap.stride for n in size)
            and MULTIPLE % tap.stride
        ):
            raise RecipeError(
                f"the {side}'s {tap.name} has nodes of {tap.stride}x{tap.stride} pixels, "
                "which do not divide the view",
                got=f"data.size {list(size)}",
                need=f"multiples of {math.lcm(MULTIPLE, tap.stride)}",
            )


def _check_taps(checked: CheckedRecipe, spec: LossLine, loss: Loss) -> None:
    """Refuse a line that reads a tap that is not there, or a teacher that the recipe lacks.

    Raises:
        RecipeError: with the key of the line that it is about.
    """
    compares = "teacher" in spec.arguments or loss.reads_logits
    if compares and not checked.teacher_taps:
        raise _without_teacher(spec, loss)
    for side, taps in (("student", checked.student_taps), ("teacher", checked.teacher_taps)):
        owner = f"the {side} {getattr(checked.recipe, side).name!r}" if taps else ""
        if isinstance(name := spec.arguments.get(side), str):
            pick(tuple(taps.values()), name, owner, key=side)
        elif loss.reads_logits:
            pick(tuple(taps.values()), "logits", owner)


def _without_teacher(spec: LossLine, loss: Loss) -> RecipeError:
    """Return the error for a line that reads a teacher in a recipe that has none."""
    attention = spec.arguments.get("attention")
    if loss.needs_labels and attention:
        return RecipeError(
            f"{spec.name} with attention {attention} reads a teacher, and the recipe has none",
            tip=f"--set 'losses.{spec.id}.attention=none', or add a `teacher:` section",
            key="attention",
        )
    return RecipeError(
        f"{spec.name} compares with a teacher, and the recipe has none",
        tip="add a `teacher:` section",
        key="teacher" if "teacher" in spec.arguments else None,
    )


def build_line(checked: CheckedRecipe, number: int) -> Line:
    """Return one loss line as an object, with adapters for the taps it names.

    Raises:
        RecipeError, BandError: the line cannot be built on these taps.
    """
    spec, size = checked.recipe.losses[number], checked.view_spec.size
    loss = registry.find("losses", spec.name).build(**spec.arguments)
    _check_taps(checked, spec, loss)
    student = loss.student_taps(checked.student_taps)
    teacher = loss.teacher_taps(checked.teacher_taps)
    _check_nodes([checked.student_taps[name] for name in student], "student", size)
    _check_nodes([checked.teacher_taps[name] for name in teacher], "teacher", size)
    compared = checked.compared if loss.reads_logits else None
    if compared and loss.needs_labels:
        raise RecipeError(
            f"{spec.name} with attention reads labels of classes that teacher.class_map "
            "does not cover",
            tip=f"--set 'losses.{spec.id}.attention=none', "
            "or map a teacher class onto every data class",
            key="attention",
        )
    if compared and loss.reads_classes_of_labels:
        key, other = loss.reads_classes_of_labels
        raise RecipeError(
            f"{spec.name} reads labels of classes that teacher.class_map does not cover",
            tip=f"--set 'losses.{spec.id}.{key}={other}', "
            "or map a teacher class onto every data class",
            key=key,
        )
    student_specs = by_name(checked.student_taps.values(), student)
    if compared:
        student_specs["logits"] = replace(student_specs["logits"], channels=len(compared))
    teacher_specs = by_name(checked.teacher_taps.values(), teacher)
    loss.start(student_specs, teacher_specs, len(compared or checked.classes))
    loss.check_grids(*_grids(checked, student, teacher))
    return Line(
        id=spec.id,
        loss=loss,
        weight=spec.weight,
        warmup=spec.warmup,
        decay=spec.decay or 0.0,
        student_taps=student,
        teacher_taps=teacher,
        compared=compared,
    )


def _grids(
    checked: CheckedRecipe, student: Sequence[str], teacher: Sequence[str]
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Return the grids of the taps of either side on the recipe's views."""
    size = checked.view_spec.size
    return (
        {name: checked.student_taps[name].grid(*size) for name in student},
        {name: checked.teacher_taps[name].grid(*size) for name in teacher},
    )


def check_lines(
    checked: CheckedRecipe,
) -> tuple[list[tuple[str, str]], dict[str, tuple[BandCells, ...]], list[str]]:
    """Return the problems of each loss line by itself, the bands of each by its id, and warnings.

    Lines of weight 0 are checked, but have no bands and no warnings.
    """
    problems, bands, warnings = [], {}, []
    for number, spec in enumerate(checked.recipe.losses):
        try:
            with torch.device("meta"):
                line = build_line(checked, number)
        except FreqKDError as error:
            problems.append((place(f"losses.{number}", error), error.line))
            continue
        grids = _grids(checked, line.student_taps, line.teacher_taps)
        cells = line.loss.band_cells(*grids)
        if cells and spec.weight > 0:
            bands[spec.id] = cells
        for text, setting in line.loss.warnings() if spec.weight > 0 else ():
            better = f"--set losses.{spec.id}.{setting}"
            warnings.append(f"losses.{spec.id}: {text}; try {better}")
    return problems, bands, warnings


def few_cells(bands: dict[str, tuple[BandCells, ...]]) -> Iterator[str]:
    """Yield a warning for each band that keeps hardly a cell."""
    for id, cells in bands.items():
        for band in cells:
            if band.few:
                tip = f"--set 'losses.{id}.{band.setting}'" if band.setting else "a finer tap"
                yield (
                    f"losses.{id}: the {band.band} band of {band.taps} keeps {band.cells:.1f} "
                    f"effective cells of {band.whole} ({band.grid[0]}x{band.grid[1]}), fewer than "
                    f"{FEW_CELLS:g}; try {tip}"
                )
