"""How ``freqkd spectrum --graph`` looks at a source: the taps and the void of each picture, live or from a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli import registry
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import DataMissing, UsageError
from freqkd_cli.features.taps import stored_as
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.spectrum.graph_measure import GraphSpectra, Taps, measure_graphs
from freqkd_cli.spectrum.graph_pairs import Pair, choose_pairs
from freqkd_cli.spectrum.locate import Source
from freqkd_cli.spectrum.look import Look, first_views, open_cache, open_networks
from freqkd_cli.spectrum.radial import Subject
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import Loader, ViewDataset, whole_batches
from freqkd_cli.views.view import ViewSpec

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset

DRAWN = 3
"""Images in the picture where one tap is looked at, spread over those measured since neighbours may be frames of one film; else one."""

Item = tuple[str, Batch, Taps]


def look_at_graphs(source: Source, how: Look, progress: Progress) -> GraphSpectra:
    """Load what the source names and measure the graphs of its taps.

    Raises:
        WeightsMissing, DataMissing: something is not where the source says.
        UsageError: a tap that is not there, or a cache of targets.
    """
    if source.kind == "cache":
        reader, subject = open_cache(source, how)
        subjects = [subject]
        pairs = _pairs_of_cache(subject, reader, how)
        items = _cached(reader, how, pairs, subject)
        total = len(first_views(reader, how.limit))
    else:
        subjects, dataset = open_networks(source, how, progress)
        pairs = choose_pairs(subjects, how.stages, how.taps)
        total = min(how.limit, len(dataset))
        items = _live(subjects, pairs, dataset, total, pick_device(how.device))
    drawn = range(0, total, -(-total // DRAWN)) if len(pairs) == 1 else (0,)
    progress.begin("image", total)
    try:
        count, found, pictures = measure_graphs(
            subjects, pairs, _told(items, progress), drawn=drawn
        )
    finally:
        progress.end()
    return GraphSpectra(str(source), source.kind, count, found, pictures)


def _told(items: Iterator[Item], progress: Progress) -> Iterator[Item]:
    for done, item in enumerate(items):
        yield item
        progress.advance(done + 1)


def _live(
    subjects: Sequence[Subject],
    pairs: Sequence[Pair],
    dataset: Dataset,
    total: int,
    device: torch.device | str,
) -> Iterator[Item]:
    """The view ``whole`` of each picture through every network."""
    wanted = {
        s.role: list(dict.fromkeys(pair.taps[s.role].name for pair in pairs if s.role in pair.taps))
        for s in subjects
    }
    for subject in subjects:
        assert subject.model is not None
        subject.model.to(device).eval()
    for batch in whole_batches(dataset, 1, indices=range(total)):
        batch = batch.to(device)
        taps = {
            s.role: s.model(batch.images, taps=wanted[s.role])
            for s in subjects
            if s.model is not None and wanted[s.role]
        }
        yield dataset.name(int(batch.indices[0])), batch, taps


def _pairs_of_cache(subject: Subject, reader: CacheReader, how: Look) -> list[Pair]:
    try:
        return choose_pairs([subject], how.stages, how.taps)
    except UsageError as error:
        tip = "freqkd teacher-dump RECIPE --content taps, where a loss of the recipe reads that tap; or the recipe itself as the source"
        raise UsageError(
            f"the cache {reader.folder}: {error.what}", got=error.got, tip=tip
        ) from error


def _cached(
    reader: CacheReader, how: Look, pairs: Sequence[Pair], subject: Subject
) -> Iterator[Item]:
    """Stored taps with the view that they were made of, which says what is void."""
    views = reader.fingerprint.fields["views"]
    pictures = _pictures(reader, how, views.get("size"))
    spec = None if views["kind"] == "whole" else _spec(views)
    dataset = ViewDataset(
        pictures, spec, view_seed=views.get("view_seed", 0), views=views.get("stored", 0)
    )
    names = {
        tap.name: stored_as(tap.name, subject.taps) for pair in pairs for tap in pair.taps.values()
    }
    items = first_views(reader, how.limit)
    for item, batch in zip(items, Loader(dataset, [[item] for item in items]), strict=True):
        rows = reader.read([item], set(names.values()))
        yield (
            pictures.name(item[0]),
            batch,
            {"teacher": {name: rows[stored] for name, stored in names.items()}},
        )


def _spec(views: Mapping[str, Any]) -> ViewSpec:
    known = {spot.name for spot in fields(ViewSpec)}
    return ViewSpec(
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in views.items()
            if key in known
        }
    )


def _pictures(reader: CacheReader, how: Look, size: Sequence[int] | None) -> Dataset:
    """The data set that the cache was made of.

    Raises:
        DataMissing: it is not here, or it has changed.
    """
    said = reader.fingerprint.fields["data"]
    arguments = {"size": tuple(size or (192, 256)), **said["arguments"]}
    accepted = registry.takes("datasets", said["name"])
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in arguments.items()
        if key in accepted
    }
    dataset = registry.find("datasets", said["name"]).build(
        split=said["split"], root=how.data_root, **given
    )
    if {**dataset.manifest(), "number": 0} != {**said, "number": 0}:
        raise DataMissing(
            f"the pictures of the cache {reader.folder} are others now",
            need="those that it was made of",
            tip="--data-root DIR",
        )
    return dataset
