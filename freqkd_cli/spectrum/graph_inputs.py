"""The taps and the view of each image for ``freqkd spectrum --graph``, live or from a cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from freqkd_cli import registry
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import DataMissing
from freqkd_cli.features.taps import stored_as
from freqkd_cli.spectrum.graph_pairs import GraphPair
from freqkd_cli.spectrum.subjects import Subject
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import Loader, ViewDataset, whole_batches
from freqkd_cli.views.view import ViewSpec

if TYPE_CHECKING:
    from pathlib import Path

    from freqkd_cli.cache.reader import Item
    from freqkd_cli.images.dataset import Dataset


@dataclass(frozen=True)
class GraphInput:
    """One image: its name, its view as a batch of one, and role -> tap -> tensor."""

    name: str
    batch: Batch
    taps: Mapping[str, Mapping[str, Tensor]]


def live_inputs(
    subjects: Sequence[Subject],
    pairs: Sequence[GraphPair],
    dataset: Dataset,
    total: int,
    device: torch.device | str,
) -> Iterator[GraphInput]:
    """Run every network on the view ``whole`` of each image."""
    wanted: dict[str, list[str]] = {}
    for subject in subjects:
        taps = [pair.taps[subject.role].name for pair in pairs if subject.role in pair.taps]
        wanted[subject.role] = list(dict.fromkeys(taps))
        assert subject.model is not None
        subject.model.to(device).eval()
    for batch in whole_batches(dataset, 1, indices=range(total)):
        batch = batch.to(device)
        features = {
            subject.role: subject.model(batch.images, taps=wanted[subject.role])
            for subject in subjects
            if subject.model is not None and wanted[subject.role]
        }
        yield GraphInput(dataset.name(int(batch.indices[0])), batch, features)


def cached_inputs(
    reader: CacheReader,
    subject: Subject,
    pairs: Sequence[GraphPair],
    items: Sequence[Item],
    data_root: Path | None,
) -> Iterator[GraphInput]:
    """Yield stored taps with the view that they were made of, which defines the void nodes."""
    dataset = views_of_cache(reader, data_root)
    taps = [tap.name for pair in pairs for tap in pair.taps.values()]
    stored = {name: stored_as(name, subject.taps) for name in taps}
    for item, batch in zip(items, Loader(dataset, [[item] for item in items]), strict=True):
        rows = reader.read([item], set(stored.values()))
        features = {name: rows[place] for name, place in stored.items()}
        yield GraphInput(dataset.images.name(item[0]), batch, {"teacher": features})


def views_of_cache(reader: CacheReader, data_root: Path | None) -> ViewDataset:
    """Return the views that the cache was made of.

    Raises:
        DataMissing: as :func:`images_of_cache`.
    """
    views = reader.fingerprint.fields["views"]
    images = images_of_cache(reader, data_root, views.get("size"))
    spec = None if views["kind"] == "whole" else _spec(views)
    return ViewDataset(
        images, spec, view_seed=views.get("view_seed", 0), views=views.get("stored", 0)
    )


def _spec(views: Mapping[str, Any]) -> ViewSpec:
    known = {field.name for field in fields(ViewSpec)}
    return ViewSpec(
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in views.items()
            if key in known
        }
    )


def images_of_cache(
    reader: CacheReader, data_root: Path | None, size: Sequence[int] | None
) -> Dataset:
    """Return the data set that the cache was made from.

    Raises:
        DataMissing: it does not exist, or it has changed.
    """
    manifest = reader.fingerprint.fields["data"]
    name, keys = manifest["name"], dict(manifest["arguments"])
    ids = keys.get("ids", [])
    if ids != list(range(len(ids))):  # a list beside the data has them; the recipe's counts from 0
        keys.pop("classes")
    arguments = {"size": size or (192, 256), **registry.keywords("datasets", name, keys)}
    accepted = registry.takes("datasets", name)
    given = {key: value for key, value in arguments.items() if key in accepted}
    dataset = registry.find("datasets", name).build(
        split=manifest["split"], root=data_root, **given
    )
    if {**dataset.manifest(), "number": 0} != {**manifest, "number": 0}:
        raise DataMissing(
            f"the data set changed since the cache {reader.folder} was made",
            need="the images of the cache",
            tip="--data-root DIR",
            key="data_root",
        )
    return dataset
