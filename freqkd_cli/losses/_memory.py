"""A memory of the teacher's features by class: a ring of unit vectors that checkpoints save."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
    def add(self, vectors: Tensor, classes: Tensor) -> None:
        """Store vectors ``[n, C]`` under their classes ``[n]``, the last ones over the oldest."""
        size = self.vectors.shape[1]
        of_class = classes.new_zeros(len(classes), len(self.place))
        of_class.scatter_(1, classes[:, None], 1)
        number = of_class.sum(0)
        rank = of_class.cumsum(0).gather(1, classes[:, None])[:, 0] - 1
        last = rank >= number[classes] - size
        places = (self.place[classes] + rank) % size
        self.vectors[classes[last], places[last]] = vectors[last].to(self.vectors.dtype)
        self.place.copy_((self.place + number) % size)

    def sample(self, number: int, generator: torch.Generator) -> Tensor:
        """Return ``number`` vectors of each class, ``[K * number, C]``, of the same random places.

        All of them where there are fewer.
        """
        places = torch.randperm(self.vectors.shape[1], generator=generator)[:number]
        return self.vectors[:, places.to(self.vectors.device)].flatten(0, 1)


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
