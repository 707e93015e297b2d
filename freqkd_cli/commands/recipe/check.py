"""``freqkd recipe check``: everything that can be wrong with a recipe before data and weights are touched."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json, Sets, complete_recipe
from freqkd_cli.commands._output import print_result
from freqkd_cli.errors import FreqKDError, RecipeError, UsageError
from freqkd_cli.runtime.logs import warn

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE", help="Files or names of shipped recipes.", autocompletion=complete_recipe
    ),
]


def run(files: Files, sets: Sets = None, as_json: Json = False) -> None:
    """Find every mistake in recipes, without data or weights.

    Names, types, ranges, the arguments of each part, taps that do not exist and bands that hold nothing.

        freqkd recipe check fastscnn_basic my_recipe.yaml
    """
    from freqkd_cli.build import assemble
    from freqkd_cli.recipe.load import load

    errors: list[FreqKDError] = []
    rows: list[dict[str, Any]] = []
    for file in files:
        row: dict[str, Any] = {"file": file, "ok": True, "problems": []}
        try:
            recipe = load(file, sets or ())
            warn(f"{recipe.source}: {text}" for text in recipe.warnings)
            assemble.check(recipe, data=False)
        except FreqKDError as error:
            errors.append(error)
            row |= {"ok": False, "problems": _lines(file, error)}
        rows.append(row)
    print_result(
        rows, as_json, lambda rows: "\n".join(f"{row['file']}: ok" for row in rows if row["ok"])
    )
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kind = (
            RecipeError
            if any(isinstance(error, UsageError) for error in errors)
            else type(errors[0])
        )
        lines = "".join(f"\n  {line}" for row in rows for line in row["problems"])
        raise kind(f"{len(errors)} of {len(files)} recipes have problems{lines}")


def _lines(file: str, error: FreqKDError) -> list[str]:
    problems = error.problems if isinstance(error, RecipeError) else []
    return problems or [f"{file}: {error.line}"]
