"""Keep a part of a cache: some tensors, views or images. Stored bytes stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from freqkd_cli.cache import index_file
from freqkd_cli.cache.cache_folder import disk_errors, shard_files
from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.cache.index_file import Item, Shard, shard_name
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.shards import base_name
from freqkd_cli.cache.stored_rows import complex_names, stored_columns, summary
from freqkd_cli.cache.writer import write_shard
from freqkd_cli.errors import UsageError
from freqkd_cli.registry import did_you_mean
from freqkd_cli.runtime.lock import locked

log = logging.getLogger(__name__)


def prune(
    folder: Path, keep: Collection[str], views: int | None, images: int | None
) -> dict[str, Any]:
    """Keep a part of a cache; return what ``cache prune --json`` prints.

    New shards are written beside the old ones, then the index is replaced, then the old shards are
    removed. A kill leaves the old cache or the new one, and shards that the next call removes.

    Args:
        keep: taps, or ids of losses; all where it is empty.
        views: stored views of an image that are kept, from the first; None = all.
        images: images that are kept, from the first; None = all.

    Raises:
        Missing: there is no cache.
        UsageError: nothing would be left, nothing would be removed, or a name is not in the cache.
        FreqKDError: the disk is full, or permission is missing.
    """
    index_file.read_index(folder)  # a folder without a cache gets no lock
    tip = "fix this, for example free space, then run it again: the cache is whole"
    with disk_errors(folder, tip), locked(folder, f"the cache {folder}"):
        reader = CacheReader(folder)
        _remove_others(folder, reader.index.shards)
        names = _kept_names(reader, keep)
        kept = [
            tuple(item for item in shard.items if _is_kept(item, views, images))
            for shard in reader.index.shards
        ]
        _check(reader, names, sum(map(len, kept)), views, images)
        written: list[Shard] = []
        try:
            first = 1 + _number(shard_files(folder)[-1])
            for number, items in enumerate(filter(None, kept), first):
                columns = stored_columns(reader, items, names)
                file = shard_name(number)
                written.append(write_shard(folder, file, items, columns, complex_names(reader)))
        except OSError:  # their space is what the next call needs
            _remove_others(folder, reader.index.shards)
            raise
        fingerprint = _pruned(reader, names, views, images)
        index_file.write_index(folder, fingerprint, written, reader.index.teacher)
        _remove_others(folder, written)
    before, after = (cache.fields["images"] for cache in (reader.fingerprint, fingerprint))
    if after < before:
        log.warning(
            "%s now has %d of %d images: it no longer fits a recipe that trains on more",
            folder,
            after,
            before,
        )
    return summary(CacheReader(folder)) | {"bytes_before": reader.bytes}


def _remove_others(folder: Path, shards: Sequence[Shard]) -> None:
    """Remove the shard files that are not among the ``shards`` of the index."""
    listed = {shard.file for shard in shards}
    for path in shard_files(folder):
        if path.name not in listed:
            path.unlink()


def _number(shard: Path) -> int:
    return int(shard.name.removeprefix("shard-").partition(".")[0])


def _is_kept(item: Item, views: int | None, images: int | None) -> bool:
    return (views is None or item[1] < views) and (images is None or item[0] < images)


def _kept_names(reader: CacheReader, keep: Collection[str]) -> list[str]:
    """Return the tensors of the kept taps or losses.

    Raises:
        UsageError: the cache has no such tap or loss.
    """
    known = list(dict.fromkeys(map(subject(reader), reader.names)))
    for name in keep:
        if name not in known:
            raise UsageError(
                f"the cache {reader.folder} has no {name!r}{did_you_mean(name, known)}",
                need=f"--keep with some of {', '.join(known)}",
            )
    return [name for name in reader.names if not keep or subject(reader)(name) in keep]


def subject(reader: CacheReader) -> Callable[[str], str]:
    """Return the function from the name of a tensor to its tap or the id of its loss."""
    return base_name if reader.content == "taps" else lambda name: name.rpartition(".")[0]


def _check(
    reader: CacheReader, names: Sequence[str], items: int, views: int | None, images: int | None
) -> None:
    whole = not reader.fingerprint.fields["views"].get("stored")
    if views is not None and whole:
        raise UsageError("--views is for drawn views", got="a cache of whole images")
    if not items or not names:
        raise UsageError(
            "this would remove everything from the cache",
            got=f"--views {views}" if views is not None else f"--images {images}",
            need="at least one view of one image",
        )
    if items == len(reader) and len(names) == len(reader.names):
        raise UsageError(
            f"nothing of the cache {reader.folder} would be removed",
            got=f"{len(reader)} views of {', '.join(reader.names)}",
            tip="--keep NAME, --views N or --images N",
        )


def _pruned(
    reader: CacheReader, names: Sequence[str], views: int | None, images: int | None
) -> Fingerprint:
    """Return the fingerprint of what is kept."""
    fields: dict[str, Any] = dict(reader.fingerprint.fields)
    kept = {subject(reader)(name) for name in names}
    if reader.content == "targets":
        targets: Mapping[str, Any] = fields["targets"]
        fields["targets"] = {id: target for id, target in targets.items() if id in kept}
        kept = {tap for target in fields["targets"].values() for tap in target["taps"]}
    fields["taps"] = [tap for tap in fields["taps"] if tap in kept]
    if "logits" not in fields["taps"]:
        fields.pop("class_map", None)
    if views is not None:
        stored = min(views, fields["views"]["stored"])
        fields["views"] = {**fields["views"], "stored": stored}
    if images is not None:
        fields["images"] = min(images, fields["images"])
        if fields["images"] <= fields["data"].get("number", 0):
            fields.pop("pool", None)
    return Fingerprint(fields)
