"""Read the tensors of a pickle that torch.save wrote; nothing in it is imported or called."""

from __future__ import annotations

import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.foreign_files import refuse_module

_SHOWN = 4
_CONFIG = "yacs.config.CfgNode"
"""A class that is a dict: its items are read."""


class Inert:
    """Takes the place of every object that a file holds beside its tensors.

    While the file is read, the names of its classes and functions stand for subclasses of this
    class. A call makes an inert object, and a state that is set is dropped.
    """

    def __new__(cls, *_: object, **__: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle, with inert objects in place of everything but plain data.

    Raises:
        WeightsMissing: it is damaged, of no format that torch.save writes, holds code that cannot
            be left out, or is a whole module.
    """
    try:
        content = _load(path, [])
    except Exception:  # the class of the error depends on the damaged byte; nothing has been run
        names = _class_names(path)
        content = _load_without(path, names) if names else None
        if content is None:
            raise _unreadable(path, names) from None
    if isinstance(content, Inert):
        raise refuse_module(path, type(content).__name__)
    return content


def _load(path: Path, stand_ins: list[tuple[type, str]]) -> Any:
    with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
        return torch.load(path, map_location="cpu", weights_only=True)


def _load_without(path: Path, names: list[str]) -> Any:
    """Return the content with inert classes for these names; None where torch refuses it still."""
    stand_ins = [
        (OrderedDict if name == _CONFIG else type(name, (Inert,), {}), name) for name in names
    ]
    try:
        return _load(path, stand_ins)
    except Exception:  # as above
        return None


def _class_names(path: Path) -> list[str]:
    """Return the names of classes and functions in a file that torch does not read by itself."""
    try:
        if zipfile.is_zipfile(path):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        return _names_of_old_format(path)
    except Exception:  # damaged
        return []


def _names_of_old_format(path: Path) -> list[str]:
    """Return the same for files of torch before 1.6: five pickles, one after the other."""
    names: set[str] = set()
    with path.open("rb") as file:
        for _ in range(5):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    names.add(str(argument).replace(" ", "."))
    return sorted(name for name in names if not name.startswith(("torch.", "collections.")))


def _unreadable(path: Path, names: list[str]) -> WeightsMissing:
    got = f"code: {', '.join(names[:_SHOWN])}" if names else "a damaged file"
    if path.stat().st_size < 64 or not (zipfile.is_zipfile(path) or _is_pickle(path)):
        got = "a damaged file, or one of another format"
    return WeightsMissing(
        f"{path} cannot be read as plain tensors",
        got=got,
        need="a file that contains nothing but tensors; code in it is never run",
        tip="ask its author for a .safetensors file" if names else "copy or download it again",
    )


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"
