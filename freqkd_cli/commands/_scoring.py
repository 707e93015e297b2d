"""Options of the commands that score or label images."""

from __future__ import annotations

from typing import Annotated

import typer

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
