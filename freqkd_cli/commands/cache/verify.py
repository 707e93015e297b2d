"""``freqkd cache verify``: check the checksums of a cache."""

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

    Exit code 3 if a shard or the index is damaged. Rerun the cache's teacher-dump command with
    --resume to replace damaged shards. To compare the numbers with the teacher, use
    freqkd teacher-dump --verify N.

        freqkd cache verify caches/a
    """
    from freqkd_cli.cache.checksum import AGAIN, AGAIN_WHOLE
    from freqkd_cli.cache.inspection import verify

    result = verify(folder)
    print_result(result, as_json, _table)
    if not result["ok"]:
        lines = "".join(f"\n  {row['problem']}" for row in result["damaged"])
        index = result["damaged"][0]["file"] == "index.json"
        raise CheckFailed(
            f"the cache {folder} is damaged{lines}", tip=AGAIN_WHOLE if index else AGAIN
        )


def _table(result: dict[str, Any]) -> str:
    from freqkd_cli.runtime.byte_sizes import size

    if not result["ok"]:
        return ""
    shards = f"{result['shards']} shard{'s' * (result['shards'] != 1)}"
    return f"{result['cache']}: ok, {shards}, {size(result['bytes'])}"
