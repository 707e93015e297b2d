"""``freqkd recipe list``: the recipes and plans that are part of this installation."""

from __future__ import annotations

from typing import Annotated

import typer

from freqkd_cli.commands._options import Json
from freqkd_cli.commands._output import columns, print_result


def run(
    plan: Annotated[
        bool, typer.Option("--plan", help="List the plans of freqkd sweep instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the shipped recipes and the question of each.

    freqkd recipe list
    freqkd recipe list --plan
    """
    from freqkd_cli.recipe.shipped import paths, plan_paths, question

    files = plan_paths() if plan else paths()
    rows = [
        {"name": name, "question": question(path), "path": path} for name, path in files.items()
    ]
    print_result(
        rows, as_json, lambda rows: columns([(row["name"], row["question"]) for row in rows])
    )
