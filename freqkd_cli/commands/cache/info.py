"""``freqkd cache info``: show the content of a cache and the recipes it fits."""

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
    """Show the content of a cache and the recipes it fits.

    Prints the teacher, the taps or targets with shapes and types, images, views, size, and the
    recipe keys that must match. Shards are not read; freqkd cache verify does that.

        freqkd cache info caches/a
    """
    from freqkd_cli.cache.inspection import describe

    print_result(describe(folder), as_json, _table)


def _table(cache: dict[str, Any]) -> str:
    from freqkd_cli.cache.fingerprint import leaves
    from freqkd_cli.runtime.byte_sizes import size

    shards = f"{cache['shards']} shard{'s' * (cache['shards'] != 1)}"
    unfinished = f"unfinished: {cache['shards']} of {cache['shards_planned']} shards"
    views = f"{cache['views']} view{'s' * (cache['views'] != 1)} per image"
    rows = [
        ("cache", cache["cache"]),
        ("state", "finished" if cache["finished"] else unfinished),
        ("content", f"{cache['content']} in {cache['dtype']}, {cache['items']:,} items"),
        ("size", f"{size(cache['bytes'])} in {shards}"),
        ("images", _images(cache)),
        ("views", "the whole image" if cache["views"] == "whole" else views),
        ("weights", _weights(cache)),
    ]
    if cache["license"]:
        rows.append(("license", cache["license"]))
    tensors = [(row["name"], _shape(row["shape"]), row["dtype"]) for row in cache["tensors"]]
    fits = [
        (key, value if isinstance(value, str) else _plain(value))
        for key, value in leaves(cache["fits"])
    ]
    tables = [columns(rows), columns(tensors, "  "), "fits recipes with", columns(fits, "  ")]
    return "\n\n".join(tables[:2]) + "\n\n" + "\n".join(tables[2:])


def _weights(cache: dict[str, Any]) -> str:
    hashed = f"sha256 {str(cache['teacher_sha256'])[:16]}"
    return f"{cache['teacher_weights']}, {hashed}" if cache["teacher_weights"] else hashed


def _images(cache: dict[str, Any]) -> str:
    pool = cache.get("pool_images")
    return f"{cache['images']:,}" + (f", of which {pool:,} of the pool" if pool else "")


def _shape(sizes: list[int | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in sizes)}]"


def _plain(value: Any) -> str:
    """Return a value as a recipe writes it, and a list without brackets."""
    return ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
