"""Weight files: one or several files of tensors, read and loaded into a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import WeightsMissing, some
from freqkd_cli.runtime.json_file import read_object
from freqkd_cli.weights.checked_safetensors import is_safetensors, read_safetensors
from freqkd_cli.weights.folder_kinds import INDEX_FILES, WEIGHT_FILES, refuse_other_forms
from freqkd_cli.weights.foreign_files import (
    refuse_adapter,
    refuse_arrays,
    refuse_foreign_file,
    refuse_module,
    refuse_quantized,
)
from freqkd_cli.weights.key_groups import fitting, keys_of, one_table, tables_of, unwrapped
from freqkd_cli.weights.pickles import Inert, read_pickle

_SHOWN = 4
_QUANTIZED = ("._packed_params", ".SCB", ".qweight", ".quant_state", ".weight_format")
"""Keys that quantized networks alone have, as ends or as parts before a further point."""


def load_exact(
    module: nn.Module, state: Mapping[str, Tensor], *, where: str, ignore: Collection[str] = ()
) -> None:
    """Load the group of ``state`` that fits ``module`` whatever its prefix; it must fit exactly.

    Other float types are cast to the module's own.

    Args:
        where: the file or folder, for the message.
        ignore: keys that may be absent from ``state`` and are skipped in it; the module keeps its
            own values there.

    Raises:
        WeightsMissing: lists missing, unexpected and mis-shaped keys; nothing has been loaded then.
    """
    wanted = {key: value for key, value in module.state_dict().items() if key not in ignore}
    state = fitting(state, wanted, where)
    given = {key: value for key, value in state.items() if key not in ignore}
    differences = difference(given, wanted)
    if differences:
        raise WeightsMissing(
            f"{where} does not fit the model",
            got=differences,
            need=f"exactly the {len(wanted)} tensors of the model",
            tip="use the arguments (variant, width, encoder, classes...) of the saved model",
        )
    module.load_state_dict(given, strict=not ignore)


def difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return which tensors are missing, unexpected or of another shape; empty where none is."""
    reshaped = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    counts = [
        _count("missing", [key for key in wanted if key not in given]),
        _count("unexpected", [key for key in given if key not in wanted]),
        _count("of another shape", reshaped),
    ]
    return "; ".join(text for text in counts if text)


def _count(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"{len(keys)} {what} ({some(keys, _SHOWN)})"


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file, or of a folder with one of :data:`WEIGHT_FILES`.

    A folder may hold them in several files with an index. Prefixes that all keys share are
    removed.

    Raises:
        WeightsMissing: there is no such file, it is damaged, it has values that are not numbers,
            or it is of a kind that holds no tensors; the message names the kind.
    """
    if not path.exists():
        raise WeightsMissing(
            f"{path} does not exist", need="a weight file or a folder with model.safetensors"
        )
    state = _read_folder(path) if path.is_dir() else _read_file(path)
    _refuse_nan(path, state)
    return unwrapped(state)


def _refuse_nan(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights of a training that failed. Infinity is allowed: masks have it."""
    broken = [key for key, x in state.items() if x.is_floating_point() and x.isnan().any()]
    if broken:
        raise WeightsMissing(
            f"{path} has values that are not numbers (NaN)",
            got=_count("of its tensors", broken),
            need="the weights of a training that did not fail",
            tip="use an earlier checkpoint, or copy or download the file again",
        )


def _read_folder(folder: Path) -> dict[str, Tensor]:
    for name in (*WEIGHT_FILES, *INDEX_FILES):
        path = folder / name
        if path.is_file():
            return _read_parts(path) if name in INDEX_FILES else _read_file(path)
    refuse_other_forms(folder)
    names = sorted(path.name for path in folder.iterdir())
    raise WeightsMissing(
        f"{folder} contains no weights",
        got=some(names, 8) or "an empty folder",
        need=" or ".join(WEIGHT_FILES),
        tip="name the weight file itself",
    )


def _read_parts(index: Path) -> dict[str, Tensor]:
    """Return the tensors of all files that an index lists.

    Raises:
        WeightsMissing: a listed file is missing or lies in another folder, or a tensor is not in
            its file.
    """
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
        raise WeightsMissing(f"{index} lists no files", need="weight_map: tensor name -> file")
    names = sorted(set(listed.values()))
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if not (index.parent / Path(name).name).is_file()]
    if outside or missing:
        raise WeightsMissing(
            f"{index} lists files that are not beside it",
            got=", ".join((outside or missing)[:_SHOWN]),
            need=f"all {len(names)} files in {index.parent}",
            tip="copy or download the missing files",
        )
    tensors = {key: x for name in names for key, x in _read_file(index.parent / name).items()}
    absent = [key for key in listed if key not in tensors]
    if absent:
        raise WeightsMissing(
            f"{index} lists tensors that its files lack",
            got=_count("missing", absent),
            need="the files of one model",
            tip="copy or download the folder again",
        )
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one file, by its content and not by its name."""
    if is_safetensors(path):
        state = read_safetensors(path)
    else:
        refuse_foreign_file(path)
        if path.suffix == ".safetensors":
            read_safetensors(path)  # raises with what is damaged
        content = read_pickle(path)
        _refuse_quantized(path, dict.fromkeys(keys_of(content)))
        _refuse_module(path, content)
        state = one_table(content, str(path))
    _refuse_quantized(path, state)
    return state


def _refuse_module(path: Path, content: Any) -> None:
    """Refuse a file whose only network is a pickled module, or whose weights are numpy's."""
    if not isinstance(content, Mapping) or tables_of(content):
        return
    for key, value in content.items():
        if isinstance(value, Inert) and value.is_module:
            raise refuse_module(path, value.class_name, str(key))
    for place, table in {"": content, **content}.items():
        if isinstance(table, Mapping) and any(_is_array(x) for x in table.values()):
            raise refuse_arrays(path, str(place))


def _is_array(value: Any) -> bool:
    return isinstance(value, Inert) and value.class_name.endswith("multiarray._reconstruct")


def _refuse_quantized(path: Path, state: Mapping[str, Tensor | None]) -> None:
    """Refuse the keys and types of quantized networks, and of networks with adapters."""
    for key, value in state.items():
        if any(sign in key for sign in (".lora_A.", ".lora_B.", ".base_layer.")):
            raise refuse_adapter(path, key)
        if any(f"{sign}." in f"{key}." for sign in _QUANTIZED):
            raise refuse_quantized(path, key)
        if value is None:
            continue
        if value.is_quantized:
            raise refuse_quantized(path, key)
        if value.dtype.itemsize == 1 and value.dtype != torch.bool and key.endswith("weight"):
            raise refuse_quantized(path, f"{key} of type {value.dtype}".replace("torch.", ""))
