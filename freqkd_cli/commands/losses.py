"""``freqkd losses``: what a line of a recipe's ``losses`` may name, and what may be said to it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json, complete_loss
from freqkd_cli.commands._output import argument_table, columns, print_result


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="LOSS", help="One loss, with its arguments.", autocompletion=complete_loss
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the losses and what may be said to each.

    freqkd losses band
    """
    from freqkd_cli import registry
    from freqkd_cli.recipe.describe import arguments

    if name:
        registry.find("losses", name)
    rows = [
        {
            "name": one,
            "about": registry.first_line(registry.find("losses", one)).replace("``", ""),
            "definition": (registry.find("losses", one).__doc__ or "")
            .partition("\n")[2]
            .strip()
            .replace("``", "")
            .replace("**", ""),
            "arguments": arguments("losses", one),
        }
        for one in ([name] if name else registry.names("losses"))
    ]
    print_result(rows, as_json, _one if name else _all)


def _all(rows: list[dict[str, Any]]) -> str:
    return columns([(row["name"], row["about"]) for row in rows])


def _one(rows: list[dict[str, Any]]) -> str:
    found = rows[0]
    return "\n\n".join(
        (
            f"{found['name']}: {found['about']}",
            argument_table(found["arguments"]),
            found["definition"],
        )
    )
