"""Work of a process that is started anew, not forked, on a store of decoded images."""

from __future__ import annotations

import numpy as np

from freqkd_cli.images.decoded_slot import packed
from freqkd_cli.images.decoded_store import MemoryStore


def fill(store: MemoryStore, index: int, key: bytes, value: int, size: tuple[int, int]) -> None:
    """Keep an image of one value."""
    store.put(index, "", packed((np.full((*size, 3), value, np.uint8), None), key))
