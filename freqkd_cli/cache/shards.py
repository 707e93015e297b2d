"""Tensors of a shard: their types on disk, and the conversion to and from them."""

from __future__ import annotations

import torch
from torch import Tensor

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
"""Torch dtypes that a shard may contain -> their names in safetensors."""

STORAGE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""Names of float types, of a cache's storage or of a teacher -> torch dtypes."""


def store(tensor: Tensor, storage: torch.dtype) -> tuple[Tensor, bool]:
    """Return a tensor as it is stored, and whether it is complex.

    Floats take the storage type; complex numbers become floats with a last axis of 2.
    """
    is_complex = tensor.is_complex()
    if is_complex:
        tensor = torch.view_as_real(tensor)
    return (tensor.to(storage) if tensor.is_floating_point() else tensor), is_complex


def restore(stored: Tensor, *, is_complex: bool) -> Tensor:
    """Invert :func:`store`: float32, complex64, or the tensor itself."""
    tensor = stored.float() if stored.is_floating_point() else stored
    return torch.view_as_complex(tensor.contiguous()) if is_complex else tensor
