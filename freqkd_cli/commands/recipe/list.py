"""``freqkd recipe list``: the recipes that are part of this installation."""

from __future__ import annotations

from freqkd_cli.commands._options import Json
from freqkd_cli.commands._output import columns, print_result


def run(as_json: Json = False) -> None:
    """List the shipped recipes and the question of each.

    freqkd recipe list
    """
    from freqkd_cli.recipe.shipped import paths, question

    rows = [
        {"name": name, "question": question(path), "path": path} for name, path in paths().items()
    ]
    print_result(
        rows, as_json, lambda rows: columns([(row["name"], row["question"]) for row in rows])
    )
