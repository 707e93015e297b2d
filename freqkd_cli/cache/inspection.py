"""What ``freqkd cache`` shows: the content of a cache, the recipes it fits, and its damage.

Reading the index needs no torch, so ``cache info`` starts quickly.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from freqkd_cli.cache.checksum import AGAIN_WHOLE, check_file
from freqkd_cli.cache.index_file import (
    INDEX,
    JOURNAL,
    FingerprintFields,
    Shard,
    StoredTensor,
    merge_descriptions,
    read_index,
)
from freqkd_cli.cache.journal import Journal
from freqkd_cli.cache.teacher_facts import TeacherFacts
from freqkd_cli.errors import CacheDamaged

NOT_AUGMENT = frozenset({"kind", "stored", "size", "view_seed", "teacher_sees"})
"""Fields of the views that are keys of ``data``, not of ``data.augment``."""


def describe(folder: Path) -> dict[str, Any]:
    """Return what ``cache info --json`` prints, of an unfinished cache what is written so far.

    Raises:
        Missing: there is no cache.
        CacheDamaged: its index, or the plan of an unfinished cache, cannot be read.
    """
    finished = (folder / INDEX).is_file()
    fields, shards, planned, facts = _finished(folder) if finished else _unfinished(folder)
    items = {item for shard in shards for item in shard.items}
    return {
        "cache": str(folder),
        "finished": finished,
        "content": fields.content,
        "dtype": fields.storage,
        "tensors": [_tensor(name, tensor) for name, tensor in merge_descriptions(shards).items()],
        "items": len(items),
        "images": fields.images,
        **({"pool_images": fields.pool.get("number")} if fields.pool else {}),
        "views": fields.views.get("stored") or "whole",
        "bytes": sum(shard.bytes for shard in shards),
        "shards": len(shards),
        "shards_planned": planned,
        "teacher_sha256": fields.teacher.get("weights_sha256"),
        "teacher_weights": facts.weights if facts else None,
        "teacher_classes": facts.class_names if facts else None,
        "license": fields.teacher.get("license"),
        "fits": _fits(fields),
        "versions": fields.versions,
    }


Parts = tuple[FingerprintFields, list[Shard], int, TeacherFacts | None]


def _finished(folder: Path) -> Parts:
    index = read_index(folder)
    return index.fingerprint, list(index.shards), len(index.shards), index.teacher


def _unfinished(folder: Path) -> Parts:
    if not (folder / JOURNAL).is_file():
        read_index(folder)  # raises: there is no cache
    plan, written = Journal(folder).read()
    try:
        return (
            FingerprintFields.model_validate(plan),
            [written[number] for number in sorted(written)],
            int(plan["layout"]["shards"]),  # type: ignore[index]
            None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CacheDamaged(
            f"the plan of the unfinished cache {folder} cannot be read", tip=AGAIN_WHOLE
        ) from error


def _tensor(name: str, tensor: StoredTensor) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "complex": tensor.complex,
    }


def _fits(fields: FingerprintFields) -> dict[str, Any]:
    """Return the recipe keys and values that this cache serves; fewer taps and images fit too."""
    teacher, views = fields.teacher, fields.views
    keys = {
        "data.name": fields.data.get("name"),
        **({"data.pool.name": fields.pool.get("name")} if fields.pool else {}),
        "teacher.name": teacher.get("name"),
        "teacher.dtype": teacher.get("dtype"),
    }
    arguments = (teacher.get("arguments") or {}).items()
    keys |= {f"teacher.{key}": value for key, value in arguments if key != "classes"}
    if views.get("kind") == "drawn":
        drawn = {"views": views.get("stored")}
        drawn |= {key: views.get(key) for key in ("view_seed", "size", "teacher_sees")}
        keys |= {f"data.{key}": value for key, value in drawn.items() if value is not None}
    keys |= {f"data.augment.{key}": views[key] for key in views if key not in NOT_AUGMENT}
    if fields.targets:
        return keys | {"losses": sorted(fields.targets)}
    return keys | {"teacher taps": fields.taps}


def verify(folder: Path) -> dict[str, Any]:
    """Check every shard; return what ``cache verify --json`` prints.

    ``damaged`` lists files and what is wrong with each.

    Raises:
        Missing: there is no cache.
        UsageError: it is unfinished.
    """
    from freqkd_cli.cache.reader import CacheReader

    started = time.monotonic()
    result: dict[str, Any] = {
        "cache": str(folder),
        "ok": True,
        "shards": 0,
        "bytes": 0,
        "damaged": [],
    }
    damaged = result["damaged"]
    try:
        index = read_index(folder)
        result |= {"shards": len(index.shards), "bytes": sum(shard.bytes for shard in index.shards)}
        for shard in index.shards:
            try:
                check_file(folder, shard.file, shard.bytes, shard.sha256)
            except CacheDamaged as error:
                damaged.append({"file": shard.file, "problem": error.what})
        if not damaged:
            CacheReader(folder)  # the headers of the shards match the index
    except CacheDamaged as error:
        damaged.append({"file": INDEX, "problem": error.what})
    return result | {"ok": not damaged, "seconds": round(time.monotonic() - started, 2)}
