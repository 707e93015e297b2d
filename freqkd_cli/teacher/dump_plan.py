"""What a dump is to hold: which views of which pictures, in which batches and shards, and how many bytes that will be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from freqkd_cli.cache.reader import CachePlan, Fingerprint, Item
from freqkd_cli.cache.shards import store
from freqkd_cli.errors import UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.teacher.sources import DTYPES, Content, LiveTeacher
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import ImageSource, Loader, ViewDataset
from freqkd_cli.views.steps import WHOLE
from freqkd_cli.views.view import ViewSpec

SHARD_BYTES = 128 * 2**20
"""Size that a shard does not exceed, unless one batch alone does."""


@dataclass(frozen=True)
class Job:
    """What is to be cached.

    Attributes:
        teacher: the live teacher, which knows the losses.
        pictures: the split.
        spec: how views are drawn.
        view_seed: their key.
        views: stored views per picture (K); 0 = the view ``whole`` instead.
        student_taps: the student's taps by name; targets are made for their grids.
        fingerprint: what the cache is made from.
        images: the first so many pictures of the split.
        batch_size: items in one teacher pass.
        device: where the teacher lies.
        workers: loader processes.
    """

    teacher: LiveTeacher
    pictures: ImageSource
    spec: ViewSpec
    view_seed: int
    views: int
    student_taps: Mapping[str, Tap]
    fingerprint: Fingerprint
    images: int
    batch_size: int = 8
    device: torch.device | str = "cpu"
    workers: int = 0

    @property
    def content(self) -> Content:
        return self.fingerprint.content  # type: ignore[return-value]

    @property
    def dataset(self) -> ViewDataset:
        return ViewDataset(
            self.pictures,
            self.spec if self.views else None,
            view_seed=self.view_seed,
            views=self.views,
        )

    def batches(self) -> Iterator[list[Item]]:
        """Every item once, in batches of one size, in an order that nothing but the data decides."""
        waiting: dict[tuple[int, int], list[Item]] = {}
        for item in self._items():
            group = waiting.setdefault(self.size(item), [])
            group.append(item)
            if len(group) == self.batch_size:
                yield waiting.pop(self.size(item))
        yield from waiting.values()

    def _items(self) -> Iterator[Item]:
        draws = range(self.views) if self.views else (WHOLE,)
        return itertools.product(range(self.images), draws)

    def size(self, item: Item) -> tuple[int, int]:
        """Height and width of an item's view."""
        if self.views:
            return self.spec.size
        view = self.dataset.view(item)
        return view.height, view.width


@dataclass(frozen=True)
class Estimate:
    """What a dump will write, from one picture that was run. ``names`` are those of the tensors of each item."""

    items: int
    bytes: int
    shards: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.items} views, {self.bytes / 2**20:.1f} MiB in {self.shards} shard{'s' * (self.shards != 1)}"


def rows(job: Job, batch: Batch) -> dict[str, Tensor]:
    """What one batch adds to the cache, not yet rounded: tap -> ``[B, ...]``, or ``loss_id.tensor`` for targets."""
    if job.content == "taps":
        return job.teacher.taps(batch)
    grids = {name: tap.grid(*batch.images.shape[-2:]) for name, tap in job.student_taps.items()}
    targets = job.teacher.targets(batch, grids)
    return {
        f"{id}.{name}": tensor for id, target in targets.items() for name, tensor in target.items()
    }


def plan(job: Job, shard_bytes: int = SHARD_BYTES) -> tuple[CachePlan, Estimate]:
    """Decide which items go to which shard, from the size of one item that is run here.

    Raises:
        UsageError: there is nothing to store.
    """
    if job.images < 1:
        raise UsageError("there are no pictures to dump")
    first = next(job._items())
    found = rows(job, next(iter(Loader(job.dataset, [[first]]))).to(job.device))
    if not found:
        raise UsageError("no loss of this recipe reads the teacher, so there is nothing to store")
    stored = [store(tensor, DTYPES[job.fingerprint.storage])[0] for tensor in found.values()]
    per_pixel = sum(tensor.numel() * tensor.element_size() for tensor in stored) / math.prod(
        job.size(first)
    )
    shards: list[list[tuple[Item, ...]]] = []
    total, room = 0, 0
    for batch in job.batches():
        need = math.ceil(per_pixel * math.prod(job.size(batch[0]))) * len(batch)
        if not shards or need > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tuple(batch))
        room -= need
        total += need
    cache_plan = CachePlan(job.fingerprint, tuple(tuple(shard) for shard in shards))
    items = sum(len(batch) for shard in shards for batch in shard)
    return cache_plan, Estimate(items, total, len(shards), tuple(found))
