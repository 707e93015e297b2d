"""The plan of a dump: which views of which images, in which shards, and how many bytes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from freqkd_cli.cache.data_files import Listing
from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.cache.index_file import Item
from freqkd_cli.cache.journal import CachePlan
from freqkd_cli.cache.shards import Storage, encode
from freqkd_cli.cache.teacher_facts import TeacherFacts
from freqkd_cli.errors import UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.byte_sizes import size
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.targets import Content
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import ImageSource, Loader, ViewDataset
from freqkd_cli.views.steps import WHOLE
from freqkd_cli.views.view import ViewSpec
from freqkd_cli.views.worker_count import Workers, worker_count

SHARD_BYTES = 128 * 2**20
"""Largest size of a shard, unless a single batch is larger."""


@dataclass(frozen=True)
class Job:
    """What is to be cached.

    Attributes:
        teacher: the live teacher, with the losses that read it.
        split: the split.
        spec: how views are drawn.
        view_seed: their seed.
        views: stored views per image; 0 = the view ``whole`` instead.
        student_taps: the student's taps by name; targets are made for their grids.
        fingerprint: the fingerprint of the cache.
        images: number of images, from the first.
        facts: what the cache records of its teacher.
        files: the files of the images, where these are files.
        batch_size: items in one teacher pass.
        device: the device of the teacher.
        workers: loader processes.
    """

    teacher: LiveTeacher
    split: ImageSource
    spec: ViewSpec
    view_seed: int
    views: int
    student_taps: Mapping[str, Tap]
    fingerprint: Fingerprint
    images: int
    facts: TeacherFacts | None = None
    files: Listing | None = None
    batch_size: int = 8
    device: torch.device | str = "cpu"
    workers: Workers = 0

    @property
    def content(self) -> Content:
        return self.fingerprint.content  # type: ignore[return-value]

    @property
    def form(self) -> Storage:
        """Return how numbers are stored."""
        return Storage(self.fingerprint.storage, self.fingerprint.fields.get("scores"))

    @property
    def dataset(self) -> ViewDataset:
        return ViewDataset(
            self.split,
            self.spec if self.views else None,
            view_seed=self.view_seed,
            views=self.views,
        )

    def batches(self) -> Iterator[list[Item]]:
        """Yield every item once, in batches of one size, in an order that only the data decides."""
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
        """Return height and width of an item's view."""
        if self.views:
            return self.spec.size
        view = self.dataset.view(item)
        return view.height, view.width


@dataclass(frozen=True)
class Estimate:
    """Size of a dump, from one item that was run.

    Attributes:
        names: the tensors of each item.
        floats: names of their stored parts of a float type.
    """

    items: int
    bytes: int
    shards: int
    names: tuple[str, ...]
    floats: frozenset[str]

    def __str__(self) -> str:
        shards = f"{self.shards} shard{'s' * (self.shards != 1)}"
        return f"{self.items} views, {size(self.bytes)} in {shards}"


def rows(job: Job, batch: Batch) -> dict[str, Tensor]:
    """Return what one batch adds to the cache, not rounded: name -> ``[B, ...]``.

    Names are those of taps, or ``loss_id.tensor`` for targets.
    """
    if job.content == "taps":
        return job.teacher.taps(batch)
    grids = {name: tap.grid(*batch.images.shape[-2:]) for name, tap in job.student_taps.items()}
    targets = job.teacher.targets(batch, grids)
    return {
        f"{id}.{name}": tensor for id, target in targets.items() for name, tensor in target.items()
    }


def plan(job: Job, shard_bytes: int = SHARD_BYTES) -> tuple[CachePlan, Estimate]:
    """Assign items to shards, from the size of one item that is run here.

    Raises:
        UsageError: there is nothing to store.
    """
    if job.images < 1:
        raise UsageError("there are no images to dump")
    first = next(job._items())
    tensors = rows(job, next(iter(Loader(job.dataset, [[first]]))).to(job.device))
    if not tensors:
        raise UsageError("no loss of this recipe reads the teacher, so there is nothing to store")
    parts = stored_parts(tensors, job.form)
    item_bytes = sum(part.nbytes for part in parts.values())
    bytes_per_pixel = item_bytes / math.prod(job.size(first))
    shards: list[list[tuple[Item, ...]]] = []
    total, room = 0, 0
    for batch in job.batches():
        needed = math.ceil(bytes_per_pixel * math.prod(job.size(batch[0]))) * len(batch)
        if not shards or needed > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tuple(batch))
        room -= needed
        total += needed
    parts_of_shards = tuple(tuple(shard) for shard in shards)
    cache_plan = CachePlan(job.fingerprint, parts_of_shards, job.facts, job.files)
    items = sum(len(batch) for shard in shards for batch in shard)
    floats = frozenset(name for name, part in parts.items() if part.is_floating_point())
    return cache_plan, Estimate(items, total, len(shards), tuple(tensors), floats)


def stored_parts(tensors: Mapping[str, Tensor], form: Storage) -> dict[str, Tensor]:
    """Return the stored parts of all tensors of a batch, by name."""
    return {
        part: stored
        for name, tensor in tensors.items()
        for part, stored in encode(name, tensor, form).items()
    }


def estimate_seconds(job: Job, items: int) -> float:
    """Return the expected duration of a dump, from one batch that is loaded and run here.

    Call it after :func:`plan`, which warms the teacher up. Writing overlaps with the teacher.
    """
    batch_items = next(job.batches())
    started = time.monotonic()
    batch = next(iter(Loader(job.dataset, [batch_items])))
    loaded = time.monotonic()
    for tensor in rows(job, batch.to(job.device)).values():
        tensor.cpu()
    loading, teacher = loaded - started, time.monotonic() - loaded
    gpu = torch.device(job.device).type != "cpu"
    workers = worker_count(job.workers, job.dataset, batch_items, gpu=gpu)
    per_batch = max(loading / workers, teacher) if workers else loading + teacher
    return per_batch * items / len(batch_items)
