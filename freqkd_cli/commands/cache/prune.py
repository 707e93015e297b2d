"""``freqkd cache prune``: remove what a recipe does not need from a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json
from freqkd_cli.commands._output import facts, print_result

Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep", metavar="NAME", help="Tap or loss id that is kept; repeatable; default all."
    ),
]
Views = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Keep the first N views of each image."),
]
Images = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Keep the first N images."),
]


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished cache.")],
    keep: Keep = None,
    views: Views = None,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Remove taps, losses, views or images from a cache.

    What is kept is written first, so this needs space for it. A cache of N views serves recipes
    with data.views N.

        freqkd cache prune caches/a --keep stage4 --keep logits --views 4
    """
    from freqkd_cli.cache.pruning import prune

    print_result(prune(folder, keep or (), views, images), as_json, _table)


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.runtime.byte_sizes import size

    before, after = size(result["bytes_before"]), size(result["bytes"])
    shown = {key: value for key, value in result.items() if not key.startswith("bytes")}
    return facts(shown | {"size": f"{after}, before {before}"})
