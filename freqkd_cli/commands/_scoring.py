"""Options of the commands that score or label images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from freqkd_cli import registry
from freqkd_cli.errors import UsageError


def complete_metrics(incomplete: str) -> Iterable[str]:
    """Complete the last name of a list of metrics."""
    before, comma, name = incomplete.rpartition(",")
    known = [each for each in (registry.ALL, *registry.names("metrics")) if each.startswith(name)]
    return [f"{before}{comma}{each}" for each in known]


Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAME,NAME",
        help="Metrics to compute as well, or all; freqkd metrics lists them.",
        autocompletion=complete_metrics,
        show_default=False,
    ),
]


def number_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return heading and value, as tables print them, of the numbers of metrics in ``values``."""
    from freqkd_cli.score.tally import numbers

    return [
        (number.heading, number_text(number.printed(values[name])))
        for name, number in numbers([registry.ALL]).items()
        if name in values
    ]


def number_text(value: float | None) -> str:
    return "absent" if value is None else f"{value:6.2f}"


def parse_metrics(names: str | None) -> tuple[str, ...]:
    """Return the names in ``--metrics``, checked without importing torch.

    Raises:
        UnknownName: there is no metric of a name.
        UsageError: the list is empty.
    """
    if names is None:
        return ()
    metrics = tuple(name.strip() for name in names.split(",") if name.strip())
    if not metrics:
        known = (registry.ALL, *registry.names("metrics"))
        raise UsageError("--metrics names no metric", need=f"one of {', '.join(known)}")
    for name in metrics:
        if name != registry.ALL:
            registry.check_name("metrics", name)
    return metrics


BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        metavar="N",
        help="Images per batch; by default fewer for larger images, at most 8.",
        show_default=False,
    ),
]
Flip = Annotated[
    bool, typer.Option("--flip", help="Average with the image mirrored left to right.")
]
Scales = Annotated[
    str | None,
    typer.Option(
        "--scales", metavar="S,S", help="Average over scaled images, such as 0.75,1.0,1.25."
    ),
]
Slide = Annotated[
    str | None,
    typer.Option(
        "--slide",
        metavar="H,W",
        help="Run in windows of this height and width (multiples of 32) and average overlaps.",
    ),
]
Stride = Annotated[
    str | None,
    typer.Option(
        "--stride", metavar="H,W", help="Pixels from one window to the next; default half a window."
    ),
]
