"""The teacher's features on disk: :class:`CacheWriter` fills a folder so that a kill leaves it unfinished and never wrong,
:class:`CacheReader` gives (image, view) rows back, and :class:`Fingerprint` says what they were made from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from freqkd_cli.cache import index_file
from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.cache.index_file import INDEX, Item, Shard, key
from freqkd_cli.cache.shards import AGAIN, check_file, checked_path, restore
from freqkd_cli.cache.writer import CachePlan, CacheWriter
from freqkd_cli.errors import CacheDamaged, CacheMismatch

__all__ = ["CachePlan", "CacheReader", "CacheWriter", "Fingerprint", "Item"]

OPEN_SHARDS = 256
"""Shards that a reader keeps open at a time; each holds one file handle."""

_STORAGE = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


class CacheReader:
    """A finished cache, opened for random access.

    Opening checks the index, and size and header of every shard; the checksum of a shard is checked once, before its first row is given
    (about 0.15 s for 128 MB).

    Attributes:
        fingerprint: what it was made from.
        content: ``taps`` or ``targets``.
        storage: float dtype on disk: ``float16``, ``bfloat16`` or ``float32``.
        names: tap names, or ``loss_id.tensor`` for targets.
        items: (index, view) -> number of the shard; view -1 is the view ``whole``.

    Raises:
        UsageError: there is no cache, or an unfinished one.
        CacheDamaged: it is not as it was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = index_file.read_index(self.folder)
        self.fingerprint = self.index.made_from
        self.content, self.storage = self.fingerprint.content, self.fingerprint.storage
        self.names = tuple(self.index.tensors)
        self.items: dict[Item, int] = {
            item: n for n, shard in enumerate(self.index.shards) for item in shard.items
        }
        self.bytes = sum(shard.bytes for shard in self.index.shards)
        self._files: OrderedDict[int, Any] = OrderedDict()
        self._checked: set[int] = set()
        self._check_storage()
        for number in range(len(self.index.shards)):
            self._open(number)
            self._files.clear()

    def __len__(self) -> int:
        return len(self.items)

    def _check_storage(self) -> None:
        merged = index_file.merged(self.index.shards)
        floats = {tensor.dtype for tensor in merged.values()} & _FLOATS
        if merged != self.index.tensors or not floats <= {_STORAGE[self.storage]}:
            got = f"{self.content}, {self.storage}, {', '.join(sorted(floats))}"
            raise CacheDamaged(
                f"{self.folder / INDEX} contradicts itself about what is stored", got=got
            )

    def _open(self, number: int) -> Any:
        """A shard's file, after its size and the header of its first item were compared with the index."""
        shard = self.index.shards[number]
        path = checked_path(self.folder, shard.file, shard.bytes)
        try:
            file = safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise CacheDamaged(f"the shard {path} cannot be read: {error}", tip=AGAIN) from error
        if len(file.keys()) != len(shard.items) * len(shard.tensors):
            need = f"{len(shard.items)} items of {len(shard.tensors)}"
            raise CacheDamaged(f"{path} holds {len(file.keys())} tensors", need=need, tip=AGAIN)
        for item in shard.items[:1]:
            self._check_header(file, shard, item)
        self._files[number] = file
        if len(self._files) > OPEN_SHARDS:
            self._files.popitem(last=False)
        return file

    def _check_header(self, file: Any, shard: Shard, item: Item) -> None:
        for name, tensor in shard.tensors.items():
            try:
                found = file.get_slice(key(item, name))
            except SafetensorError as error:
                raise CacheDamaged(
                    f"{shard.file} lacks {key(item, name)}, which the index promises", tip=AGAIN
                ) from error
            shape = tuple(found.get_shape())
            fits = len(shape) == len(tensor.shape) and all(
                b is None or a == b for a, b in zip(shape, tensor.shape, strict=True)
            )
            if found.get_dtype() != tensor.dtype or not fits:
                raise CacheDamaged(
                    f"{self.folder / shard.file} and the index disagree about {key(item, name)}",
                    got=f"{found.get_dtype()} {list(shape)}",
                    need=f"{tensor.dtype} {list(tensor.shape)}",
                    tip=AGAIN,
                )

    def _shard(self, number: int) -> Any:
        """A shard's file, checked against its checksum the first time."""
        file = self._files.get(number) or self._open(number)
        if number not in self._checked:
            shard = self.index.shards[number]
            check_file(self.folder, shard.file, shard.bytes, shard.sha256)
            for item in shard.items:
                self._check_header(file, shard, item)
            self._checked.add(number)
        return file

    def read(
        self, items: Sequence[Item], names: Collection[str], device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Rows of a batch: name -> ``[B, ...]``, floats in float32, complex numbers in complex64, others as they were.

        Raises:
            CacheMismatch: an item or a name is not in the cache.
            CacheDamaged: a shard does not match its checksum.
        """
        missing = [name for name in names if name not in self.index.tensors]
        lost = [item for item in items if item not in self.items]
        if missing or lost:
            what = missing[0] if missing else spoken(lost[0])
            raise CacheMismatch(
                f"the cache {self.folder} lacks {what}",
                got=f"{', '.join(self.names)} of {len(self.items)} items",
                tip="make one with this recipe's `freqkd teacher-dump`",
            )
        files = [self._shard(self.items[item]) for item in items]
        rows: dict[str, Tensor] = {}
        for name in names:
            stacked = torch.stack(
                [file.get_tensor(key(item, name)) for file, item in zip(files, items, strict=True)]
            )
            rows[name] = restore(
                stacked.to(device, non_blocking=True), is_complex=self.index.tensors[name].complex
            )
        return rows


def spoken(item: Item) -> str:
    """An item as messages call it."""
    return f"image {item[0]}, {'the whole view' if item[1] < 0 else f'view {item[1]}'}"
