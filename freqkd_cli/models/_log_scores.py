"""Logits of saved probabilities."""

from __future__ import annotations

from torch import Tensor

SMALLEST, SMALLEST_IN_FLOAT32 = 1e-7, 1e-20
"""Probabilities below this count as this, so that their logarithm is finite."""
ROUNDING = 0.01
"""How far below 0 or above 1 a probability may be, as rounded and resized ones are."""
VERSION = b"2"
"""Part of the identity of a teacher of probabilities: other logits of the same files."""


def log_of_probabilities(probabilities: Tensor, bits: int) -> Tensor:
    """Return their logarithm, which serves as logits.

    Args:
        bits: of the numbers as they were stored. A small probability is exact in 32 bits, and a
            loss with a high temperature reads it.
    """
    return probabilities.clamp(min=SMALLEST if bits < 32 else SMALLEST_IN_FLOAT32).log()
