"""Safetensors files with a checksum of their data.

A file that freqkd wrote carries the sha256 of its data in its header's metadata. It is checked
whenever the file is read; files of other programs have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import Tensor

from freqkd_cli.errors import WeightsMissing, quoted

CHECKSUM = "freqkd.sha256"
"""Metadata key of the sha256 of a safetensors file's data: every byte after the header."""


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors does: the header's length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    size = path.stat().st_size
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tip = "copy, download or export it again"
    try:
        state = load_file(path)
        expected, actual = _checksums(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsMissing(f"{path} cannot be read", got=quoted(error), tip=tip) from error
    if expected != actual:
        raise WeightsMissing(
            f"{path} is damaged: its checksum does not match",
            got=f"sha256 {actual}",
            need=expected,
            tip=tip,
        )
    return state


def _checksums(path: Path) -> tuple[str | None, str | None]:
    """Return the recorded and the actual sha256 of a safetensors file's data.

    Both are None where none is recorded.
    """
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        expected = header.get("__metadata__", {}).get(CHECKSUM)
        return expected, expected and hashlib.file_digest(file, "sha256").hexdigest()


def safetensors_bytes(state: dict[str, Tensor]) -> bytes:
    """Return a safetensors file of ``state`` with the checksum of its data in the metadata."""
    from safetensors.torch import save

    # The layout of the data does not depend on the metadata, so a first copy gives the checksum.
    content = memoryview(save(state))
    data = content[8 + int.from_bytes(content[:8], "little") :]
    checksum = hashlib.sha256(data).hexdigest()
    return _with_sorted_metadata(save(state, metadata={"format": "pt", CHECKSUM: checksum}))


def _with_sorted_metadata(content: bytes) -> bytes:
    """Return a safetensors file whose metadata keys are sorted.

    The library writes them in random order, and equal models must be equal files.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return b"".join((content[:8], text.ljust(length), content[8 + length :]))
