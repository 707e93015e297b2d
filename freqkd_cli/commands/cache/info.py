"""``freqkd cache info``: what a cache holds, and for which recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json
from freqkd_cli.commands._output import columns, print_result


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a cache.")],
    as_json: Json = False,
) -> None:
    """Say what a cache holds and which recipes it fits.

    Teacher, taps or targets with their shapes, number type, images, views, bytes, and the keys that a recipe must agree with.
    An unfinished cache is shown as far as it is written. Shards are not read; freqkd cache verify does that.

        freqkd cache info caches/a
    """
    from freqkd_cli.cache.inspection import describe

    print_result(describe(folder), as_json, _table)


def _table(found: dict[str, Any]) -> str:
    size = (
        f"{found['bytes'] / 2**20:.1f} MiB in {found['shards']} shard{'s' * (found['shards'] != 1)}"
    )
    state = (
        "finished"
        if found["finished"]
        else f"unfinished: {found['shards']} of {found['shards_planned']} shards"
    )
    views = (
        "the whole view"
        if found["views"] == "whole"
        else f"{found['views']} view{'s' * (found['views'] != 1)}"
    )
    rows = [
        ("cache", found["cache"]),
        ("state", state),
        ("holds", f"{found['content']} in {found['dtype']}, {found['items']:,} items, {size}"),
        ("images", f"{found['images']:,}, {views} of each"),
        ("weights", f"sha256 {str(found['teacher_sha256'])[:16]}"),
    ]
    tensors = [
        (
            row["name"],
            f"[{', '.join('any' if n is None else str(n) for n in row['shape'])}]",
            row["dtype"],
        )
        for row in found["tensors"]
    ]
    fits = [
        (key, value if isinstance(value, str) else _plain(value))
        for key, value in found["fits"].items()
    ]
    return "\n".join(
        [columns(rows), "", columns(tensors, "  "), "", "fits recipes with", columns(fits, "  ")]
    )


def _plain(value: Any) -> str:
    """A value as a recipe writes it, a list without its brackets."""
    return ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
