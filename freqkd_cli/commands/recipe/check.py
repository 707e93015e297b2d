"""``freqkd recipe check``: every mistake of recipes, before data and weights are touched."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqkd_cli.commands._options import Json, Sets, complete_recipe
from freqkd_cli.commands._output import print_result
from freqkd_cli.errors import FreqKDError, RecipeError, UsageError
from freqkd_cli.runtime.logs import warn

if TYPE_CHECKING:
    from freqkd_cli.build.assemble import CheckedRecipe

log = logging.getLogger(__name__)

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE",
        help="Recipe files or names of shipped recipes.",
        autocompletion=complete_recipe,
    ),
]


def run(files: Files, sets: Sets = None, as_json: Json = False) -> None:
    """Report every mistake in recipes, without data or weights.

    Checks names, types and ranges, the arguments of each part, taps that do not exist, bands
    that are empty, teachers with other classes, and batch norms without variance. Lists the
    effective cells of each frequency band, and warns of fewer than 4. Exit code 2 if a recipe has
    problems.

        freqkd recipe check fastscnn_basic my_recipe.yaml
    """
    rows, errors = _checked(files, sets or ())
    print_result(rows, as_json, _table)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        usage = any(isinstance(error, UsageError) for error in errors)
        kind = RecipeError if usage else type(errors[0])
        lines = "".join(f"\n  {line}" for row in rows for line in row["problems"])
        raise kind(f"{len(errors)} of {len(files)} recipes have problems{lines}")


def _checked(
    files: list[str], sets: list[str] | tuple[()]
) -> tuple[list[dict[str, Any]], list[FreqKDError]]:
    """One row per recipe, and the errors of those that have problems."""
    from freqkd_cli.recipe.load import load

    rows, errors = [], []
    for file in files:
        row: dict[str, Any] = {"file": file, "ok": True, "problems": [], "bands": []}
        try:
            recipe = load(file, sets)
            warn(f"{recipe.source}: {text}" for text in recipe.warnings)
            # These import torch: not for a misspelt name.
            from freqkd_cli.build import assemble, recipe_facts, single_values
            from freqkd_cli.teacher.teacher_classes import check_recorded_classes

            checked = assemble.check(recipe, data=False)
            check_recorded_classes(checked)
            single_values.check_unbuilt(checked)
            warn(f"{recipe.source}: {text}" for text in recipe_facts.missing_encoders(recipe))
            row["bands"] = _bands(file, checked)
        except FreqKDError as error:
            errors.append(error)
            row |= {"ok": False, "problems": _lines(file, error)}
        rows.append(row)
    return rows, errors


def _bands(file: str, checked: CheckedRecipe) -> list[dict[str, Any]]:
    """Return the effective cells of each band of the loss lines, and log them in one line."""
    texts = [f"{id} {band}" for id, cells in checked.bands.items() for band in cells]
    if texts:
        log.info("%s: %s", file, ", ".join(texts))
    return [
        {
            "id": id,
            "band": band.band,
            "grid": list(band.grid),
            "effective_cells": round(band.cells, 2),
            "cells": band.whole,
        }
        for id, cells in checked.bands.items()
        for band in cells
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    return "\n".join(f"{row['file']}: ok" for row in rows if row["ok"])


def _lines(file: str, error: FreqKDError) -> list[str]:
    problems = error.problems if isinstance(error, RecipeError) else []
    return problems or [f"{file}: {error.line}"]
