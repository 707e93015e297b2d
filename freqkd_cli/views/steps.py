"""Which images a step uses.

The order depends on the seed and the epoch alone, so a run can be resumed at any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from freqkd_cli.errors import UsageError
from freqkd_cli.views.pool_share import PoolShare, batches_per_epoch, exact

WHOLE = -1
"""Draw number of the view ``whole``, and the number of its stored view."""

Item = tuple[int, int]
"""(index of the image, how often it was drawn before).

The second is :data:`WHOLE` for the whole image.
"""

_LABELLED, _POOL = 3, 4
"""Purposes of a permutation; 1 and 2 are those of ``views/view.py``."""


def _permutation(purpose: int, length: int, seed: int, number: int) -> list[int]:
    """Return the order of one pass over images, from (purpose, seed, number of the pass)."""
    key = np.random.SeedSequence([purpose, seed & (2**64 - 1), number])
    return np.argsort(
        np.random.Generator(np.random.Philox(key)).random(length), kind="stable"
    ).tolist()


@dataclass(frozen=True)
class Steps:
    """Batch sampler of a training: the items of steps ``start`` .. ``stop`` - 1, across epochs.

    Attributes:
        length: number of images that are trained on, without those of the pool.
        batch_size: images per step, over all processes together.
        seed: ``train.seed``.
        start: first step, above 0 in a resumed run.
        stop: the step after the last one.
        process: number of this process, of ``processes``; each takes every ``processes``-th item
            of a batch.
        pool: images that are mixed into every batch after its labelled ones; None without a pool.
        numbers: of the ``length`` images; None = 0 to ``length`` - 1.

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
    pool: PoolShare | None = None
    numbers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.per_epoch < 1:
            part = f", of which a share of {1 - exact(self._share)} is labelled"
            raise UsageError(
                "the data set is smaller than one batch",
                got=f"{self.length} images and train.batch_size {self.batch_size}"
                + (part if self.pool else ""),
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

    @property
    def _share(self) -> float:
        return self.pool.share if self.pool else 0.0

    @property
    def _largest(self) -> int:
        """The largest batch that these images fill."""
        return int(self.length / (1 - exact(self._share)))

    def _fitting(self) -> str:
        """Return the tip with the largest batch of these images that the processes can share."""
        size = self._largest // self.processes * self.processes
        return f"--set 'train.batch_size={size}'" if size else "start fewer processes"

    def _nearest(self) -> list[str]:
        """Return tips with the nearest batch sizes that the processes can share."""
        below = self.batch_size // self.processes * self.processes
        return [
            f"--set 'train.batch_size={size}'"
            for size in (below, below + self.processes)
            if 0 < size <= self._largest
        ]

    @property
    def per_epoch(self) -> int:
        return batches_per_epoch(self.length, self.batch_size, self._share)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Item]]:
        epoch, first, order = -1, 0, []
        pooled = self._pool_items()
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                first = self._labelled_before(epoch * self.per_epoch)
                order = _permutation(_LABELLED, self.length, self.seed, epoch)
            places = (self._labelled_before(number) - first for number in (step, step + 1))
            labelled = [(self._number(index), epoch) for index in order[slice(*places)]]
            items = labelled + list(islice(pooled, self.batch_size - len(labelled)))
            yield items[self.process :: self.processes]

    def _number(self, index: int) -> int:
        return index if self.numbers is None else self.numbers[index]

    def _labelled_before(self, step: int) -> int:
        """Return the number of images in the first ``step`` batches that are not of the pool."""
        pooled = self.pool.before(step, self.batch_size) if self.pool else 0
        return step * self.batch_size - pooled

    def _pool_items(self) -> Iterator[Item]:
        """Yield the items of the pool from the first one of ``start`` on, without end."""
        if self.pool is None:
            return
        number, place = divmod(self.pool.before(self.start, self.batch_size), self.pool.length)
        images = self.pool.numbers or range(self.length, self.length + self.pool.length)
        while True:
            order = _permutation(_POOL, self.pool.length, self.seed, number)
            yield from ((images[index], number) for index in order[place:])
            number, place = number + 1, 0
