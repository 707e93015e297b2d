"""Run the teacher once over every stored view, and write the tensors that the losses read.

``teacher/dump_recipe.py`` builds a :class:`Job` from a recipe.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqkd_cli.cache import stored_rows
from freqkd_cli.cache.cache_folder import Mode
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.shards import Storage, encode
from freqkd_cli.cache.writer import CacheWriter
from freqkd_cli.errors import FreqKDError, Interrupted
from freqkd_cli.runtime.interrupt import asked_to_stop
from freqkd_cli.runtime.processes import ALONE, Processes
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.teacher.dump_plan import SHARD_BYTES, Job, plan, rows
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
    """Fill the cache folder ``out``; return what ``teacher-dump --json`` prints.

    Each process fills its own shards. The number of processes does not change which item is in
    which shard, so any number of them can resume a dump.

    Raises:
        UsageError, CacheMismatch: ``out`` has other content, or another process writes to it.
        FreqKDError: a value does not fit the storage type, or the disk is full.
        Interrupted: SIGINT or SIGTERM; finished shards can be resumed.
    """
    cache_plan, estimate = plan(job, shard_bytes)
    progress.note(f"{out}: {estimate}, {job.fingerprint.storage} {job.content}")
    started, written = time.monotonic(), 0
    with CacheWriter(out, cache_plan, mode, first=processes.first) as writer:
        complete, todo = processes.share((writer.complete, writer.todo))
        if complete:
            progress.note(f"{out} is already finished")
        else:
            form = dataclasses.replace(job.form, small=estimate.floats)
            written = _fill(job, form, writer, progress, todo, processes)
    return summary(CacheReader(out), written=written, seconds=time.monotonic() - started)


def summary(reader: CacheReader, *, written: int, seconds: float) -> dict[str, Any]:
    """Return the JSON of ``teacher-dump``; ``written`` views took ``seconds``."""
    return stored_rows.summary(reader) | {
        "seconds": round(seconds, 2),
        "images_per_second": round(written / seconds, 2) if written else None,
    }


def _fill(
    job: Job,
    form: Storage,
    writer: CacheWriter,
    progress: Progress,
    todo: list[int],
    processes: Processes,
) -> int:
    """Write the shards ``todo``, split over the processes; return the number of stored items.

    Raises:
        Interrupted: a process was asked to stop.
    """
    shards = len(writer.plan.shards)
    if len(todo) < shards:
        progress.note(f"{shards - len(todo)} of {shards} shards are kept")
    if processes.number > 1:
        progress.note(
            f"{len(todo)} shards for {processes.number} processes; progress is that of the first"
        )
    with asked_to_stop() as stop:
        own_shards = todo[processes.index :: processes.number]
        written = _TeacherPass(job, form, writer, progress, stop, own_shards).run()
        for shards_of_process in processes.gather(writer.shards):
            writer.shards |= shards_of_process
        if writer.todo:
            raise Interrupted(
                f"stopped: {len(writer.finished)} of {shards} shards are in {writer.folder}",
                tip="rerun the same command with --resume",
            )
        if processes.first:
            writer.finish()
        processes.wait()
    return int(processes.sum(torch.tensor(written)))


class _TeacherPass:
    """The teacher's pass over the items of some shards."""

    def __init__(
        self,
        job: Job,
        form: Storage,
        writer: CacheWriter,
        progress: Progress,
        stop: list[int],
        todo: list[int],
    ) -> None:
        self.job = job
        self.form = form
        self.writer = writer
        self.progress = progress
        self.stop = stop
        self.todo, self.shards = todo, writer.plan.shards
        self.total = sum(len(writer.plan.items(number)) for number in todo)
        self.complex_names: set[str] = set()

    def run(self) -> int:
        """Return the number of items that were run; a shard in which a stop came is not written."""
        batches = [list(batch) for number in self.todo for batch in self.shards[number]]
        loaded = iter(Loader(self.job.dataset, batches, self.job.workers, device=self.job.device))
        self.started, self.done = time.monotonic(), 0
        self.progress.begin("view", self.total)
        try:
            for number in self.todo:
                columns = self._shard_columns(len(self.shards[number]), loaded)
                if columns is None:
                    break
                self.writer.put(number, columns, self.complex_names)
            self.writer.wait()
        finally:
            self.progress.end()
        return self.done

    def _shard_columns(
        self, batches: int, loaded: Iterator[Batch]
    ) -> dict[str, list[Tensor]] | None:
        """Return name -> stored rows of the next ``batches`` batches; None after a stop."""
        columns: dict[str, list[Tensor]] = {}
        for _ in range(batches):
            if self.stop:
                return None
            batch = next(loaded)
            for name, tensor in rows(self.job, batch.to(self.job.device)).items():
                for part, stored in self._stored_parts(name, tensor, batch).items():
                    columns.setdefault(part, []).extend(stored.cpu().unbind(0))
            self._report(len(batch))
        return columns

    def _stored_parts(self, name: str, tensor: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = encode(name, tensor, self.form)
        parts = {part: stored.contiguous() for part, stored in parts.items()}
        check_range(name, parts, tensor, batch, self.form)
        if tensor.is_complex():
            self.complex_names.add(name)
        return parts

    def _report(self, number: int) -> None:
        self.done += number
        speed = self.done / (time.monotonic() - self.started)
        if self.done == number:
            left = (self.total - self.done) / speed
            self.progress.note(f"about {left:.0f} s at {speed:.1f} images/s")
        self.progress.advance(self.done, f"{speed:.1f} images/s")


def check_range(
    name: str, parts: Mapping[str, Tensor], tensor: Tensor, batch: Batch, form: Storage
) -> None:
    """Refuse numbers that the storage cannot represent, and numbers that are not finite.

    Raises:
        FreqKDError: names the tap, the image and the number.
    """
    for stored in parts.values():
        if not stored.is_floating_point() or not stored.numel():
            continue
        low, high = torch.aminmax(stored)  # one pass over few bytes; NaN is propagated
        if not (torch.isfinite(low) and torch.isfinite(high)):
            row = int((~torch.isfinite(stored).reshape(len(stored), -1).all(1)).nonzero()[0])
            where = f"{name}, image {int(batch.indices[row])}, view {int(batch.views[row])}"
            raise _out_of_range(tensor[row], form.dtype, where)


def _out_of_range(row: Tensor, dtype: str, where: str) -> FreqKDError:
    """Return the error for a row with a number that cannot be stored."""
    values = torch.view_as_real(row) if row.is_complex() else row
    largest = float(values.abs().max())
    if not math.isfinite(largest):
        return FreqKDError(
            f"the teacher's output is not finite at {where}",
            tip="--set teacher.dtype=float32, or other weights",
        )
    limit = torch.finfo(Storage(dtype).floats).max
    return FreqKDError(
        f"the teacher's output does not fit {dtype} at {where}",
        got=f"{largest:g}",
        need=f"at most {limit / 2 if dtype == 'int8' else limit:g}",
        tip="--dtype bf16" if dtype == "float16" else "--dtype fp32",
    )
