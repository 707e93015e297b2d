"""Weight files: safetensors, and pickles of plain tensors.

A safetensors file that freqkd wrote carries the sha256 of its data in its header's metadata. It is
checked whenever the file is read; files of other programs have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from freqkd_cli.errors import WeightsMissing

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
CHECKSUM = "freqkd.sha256"
"""Metadata key of the sha256 of a safetensors file's data: every byte after the header."""

_SHOWN = 4
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")
_NESTED = ("state_dict", "model_ema", "model")
"""Where training frameworks put a checkpoint's weights. Averaged weights come first: published
results are theirs."""
_BESIDE = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *(f"numpy.{name}" for name in ("ndarray", "dtype", "dtypes.Float64DType", "dtypes.Int64DType")),
)
"""Classes that frameworks save beside the weights and that no tensor needs; read as nothing."""


def load_exact(
    module: nn.Module, state: Mapping[str, Tensor], *, where: str, ignore: Collection[str] = ()
) -> None:
    """Load ``state`` into ``module``, whose keys must be exactly those of ``state``.

    Other float types are cast to the module's own.

    Args:
        where: the file or folder, for the message.
        ignore: keys that may be absent from ``state`` and are skipped in it; the module keeps its
            own values there.

    Raises:
        WeightsMissing: lists missing, unexpected and mis-shaped keys; nothing has been loaded then.
    """
    wanted = {key: value for key, value in module.state_dict().items() if key not in ignore}
    given = {key: value for key, value in state.items() if key not in ignore}
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    reshaped = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if missing or unexpected or reshaped:
        counts = [
            _count("missing", missing),
            _count("unexpected", unexpected),
            _count("of another shape", reshaped),
        ]
        raise WeightsMissing(
            f"{where} does not fit the model",
            got="; ".join(text for text in counts if text),
            need=f"exactly the {len(wanted)} tensors of the model",
            tip="use the arguments (variant, width, encoder, classes...) of the saved model",
        )
    module.load_state_dict(given, strict=not ignore)


def _count(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = ", ..." if len(keys) > _SHOWN else ""
    return f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{more})"


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file, or of a folder with one of :data:`WEIGHT_FILES`.

    Raises:
        WeightsMissing: there is no such file, it is damaged, or it holds more than tensors.
    """
    if path.is_dir():
        present = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not present:
            raise WeightsMissing(f"{path} contains no weights", need=" or ".join(WEIGHT_FILES))
        path = present[0]
    if not path.is_file():
        raise WeightsMissing(
            f"{path} does not exist", need="a weight file or a folder with model.safetensors"
        )
    return _without_wrapper(
        _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tip = "copy, download or export it again"
    try:
        state = load_file(path)
        expected, actual = _checksums(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsMissing(f"{path} cannot be read", got=error, tip=tip) from error
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


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # While the file is read, its class names stand for these harmless classes. Nothing in it is
    # imported or called.
    harmless = [(OrderedDict, "yacs.config.CfgNode"), *((_Nothing, name) for name in _BESIDE)]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
            refused = ""
    except Exception:  # the class of the error depends on the damaged byte; nothing has been run
        # torch's own text recommends to allow the code, so it is not shown.
        refused = _refused(path, harmless)
    if refused:
        raise WeightsMissing(
            f"{path} cannot be read as plain tensors",
            got=refused,
            need="a file that contains nothing but tensors; code in it is never run",
            tip="ask its author for a .safetensors file",
        )
    nested = [
        key for key in _NESTED if isinstance(content, dict) and isinstance(content.get(key), dict)
    ]
    if nested:
        log.debug("%s: read the weights from its entry %s", path, nested[0])
        content = content[nested[0]]
    if not isinstance(content, dict) or not all(isinstance(x, Tensor) for x in content.values()):
        raise WeightsMissing(f"{path} contains no table of tensors", got=type(content).__name__)
    return dict(content)


def _refused(path: Path, harmless: list[tuple[type, str]]) -> str:
    """Return what makes a pickle unreadable: the code that it names, or damage."""
    try:
        if not zipfile.is_zipfile(path):
            return "a damaged file, or one of an old format with more than tensors"
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return "a TorchScript program"
        with torch.serialization.safe_globals(harmless):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the class of the error depends on the damaged byte
        return "a damaged file"
    return f"code: {', '.join(sorted(names)[:_SHOWN])}" if names else "a damaged file"


class _Nothing:
    """Takes the place of objects that a file contains beside its tensors."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that a wrapper (many GPUs, a compiler, a framework) put before all keys."""
    for prefix in _WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            return _without_wrapper({key.removeprefix(prefix): x for key, x in state.items()})
    return state
