"""Where the teacher's half of the losses comes from. The training loop cannot tell one source from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from freqkd_cli.build.class_map import ClassMap
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.shards import restore, store
from freqkd_cli.errors import CacheMismatch, RecipeError
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap, stored_as
from freqkd_cli.runtime.lanes import Lanes
from freqkd_cli.views.batch import Batch

Targets = dict[str, dict[str, Tensor]]
"""Loss id -> what its ``target`` returned."""

Reads = dict[str, dict[str, str]]
"""Loss id -> the teacher taps it reads, under its own names for them, and the place that each stands for."""

Content = Literal["taps", "targets"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Source(Protocol):
    """Attributes: ``name``, for the log and the summary."""

    name: str

    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        """The teacher's half of every loss on this batch; no gradient, float32, on the batch's device."""
        ...


class NoTeacher:
    """The source of a recipe none of whose losses reads a teacher."""

    name = "none"

    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        return {}


class LiveTeacher:
    """The teacher itself, run once per batch for the taps of all losses together.

    Args:
        model: the teacher, on its device. It becomes this object's: cast to ``dtype``, frozen, and held in eval mode whatever calls
            ``train()`` on it.
        losses: id -> loss, started.
        available: the teacher's taps by name.
        dtype: precision of its forward pass; autocast never reaches it.
        round_to: round what a cache of this float type would have rounded, so that live equals cached.
        content: what such a cache would hold.
        class_map: how its logits become those of the data's classes, before anything reads them.
    """

    name = "live teacher"

    def __init__(
        self,
        model: nn.Module,
        losses: Mapping[str, Loss],
        available: Mapping[str, Tap],
        *,
        dtype: str = "float32",
        round_to: str | None = None,
        content: Content = "taps",
        class_map: ClassMap | None = None,
    ) -> None:
        self.model = _frozen(model.to(DTYPES[dtype]))
        self.lanes = Lanes(self.model)
        self.dtype, self.content, self.class_map = dtype, content, class_map
        self.round_to = DTYPES[round_to] if round_to else None
        self.losses = dict(losses)
        self.reads = reads(self.losses, available)
        self.wanted = union(taps.values() for taps in self.reads.values())

    def taps(self, batch: Batch) -> dict[str, Tensor]:
        """Every place that a loss reads, shaped as its tap says, float32, not rounded; nothing runs where no loss reads one."""
        return (
            _joined(self.lanes.each(len(batch), lambda model, part: self._taps(model, batch[part])))
            if self.wanted
            else {}
        )

    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        if not self.wanted:
            return {id: {} for id in self.losses}

        def run(model: nn.Module, part: slice) -> Targets:
            """The losses' half as well: large taps need not leave the lane that made them."""
            return self._targets(self._taps(model, batch[part]), batch[part], grids)

        parts = self.lanes.each(len(batch), run)
        return {id: _joined([found[id] for found in parts]) for id in self.losses}

    def _taps(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        with torch.autocast(images.device.type, enabled=False):
            # Images stay float32: the model's own normalisation casts them to the type of its weights, after subtracting the mean.
            out = model(images, taps=[name for name in self.wanted if name != "logits"])
        found = {name: out[name].float() for name in self.wanted}
        if self.class_map is not None and "logits" in found:
            found["logits"] = self.class_map.merged(found["logits"])
        return found

    def _targets(self, taps: dict[str, Tensor], batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        if self.round_to and self.content == "taps":
            taps = {name: _rounded(tap, self.round_to) for name, tap in taps.items()}
        found = compute_targets(self.losses, self.reads, taps, batch, grids)
        if self.round_to and self.content == "targets":
            found = {
                id: {name: _rounded(x, self.round_to) for name, x in target.items()}
                for id, target in found.items()
            }
        return found


class CachedTeacher:
    """The teacher's features or targets from a cache; no teacher is run.

    Args:
        cache: an open cache whose fingerprint was compared.
        losses: id -> loss, started.
        available: the teacher's taps by name.

    Raises:
        CacheMismatch: the cache lacks a tap, or the target of a loss.
    """

    def __init__(
        self, cache: CacheReader, losses: Mapping[str, Loss], available: Mapping[str, Tap]
    ) -> None:
        self.cache, self.losses = cache, dict(losses)
        self.name = f"cache {cache.folder}"
        self.reads = reads(self.losses, available)
        self.wanted = union(taps.values() for taps in self.reads.values())
        if cache.content == "targets":
            self.stored = {id: _of(id, cache.names) for id, taps in self.reads.items() if taps}
            missing = [f"the targets of {id}" for id, found in self.stored.items() if not found]
        else:
            missing = [f"the tap {name}" for name in self.wanted if name not in cache.names]
        if missing:
            raise CacheMismatch(
                f"the cache {cache.folder} lacks {', '.join(missing)}", got=", ".join(cache.names)
            )

    @torch.no_grad()
    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        items = list(zip(batch.indices.tolist(), batch.views.tolist(), strict=True))
        device = batch.images.device
        if self.cache.content == "taps":
            return compute_targets(
                self.losses, self.reads, self.cache.read(items, self.wanted, device), batch, grids
            )
        rows = self.cache.read(
            items, [full for found in self.stored.values() for full in found.values()], device
        )
        return {
            id: {name: rows[full] for name, full in self.stored.get(id, {}).items()}
            for id in self.losses
        }


@torch.no_grad()
def compute_targets(
    losses: Mapping[str, Loss],
    reads: Reads,
    taps: Mapping[str, Tensor],
    batch: Batch,
    grids: Mapping[str, Grid],
) -> Targets:
    """Every loss's teacher half from float32 taps; a loss that reads no teacher tap gets an empty target.

    Raises:
        RecipeError: a target without a row for every sample.
    """
    found: Targets = {}
    for id, loss in losses.items():
        if not reads[id]:
            found[id] = {}
            continue
        with torch.autocast(batch.images.device.type, enabled=False):
            found[id] = loss.target(
                {name: taps[stored] for name, stored in reads[id].items()}, batch, grids
            )
        for name, tensor in found[id].items():
            if tensor.ndim < 1 or tensor.shape[0] != len(batch):
                got, need = tuple(tensor.shape), f"{len(batch)} rows"
                raise RecipeError(
                    f"the target {name} of {id} has no row for every sample", got=got, need=need
                )
    return found


def reads(losses: Mapping[str, Loss], available: Mapping[str, Tap]) -> Reads:
    """What every loss reads of the teacher, aliases resolved."""
    return {
        id: {name: stored_as(name, available) for name in loss.teacher_taps(available)}
        for id, loss in losses.items()
    }


def union(taps: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Every name once, in the order of the alphabet: the same teacher call whatever the order of the losses."""
    return tuple(sorted({name for names in taps for name in names}))


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The parts of a batch as one, name by name."""
    return {
        name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name]
        for name in parts[0]
    }


def _of(id: str, names: Iterable[str]) -> dict[str, str]:
    """Tensor name -> stored name, for one loss."""
    return {name.removeprefix(f"{id}."): name for name in names if name.startswith(f"{id}.")}


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored, is_complex = store(tensor, dtype)
    return restore(stored, is_complex=is_complex)


def _frozen(model: nn.Module) -> nn.Module:
    """Without gradients, in eval mode, and staying there: the distillation loop calls ``train()`` on much that it does not own."""
    model.eval().requires_grad_(False)
    model.train = lambda mode=True: model  # type: ignore[method-assign]
    return model
