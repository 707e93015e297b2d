"""Run a frozen network on a CPU in lanes: small parts of a batch, one thread each.

With all threads at one operation, the cores wait for each other after every operation. A lane waits
for no other. Measured on two busy cores, alternating, 30 rounds; time with lanes over time without:

======================================== ====== ============
case (192x256, batch 8)                  median quartiles
======================================== ====== ============
evaluation of a Fast-SCNN                0.77   0.71 to 1.11
evaluation of the SegFormer of scenes    0.83   0.76 to 0.88
training step of fastscnn_graph_lowrank  0.95   0.90 to 0.98
training step of fastscnn_basic          0.93   0.83 to 1.02
======================================== ====== ============

Training steps have a live teacher, and only the teacher runs in lanes. A GPU gets the whole batch
in one call, without threads.
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
"""Images of a part. For a batch of one, torch uses another layout at 1.3 times the cost per image;
more than 4 images save no time and take memory. In between, each thread gets one part."""

T = TypeVar("T")


class Lanes:
    """Runs work on parts of a batch, each lane with a copy of the model that shares its tensors.

    Lanes need copies because hooks of a pass must not see the pass of another lane. Weights may
    change in place between two calls, but may not be replaced.

    Args:
        model: in eval mode; its output for an image must not depend on the rest of the batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._copies: list[nn.Module] = []

    def each(self, number: int, work: Callable[[nn.Module, slice], T]) -> list[T]:
        """Return ``work(model, part)`` for every part of ``number`` images, without gradients.

        On a GPU there is one part and no other thread. Autocast does not reach other threads, so
        ``work`` must start it.
        """
        parts = self._parts(number)
        lanes = self.lanes_for(number)
        if lanes < 2:
            with torch.no_grad():
                return [work(self.model, part) for part in parts]
        self._make_copies(lanes)
        results = side_by_side(
            lanes, lambda lane: [work(self._copies[lane], part) for part in parts[lane::lanes]]
        )
        return [results[number % lanes][number // lanes] for number in range(len(parts))]

    def lanes_for(self, number: int) -> int:
        """Return in how many lanes a batch of ``number`` images runs; 1 = in the model itself."""
        return min(torch.get_num_threads(), len(self._parts(number)))

    def _parts(self, number: int) -> list[slice]:
        tensor = next(itertools.chain(self.model.parameters(), self.model.buffers()), None)
        whole = tensor is not None and tensor.device.type != "cpu"
        threads = torch.get_num_threads()
        size = number if whole else min(LARGEST, max(SMALLEST, math.ceil(number / threads)))
        return [slice(i, min(i + size, number)) for i in range(0, number, size)]

    def _make_copies(self, lanes: int) -> None:
        if len(self._copies) == lanes:
            return
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        shared = {id(tensor): tensor for tensor in tensors}
        self._copies = [copy.deepcopy(self.model, dict(shared)) for _ in range(lanes)]
