"""``freqkd cache merge``: write one cache with the tensors, or the views, of two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json, Overwrite
from freqkd_cli.commands._output import check_parents, facts, print_result


def run(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a finished cache.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the new cache.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write one cache with the tensors, or the views, of two.

    Both have the same teacher, data, views and --dtype. Either they have the same images and views
    and other taps or losses, or the same taps or losses of other images and views.

        freqkd cache merge caches/a caches/b --out caches/both
    """
    from freqkd_cli.cache.merging import merge

    check_parents("--out", out)
    result = merge(first, second, out, "overwrite" if overwrite else "new")
    print_result(result, as_json, _table)


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.runtime.byte_sizes import size

    shown = {key: value for key, value in result.items() if key != "bytes"}
    return facts(shown | {"size": size(result["bytes"])})
