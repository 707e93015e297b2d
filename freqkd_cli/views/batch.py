"""A batch of views: images, labels and the valid mask in the view's frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqkd_cli.views.labels import IGNORE


@dataclass(frozen=True)
class Batch:
    """One batch of views.

    Attributes:
        images: ``[B, 3, H, W]`` float32 RGB in [0, 1], what the student sees.
        labels: ``[B, H, W]`` int64, ``ignore`` on void; or None for images without masks.
        valid: ``[B, H, W]`` bool, False where the view was padded. Void labels inside the image
            are valid.
        indices: ``[B]`` int64, the images' numbers in the data set.
        views: ``[B]`` int64, the number of the stored view (n-th draw modulo ``data.views``); -1
            for the view ``whole``.
        teacher_images: the teacher's input where it differs from ``images``
            (``data.teacher_sees: clean``), else None.
        ignore: the label of void pixels, 255 with up to 255 classes.
        from_pool: ``[B]`` bool, images without labels beside labelled ones (``data.pool``,
            ``data.labelled``): all of their pixels are void. None where the batch has none.
        host_items: ``[B, 2]`` int64, ``indices`` and ``views`` in the host's memory, for a batch on
            another device; see :attr:`items`.
    """

    images: Tensor
    labels: Tensor | None
    valid: Tensor
    indices: Tensor
    views: Tensor
    teacher_images: Tensor | None = None
    ignore: int = IGNORE
    from_pool: Tensor | None = None
    host_items: Tensor | None = None

    @property
    def items(self) -> list[tuple[int, int]]:
        """The number of every image and that of its view; a GPU is not waited for."""
        return [(index, view) for index, view in self._host_items.tolist()]

    @property
    def _host_items(self) -> Tensor:
        if self.host_items is not None:
            return self.host_items
        return torch.stack((self.indices, self.views), dim=1)

    @property
    def not_void(self) -> Tensor:
        """Which pixels are inside the image and not marked as void, ``[B, H, W]`` bool.

        Pixels of images without labels are not marked.
        """
        if self.labels is None:
            return self.valid
        marked = ~self.labelled
        if self.from_pool is not None:
            marked = marked & ~self.from_pool[:, None, None]
        return self.valid & ~marked

    @property
    def labelled(self) -> Tensor:
        """Which pixels have a class, ``[B, H, W]`` bool; there must be labels."""
        assert self.labels is not None
        return self.labels != self.ignore

    @property
    def has_label(self) -> Tensor:
        """Which images have a pixel with a class, ``[B]`` bool; there must be labels."""
        return self.labelled.flatten(1).any(1)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device; from pinned memory, the copy runs beside other work."""
        if torch.device(device).type == self.images.device.type == "cpu":
            return self
        copy = self._each(lambda x: x.to(device, non_blocking=True))
        return replace(copy, host_items=self._host_items)

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory; called by torch's DataLoader."""
        return self._each(Tensor.pin_memory)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: x for name, x in values.items() if isinstance(x, Tensor)}

    def __getitem__(self, part: slice) -> Batch:
        """Return some of the views, in the same memory."""
        return self._each(lambda x: x[part])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(self, **{name: change(x) for name, x in self.tensors.items()})

    def __len__(self) -> int:
        return self.images.shape[0]
