"""``freqkd metrics``: the metrics that ``eval`` and a recipe may name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json, complete_name
from freqkd_cli.commands._output import columns, definition, print_result

TRAINING, EVAL, REQUEST = "training", "eval", "on request"


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="METRIC",
            help="Describe this metric: definition, numbers and source.",
            autocompletion=complete_name("metrics"),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the metrics and when they are computed.

    Metrics of training are computed at every validation and by freqkd eval, those of eval by freqkd
    eval alone. The others are computed on request: freqkd eval RUN --metrics NAME, or train.metrics
    in a recipe.

        freqkd metrics boundary_f
    """
    from freqkd_cli import registry

    if name:
        registry.check_name("metrics", name)
    rows = [_describe(metric) for metric in ([name] if name else registry.names("metrics"))]
    print_result(rows, as_json, _one if name else _all)


def _describe(name: str) -> dict[str, Any]:
    from freqkd_cli import registry
    from freqkd_cli.score.tally import needs_confidence

    module = registry.find("metrics", name)
    on_request = getattr(module, "ON_REQUEST", False)
    return {
        "name": name,
        "about": registry.first_line(module).replace("``", ""),
        "computed": TRAINING if module.CHEAP else REQUEST if on_request else EVAL,
        "needs_probabilities": needs_confidence(name),
        "numbers": [
            {"name": key, "title": number.title, "unit": number.unit, "best": number.best}
            for key, number in module.NUMBERS.items()
        ],
        "per_class": list(module.PER_CLASS),
        "definition": definition(module),
    }


def _all(rows: list[dict[str, Any]]) -> str:
    head = ("metric", "computed", "")
    return columns([head, *((row["name"], row["computed"], row["about"]) for row in rows)])


def _one(rows: list[dict[str, Any]]) -> str:
    (row,) = rows
    table = [("number", "best", "heading")]
    for number in row["numbers"]:
        percent = number["unit"] == "%"
        best = f"{100 * number['best']:g} %" if percent else f"{number['best']:g}"
        table.append((number["name"], best, number["title"]))
    facts = [("computed", row["computed"]), ("per class", ", ".join(row["per_class"]) or "none")]
    if row["needs_probabilities"]:
        facts.append(("needs", "probabilities, so it cannot score label images"))
    heading = f"{row['name']}: {row['about']}"
    return "\n\n".join((heading, columns(facts), columns(table), row["definition"]))
