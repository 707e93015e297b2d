"""Write one cache with the tensors, or the views, of two. Stored bytes stay as they are."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from freqkd_cli.cache.cache_folder import Mode, refuse_other_content
from freqkd_cli.cache.data_files import FILES
from freqkd_cli.cache.fingerprint import Difference, Fingerprint
from freqkd_cli.cache.journal import CachePlan
from freqkd_cli.cache.pruning import subject
from freqkd_cli.cache.reader import CacheReader, item_text
from freqkd_cli.cache.stored_rows import Columns, complex_names, stored_columns, summary
from freqkd_cli.cache.writer import CacheWriter
from freqkd_cli.errors import CacheMismatch, UsageError
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.leaves import leaves

log = logging.getLogger(__name__)


def merge(first: Path, second: Path, out: Path, mode: Mode = "new") -> dict[str, Any]:
    """Write one cache with the tensors of two; return what ``cache merge --json`` prints.

    They have the same items and other tensors, or the same tensors and other items.

    Raises:
        CacheMismatch: they are of other teachers, views, data or storage, or both have a tensor of
            an item.
        Missing, UsageError, CacheDamaged: a cache cannot be used, or ``out`` is not empty.
        FreqKDError: the disk is full, or permission is missing.
    """
    if out.resolve() in (first.resolve(), second.resolve()):
        raise UsageError(f"--out {out} is one of the merged caches", tip="give another --out")
    refuse_other_content(out, mode, "--overwrite to replace it, or another --out")
    readers = (CacheReader(first), CacheReader(second))
    complementary = _check(*readers)
    fingerprint = _merged(*readers)
    sources = [(shard.items, readers) for shard in readers[0].index.shards]
    if not complementary:
        sources = [(s.items, (reader,)) for reader in readers for s in reader.index.shards]
    plan = CachePlan(
        fingerprint,
        tuple((items,) for items, _ in sources),
        readers[0].index.teacher or readers[1].index.teacher,
        object_or_none(first / FILES) or object_or_none(second / FILES),
    )
    tip = "fix this, for example free space, then run it again with --overwrite"
    with CacheWriter(out, plan, mode, tip=tip) as writer:
        for number, (items, parts_of) in enumerate(sources):
            columns: Columns = {}
            for reader in parts_of:
                columns |= stored_columns(reader, items, reader.names)
            writer.put(number, columns, {n for reader in readers for n in complex_names(reader)})
        writer.finish()
    return summary(CacheReader(out))


def _check(first: CacheReader, second: CacheReader) -> bool:
    """Return whether two caches have the same items and other tensors.

    Raises:
        CacheMismatch: they cannot be merged.
    """
    differences = list(_differences(first.fingerprint, second.fingerprint))
    lines = [d.line("other") for d in differences if not d.field.startswith("versions.")]
    if lines:
        raise CacheMismatch(
            "\n  ".join([f"{first.folder} and {second.folder} differ in these fields:", *lines]),
            tip="make both with the same teacher, data, views, --content, --dtype, --scores and "
            "arguments of each loss",
        )
    for difference in differences:
        log.warning("%s and %s: %s", first.folder, second.folder, difference.line("other"))
    items, names = first.items.keys() & second.items.keys(), set(first.names) & set(second.names)
    if items and names:
        raise CacheMismatch(
            "both caches have the same tensor of the same view",
            got=f"{min(names)} of {item_text(min(items))}",
            need="other tensors of the same views, or the same tensors of other views",
            tip=_without_overlap(first, second),
        )
    same_items, same_names = first.items.keys() == second.items.keys(), first.names == second.names
    if not same_items and set(first.names) != set(second.names):
        raise CacheMismatch(
            "the caches have other tensors, but not the same views",
            got=f"{len(first)} and {len(second)} views",
            need="the same images and views in both",
            tip="freqkd cache prune CACHE --views N --images N",
        )
    return same_items and not same_names


def _without_overlap(first: CacheReader, second: CacheReader) -> str:
    """Return what to do with two caches that have the same tensor of the same view."""
    for one, other in ((second, first), (first, second)):
        if {*one.names} <= {*other.names} and one.items.keys() <= other.items.keys():
            return f"use {other.folder} alone, which has all of {one.folder}"
    rest = {*map(subject(second), second.names)} - {*map(subject(first), first.names)}
    if not rest:
        return "make the second cache of other images or views"
    kept = [word for name in sorted(rest) for word in ("--keep", name)]
    words = ["freqkd", "cache", "prune", str(second.folder), *kept]
    return f"{shlex.join(words)}, then merge again"


def _differences(first: Fingerprint, second: Fingerprint) -> Iterator[Difference]:
    """Yield the fields that must be equal, and are not."""
    shared = {*first.fields.get("targets", {})} & {*second.fields.get("targets", {})}
    before, after = (dict(leaves(_comparable(side.fields, shared))) for side in (first, second))
    for field in dict.fromkeys([*before, *after]):
        part = field.partition(".")[0]
        # A cache without class scores has no class map; where both have one they must agree.
        both = first.fields.get(part) and second.fields.get(part)
        optional = part in ("class_map", "pool") and not both
        if part in ("taps", "images") or optional or field == "teacher.license":
            continue
        if before.get(field) != after.get(field):
            yield Difference(field, before.get(field), after.get(field))


def _comparable(fields: Mapping[str, Any], shared: Collection[str]) -> dict[str, Any]:
    """Return the fields with the targets of the ``shared`` loss ids alone."""
    targets = fields.get("targets", {})
    return {**fields, "targets": {id: targets[id] for id in shared}}


def _merged(first: CacheReader, second: CacheReader) -> Fingerprint:
    """Return the fingerprint of both together.

    Raises:
        CacheMismatch: an image lacks some of its views.
    """
    fields, other = dict(second.fingerprint.fields) | dict(first.fingerprint.fields), second
    fields["taps"] = sorted({*first.fingerprint.fields["taps"], *other.fingerprint.fields["taps"]})
    if "targets" in fields:
        fields["targets"] = {**other.fingerprint.fields["targets"], **fields["targets"]}
    items = first.items.keys() | second.items.keys()
    views = range(fields["views"].get("stored") or 0) or (-1,)
    fields["images"] = 1 + max(image for image, _ in items)
    for item in ((image, view) for image in range(fields["images"]) for view in views):
        if item not in items:
            raise CacheMismatch(
                "the two caches do not have every view of their images",
                need=item_text(item),
                tip="merge the cache that has it first",
            )
    return Fingerprint(fields)
