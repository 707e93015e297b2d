"""Tensors in a safetensors file that is complete or absent, with its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from freqkd_cli.runtime.files import write_synced


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write CPU tensors in the safetensors format; return the size in bytes and the SHA-256.

    The library makes the file in memory, which takes twice its size for a moment (300 MiB for a
    shard of 150 MiB). Its ``save_file`` takes nothing, but leaves a temporary file with a name of
    its own where the process is killed, and hides the error number of a full disk.

    Raises:
        OSError: the disk is full or permission is missing; no unfinished file is left.
    """
    data = save(_without_shared_memory(tensors))
    write_synced(path, lambda file: file.write(data))
    return len(data), hashlib.sha256(data).hexdigest()


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors of which no two overlap in memory, as safetensors requires."""
    separate = {name: tensor.contiguous() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(separate.items(), key=lambda pair: pair[1].data_ptr()):
        if tensor.numel() and tensor.data_ptr() < end:
            separate[name] = tensor.clone()
        else:
            end = max(end, tensor.data_ptr() + tensor.nbytes)
    return separate
