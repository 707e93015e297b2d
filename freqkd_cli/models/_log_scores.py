"""Logits of saved probabilities."""

from __future__ import annotations

from torch import Tensor

SMALLEST = 1e-7
"""Probabilities below this count as this, so that their logarithm is finite."""


def log_of_probabilities(probabilities: Tensor) -> Tensor:
    """Return their logarithm, which serves as logits."""
    return probabilities.clamp(min=SMALLEST).log()
