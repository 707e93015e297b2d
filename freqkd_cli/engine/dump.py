"""Run the teacher once over every stored view and keep what the losses read; check a cache against the live teacher.

Here on plain objects; ``engine/source.py`` makes them from a recipe.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqkd_cli.engine.interrupt import asked_to_stop
from freqkd_cli.engine.processes import ALONE, Processes
from freqkd_cli.engine.progress import Progress
from freqkd_cli.errors import FreqKDError, Interrupted, UsageError
from freqkd_cli.features.cache import CachePlan, CacheReader, CacheWriter, Fingerprint, Item
from freqkd_cli.features.cache_writer import Mode
from freqkd_cli.features.shards import store
from freqkd_cli.features.source import DTYPES, Content, LiveTeacher
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import WHOLE, Loader, Pictures, ViewDataset
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
    pictures: Pictures
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
        return ViewDataset(self.pictures, self.spec if self.views else None, view_seed=self.view_seed, views=self.views)

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
    return {f"{id}.{name}": tensor for id, target in targets.items() for name, tensor in target.items()}


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
    per_pixel = sum(tensor.numel() * tensor.element_size() for tensor in stored) / math.prod(job.size(first))
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


def dump(
    job: Job,
    out: Path,
    progress: Progress,
    *,
    mode: Mode = "new",
    shard_bytes: int = SHARD_BYTES,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Fill the cache folder ``out``; what ``teacher-dump --json`` prints.

    Which item lies in which shard does not depend on ``processes``, each of which fills shards of its own; so any number of them can
    take up what another number left.

    Raises:
        UsageError, CacheMismatch: ``out`` holds something else, or another process writes to it.
        FreqKDError: a value does not fit the storage type; the disk is full. What was finished can be resumed.
        Interrupted: SIGINT or SIGTERM; finished shards are kept.
    """
    cache_plan, estimate = plan(job, shard_bytes)
    progress.note(f"{out}: {estimate}, {job.fingerprint.storage} {job.content}")
    started, written = time.monotonic(), 0
    with CacheWriter(out, cache_plan, mode, first=processes.first) as writer:
        complete, todo = processes.share((writer.complete, writer.todo))
        if complete:
            progress.note(f"{out} is finished already")
        else:
            written = _fill(job, writer, progress, todo, processes)
    return result(CacheReader(out), written=written, seconds=time.monotonic() - started)


def result(reader: CacheReader, *, written: int, seconds: float) -> dict[str, Any]:
    """The JSON of ``teacher-dump``; ``written`` views took ``seconds``."""
    return {
        "cache": str(reader.folder),
        "items": len(reader),
        "views": len({view for _, view in reader.items}),
        "bytes": reader.bytes,
        "taps": list(reader.names),
        "seconds": round(seconds, 2),
        "images_per_second": round(written / seconds, 2) if written else None,
    }


def _fill(job: Job, writer: CacheWriter, progress: Progress, todo: list[int], processes: Processes) -> int:
    """Put the shards ``todo``, every process some of them, and finish; the number of items that were stored.

    Raises:
        Interrupted: a process was asked to stop.
    """
    shards = len(writer.plan.shards)
    if len(todo) < shards:
        progress.note(f"{shards - len(todo)} of {shards} shards are kept")
    if processes.number > 1:
        progress.note(f"{len(todo)} shards for {processes.number} processes; what follows is the share of the first")
    with asked_to_stop() as stop:
        written = _Pass(job, writer, progress, stop, todo[processes.index :: processes.number]).run()
        for theirs in processes.gather(writer.shards):
            writer.shards |= theirs
        if writer.todo:
            raise Interrupted(
                f"stopped with {len(writer.finished)} of {shards} shards written in {writer.folder}", tip="the same command with --resume"
            )
        if processes.first:
            writer.finish()
        processes.wait()
    return int(processes.sum(torch.tensor(written)))


