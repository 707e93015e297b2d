"""``freqkd losses``: the losses that a recipe may name, with their arguments."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer

from freqkd_cli.commands._options import Json, complete_name
from freqkd_cli.commands._output import argument_table, columns, definition, print_result

UNGROUPED = "other"
"""The group of a loss file without ``GROUP``."""


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="LOSS",
            help="Describe this loss: arguments and definition.",
            autocompletion=complete_name("losses"),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the losses, grouped by what they compare.

    freqkd losses band
    """
    from freqkd_cli import registry

    if name:
        registry.check_name("losses", name)
    rows = [_describe(loss) for loss in ([name] if name else registry.names("losses"))]
    print_result(rows, as_json, _one if name else _all)


def _describe(name: str) -> dict[str, Any]:
    from freqkd_cli import registry
    from freqkd_cli.recipe.describe import arguments

    module = registry.find("losses", name)
    return {
        "name": name,
        "group": getattr(module, "GROUP", UNGROUPED),
        "about": registry.first_line(module).replace("``", ""),
        "definition": definition(module),
        "arguments": arguments("losses", name),
    }


def _all(rows: list[dict[str, Any]]) -> str:
    from freqkd_cli.features.loss import LossGroup

    width = max(len(row["name"]) for row in rows)
    blocks = []
    for group in (*get_args(LossGroup), UNGROUPED):
        losses = [(row["name"].ljust(width), row["about"]) for row in rows if row["group"] == group]
        if losses:
            blocks.append(f"{group}\n{columns(losses, indent='  ')}")
    return "\n\n".join(blocks)


def _one(rows: list[dict[str, Any]]) -> str:
    (row,) = rows
    heading = f"{row['name']}: {row['about']}"
    return "\n\n".join((heading, argument_table(row["arguments"]), row["definition"]))
