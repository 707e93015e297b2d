"""Which pictures a step sees. Order depends on the seed and the epoch alone, so a run can be taken up at any step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from freqkd_cli.errors import UsageError

WHOLE = -1
"""Draw number, and number of the stored view, that stands for the view ``whole``."""

Item = tuple[int, int]
"""(index of the picture, how often it was drawn before); the second is :data:`WHOLE` for the whole picture."""


def schedule(
    length: int, *, seed: int, epoch: int, batch_size: int, drop_last: bool = True
) -> list[list[int]]:
    """The batches of one epoch: a permutation of ``range(length)`` that (seed, epoch) alone decide."""
    key = np.random.SeedSequence([3, seed & (2**64 - 1), epoch])
    order = np.argsort(
        np.random.Generator(np.random.Philox(key)).random(length), kind="stable"
    ).tolist()
    stop = length - length % batch_size if drop_last else length
    return [order[start : start + batch_size] for start in range(0, stop, batch_size)]


@dataclass(frozen=True)
class Steps:
    """Batch sampler of a training: the items of the steps ``start`` .. ``stop`` - 1, across epochs.

    Attributes:
        length: number of pictures.
        batch_size: pictures per step, over all processes together.
        seed: ``train.seed``.
        start: first step, so that an interrupted run continues where it was.
        stop: the step after the last one.
        process: number of this process, ``processes`` in all; each takes every ``processes``-th item of a batch.

    Raises:
        UsageError: fewer pictures than one batch, or a batch that the processes cannot share equally.
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
                got=f"{self.length} pictures, batch_size {self.batch_size}",
                tip="a smaller train.batch_size",
            )
        if self.batch_size % self.processes:
            raise UsageError(
                "the processes cannot share a batch equally",
                got=f"batch_size {self.batch_size}, {self.processes} processes",
                need=f"a multiple of {self.processes}",
                tip=f"train.batch_size={self._nearest()}, or fewer processes",
            )

    def _nearest(self) -> str:
        below = self.batch_size // self.processes * self.processes
        return " or ".join(str(size) for size in (below, below + self.processes) if size > 0)

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
