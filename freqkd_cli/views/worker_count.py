"""How many processes load views: ``data.workers``, and the rule of ``auto``.

The number changes no bit of a view. With ``auto`` it is what the device needs, as far as cores and
memory allow.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Literal

from freqkd_cli.errors import FreqKDError
from freqkd_cli.runtime import launch, threads
from freqkd_cli.runtime.memory import free_memory

if TYPE_CHECKING:
    from freqkd_cli.views.loader import ViewDataset
    from freqkd_cli.views.steps import Item

log = logging.getLogger(__name__)

Workers = int | Literal["auto"]

PIXELS_OF_GPU, PIXELS_OF_CORE = 150e6, 1e6
"""Pixels of views that a small student trains on in a second, on a GPU and on one core."""

PREFETCHED = 4
"""Batches that a worker holds ready."""

WORKER_BYTES, PIXEL_BYTES = 400 * 2**20, 24
"""Memory of a worker, and of one pixel of a view with its labels."""

_chosen: dict[tuple[object, ...], int] = {}
"""The choices of this process, by kind and pixels of the views, size of the batch, and device."""


def worker_count(workers: Workers, dataset: ViewDataset, batch: list[Item], *, gpu: bool) -> int:
    """Return the number of processes for ``data.workers``; the first choice is printed.

    Args:
        batch: the items of one batch. With ``auto`` a view is made here and timed, once for all
            batches of this kind.
        gpu: whether the views go to a GPU.
    """
    if workers != "auto":
        return workers
    if not batch:
        return 0
    try:
        view = dataset.view(batch[0])
    except FreqKDError:  # which the loader raises
        return 0
    pixels = view.height * view.width
    kind = (dataset.spec, pixels, len(batch), gpu)
    if kind not in _chosen:
        seconds = _seconds(dataset, batch[0])
        cores = max(1, threads.cores() // launch.local_processes())
        free = free_memory() // launch.local_processes()
        number = chosen(seconds, pixels, batch_size=len(batch), cores=cores, gpu=gpu, free=free)
        if not _chosen:
            text = "data.workers auto: %d of %d cores, because a view takes %.0f ms"
            log.info(text, number, cores, 1e3 * seconds)
        _chosen[kind] = number
    return _chosen[kind]


def chosen(
    seconds: float, pixels: int, *, batch_size: int, cores: int, gpu: bool, free: int
) -> int:
    """Return the number of workers by rule.

    That is what the device needs, at most all cores but one with a GPU and half of them without.
    Workers take at most half of the free memory.

    Args:
        seconds: time of one view of so many ``pixels``.
        cores: cores for this process.
        free: bytes of memory that are free for this process.
    """
    consumed = PIXELS_OF_GPU if gpu else PIXELS_OF_CORE * cores
    need = math.ceil(consumed / pixels * seconds)
    most = cores - 1 if gpu else cores // 2
    bytes_each = WORKER_BYTES + (PREFETCHED + 1) * batch_size * pixels * PIXEL_BYTES
    return min(max(1, min(need, most)), int(free / 2 // bytes_each))


def _seconds(dataset: ViewDataset, item: Item) -> float:
    """Return the time of a view that is made for the second time.

    The first one warms up, and with ``data.keep`` decodes the image.
    """
    dataset[item]
    started = time.perf_counter()
    dataset[item]  # an error is returned, which the loader raises
    return time.perf_counter() - started
