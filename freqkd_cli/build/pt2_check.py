"""Loading a pt2 file of unknown origin: one that could run code is refused.

``torch.export.load`` unpickles objects, runs compiled libraries, calls any function that a graph
names, and evaluates names and sizes as Python. Files of ``freqkd export`` have tensors, operators
of torch, and arithmetic on sizes only.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import _package, constants

from freqkd_cli.errors import WeightsMissing

_FORCE, _FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_OBJECTS = tuple(
    constants.CONSTANTS_DIR + getattr(constants, name)
    for name in ("CUSTOM_OBJ_FILENAME_PREFIX", "OPAQUE_OBJ_FILENAME_PREFIX")
    if hasattr(constants, name)  # older torch has no opaque objects
)
"""Starts of the names of entries that are unpickled as any object."""
_CHARACTERS = re.compile(r"[\w .,+\-*/%()\[\]'<>=!&|~]*", re.ASCII)
_WORD = re.compile(r"\.?\b[^\W\d]\w*")
_CLASS_OR_SYMBOL = re.compile(r"[A-Z][A-Za-z]*|(s|u|z|zf|zuf)\d+|\.sym_[a-z]+|e\d*")
"""sympy's classes, as in ``Add(Symbol('s6'), Integer(1))``; ``s6``; ``torch.sym_max``."""
_WORDS = set(
    "and or not is in L image .size .stride .storage_offset torch math .trunc .floor .ceil .inf "
    "inf oo int_oo float int abs max min pow round true false "
    "positive negative nonnegative nonpositive integer zero nonzero real precision".split()
)
_NAME = re.compile(r"[\w.,:+\-> ]*", re.ASCII)
"""Names, types and equations of einsum: torch writes names into Python code."""
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file)(?!__)\w+(\.(?!_)\w+)?"
    r"|torch\.ops\.aten\.__(and|or|xor|lshift|rshift|iand|ior|ixor)__\.\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)"
    r"|(torch|math)\.(?!_)(sym_\w+|trunc|floor|ceil|pow|sqrt)|torch\._sym_sqrt"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|and_|or_|eq|ne|lt|le|gt|ge|getitem)",
    re.ASCII,
)
_SPEC = re.compile(
    r'([\[\]{}:, \d]|"(type|context|children_spec|null|\[\]|builtins\.(tuple|list|dict))"|null)*'
)
"""Inputs and outputs: lists and tuples of tensors, without classes and keyword arguments."""
_ALLOWED = {"target": _OPERATOR, "as_operator": _OPERATOR, "in_spec": _SPEC, "out_spec": _SPEC}


def load_pt2(path: Path, extra_files: dict[str, Any]) -> torch.export.ExportedProgram:
    """Return the program of a pt2 file; texts beside it are added to ``extra_files`` by name.

    Raises:
        WeightsMissing: the file is damaged, or has objects or expressions that could run code.
        Exception: torch's own, for a file that is not complete, or for pickles of other things
            than tensors.
    """
    _require_harmless(path)
    with _weights_only():
        # torch.export.load prints the traceback of an error here, and raises another one.
        contents = _package.load_pt2(str(path))
    extra_files |= contents.extra_files
    return contents.exported_programs["model"]


def _require_harmless(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():  # torch does not compare checksums
            raise WeightsMissing(
                f"{path} is damaged",
                got=f"a wrong checksum of {damaged}",
                need="the file that freqkd export wrote",
                tip="copy it again, or freqkd export RUN again",
            )
        if "version" in archive.namelist():
            raise _refused(path, "the format of torch 2.7 and older")
    reader = torch._C.PyTorchFileReader(str(path))  # torch.export.load reads by it, too
    for name in reader.get_all_records():
        if name.lower().startswith((*_OBJECTS, constants.AOTINDUCTOR_DIR)):
            raise _refused(path, f"an object or a compiled library: {name}")
        if name.startswith(constants.MODELS_DIR):
            for key, text in _texts(json.loads(reader.get_record(name))):
                if not is_harmless(key, text):
                    raise _refused(path, f"{key} {text[:80]!r}")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text of a graph with its key; keys themselves have the key ``name``."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield "name", name
            if name != "metadata":  # stack traces, which are not evaluated
                yield from _texts(child, name)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child, key)
    elif isinstance(value, str):
        yield key, value


def is_harmless(key: str, text: str) -> bool:
    """Return whether a text of a graph is one that exported networks have under that key."""
    if key in ("expr_str", "guards_code"):
        return is_expression_of_sizes(text)
    return _ALLOWED.get(key, _NAME).fullmatch(text) is not None


def is_expression_of_sizes(text: str) -> bool:
    """Return whether a text is arithmetic on sizes: no other name occurs in it."""
    words = _WORD.findall(text)
    known = all(word in _WORDS or _CLASS_OR_SYMBOL.fullmatch(word) for word in words)
    return known and _CHARACTERS.fullmatch(text) is not None


@contextmanager
def _weights_only() -> Iterator[None]:
    """Make ``torch.load`` refuse pickles of other things than tensors, whatever its caller sets."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _refused(path: Path, content: str) -> WeightsMissing:
    return WeightsMissing(
        f"{path} could run code and is not loaded",
        got=content,
        need="a file of freqkd export, which has tensors and operators of torch only",
        tip="freqkd export RUN again",
    )
