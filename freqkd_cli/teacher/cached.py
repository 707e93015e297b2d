"""The cached teacher: targets come from a cache, and no teacher runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from freqkd_cli.cache.index_file import Item
from freqkd_cli.cache.reader import CacheReader, Parts
from freqkd_cli.errors import CacheMismatch
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.teacher.targets import Targets, compute_targets, read_taps, union
from freqkd_cli.views.batch import Batch

AHEAD = 2
"""Batches whose rows are read before the step that needs them."""


class CachedTeacher:
    """The teacher's taps or targets from a cache.

    Args:
        cache: an open cache whose fingerprint was checked.
        losses: id -> started loss.
        available: the teacher's taps by name.

    Raises:
        CacheMismatch: the cache lacks a tap, or the target of a loss.
    """

    def __init__(
        self, cache: CacheReader, losses: Mapping[str, Loss], available: Mapping[str, Tap]
    ) -> None:
        self.cache, self.losses = cache, dict(losses)
        self.name = f"cache {cache.folder}"
        self._started: dict[int, dict[str, Tensor]] = {}
        self.taps_by_loss = read_taps(self.losses, available)
        self.wanted = union(taps.values() for taps in self.taps_by_loss.values())
        if cache.content == "targets":
            self.stored = {
                id: _stored_names(id, cache.names) for id, taps in self.taps_by_loss.items() if taps
            }
            missing = [f"the targets of {id}" for id, names in self.stored.items() if not names]
        else:
            missing = [f"the tap {name}" for name in self.wanted if name not in cache.names]
        if missing:
            raise CacheMismatch(
                f"the cache {cache.folder} lacks {', '.join(missing)}", got=", ".join(cache.names)
            )
        taps_are_stored = cache.content == "taps"
        self.read_names = self.wanted if taps_are_stored else self._target_names()
        # One thread reads, so the reader needs no lock, and rows come in the order of the steps.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache-reader")
        self._planned: deque[tuple[Item, ...]] = deque()
        self._ahead: dict[tuple[Item, ...], Future[Parts]] = {}

    def read_ahead(
        self, batches: Iterable[list[Item]], views: int, device: torch.device
    ) -> Iterator[list[Item]]:
        """Yield the items of each batch, whose rows are read in a thread from then on.

        A loader takes the items of a batch before it reads the images, so both overlap. The rows of
        at most :data:`AHEAD` batches are in memory.

        Args:
            views: stored views per image; draw n is view n modulo ``views``.
        """
        self._planned.clear()
        self._ahead.clear()
        for batch in batches:
            self._planned.append(tuple((image, draw % views) for image, draw in batch))
            self._read_planned(device)
            yield batch

    def _read_planned(self, device: torch.device) -> None:
        while self._planned and len(self._ahead) < AHEAD:
            self._read(self._planned.popleft(), device)

    def _read(self, items: tuple[Item, ...], device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._ahead[items] = self._thread.submit(
            self.cache.stored, items, self.read_names, pinned=pinned
        )

    def start(self, batch: Batch) -> list[Tensor]:
        """Take the rows of a batch, and start their copies to its device."""
        rows = self._rows(batch)
        self._started[id(batch)] = rows
        return list(rows.values())

    def _rows(self, batch: Batch) -> dict[str, Tensor]:
        items, device = tuple(batch.items), batch.images.device
        with named_range("cache"):
            if items not in self._ahead:
                self._read(items, device)
            stored = self._ahead.pop(items).result()
            self._read_planned(device)
            return self.cache.restored(stored, device)

    @torch.no_grad()
    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        """Return the targets of every loss, as :class:`freqkd_cli.teacher.targets.Source`."""
        rows = self._started.pop(id(batch), None) or self._rows(batch)
        if self.cache.content == "taps":
            return compute_targets(self.losses, self.taps_by_loss, rows, batch, grids)
        return {
            id: {name: rows[stored] for name, stored in self.stored.get(id, {}).items()}
            for id in self.losses
        }

    def _target_names(self) -> list[str]:
        return [stored for names in self.stored.values() for stored in names.values()]


def read_ahead(
    source: object, batches: Iterable[list[Item]], views: int, device: torch.device
) -> Iterable[list[Item]]:
    """Return ``batches``, whose rows a cached teacher reads ahead; another source does nothing."""
    if isinstance(source, CachedTeacher):
        return source.read_ahead(batches, views, device)
    return batches


def _stored_names(id: str, names: Iterable[str]) -> dict[str, str]:
    """Return tensor name -> stored name, for one loss."""
    return {name.removeprefix(f"{id}."): name for name in names if name.startswith(f"{id}.")}
