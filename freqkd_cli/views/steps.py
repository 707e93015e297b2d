"""Which images a step uses.

The order depends on the seed and the epoch alone, so a run can be resumed at any step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from freqkd_cli.errors import UsageError

WHOLE = -1
"""Draw number of the view ``whole``, and the number of its stored view."""

Item = tuple[int, int]
"""(index of the image, how often it was drawn before).

The second is :data:`WHOLE` for the whole image.
"""


def schedule(
    length: int, *, seed: int, epoch: int, batch_size: int, drop_last: bool = True
) -> list[list[int]]:
    """Return the batches of one epoch: a permutation of ``range(length)`` from (seed, epoch)."""
    key = np.random.SeedSequence([3, seed & (2**64 - 1), epoch])
    order = np.argsort(
        np.random.Generator(np.random.Philox(key)).random(length), kind="stable"
    ).tolist()
    stop = length - length % batch_size if drop_last else length
    return [order[start : start + batch_size] for start in range(0, stop, batch_size)]


@dataclass(frozen=True)
class Steps:
    """Batch sampler of a training: the items of steps ``start`` .. ``stop`` - 1, across epochs.

    Attributes:
        length: number of images.
        batch_size: images per step, over all processes together.
        seed: ``train.seed``.
        start: first step, above 0 in a resumed run.
        stop: the step after the last one.
        process: number of this process, of ``processes``; each takes every ``processes``-th item
            of a batch.

    Raises:
        UsageError: fewer images than one batch, or a batch that the processes cannot share
            equally.
    """

    length: int
    batch_size: int
    seed: int
    start: int
    stop: int
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.length < self.batch_size or self.batch_size < 1:
            raise UsageError(
                "the data set is smaller than one batch",
                got=f"{self.length} images and train.batch_size {self.batch_size}",
                tip=self._fitting(),
                key="batch_size",
            )
        if self.batch_size % self.processes:
            raise UsageError(
                "the processes cannot share a batch equally",
                got=f"train.batch_size {self.batch_size} and {self.processes} processes",
                need=f"a multiple of {self.processes}",
                tip=", or ".join([*self._nearest(), "start fewer processes"]),
                key="batch_size",
            )

    def _fitting(self) -> str:
        """Return the tip with the largest batch of these images that the processes can share."""
        size = self.length // self.processes * self.processes
        return f"--set 'train.batch_size={size}'" if size else "start fewer processes"

    def _nearest(self) -> list[str]:
        """Return tips with the nearest batch sizes that the processes can share."""
        below = self.batch_size // self.processes * self.processes
        return [
            f"--set 'train.batch_size={size}'"
            for size in (below, below + self.processes)
            if 0 < size <= self.length
        ]

    @property
    def per_epoch(self) -> int:
        return self.length // self.batch_size

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Item]]:
        epoch, batches = -1, []
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                batches = schedule(
                    self.length, seed=self.seed, epoch=epoch, batch_size=self.batch_size
                )
            yield [
                (index, epoch)
                for index in batches[step % self.per_epoch][self.process :: self.processes]
            ]
