"""One shard of a cache: a safetensors file that is written aside, synced and renamed, and read only after its checksum held."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from freqkd_cli.errors import CacheDamaged
from freqkd_cli.runtime.files import write_synced

AGAIN = "its `freqkd teacher-dump` command with --resume makes damaged shards again"

DTYPES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Torch dtypes that a shard may hold, and what safetensors calls them."""


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write CPU tensors in the safetensors format; gives size in bytes and SHA-256.

    Written here and not by the library because one pass then serves the disk and the checksum, without a second copy of the shard in
    memory, and because a full disk stays an ``OSError`` with its number.

    Raises:
        OSError: the disk is full, permission is gone; the unfinished file is removed where that is possible.
    """
    names = sorted(
        tensors, key=lambda name: -tensors[name].element_size()
    )  # stable, and every tensor aligned to its own size
    header, offset = {}, 0
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()

    def body(file) -> None:
        for piece in (
            struct.pack("<Q", len(text)),
            text,
            *(_bytes(tensors[name]) for name in names),
        ):
            digest.update(piece)
            file.write(piece)

    write_synced(path, body)
    return 8 + len(text) + offset, digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def sha256(path: Path) -> str:
    """SHA-256 of a file (about 1 GB/s on one core)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_path(folder: Path, name: str, size: int) -> Path:
    """The path of a shard that is a plain file of the right size inside ``folder``.

    Raises:
        CacheDamaged: it is absent, elsewhere, a link, or of another size.
    """
    path = folder / name
    if Path(name).name != name or path.is_symlink():
        raise CacheDamaged(
            "a shard lies outside its cache", got=name, need=f"a plain file in {folder}"
        )
    if not path.is_file():
        raise CacheDamaged("a shard of the cache is missing", need=path, tip=AGAIN)
    if path.stat().st_size != size:
        raise CacheDamaged(
            f"the shard {path} has another size than its index says",
            got=f"{path.stat().st_size} bytes",
            need=f"{size} bytes",
            tip=AGAIN,
        )
    return path


def check_file(folder: Path, name: str, size: int, checksum: str) -> None:
    """Check a shard as :func:`checked_path` does, and its SHA-256.

    Raises:
        CacheDamaged: it is not as it was written.
    """
    path = checked_path(folder, name, size)
    if sha256(path) != checksum:
        raise CacheDamaged(
            f"{path} does not match its checksum: it was damaged or changed", tip=AGAIN
        )


def store(tensor: Tensor, storage: torch.dtype) -> tuple[Tensor, bool]:
    """A tensor as it lies on disk, and whether it was complex: floats in the storage dtype, complex numbers as a last axis of 2."""
    is_complex = tensor.is_complex()
    if is_complex:
        tensor = torch.view_as_real(tensor)
    return (tensor.to(storage) if tensor.is_floating_point() else tensor), is_complex


def restore(stored: Tensor, *, is_complex: bool) -> Tensor:
    """The other way round: float32, complex64, or the tensor itself."""
    tensor = stored.float() if stored.is_floating_point() else stored
    return torch.view_as_complex(tensor.contiguous()) if is_complex else tensor
