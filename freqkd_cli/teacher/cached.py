"""The cached teacher: targets come from a cache, and no teacher runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import CacheMismatch
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.teacher.targets import Targets, compute_targets, read_taps, union
from freqkd_cli.views.batch import Batch


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

    @torch.no_grad()
    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        """Return the targets of every loss, as :class:`freqkd_cli.teacher.targets.Source`."""
        items = list(zip(batch.indices.tolist(), batch.views.tolist(), strict=True))
        taps_are_stored = self.cache.content == "taps"
        names = self.wanted if taps_are_stored else self._target_names()
        with named_range("cache"):
            rows = self.cache.read(items, names, batch.images.device)
        if taps_are_stored:
            return compute_targets(self.losses, self.taps_by_loss, rows, batch, grids)
        return {
            id: {name: rows[stored] for name, stored in self.stored.get(id, {}).items()}
            for id in self.losses
        }

    def _target_names(self) -> list[str]:
        return [stored for names in self.stored.values() for stored in names.values()]


def _stored_names(id: str, names: Iterable[str]) -> dict[str, str]:
    """Return tensor name -> stored name, for one loss."""
    return {name.removeprefix(f"{id}."): name for name in names if name.startswith(f"{id}.")}
