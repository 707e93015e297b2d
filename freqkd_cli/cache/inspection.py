"""A cache as ``freqkd cache`` shows it: what it holds, which recipes it fits, and whether it is as it was written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from freqkd_cli.cache.index_file import (
    INDEX,
    JOURNAL,
    Journal,
    Made,
    Shard,
    StoredTensor,
    merged,
    read_index,
)
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.shards import check_file
from freqkd_cli.errors import CacheDamaged

NOT_DRAWN = frozenset({"kind", "stored", "size", "view_seed", "teacher_sees"})
"""Fields of the views that are keys of ``data`` itself, not of ``data.augment``."""


def describe(folder: Path) -> dict[str, Any]:
    """What ``cache info --json`` prints; of an unfinished cache what is written so far. Shards are not read.

    Raises:
        UsageError: there is no cache.
        CacheDamaged: its index, or the plan of an unfinished one, cannot be read.
    """
    finished = (folder / INDEX).is_file()
    made, shards, planned = _finished(folder) if finished else _unfinished(folder)
    items = {item for shard in shards for item in shard.items}
    return {
        "cache": str(folder),
        "finished": finished,
        "content": made.content,
        "dtype": made.storage,
        "tensors": [_tensor(name, tensor) for name, tensor in merged(shards).items()],
        "items": len(items),
        "images": made.images,
        "views": made.views.get("stored") or "whole",
        "bytes": sum(shard.bytes for shard in shards),
        "shards": len(shards),
        "shards_planned": planned,
        "teacher_sha256": made.teacher.get("weights_sha256"),
        "fits": _fits(made),
        "versions": made.versions,
    }


def _finished(folder: Path) -> tuple[Made, list[Shard], int]:
    index = read_index(folder)
    return index.fingerprint, list(index.shards), len(index.shards)


def _unfinished(folder: Path) -> tuple[Made, list[Shard], int]:
    if not (folder / JOURNAL).is_file():
        read_index(folder)  # says that there is no cache
    plan, written = Journal(folder).read()
    try:
        return (
            Made.model_validate(plan),
            [written[number] for number in sorted(written)],
            int(plan["layout"]["shards"]),
        )  # type: ignore[index]
    except (ValueError, KeyError, TypeError) as error:
        raise CacheDamaged(
            f"the plan of the unfinished cache {folder} cannot be read",
            tip="begin again with --overwrite",
        ) from error


def _tensor(name: str, tensor: StoredTensor) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "complex": tensor.complex,
    }


def _fits(made: Made) -> dict[str, Any]:
    """Recipe key -> what a recipe must say there to be served; of taps and images it may want fewer."""
    keys = {
        "data.name": made.data.get("name"),
        "teacher.name": made.teacher.get("name"),
        "teacher.dtype": made.teacher.get("dtype"),
    }
    keys |= {
        f"teacher.{key}": value
        for key, value in (made.teacher.get("arguments") or {}).items()
        if key != "classes"
    }
    drawn = made.views.get("kind") == "drawn"
    own = {
        "views": made.views.get("stored"),
        **{key: made.views.get(key) for key in ("view_seed", "size", "teacher_sees")},
    }
    keys |= {f"data.{key}": value for key, value in own.items() if drawn and value is not None}
    keys |= {
        f"data.augment.{key}": value for key, value in made.views.items() if key not in NOT_DRAWN
    }
    return keys | (
        {"losses": sorted(made.targets)} if made.targets else {"teacher taps": made.taps}
    )


def verify(folder: Path) -> dict[str, Any]:
    """Check every shard; what ``cache verify --json`` prints. ``damaged`` lists files and what is wrong with each.

    Raises:
        UsageError: there is no cache, or it is unfinished.
    """
    started = time.monotonic()
    found: dict[str, Any] = {
        "cache": str(folder),
        "ok": True,
        "shards": 0,
        "bytes": 0,
        "damaged": [],
    }
    try:
        index = read_index(folder)
        found |= {"shards": len(index.shards), "bytes": sum(shard.bytes for shard in index.shards)}
        for shard in index.shards:
            try:
                check_file(folder, shard.file, shard.bytes, shard.sha256)
            except CacheDamaged as error:
                found["damaged"].append({"file": shard.file, "problem": error.what})
        if not found["damaged"]:
            CacheReader(folder)  # the headers too are as the index says
    except CacheDamaged as error:
        found["damaged"].append({"file": INDEX, "problem": error.what})
    return found | {"ok": not found["damaged"], "seconds": round(time.monotonic() - started, 2)}
