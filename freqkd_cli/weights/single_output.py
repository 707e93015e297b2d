"""Networks with one output row, trained with a sigmoid: read as two classes with logits [0, z].

The softmax of (0, z) is the sigmoid of z, and its larger entry is class 1 where z > 0. So a zero
row before the trained one makes any such classifier a two-class network of the same predictions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def with_background_row(state: Mapping[str, Tensor], *classifier: str) -> dict[str, Tensor]:
    """Return ``state`` with a row of zeros before the only row of the classifier's tensors.

    Args:
        state: the tensors of a network.
        classifier: keys of its last layer, weight ``[1, ...]`` and bias ``[1]``; keys that are
            absent or have more rows stay as they are.
    """
    rows = {key: state[key] for key in classifier if key in state and state[key].shape[:1] == (1,)}
    return {**state, **{key: torch.cat([torch.zeros_like(x), x]) for key, x in rows.items()}}
