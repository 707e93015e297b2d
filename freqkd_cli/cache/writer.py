"""Filling a cache folder: one writer at a time, shard by shard, so that a kill leaves it unfinished and never wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor

from freqkd_cli.cache import index_file
from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.cache.index_file import (
    INDEX,
    JOURNAL,
    Batches,
    Item,
    Shard,
    StoredTensor,
    key,
    shard_name,
)
from freqkd_cli.cache.lock import LOCK, Lock
from freqkd_cli.cache.shards import DTYPES, check_file, write_shard
from freqkd_cli.errors import CacheDamaged, FreqKDError, UsageError
from freqkd_cli.runtime.files import SUFFIX

Mode = Literal["new", "resume", "overwrite"]


@dataclass(frozen=True)
class CachePlan:
    """What goes where, decided before the first image is read: shards of batches of items, so a batch never crosses a shard."""

    fingerprint: Fingerprint
    shards: tuple[Batches, ...]

    def items(self, number: int) -> tuple[Item, ...]:
        return tuple(item for batch in self.shards[number] for item in batch)

    def to_json(self) -> dict[str, Any]:
        batches = [len(batch) for shard in self.shards for batch in shard]
        layout = {
            "batch_size": max(batches),
            "batches": len(batches),
            "items": sum(batches),
            "shards": len(self.shards),
        }
        return {
            **self.fingerprint.fields,
            "layout": {**layout, "items_in_first_shard": len(self.items(0))},
        }


def check_folder(folder: Path, mode: Mode) -> None:
    """Whether a writer may start in ``folder``, before anything costly is done.

    Raises:
        UsageError: it is not empty, holds something else, or another process writes to it.
    """
    with _told(folder):
        if (folder / LOCK).is_file():
            Lock(folder, f"the cache {folder}").release()  # a running writer is the better message
        _refuse_strangers(folder, mode)


def _refuse_strangers(folder: Path, mode: Mode) -> None:
    """Never write into a folder that holds something else, nor, without being told so, into one that holds a cache."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file", need="a folder", tip="give another --out")
    found = [path.name for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []
    known = [name for name in found if name in (INDEX, JOURNAL) or name.startswith("shard-")]
    if found and not known:
        raise UsageError(
            f"--out {folder} holds what no dump wrote",
            got=", ".join(sorted(found)[:5]),
            tip="give another --out",
        )
    if known and mode == "new":
        state = "holds a finished cache" if INDEX in known else "holds an unfinished cache"
        raise UsageError(
            f"--out {folder} is not empty: it {state}",
            tip="--resume to go on with it, --overwrite to throw it away, --verify N to check it, or another --out",
        )


class CacheWriter:
    """The one writer of a cache folder. Use it as a context manager; ``finish`` makes the cache a cache.

    Args:
        mode: ``new`` refuses a folder that is not empty, ``resume`` keeps the finished shards in it that match their checksums (of a
            finished cache too), ``overwrite`` removes the cache in it.
        first: of several processes that write this cache together, the first holds the lock, takes up what is there and finishes; it must
            be in its ``with`` block before the others put a shard, and have their ``shards`` before it finishes.

    Attributes:
        finished: numbers of the shards that are written.
        complete: whether ``resume`` found nothing left to do.

    Raises:
        UsageError: the folder is not empty, or another process writes to it.
        CacheMismatch: what is to be resumed was made with other settings.
        FreqKDError: the disk is full or permission is gone; what was finished stays and can be resumed.
    """

    def __init__(
        self, folder: str | Path, plan: CachePlan, mode: Mode = "new", *, first: bool = True
    ) -> None:
        self.folder, self.plan, self.mode, self.first = Path(folder), plan, mode, first
        self.journal = index_file.Journal(self.folder)
        self.shards: dict[int, Shard] = {}
        self.complete = False
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-writer")
        self._pending: Future[None] | None = None
        self._lock: Lock | None = None

    @property
    def finished(self) -> frozenset[int]:
        return frozenset(self.shards)

    @property
    def todo(self) -> list[int]:
        """Numbers of the shards that are still to be put."""
        return (
            []
            if self.complete
            else [number for number in range(len(self.plan.shards)) if number not in self.shards]
        )

    def __enter__(self) -> Self:
        if not self.first:
            return self
        check_folder(self.folder, self.mode)
        with _told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.folder, f"the cache {self.folder}")
            try:
                self._take_up()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)
        if self._lock:
            self._lock.release()

    def _take_up(self) -> None:
        _refuse_strangers(self.folder, self.mode)  # again, now that nobody else can change it
        if self.mode == "overwrite":
            self._remove(keep=())
        plan, written = self.journal.read()
        if (self.folder / INDEX).exists():
            index = index_file.read_index(self.folder)
            index_file.same_plan(
                dict(index.made_from.fields), dict(self.plan.fingerprint.fields), self.folder
            )
            damaged = [shard.file for shard in index.shards if not self._whole(shard)]
            if not damaged:
                self.complete = True
                return
            self._reopen(index, damaged)
            plan, written = self.journal.read()
        if plan is None:
            self._remove(keep=())
            self.journal.start(self.plan.to_json())
            return
        index_file.same_plan(plan, self.plan.to_json(), self.folder)
        self.shards = {
            number: shard for number, shard in written.items() if self._holds(number, shard)
        }
        self._remove(keep=[JOURNAL, *(shard.file for shard in self.shards.values())])

    def _reopen(self, index: index_file.Index, damaged: Sequence[str]) -> None:
        """Make a finished cache with damaged shards an unfinished one that lacks them.

        Raises:
            CacheDamaged: it was made with other batches or shards, so that single ones cannot be made again.
        """
        if [shard.items for shard in index.shards] != [
            self.plan.items(number) for number in range(len(self.plan.shards))
        ]:
            raise CacheDamaged(
                f"the finished cache {self.folder} is damaged, and its shards hold other items than this command's would",
                got=", ".join(damaged),
                tip="the train.batch_size it was made with, or --overwrite to make all of it again",
            )
        self.journal.start(self.plan.to_json())
        for number, shard in enumerate(index.shards):
            if shard.file not in damaged:
                self.journal.add(number, shard)
        (self.folder / INDEX).unlink()  # only now: a kill before this leaves the cache as it was

    def _holds(self, number: int, shard: Shard) -> bool:
        if (
            not 0 <= number < len(self.plan.shards)
            or shard.file != shard_name(number)
            or shard.items != self.plan.items(number)
        ):
            return False
        return self._whole(shard)

    def _whole(self, shard: Shard) -> bool:
        try:
            check_file(self.folder, shard.file, shard.bytes, shard.sha256)
        except CacheDamaged:
            return False
        return True

    def _remove(self, keep: Collection[str]) -> None:
        """Remove what dumps leave, the index first, so that a kill in between leaves no finished cache with holes."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name != INDEX):
            shard = path.name.startswith("shard-") and path.suffix == ".safetensors"
            if (
                shard or path.name in (INDEX, JOURNAL) or path.suffix == SUFFIX
            ) and path.name not in keep:
                path.unlink()

    def put(
        self, number: int, rows: Mapping[str, Sequence[Tensor]], complex_names: Collection[str] = ()
    ) -> None:
        """Hand over one shard: name -> one stored row per item, on the CPU. It is written while the teacher goes on."""
        self.wait()
        self._pending = self._pool.submit(self._write, number, rows, frozenset(complex_names))

    def wait(self) -> None:
        """Wait for the shard that is being written, and raise what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending:
            with _told(self.folder):
                pending.result()

    def _write(
        self, number: int, rows: Mapping[str, Sequence[Tensor]], complex_names: frozenset[str]
    ) -> None:
        items = self.plan.items(number)
        tensors = {
            key(item, name): row
            for name, column in rows.items()
            for item, row in zip(items, column, strict=True)
        }
        size, checksum = write_shard(self.folder / shard_name(number), tensors)
        described = {
            name: _described(column, name in complex_names) for name, column in rows.items()
        }
        shard = Shard(
            file=shard_name(number), bytes=size, sha256=checksum, items=items, tensors=described
        )
        self.journal.add(number, shard)
        self.shards[number] = shard

    def finish(self) -> None:
        """Write the index. Every shard must have been put."""
        self.wait()
        assert len(self.shards) == len(self.plan.shards), "a shard was never put"
        with _told(self.folder):
            index_file.write_index(
                self.folder,
                self.plan.fingerprint,
                [self.shards[n] for n in range(len(self.shards))],
            )
            self.journal.path.unlink(missing_ok=True)
        self.complete = True


def _described(column: Sequence[Tensor], is_complex: bool) -> StoredTensor:
    shapes = {tuple(row.shape) for row in column}
    shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True))
    return StoredTensor(dtype=DTYPES[column[0].dtype], shape=shape, complex=is_complex)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn the disk's errors into one message."""
    try:
        yield
    except OSError as error:
        raise FreqKDError(
            f"the cache {folder} cannot be written: {error.strerror or error}",
            tip="mend that, then run the same command with --resume: finished shards are kept",
        ) from error
