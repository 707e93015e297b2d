"""Numbers of the host as a tensor of any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def constant(numbers: Any, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return numbers or an array as a tensor, copied without waiting for a GPU.

    ``torch.tensor(numbers, device=...)`` waits until the GPU has done all that is queued there.
    """
    return torch.as_tensor(numbers, dtype=dtype).to(device, non_blocking=True)
