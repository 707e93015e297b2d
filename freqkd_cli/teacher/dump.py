"""Run the teacher once over every stored view and keep what the losses read.

Here on plain objects; ``engine/source.py`` makes them from a recipe.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqkd_cli.cache.reader import CacheReader, CacheWriter
from freqkd_cli.cache.shards import store
from freqkd_cli.cache.writer import Mode
from freqkd_cli.errors import FreqKDError, Interrupted
from freqkd_cli.runtime.interrupt import asked_to_stop
from freqkd_cli.runtime.processes import ALONE, Processes
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.teacher.dump_plan import SHARD_BYTES, Job, plan, rows
from freqkd_cli.teacher.sources import DTYPES
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import Loader


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


def _fill(
    job: Job, writer: CacheWriter, progress: Progress, todo: list[int], processes: Processes
) -> int:
    """Put the shards ``todo``, every process some of them, and finish; the number of items that were stored.

    Raises:
        Interrupted: a process was asked to stop.
    """
    shards = len(writer.plan.shards)
    if len(todo) < shards:
        progress.note(f"{shards - len(todo)} of {shards} shards are kept")
    if processes.number > 1:
        progress.note(
            f"{len(todo)} shards for {processes.number} processes; what follows is the share of the first"
        )
    with asked_to_stop() as stop:
        written = _Pass(
            job, writer, progress, stop, todo[processes.index :: processes.number]
        ).run()
        for theirs in processes.gather(writer.shards):
            writer.shards |= theirs
        if writer.todo:
            raise Interrupted(
                f"stopped with {len(writer.finished)} of {shards} shards written in {writer.folder}",
                tip="the same command with --resume",
            )
        if processes.first:
            writer.finish()
        processes.wait()
    return int(processes.sum(torch.tensor(written)))


class _Pass:
    """The teacher's one pass over the items of some shards."""

    def __init__(
        self, job: Job, writer: CacheWriter, progress: Progress, stop: list[int], todo: list[int]
    ) -> None:
        self.job, self.writer, self.progress, self.stop, self.todo = (
            job,
            writer,
            progress,
            stop,
            todo,
        )
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
        self.progress.advance(self.done, f"{speed:.1f} images/s")


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
        raise FreqKDError(
            f"the teacher gives numbers that are not finite at {where}",
            tip="--set teacher.dtype=float32, or other weights",
        )
    raise FreqKDError(
        f"the teacher's numbers do not fit into {storage} at {where}",
        got=f"{largest:g}",
        need=f"at most {torch.finfo(DTYPES[storage]).max:g}",
        tip="--dtype bf16" if storage == "float16" else "--dtype fp32",
    )
