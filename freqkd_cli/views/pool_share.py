"""Which images of a pool (``data.pool``) each batch takes, from the seed and the step alone.

A data set with a pool has one numbering (``images/pool.py``): its own images come first, then those
of the pool. A batch of B views holds ``share * B`` images of the pool, and otherwise labelled ones:

- Where ``share * B`` is not whole, batches take one more or one less. The number in the first s
  batches is ``share * B * s``, rounded, so the share is exact over any length of training.
- An epoch is one pass over the labelled images. Their order is that of a run without a pool.
- The pool is passed in an order of its own, which goes on across epochs. No image of it comes again
  before all others were used. The number of the pass takes the place of the epoch in a view's key,
  so each pass has new views, or the stored ones in turn (``data.views``).

All of it is a pure function of (seed, step), so a run can be resumed at any step, and the number of
processes and workers changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class PoolShare:
    """The part of every batch that comes from a pool.

    Attributes:
        length: number of images in the pool.
        share: their share of a batch, above 0 and below 1.
        numbers: of these images in the common numbering; None = those after the labelled ones.
    """

    length: int
    share: float
    numbers: Sequence[int] | None = None

    def before(self, batches: int, batch_size: int) -> int:
        """Return the number of pool images in the first ``batches`` batches."""
        return math.floor(exact(self.share) * batch_size * batches + Fraction(1, 2))


def exact(share: float) -> Fraction:
    """Return a share as it is written in a recipe: 0.3 is 3/10."""
    return Fraction(str(share))


def batches_per_epoch(labelled: int, batch_size: int, share: float = 0.0) -> int:
    """Return the number of full batches in one pass over the labelled images.

    Args:
        labelled: number of labelled images.
        share: the share of a batch that comes from a pool; 0 = there is none.
    """
    return math.floor(labelled / (batch_size * (1 - exact(share))))


def has_both(batch_size: int, share: float) -> bool:
    """Return whether every batch holds at least one labelled image and one of the pool."""
    return 1 <= exact(share) * batch_size <= batch_size - 1
