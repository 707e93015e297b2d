"""The teacher of a cache that ``freqkd spectrum`` reads, and the stored views of its images."""

from __future__ import annotations

import logging

from freqkd_cli import registry
from freqkd_cli.cache.reader import CacheReader, Item
from freqkd_cli.errors import UsageError
from freqkd_cli.features.taps import stored_as
from freqkd_cli.spectrum.locate import SpectrumSource
from freqkd_cli.spectrum.subjects import SpectrumOptions, Subject, check_options, taps_of

log = logging.getLogger(__name__)


def open_cache(source: SpectrumSource, options: SpectrumOptions) -> tuple[CacheReader, Subject]:
    """Return a cache, and the teacher whose taps it contains.

    Raises:
        UsageError: it contains targets, its teacher is not a model of this version, or it is of
            another split.
    """
    check_options(source, options)
    assert source.path is not None
    reader = CacheReader(source.path)
    if reader.content != "taps":
        raise UsageError(
            f"the cache {source.path} contains the targets of losses, not features",
            need="a cache of taps",
            tip="freqkd teacher-dump RECIPE --content taps, or use the run's folder",
            key="source",
        )
    teacher = reader.fingerprint.fields.get("teacher") or {}
    name = teacher.get("name")
    if name not in registry.names("models"):
        raise UsageError(
            f"the teacher of the cache {reader.folder} is not a model of this version",
            got=name,
            need=f"one of {', '.join(registry.names('models'))}",
            key="source",
        )
    facts = reader.index.teacher  # older caches have none
    known = {tap.name: tap for tap in facts.taps} if facts else taps_of(name, teacher["arguments"])
    taps = {key: tap for key, tap in known.items() if stored_as(key, known) in reader.names}
    data = reader.fingerprint.fields["data"]
    if options.split not in (None, data["split"]):
        raise UsageError(
            f"{source} has its own images",
            got=f"--split {options.split}",
            need=f"the split {data['split']}",
            tip="leave --split out",
            key="split",
        )
    log.info("teacher %s on stored views of %s, split %s", name, data["name"], data["split"])
    return reader, Subject("teacher", name, taps)


def first_views(reader: CacheReader, limit: int) -> list[Item]:
    """Return one stored view of each image, so that no image counts twice.

    It is the view ``whole`` where there is one.
    """
    first: dict[int, int] = {}
    for index, view in sorted(reader.items):
        first[index] = min(view, first.get(index, view))
    return sorted(first.items())[:limit]
