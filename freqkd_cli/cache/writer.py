"""Write a cache shard by shard. A killed writer leaves an unfinished cache, never a wrong one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from torch import Tensor

from freqkd_cli.cache import index_file
from freqkd_cli.cache.cache_folder import (
    RESUME_TIP,
    Mode,
    check_folder,
    disk_errors,
    refuse_other_content,
    remove_dump,
)
from freqkd_cli.cache.checksum import check_file
from freqkd_cli.cache.data_files import write_files
from freqkd_cli.cache.index_file import (
    INDEX,
    JOURNAL,
    Item,
    Shard,
    StoredTensor,
    shard_name,
    tensor_key,
)
from freqkd_cli.cache.journal import CachePlan, Journal, require_same_plan
from freqkd_cli.cache.shards import DTYPES
from freqkd_cli.errors import CacheDamaged
from freqkd_cli.runtime.lock import WriteLock
from freqkd_cli.runtime.tensor_file import write_tensors


class CacheWriter:
    """The only writer of a cache folder, as a context manager; ``finish`` completes the cache.

    Args:
        mode: ``new`` refuses a folder that is not empty. ``resume`` keeps the finished shards that
            match their checksums, also those of a finished cache. ``overwrite`` removes the cache.
        first: of several processes that write this cache, the first holds the lock, resumes and
            finishes. It must enter its ``with`` block before the others put a shard, and must have
            their ``shards`` before it finishes.
        tip: what to do after an error of the disk.

    Attributes:
        finished: numbers of the shards that are written.
        complete: True where ``resume`` has nothing to do.

    Raises:
        UsageError: the folder is not empty, or another process writes to it.
        CacheMismatch: the cache to be resumed was started with other settings.
        FreqKDError: the disk is full or permission is missing; finished shards can be resumed.
    """

    def __init__(
        self,
        folder: str | Path,
        plan: CachePlan,
        mode: Mode = "new",
        *,
        first: bool = True,
        tip: str = RESUME_TIP,
    ) -> None:
        self.folder, self.journal = Path(folder), Journal(Path(folder))
        self.plan, self.mode, self.first, self.tip = plan, mode, first, tip
        self.shards: dict[int, Shard] = {}
        self.complete = False
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-writer")
        self._pending: Future[None] | None = None
        self._lock: WriteLock | None = None

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(self.shards)

    @property
    def todo(self) -> list[int]:
        """Return the numbers of the shards that are still missing."""
        return (
            []
            if self.complete
            else [number for number in range(len(self.plan.shards)) if number not in self.shards]
        )

    def __enter__(self) -> Self:
        if not self.first:
            return self
        check_folder(self.folder, self.mode)
        with disk_errors(self.folder, self.tip):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = WriteLock(self.folder, f"the cache {self.folder}")
            try:
                self._resume_or_start()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if self._lock:
            self._lock.release()

    def _resume_or_start(self) -> None:
        refuse_other_content(self.folder, self.mode)  # again, now that nobody else can change it
        if self.mode == "overwrite":
            remove_dump(self.folder)
        plan, written = self.journal.read()
        if (self.folder / INDEX).exists():
            if self._resume_finished(can_restart=plan is not None):
                self.complete = True
                return
            plan, written = self.journal.read()
        if plan is None:
            remove_dump(self.folder)
            self.journal.start(self.plan.to_json())
            return
        require_same_plan(plan, self.plan.to_json(), self.folder)
        self.shards = {
            number: shard for number, shard in written.items() if self._is_intact(number, shard)
        }
        remove_dump(self.folder, keep=[JOURNAL, *(shard.file for shard in self.shards.values())])

    def _resume_finished(self, *, can_restart: bool) -> bool:
        """Return whether the finished cache is intact; else make it an unfinished one.

        Raises:
            CacheDamaged: its index is damaged, and no journal lists its shards.
        """
        try:
            index = index_file.read_index(self.folder)
        except CacheDamaged:
            if not can_restart:
                raise
            (self.folder / INDEX).unlink()
            return False
        require_same_plan(
            dict(index.full_fingerprint.fields), dict(self.plan.fingerprint.fields), self.folder
        )
        damaged = [shard.file for shard in index.shards if not self._matches(shard)]
        if damaged:
            self._reopen(index, damaged)
        return not damaged

    def _reopen(self, index: index_file.Index, damaged: Sequence[str]) -> None:
        """Make a finished cache with damaged shards an unfinished one that lacks them.

        Raises:
            CacheDamaged: it has other batches or shards, so that single ones cannot be replaced.
        """
        if [shard.items for shard in index.shards] != [
            self.plan.items(number) for number in range(len(self.plan.shards))
        ]:
            raise CacheDamaged(
                f"the cache {self.folder} is damaged, and its shards have other items than this "
                "command writes",
                got=", ".join(damaged),
                tip="use the train.batch_size it was made with, or --overwrite",
            )
        self.journal.start(self.plan.to_json())
        for number, shard in enumerate(index.shards):
            if shard.file not in damaged:
                self.journal.add(number, shard)
        (self.folder / INDEX).unlink()  # last, so that a kill before it changes nothing

    def _is_intact(self, number: int, shard: Shard) -> bool:
        if (
            not 0 <= number < len(self.plan.shards)
            or shard.file != shard_name(number)
            or shard.items != self.plan.items(number)
        ):
            return False
        return self._matches(shard)

    def _matches(self, shard: Shard) -> bool:
        try:
            check_file(self.folder, shard.file, shard.bytes, shard.sha256)
        except CacheDamaged:
            return False
        return True

    def put(
        self, number: int, rows: Mapping[str, Sequence[Tensor]], complex_names: Collection[str] = ()
    ) -> None:
        """Start to write one shard in the background: name -> one stored CPU row per item."""
        self.wait()
        self._pending = self._pool.submit(self._write, number, rows, frozenset(complex_names))

    def wait(self) -> None:
        """Wait for the shard that is being written, and raise its error."""
        pending, self._pending = self._pending, None
        if pending:
            with disk_errors(self.folder, self.tip):
                pending.result()

    def _write(
        self, number: int, rows: Mapping[str, Sequence[Tensor]], complex_names: frozenset[str]
    ) -> None:
        items, file = self.plan.items(number), shard_name(number)
        shard = write_shard(self.folder, file, items, rows, complex_names)
        self.journal.add(number, shard)
        self.shards[number] = shard

    def finish(self) -> None:
        """Write the index, after every shard was put."""
        self.wait()
        assert len(self.shards) == len(self.plan.shards), "a shard is missing"
        shards = [self.shards[n] for n in range(len(self.shards))]
        with disk_errors(self.folder, self.tip):
            if self.plan.files:
                write_files(self.folder, self.plan.files)
            index_file.write_index(self.folder, self.plan.fingerprint, shards, self.plan.teacher)
            self.journal.path.unlink(missing_ok=True)
        self.complete = True


def write_shard(
    folder: Path,
    file: str,
    items: Sequence[Item],
    rows: Mapping[str, Sequence[Tensor]],
    complex_names: Collection[str],
) -> Shard:
    """Write one shard: name -> one stored CPU row per item; return its part of the index."""
    tensors = {
        tensor_key(item, name): row
        for name, column in rows.items()
        for item, row in zip(items, column, strict=True)
    }
    size, checksum = write_tensors(folder / file, tensors)
    return Shard(
        file=file,
        bytes=size,
        sha256=checksum,
        items=tuple(items),
        tensors={
            name: _description(column, name in complex_names) for name, column in rows.items()
        },
    )


def _description(column: Sequence[Tensor], is_complex: bool) -> StoredTensor:
    shapes = {tuple(row.shape) for row in column}
    shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
    return StoredTensor(dtype=DTYPES[column[0].dtype], shape=shape, complex=is_complex)
