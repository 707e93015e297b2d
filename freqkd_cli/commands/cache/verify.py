"""``freqkd cache verify``: whether a cache is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json
from freqkd_cli.commands._output import print_result
from freqkd_cli.errors import CheckFailed


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished cache.")],
    as_json: Json = False,
) -> None:
    """Check the checksum of every shard of a cache.

    Exit code 3 where one is damaged, or the index is. The cache's own teacher-dump command with --resume makes damaged shards again.
    Whether the numbers are still the teacher's is what freqkd teacher-dump --verify N tells.

        freqkd cache verify caches/a
    """
    from freqkd_cli.cache.inspection import verify
    from freqkd_cli.cache.shards import AGAIN

    found = verify(folder)
    print_result(found, as_json, _table)
    if not found["ok"]:
        lines = "".join(f"\n  {row['problem']}" for row in found["damaged"])
        tip = (
            "make the cache again with --overwrite"
            if found["damaged"][0]["file"] == "index.json"
            else AGAIN
        )
        raise CheckFailed(f"the cache {folder} is damaged{lines}", tip=tip)


def _table(found: dict[str, Any]) -> str:
    if not found["ok"]:
        return ""
    return f"{found['cache']}: ok, {found['shards']} shard{'s' * (found['shards'] != 1)}, {found['bytes'] / 2**20:.1f} MiB"
