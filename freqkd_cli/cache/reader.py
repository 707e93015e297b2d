"""Read (image, view) rows of a finished cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from freqkd_cli.cache import index_file
from freqkd_cli.cache.checksum import AGAIN, check_file, checked_path
from freqkd_cli.cache.index_file import INDEX, Item, Shard, tensor_key
from freqkd_cli.cache.shards import Storage, base_name, decode
from freqkd_cli.errors import CacheDamaged, CacheMismatch

OPEN_SHARDS = 256
"""Number of shards that a reader keeps open; each needs one file handle."""

_STORAGE = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "int8": "F32"}
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})

Parts = dict[str, Tensor]
"""Stored parts of a batch by name, each ``[B, ...]``, see ``cache/shards.py``."""


class CacheReader:
    """A finished cache, opened for random access.

    Opening checks the index, and the size and header of every shard (0.3 s for 24,000 views in 270
    shards). The checksum of a shard is checked once, before its first row is read (about 0.15 s for
    128 MiB).

    Attributes:
        fingerprint: the fields that decide its numbers.
        content: ``taps`` or ``targets``.
        storage: how floats are stored: ``float16``, ``bfloat16``, ``float32`` or ``int8``.
        form: the same with the class scores.
        names: tap names, or ``loss_id.tensor`` for targets.
        parts: name -> the names of its stored parts.
        items: (index, view) -> number of the shard; view -1 is the view ``whole``.

    Raises:
        Missing: there is no cache.
        UsageError: it is unfinished.
        CacheDamaged: a file differs from the one that was written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = index_file.read_index(self.folder)
        self.fingerprint = self.index.full_fingerprint
        self.content, self.storage = self.fingerprint.content, self.fingerprint.storage
        self.form = Storage(self.storage, self.fingerprint.fields.get("scores"))
        self.parts: dict[str, list[str]] = {}
        for part in self.index.tensors:
            self.parts.setdefault(base_name(part), []).append(part)
        self.names = tuple(self.parts)
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
        merged = index_file.merge_descriptions(self.index.shards)
        floats = {tensor.dtype for tensor in merged.values()} & _FLOATS
        if merged != self.index.tensors or not floats <= {_STORAGE[self.storage]}:
            raise CacheDamaged(
                f"{self.folder / INDEX} contradicts itself about the stored types",
                got=f"{self.content}, {self.storage}, {', '.join(sorted(floats))}",
            )

    def _open(self, number: int) -> Any:
        """Return the open file of a shard; its size and first header are checked."""
        shard = self.index.shards[number]
        path = checked_path(self.folder, shard.file, shard.bytes)
        try:
            file = safe_open(path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise CacheDamaged(f"the shard {path} cannot be read: {error}", tip=AGAIN) from error
        if len(file.keys()) != len(shard.items) * len(shard.tensors):
            raise CacheDamaged(
                f"the shard {path} has the wrong number of tensors",
                got=len(file.keys()),
                need=f"{len(shard.items)} items of {len(shard.tensors)}",
                tip=AGAIN,
            )
        for item in shard.items[:1]:
            self._check_header(file, shard, item)
        self._files[number] = file
        if len(self._files) > OPEN_SHARDS:
            self._files.popitem(last=False)
        return file

    def _check_header(self, file: Any, shard: Shard, item: Item) -> None:
        for name, tensor in shard.tensors.items():
            key = tensor_key(item, name)
            try:
                stored = file.get_slice(key)
            except SafetensorError as error:
                raise CacheDamaged(
                    f"{shard.file} lacks {key}, which the index lists", tip=AGAIN
                ) from error
            shape = tuple(stored.get_shape())
            fits = len(shape) == len(tensor.shape) and all(
                b is None or a == b for a, b in zip(shape, tensor.shape, strict=True)
            )
            if stored.get_dtype() != tensor.dtype or not fits:
                raise CacheDamaged(
                    f"{self.folder / shard.file} and the index disagree about {key}",
                    got=f"{stored.get_dtype()} {list(shape)}",
                    need=f"{tensor.dtype} {list(tensor.shape)}",
                    tip=AGAIN,
                )

    def _shard(self, number: int) -> Any:
        """Return the open file of a shard; the first time, its checksum is checked."""
        file = self._files.get(number) or self._open(number)
        if number not in self._checked:
            shard = self.index.shards[number]
            check_file(self.folder, shard.file, shard.bytes, shard.sha256)
            for item in shard.items:
                self._check_header(file, shard, item)
            self._checked.add(number)
        return file

    def stored(self, items: Sequence[Item], names: Iterable[str], *, pinned: bool = False) -> Parts:
        """Return the stored parts of some names for a batch, on the CPU.

        Args:
            pinned: in memory that a GPU copies from without waiting.

        Raises:
            CacheMismatch: an item or a name is not in the cache.
            CacheDamaged: a shard does not match its checksum.
        """
        names = list(names)
        missing = [name for name in names if name not in self.parts]
        missing += [item_text(item) for item in items if item not in self.items]
        if missing:
            raise CacheMismatch(
                f"the cache {self.folder} lacks {missing[0]}",
                got=f"{', '.join(self.names)} of {len(self.items)} items",
                tip="make a cache with `freqkd teacher-dump` and this recipe",
            )
        files = [self._shard(self.items[item]) for item in items]
        rows: Parts = {}
        for part in (part for name in names for part in self.parts[name]):
            keys = (tensor_key(item, part) for item in items)
            stacked = torch.stack(
                [file.get_tensor(key) for file, key in zip(files, keys, strict=True)]
            )
            rows[part] = stacked.pin_memory() if pinned else stacked
        return rows

    def restored(self, rows: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
        """Return the tensors of stored parts on a device: name -> ``[B, ...]``.

        Floats are float32 and complex numbers complex64; other types stay as they are.
        """
        moved = {part: row.to(device, non_blocking=True) for part, row in rows.items()}
        # The number of classes stays on the CPU, where reading it waits for nothing.
        moved |= {part: row for part, row in rows.items() if part.endswith(":classes")}
        return {
            name: decode(name, moved, is_complex=name in moved and self.index.tensors[name].complex)
            for name in dict.fromkeys(map(base_name, rows))
        }

    def read(
        self, items: Sequence[Item], names: Collection[str], device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Return the rows of a batch, as :meth:`restored` does.

        Raises:
            CacheMismatch, CacheDamaged: as :meth:`stored`.
        """
        return self.restored(self.stored(items, names), device)


def item_text(item: Item) -> str:
    """Return an item as messages name it."""
    return f"image {item[0]}, {'the whole view' if item[1] < 0 else f'view {item[1]}'}"