class _Pass:
    """The teacher's one pass over the items of some shards."""

    def __init__(self, job: Job, writer: CacheWriter, progress: Progress, stop: list[int], todo: list[int]) -> None:
        self.job, self.writer, self.progress, self.stop, self.todo = job, writer, progress, stop, todo
        self.shards = writer.plan.shards
        self.total = sum(len(writer.plan.items(number)) for number in todo)
        self.storage = job.fingerprint.storage
        self.complex: set[str] = set()

    def run(self) -> int:
        """Number of items that were read; where a stop was asked for, the shard that it came in is not put."""
        wanted = [list(batch) for number in self.todo for batch in self.shards[number]]
        loaded = iter(Loader(self.job.dataset, wanted, self.job.workers))
        self.started, self.done = time.monotonic(), 0
        self.progress.begin("view", self.total)
        try:
            for number in self.todo:
                columns = self._shard(len(self.shards[number]), loaded)
                if columns is None:
                    break
                self.writer.put(number, columns, self.complex)
            self.writer.wait()
        finally:
            self.progress.end()
        return self.done

    def _shard(self, batches: int, loaded: Iterator[Batch]) -> dict[str, list[Tensor]] | None:
        """The stored rows of the next ``batches`` batches, name by name; None where a stop was asked for."""
        columns: dict[str, list[Tensor]] = {}
        for _ in range(batches):
            if self.stop:
                return None
            batch = next(loaded)
            for name, tensor in rows(self.job, batch.to(self.job.device)).items():
                columns.setdefault(name, []).extend(self._stored(name, tensor, batch))
            self._tell(len(batch))
        return columns

    def _stored(self, name: str, tensor: Tensor, batch: Batch) -> Sequence[Tensor]:
        stored, is_complex = store(tensor, DTYPES[self.storage])
        stored = stored.contiguous()
        check_range(name, stored, tensor, batch, self.storage)
        if is_complex:
            self.complex.add(name)
        return stored.cpu().unbind(0)

    def _tell(self, number: int) -> None:
        self.done += number
        speed = self.done / (time.monotonic() - self.started)
        left = (self.total - self.done) / speed
        if self.done == number:
            self.progress.note(f"about {left:.0f} s at {speed:.1f} images/s")
        self.progress.advance(self.done, f"{speed:.1f} images/s, {left:.0f} s left")


def check_range(name: str, stored: Tensor, tensor: Tensor, batch: Batch, storage: str) -> None:
    """Refuse numbers that the storage type could not hold: they are infinite in ``stored``, or no numbers at all.

    Raises:
        FreqKDError: naming the tap, the picture and the number.
    """
    if not stored.is_floating_point() or not stored.numel():
        return
    low, high = torch.aminmax(stored)  # one pass over half the bytes; a NaN is passed on
    if torch.isfinite(low) and torch.isfinite(high):
        return
    row = int((~torch.isfinite(stored).reshape(len(stored), -1).all(1)).nonzero()[0])
    values = torch.view_as_real(tensor[row]) if tensor.is_complex() else tensor[row]
    largest = float(values.abs().max())
    where = f"{name}, image {int(batch.indices[row])}, view {int(batch.views[row])}"
    if not math.isfinite(largest):
        raise FreqKDError(f"the teacher gives numbers that are not finite at {where}", tip="--set teacher.dtype=float32, or other weights")
    raise FreqKDError(
        f"the teacher's numbers do not fit into {storage} at {where}",
        got=f"{largest:g}",
        need=f"at most {torch.finfo(DTYPES[storage]).max:g}",
        tip="--dtype bf16" if storage == "float16" else "--dtype fp32",
    )


def select(items: Iterable[Item], number: int) -> list[Item]:
    """A sample without repetition that is the same every time, in order."""
    import numpy as np

    ordered = sorted(items)
    chosen = np.random.default_rng(0).permutation(len(ordered))[:number]
    return [ordered[i] for i in sorted(chosen.tolist())]
