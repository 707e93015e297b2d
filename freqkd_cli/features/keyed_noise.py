"""Random numbers of a training step that depend on the sample, not on its place in the batch.

A hash of (key, step, image, view, cell) makes them. So an interrupted run continues with the same
numbers, and the parts of a batch get the numbers that the whole batch would get, on any device.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from freqkd_cli.views.batch import Batch

WORD = 0xFFFFFFFF
"""The largest value of a hash: all arithmetic is modulo 2^32, in int64."""


Words = TypeVar("Words", Tensor, int)


def new_key() -> Tensor:
    """Return a key drawn from torch's generator, as a loss does once in ``start``.

    int64 scalar. It is 0 on the meta device, where no random number may be drawn.
    """
    if torch.empty(0).is_meta:
        return torch.zeros((), dtype=torch.int64)
    return torch.randint(WORD + 1, (), dtype=torch.int64)


def keyed_uniform(key: Tensor, batch: Batch, step: int, cells: int) -> Tensor:
    """Return numbers in [0, 1), ``[B, cells]`` float32.

    Args:
        key: int64 scalar, from :func:`new_key`.
        batch: gives the number and the view of each image.
        cells: numbers per image.
    """
    device = batch.indices.device
    words = _mixed(_mixed(key.to(device)) ^ step)
    words = _mixed(words ^ (batch.indices & WORD))
    words = _mixed(words ^ (batch.views & WORD))
    words = _mixed(words[:, None] ^ torch.arange(cells, device=device))
    return (words >> 8).float() / (1 << 24)


def keyed_generator(key: int, step: int) -> torch.Generator:
    """Return a generator of numbers that belong to no sample, on the CPU.

    Args:
        key: the number of :func:`new_key`, so that a GPU is not waited for.
    """
    return torch.Generator().manual_seed(_mixed(_mixed(key) ^ step))


def _mixed(words: Words) -> Words:
    """Return a bijective hash of 32-bit words; each input bit changes about half of the bits.

    The steps are those of the integer hash "lowbias32" of Chris Wellons.
    """
    words = ((words ^ (words >> 16)) * 0x7FEB352D) & WORD
    words = ((words ^ (words >> 15)) * 0x846CA68B) & WORD
    return words ^ (words >> 16)
