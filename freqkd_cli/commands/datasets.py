"""``freqkd datasets``: the data sets that a recipe may name in ``data.name``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from freqkd_cli import registry
from freqkd_cli.commands._options import Json, complete_name
from freqkd_cli.commands._output import argument_table, columns, definition, print_result
from freqkd_cli.errors import DataMissing, some

LISTED = 30
"""Classes of a data set that are listed at most."""


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Show one data set: its folder layout, classes and arguments.",
            autocompletion=complete_name("datasets"),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the data sets, their folder layouts and arguments.

    freqkd datasets folder
    """
    if name:
        registry.check_name("datasets", name)
    rows = [_describe(one) for one in ([name] if name else registry.names("datasets"))]
    print_result(rows, as_json, _one if name else _all)


def _describe(name: str) -> dict[str, Any]:
    from freqkd_cli.recipe.describe import arguments

    module = registry.find("datasets", name)
    try:
        classes = list(module.classes())
    except DataMissing:  # only the data's folder or the recipe names them
        classes = None
    return {
        "name": name,
        "about": registry.first_line(module).replace("``", ""),
        "classes": None if classes is None else len(classes),
        "class_names": classes,
        "layout": module.LAYOUT,
        "arguments": arguments("datasets", name),
        "definition": definition(module),
    }


def _all(rows: list[dict[str, Any]]) -> str:
    head = ("data set", "classes", "")
    return columns([head, *((row["name"], _count(row), row["about"]) for row in rows)])


def _count(row: dict[str, Any]) -> str:
    return "yours" if row["classes"] is None else str(row["classes"])


def _one(rows: list[dict[str, Any]]) -> str:
    (row,) = rows
    classes = "named in the recipe or in the data set's folder"
    if row["classes"] is not None:
        more = " (--json lists all)" if row["classes"] > LISTED else ""
        classes = f"{row['classes']}: {some(row['class_names'], LISTED)}{more}"
    facts = [("layout", row["layout"]), ("classes", classes)]
    parts = (
        f"{row['name']}: {row['about']}",
        columns(facts),
        argument_table(row["arguments"]),
        row["definition"],
    )
    return "\n\n".join(part for part in parts if part)
