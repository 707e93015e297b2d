"""Tensors of a shard: how their numbers are stored, and the conversion to and from that.

A tensor is stored as one part of its own name, or as several parts ``NAME:PART``:

- Floats take the float type of the cache. Complex numbers become floats with a last axis of 2.
- ``int8``: codes 0 .. 255 (uint8) of the name itself, and ``NAME:range`` ``[2, groups]`` float32.
  Row 0 has the smallest number of each group, row 1 the step: ``x = low + code * step``. The error
  is at most half a step, (largest - smallest) / 510. A constant group and a smallest number, such
  as the 0 of a ReLU, are exact. A group consists of as few trailing axes as have :data:`GROUP`
  numbers: a channel of a map, a row of a matrix. Tensors with less than :data:`SMALL` numbers stay
  float32.
- The ``scores`` largest class scores: ``NAME:top`` ``[k, h, w]``, the numbers of their classes
  ``NAME:class``, ``NAME:rest`` ``[h, w]``, and K as ``NAME:classes``. Every other class gets the
  score ``rest``, the logarithm of their mean exp. So the probabilities of the top classes are
  exact, and the rest of the mass is spread evenly. ``top`` and ``rest`` are stored as other floats.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

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

GROUP, SMALL, LEVELS = 128, 1024, 255
"""Least numbers of a group, least numbers of a tensor in 8 bits, and steps between the codes."""


@dataclass(frozen=True)
class Storage:
    """How the floats of a cache are stored.

    Attributes:
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``int8``.
        scores: the largest class scores that are kept of each cell; None = all.
        small: names of the parts that stay float32 with ``int8``; None = by their size.
    """

    dtype: str
    scores: int | None = None
    small: frozenset[str] | None = None

    @property
    def floats(self) -> torch.dtype:
        """Float type on disk, with ``int8`` that of ranges and small tensors."""
        return STORAGE_DTYPES.get(self.dtype, torch.float32)


def base_name(part: str) -> str:
    """Return the name of the tensor that a stored part belongs to."""
    return part.partition(":")[0]


def encode(name: str, tensor: Tensor, storage: Storage) -> dict[str, Tensor]:
    """Return the stored parts of rows ``[B, ...]``, by name, each with B rows."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    parts = {name: tensor}
    if storage.scores and _is_scores(name, tensor) and tensor.shape[1] > storage.scores:
        parts = _top_scores(name, tensor, storage.scores)
    stored: dict[str, Tensor] = {}
    for part, x in parts.items():
        if not x.is_floating_point():
            stored[part] = x
        elif storage.dtype == "int8" and not _stays_float(part, x, storage.small):
            stored[part], stored[f"{part}:range"] = quantised(x)
        else:
            stored[part] = x.to(storage.floats)
    return stored


def decode(name: str, parts: Mapping[str, Tensor], *, is_complex: bool = False) -> Tensor:
    """Invert :func:`encode`: float32, complex64, or the tensor itself."""
    if f"{name}:top" in parts:
        return _all_scores(name, parts)
    tensor = _floats(name, parts)
    return torch.view_as_complex(tensor.contiguous()) if is_complex else tensor


def rounded(name: str, tensor: Tensor, storage: Storage) -> Tensor:
    """Return rows as they come back from a cache."""
    return decode(name, encode(name, tensor, storage), is_complex=tensor.is_complex())


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes of rows ``[B, ...]`` and their range ``[B, 2, groups]``.

    A range is not finite where a number is not, or where float32 cannot hold the range.
    """
    groups = x.float().reshape(len(x), math.prod(_leading(x)), -1)
    low, high = (limit.unsqueeze(-1) for limit in groups.aminmax(dim=-1))
    step = (high - low) / LEVELS
    codes = ((groups - low) / torch.where(step > 0, step, 1.0)).round().clamp(0, LEVELS)
    return codes.to(torch.uint8).reshape(x.shape), torch.stack((low, step), 1).squeeze(-1)


def steps_of(x: Tensor) -> Tensor:
    """Return the step of each number of rows, in the shape of ``x``."""
    step = quantised(x)[1][:, 1]
    return step.unsqueeze(-1).expand(*step.shape, x[0].numel() // step.shape[1]).reshape(x.shape)


def _leading(x: Tensor) -> tuple[int, ...]:
    """Return the axes of a row that number its groups."""
    axis, size = x.ndim, 1
    while axis > 1 and size < GROUP:
        axis -= 1
        size *= x.shape[axis]
    return tuple(x.shape[1:axis])


def _stays_float(part: str, x: Tensor, small: Collection[str] | None) -> bool:
    if not x[0].numel():
        return True
    return x[0].numel() < SMALL if small is None else part in small


def _floats(part: str, parts: Mapping[str, Tensor]) -> Tensor:
    stored, range_ = parts[part], parts.get(f"{part}:range")
    if range_ is None:
        return stored.float() if stored.is_floating_point() else stored
    codes = stored.reshape(len(stored), range_.shape[-1], -1)
    low, step = (limit.unsqueeze(-1) for limit in range_.unbind(1))
    return torch.addcmul(low, codes.float(), step).reshape(stored.shape)


def _is_scores(name: str, tensor: Tensor) -> bool:
    """Return whether rows are class scores: logits, or a loss's target of that name."""
    return tensor.ndim == 4 and name.rpartition(".")[2] == "logits"


def _top_scores(name: str, logits: Tensor, number: int) -> dict[str, Tensor]:
    """``[B, K, h, w]`` -> the parts of class scores."""
    classes = logits.shape[1]
    top, numbers = logits.topk(number, dim=1)
    others = logits.scatter(1, numbers, -torch.inf)
    kind = torch.uint8 if classes <= 256 else torch.int16
    return {
        f"{name}:top": top,
        f"{name}:class": numbers.to(kind),
        f"{name}:rest": others.logsumexp(1) - math.log(classes - number),
        f"{name}:classes": logits.new_full((len(logits),), classes, dtype=torch.int16),
    }


def _all_scores(name: str, parts: Mapping[str, Tensor]) -> Tensor:
    classes = int(parts[f"{name}:classes"][0])
    top, rest = (_floats(f"{name}:{part}", parts) for part in ("top", "rest"))
    scores = rest.unsqueeze(1).expand(-1, classes, -1, -1)
    return scores.scatter(1, parts[f"{name}:class"].long(), top)
