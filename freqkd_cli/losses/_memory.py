"""A memory of the teacher's features by class: a ring of unit vectors that checkpoints save."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def selects(x: Tensor) -> bool:
    """Return whether rows are selected by a mask.

    A GPU would have to be waited for, to find out how many there are.
    """
    return x.device.type == "cpu"


class Memory(nn.Module):
    """The last ``size`` vectors of each class, at unit norm; random directions until they are full.

    Args:
        classes: K.
        size: vectors of each class.
        channels: C.
    """

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        vectors = torch.empty(classes, size, channels)
        if not vectors.is_meta:  # the check of a recipe needs no random numbers
            vectors = nn.functional.normalize(vectors.normal_(), dim=2)
        self.register_buffer("vectors", vectors)
        self.register_buffer("place", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def add(self, vectors: Tensor, classes: Tensor, taken: Tensor) -> None:
        """Store vectors under their classes, the last ones over the oldest.

        Args:
            vectors: ``[n, C]``.
            classes: ``[n]``, 0 .. K - 1 where ``taken``.
            taken: ``[n]`` bool, which are stored.
        """
        if selects(vectors):
            vectors, classes, taken = vectors[taken], classes[taken], taken[taken]
        classes, size = classes.where(taken, 0), self.vectors.shape[1]
        of_class = classes.new_zeros(len(classes), len(self.place))
        of_class.scatter_(1, classes[:, None], taken[:, None].to(classes.dtype))
        number = of_class.sum(0)
        rank = of_class.cumsum(0).gather(1, classes[:, None])[:, 0] - 1
        last = taken & (rank >= number[classes] - size)
        places = (self.place[classes] + rank) % size
        vectors = vectors.to(self.vectors.dtype)
        if selects(vectors):
            self.vectors[classes[last], places[last]] = vectors[last]
        else:  # the others go to a row behind the memory
            stored = F.pad(self.vectors.flatten(0, 1), (0, 0, 0, 1))
            stored[(classes * size + places).where(last, len(stored) - 1)] = vectors
            self.vectors.copy_(stored[:-1].view_as(self.vectors))
        self.place.copy_((self.place + number) % size)

    def sample(self, number: int, generator: torch.Generator) -> Tensor:
        """Return ``number`` vectors of each class, ``[K * number, C]``, of the same random places.

        All of them where there are fewer.
        """
        places = torch.randperm(self.vectors.shape[1], generator=generator)[:number]
        return self.vectors[:, places.to(self.vectors.device, non_blocking=True)].flatten(0, 1)


def few_of_each(labels: Tensor, classes: int, number: int, draws: Tensor) -> Tensor:
    """Return which cells to store, ``[B, n]`` bool: at most ``number`` of each class and image.

    Args:
        labels: ``[B, n]``; void is no class.
        draws: ``[B, n]``, random; the cells of a class with the smallest ones are taken.
    """
    order = draws.argsort(1)
    shuffled = labels.gather(1, order)[:, :, None] == torch.arange(classes, device=labels.device)
    taken = (shuffled & (shuffled.cumsum(1) <= number)).any(2)
    return torch.zeros_like(taken).scatter_(1, order, taken)


def labelled_rows(own: Tensor, teacher: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of labelled cells of ``[B, n, C]`` on either side, ``[N, C]``.

    On a GPU those of all cells, and 0 where there is no label, which adds no divergence: the number
    of labelled cells would have to be waited for.
    """
    if selects(own):
        return own[known], teacher[known]
    return _blanked(own, known), _blanked(teacher, known)


def _blanked(rows: Tensor, known: Tensor) -> Tensor:
    return (rows * known[..., None]).flatten(0, 1)
