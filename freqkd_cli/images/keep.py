"""Keep decoded images between epochs (``data.keep``), in shared memory or as files on a disk.

An image is decoded when it is first used. Later it is read from the store: the pixels have the same
bits, and only those of the view are touched. What is kept is identified by :class:`Origin`. So a
changed file, and bytes that are damaged, are decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import PIL
from torch.utils.data import get_worker_info

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.images.dataset import Dataset, Origin, origin_of
from freqkd_cli.images.decoded_slot import Content, packed, slot_size, unpacked
from freqkd_cli.images.decoded_store import DiskStore, MemoryStore, Store
from freqkd_cli.runtime import launch, user_cache
from freqkd_cli.runtime.byte_sizes import size
from freqkd_cli.runtime.memory import free_memory
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.views.labels import IGNORE

_READING = 2
"""Higher by one whenever the same files and settings give other pixels or labels than before."""

log = logging.getLogger(__name__)

FOLDER = "FREQKD_KEEP"
"""Environment variable: the folder of ``data.keep: disk``; by default it is in the user cache."""

SPARE = {"memory": 2 * 2**30, "disk": 2**30}
"""Bytes that stay free for the training itself."""

_TIPS = {
    "memory": "--set 'data.keep=disk', or --set 'data.keep=none'",
    "disk": f"set {FOLDER} to a folder on a larger disk, or --set 'data.keep=none'",
}


class Kept:
    """Reads the images of one data set from a store, or decodes and stores them.

    It is the attribute ``kept`` of a data set, see :class:`freqkd_cli.views.loader.ImageSource`.
    """

    def __init__(self, store: Store) -> None:
        self.store, self.writable = store, True
        self.checked: dict[int, bytes] = {}

    def read(self, dataset: Dataset, index: int) -> Content:
        """Return what ``dataset.read(index)`` returns; the arrays may be read-only.

        Raises:
            DataBroken: as ``dataset.read``.
        """
        origin = origin_of(dataset, index)
        if origin is None:
            return dataset.read(index)
        place, key = _place(origin), _key(origin)
        data = self.store.get(index, place)
        if data is not None:
            # Comparing checksums takes as long as reading, so each process does it once.
            content = unpacked(data, key, check=self.checked.get(index) != key)
            if content is not None:
                self.checked[index] = key
                return content
        content = dataset.read(index)
        self._put(index, place, key, content)
        return content

    def _put(self, index: int, place: str, key: bytes, content: Content) -> None:
        if not self.writable:
            return
        try:
            self.store.put(index, place, packed(content, key))
        except OSError as error:
            self.writable = False
            worker = get_worker_info()
            if worker is None or worker.id == 0:
                reason = error.strerror or error
                log.warning("data.keep: no further images are kept, because of: %s", reason)


def keep_decoded(
    datasets: Sequence[Dataset],
    where: str,
    progress: Progress,
    *,
    left_out: Collection[int] = (),
) -> None:
    """Let the views of data sets keep decoded images ``where``: in ``memory`` or on ``disk``.

    Prints the size first. Images without an :class:`Origin` are decoded for every view.

    Args:
        left_out: numbers of images of the first data set that are not read through it; they take
            no room there.

    Raises:
        UsageError: they do not fit, or the folder cannot be written.
    """
    folder = _folder() if where == "disk" else None
    datasets, sizes = _that_can_be_kept(datasets, where, progress, frozenset(left_out))
    if not datasets:
        return
    number, total = sum(size > 0 for part in sizes for size in part), sum(map(sum, sizes))
    if folder is None:
        missing, free = total * launch.local_processes(), free_memory()
    else:
        disk = DiskStore(folder)
        missing = sum(map(_missing, datasets, sizes, [disk] * len(sizes)))
        free = shutil.disk_usage(folder).free
    taken = f"{number} decoded images take {size(total)}"
    if launch.local_processes() > 1 and folder is None:
        taken += f" in each of {launch.local_processes()} processes"
    if folder is not None:
        taken += f" in {folder}, {size(missing)} of it new"
    progress.note(f"data.keep {where}: {taken}; {size(free)} are free")
    if missing > free - SPARE[where]:
        raise UsageError(
            f"the decoded images do not fit {'in memory' if where == 'memory' else 'on the disk'}",
            got=f"{taken}, and {size(free)} free",
            need=f"{size(missing + SPARE[where])}, of which {size(SPARE[where])} stay free",
            tip=_TIPS[where],
            key="data.keep",
        )
    for dataset, part in zip(datasets, sizes, strict=True):
        store = MemoryStore(part) if folder is None else disk
        dataset.kept = Kept(store)  # type: ignore[attr-defined]


def _that_can_be_kept(
    datasets: Sequence[Dataset], where: str, progress: Progress, left_out: frozenset[int]
) -> tuple[list[Dataset], list[list[int]]]:
    """Return the data sets with images that can be kept, and their sizes; note the others."""
    unread = [left_out, *[frozenset[int]()] * len(datasets[1:])]
    pairs = [(dataset, _sizes(dataset, no)) for dataset, no in zip(datasets, unread, strict=True)]
    no_files = sum(len(sizes) for _, sizes in pairs if not any(sizes))
    if no_files:
        progress.note(
            f"data.keep {where}: {no_files} images are not files and cannot be kept; "
            "they are decoded for every view"
        )
    kept = [(dataset, sizes) for dataset, sizes in pairs if any(sizes)]
    return [dataset for dataset, _ in kept], [sizes for _, sizes in kept]


def _sizes(dataset: Dataset, left_out: frozenset[int]) -> list[int]:
    """Return the bytes that each image takes, 0 where it cannot be kept or is left out."""
    label_bytes = 1 if len(dataset.classes) <= IGNORE else 2

    def taken(index: int) -> int:
        origin = None if index in left_out else origin_of(dataset, index)
        if origin is None:
            return 0
        try:
            height, width = dataset.image_size(index)
        except FreqKDError:  # reading it will raise the same error
            return 0
        return slot_size(height, width, label_bytes * origin.labelled)

    return [taken(index) for index in range(len(dataset))]


def _missing(dataset: Dataset, sizes: Sequence[int], disk: DiskStore) -> int:
    """Return the bytes of the images that the folder does not have yet."""
    missing = 0
    for index, taken in enumerate(sizes):
        origin = origin_of(dataset, index) if taken else None
        if origin is not None and not disk.has(_place(origin), _key(origin)):
            missing += taken
    return missing


def _folder() -> Path:
    """Return the folder of decoded images, after a test that it can be written.

    Raises:
        UsageError: it cannot.
    """
    given = os.environ.get(FOLDER)
    folder = Path(given) if given else user_cache.folder("decoded")
    try:
        if folder is None:
            raise OSError("there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UsageError(
            "the folder of data.keep: disk cannot be written",
            got=f"{folder}: {error.strerror or error}",
            tip=f"set {FOLDER} to a folder on a fast disk, or --set 'data.keep=memory'",
            key="data.keep",
        ) from error


def _place(origin: Origin) -> str:
    return json.dumps(origin.place, sort_keys=True)


def _key(origin: Origin) -> bytes:
    """Return 32 bytes that differ where the pixels may differ; libraries count as well."""
    identity = [PIL.__version__, _READING, origin.place, origin.state]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
