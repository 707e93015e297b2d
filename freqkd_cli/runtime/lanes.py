"""A frozen network on a CPU: small parts of a batch side by side, one thread each, instead of all threads at one operation after another.

After every operation of a pass over the whole batch the cores wait for one another, and what runs on one core lets the others wait. A
thread for each part waits for nobody: on two cores, 384x480, evaluation of a Fast-SCNN gained a tenth, a SegFormer's pass an eighth (on
another two cores nothing).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from freqkd_cli.runtime.threads import side_by_side

SMALLEST, LARGEST = 2, 4
"""Pictures of a part: torch lays a batch of one out in another way, at 1.3 times the cost a picture; more than 4 gain nothing and take
memory. In between, as many as give each thread a part."""

T = TypeVar("T")


class Lanes:
    """Runs work on parts of a batch, each lane with a copy of the model that shares its tensors.

    Copies, since what a model keeps during a pass (hooks, say) must not meet the pass of a neighbour. Weights may change in place between
    two calls, but not be replaced.

    Args:
        model: in eval mode; nothing in it may depend on the other pictures of a batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._copies: list[nn.Module] = []

    def each(self, number: int, work: Callable[[nn.Module, slice], T]) -> list[T]:
        """``work(model, part)`` for every part of ``number`` pictures, in their order, without gradients.

        On a GPU there is one part, and no other thread. Autocast is the work's own affair: it does not reach another thread.
        """
        tensor = next(itertools.chain(self.model.parameters(), self.model.buffers()), None)
        whole = tensor is not None and tensor.device.type != "cpu"
        threads = torch.get_num_threads()
        size = number if whole else min(LARGEST, max(SMALLEST, math.ceil(number / threads)))
        parts = [slice(i, min(i + size, number)) for i in range(0, number, size)]
        lanes = min(threads, len(parts))
        if lanes < 2:
            with torch.no_grad():
                return [work(self.model, part) for part in parts]
        self._ready(lanes)
        found = side_by_side(
            lanes, lambda lane: [work(self._copies[lane], part) for part in parts[lane::lanes]]
        )
        return [found[number % lanes][number // lanes] for number in range(len(parts))]

    def _ready(self, lanes: int) -> None:
        if len(self._copies) == lanes:
            return
        shared = {
            id(tensor): tensor
            for tensor in itertools.chain(self.model.parameters(), self.model.buffers())
        }
        self._copies = [copy.deepcopy(self.model, dict(shared)) for _ in range(lanes)]
