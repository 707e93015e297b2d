"""Read the tensors of a pickle that torch.save wrote; nothing in it is imported or called."""

from __future__ import annotations

import _compat_pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.foreign_files import refuse_module, refuse_protocol

_SHOWN = 4
_BLOCKED = ("os.", "posix.", "nt.", "sys.")
"""Modules whose functions torch's reader refuses even to replace."""
_STANDARD = ("torch.", "collections.", "builtins.", "__builtin__.", "copy_reg.", "copyreg.")
_MODULES = "torch.nn.modules."
_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""In the beginning of old files of torch.save."""
_OLD_PICKLES = 5
"""An old file has a magic number, a version, the system, the content and the storage keys."""


class Inert(list):
    """Takes the place of every object that a file holds beside its tensors.

    While the file is read, the names of its classes and functions stand for subclasses of this
    class. A call makes an inert object; items and a state that are set are dropped.

    Attributes:
        class_name: the class in the file.
        is_module: whether it was a network of torch.
    """

    class_name = ""
    is_module = False

    def __new__(cls, *_: object, **__: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.is_module = isinstance(state, dict) and "_modules" in state

    def append(self, _: object) -> None:
        pass

    def extend(self, _: object) -> None:
        pass

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class _Dictionary:
    """Makes a plain dictionary in the place of a subclass, whose items may be tensors."""

    def __new__(cls, *_: object, **__: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle, with inert objects in place of everything but plain data.

    Raises:
        WeightsMissing: it is damaged, of no format that torch.save writes, holds functions of the
            system, or is a whole module.
    """
    names = _class_names(path)
    try:
        content = _load(path, names)
    except Exception:  # the class of the error depends on the damaged byte; nothing has been run
        content = None
    if content is None:
        raise _unreadable(path, names)
    if isinstance(content, Inert):
        raise refuse_module(path, content.class_name)
    return content


def _load(path: Path, names: set[str]) -> Any:
    """Return the content with inert classes for these names, which torch's own come before."""
    inert = {
        name: type(f"Inert{number}", (Inert,), {"class_name": name})
        for number, name in enumerate(sorted(names))
    }
    dictionaries: set[str] = set()
    while True:
        stand_ins = [(_Dictionary if n in dictionaries else c, n) for n, c in inert.items()]
        try:
            with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # The reader gives items to plain dictionaries alone and names the class otherwise.
            refused = {name for name, made in inert.items() if repr(made) in str(error)}
            if refused <= dictionaries:
                raise
            dictionaries |= refused


def _class_names(path: Path) -> set[str]:
    """Return the names of all classes and functions in a file, read without running it."""
    names: set[str] = set()
    with suppress(Exception):  # a damaged file, which torch's reader refuses as well
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                for _ in range(_OLD_PICKLES):
                    names.update(_names_in(file))
            return names
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    with archive.open(name) as file:
                        names.update(_names_in(file))
    return names


def _names_in(file: IO[bytes]) -> Iterator[str]:
    texts = ["", ""]
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif "UNICODE" in operation.name:
            texts = [texts[1], str(argument)]
        elif operation.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            yield f"{module}.{name}"
            # Files have the names of Python 2, and torch's reader converts some of them.
            place = (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
            yield ".".join(_compat_pickle.NAME_MAPPING.get((module, name), place))


def _unreadable(path: Path, names: set[str]) -> WeightsMissing:
    """Return the error for a file that cannot be read: its code, its form, or damage."""
    blocked = sorted(name for name in names if name.startswith(_BLOCKED))
    modules = sorted(name for name in names if name.startswith(_MODULES))
    protocol, by_torch = _form(path)
    if modules and not blocked:  # of an old file, whose entries cannot be listed
        own = sorted(name for name in names if not name.startswith(_STANDARD)) or modules
        return refuse_module(path, ", ".join(own[:_SHOWN]), entries_listed=False)
    if protocol > 2 and not blocked:
        return refuse_protocol(path, protocol, by_torch)
    got = f"code: {', '.join(blocked[:_SHOWN])}" if blocked else "a damaged file"
    if not blocked and (path.stat().st_size < 64 or not (zipfile.is_zipfile(path) or protocol)):
        got = "a damaged file, or one of another format"
    return WeightsMissing(
        f"{path} cannot be read as plain tensors",
        got=got,
        need="a file that contains nothing but tensors; code in it is never run",
        tip="ask its author for a .safetensors file" if blocked else "copy or download it again",
    )


def _form(path: Path) -> tuple[int, bool]:
    """Return the protocol of a pickle, 0 for other files, and whether torch.save wrote it."""
    with suppress(Exception):  # a damaged file
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as content:
                    return content.read(2)[1], True
        with path.open("rb") as file:
            start = file.read(64)
        if start[0] == 0x80 and start[1] < 6:
            return start[1], _MAGIC in start
    return 0, False
