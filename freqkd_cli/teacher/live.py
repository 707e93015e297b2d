"""The live teacher: one forward pass per batch gives the taps of all losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from freqkd_cli.cache.fingerprint import weights_sha256
from freqkd_cli.cache.shards import STORAGE_DTYPES, Storage, rounded
from freqkd_cli.features.class_map import ClassMap
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.convolutions import require_right_in_bfloat16
from freqkd_cli.runtime.lanes import Lanes
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.teacher.targets import Content, Targets, compute_targets, read_taps, union
from freqkd_cli.views.batch import Batch


class LiveTeacher:
    """A frozen teacher that runs once per batch.

    Args:
        model: the teacher, on its device. It is cast to ``dtype``, frozen and kept in eval mode,
            whatever calls ``train()`` on it.
        losses: id -> started loss.
        available: the teacher's taps by name.
        dtype: precision of its forward pass; autocast never applies to it.
        round_to: round as a cache of this form does, so that live equals cached.
        content: what such a cache contains.
        class_map: maps its logits to the classes of the data, before anything reads them.

    Raises:
        UsageError: the CPU computes a convolution of the teacher wrongly in bfloat16.
    """

    name = "live teacher"

    def __init__(
        self,
        model: nn.Module,
        losses: Mapping[str, Loss],
        available: Mapping[str, Tap],
        *,
        dtype: str = "float32",
        round_to: Storage | None = None,
        content: Content = "taps",
        class_map: ClassMap | None = None,
    ) -> None:
        self.model = _frozen(model.to(STORAGE_DTYPES[dtype]))
        if dtype == "bfloat16":
            require_right_in_bfloat16(model, "teacher.dtype")
        self.lanes = Lanes(self.model)
        self.dtype, self.content, self.class_map = dtype, content, class_map
        self.round_to = round_to
        self.losses = dict(losses)
        self.taps_by_loss = read_taps(self.losses, available)
        self.wanted = union(taps.values() for taps in self.taps_by_loss.values())

    @cached_property
    def weights_sha256(self) -> str:
        """The hash of the weights as they compute, so after the cast to ``dtype``."""
        return weights_sha256(self.model)

    def taps(self, batch: Batch) -> dict[str, Tensor]:
        """Return every tap that a loss reads, float32 and not rounded; empty where none does."""
        if not self.wanted:
            return {}
        parts = self.lanes.each(len(batch), lambda model, part: self._taps(model, batch[part]))
        return _joined(parts)

    def start(self, batch: Batch) -> list[Tensor]:
        return []

    def targets(self, batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        """Return the targets of every loss, as :class:`freqkd_cli.teacher.targets.Source`."""
        if not self.wanted:
            return {id: {} for id in self.losses}

        def run(model: nn.Module, part: slice) -> Targets:
            # Targets are made in the same thread: large taps need not leave its cache.
            return self._targets(self._taps(model, batch[part]), batch[part], grids)

        with named_range("teacher"):
            parts = self.lanes.each(len(batch), run)
            return {id: _joined([targets[id] for targets in parts]) for id in self.losses}

    def _taps(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        # A teacher of saved outputs reads which view of which image it is, and no pixels.
        of_batch = getattr(model, "of_batch", None)
        with torch.autocast(images.device.type, enabled=False):
            # Images stay float32: the model casts them after its own normalization.
            taps = [name for name in self.wanted if name != "logits"]
            out = of_batch(batch) if of_batch else model(images, taps=taps)
        taps = {name: out[name].float() for name in self.wanted}
        if self.class_map is not None and "logits" in taps:
            taps["logits"] = self.class_map.merged(taps["logits"])
        return taps

    def _targets(self, taps: dict[str, Tensor], batch: Batch, grids: Mapping[str, Grid]) -> Targets:
        if self.round_to and self.content == "taps":
            taps = {name: rounded(name, tap, self.round_to) for name, tap in taps.items()}
        targets = compute_targets(self.losses, self.taps_by_loss, taps, batch, grids)
        if self.round_to and self.content == "targets":
            targets = rounded_targets(targets, self.round_to)
        return targets


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the parts of a batch as one, name by name."""
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def rounded_targets(targets: Targets, form: Storage) -> Targets:
    """Return targets as they come back from a cache of targets."""
    return {
        id: {name: rounded(f"{id}.{name}", tensor, form) for name, tensor in target.items()}
        for id, target in targets.items()
    }


def _frozen(model: nn.Module) -> nn.Module:
    """Return the model without gradients and in eval mode, which ``train()`` no longer changes."""
    model.eval().requires_grad_(False)
    model.train = lambda mode=True: model  # type: ignore[method-assign]
    return model
