"""Finds the file of a drawer that a recipe names, and reads its arguments.

A name in a recipe is the name of a file in a drawer, which offers ``build(...)``. The keyword-only
arguments of ``build`` are the YAML keys: :func:`arguments` makes a pydantic model of them, so the
signature is the check, the default and the documentation in one. Listing a drawer reads a folder
and imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from freqkd_cli.errors import UnknownName

DRAWERS = ("models", "losses", "datasets")
SINGULAR = {"models": "model", "losses": "loss", "datasets": "data set"}

# Keywords of build() that the program fills in; a recipe cannot set them.
FILLED_IN: dict[str, frozenset[str]] = {
    "models": frozenset({"classes"}),
    "losses": frozenset(),
    "datasets": frozenset({"split", "root", "size"}),
}


def names(drawer: str) -> tuple[str, ...]:
    """Return the names of a drawer's files, sorted, without helpers that start with ``_``."""
    folder = Path(__file__).parent / drawer
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.name.startswith("_")))


def check_name(drawer: str, name: str) -> None:
    """Check, without importing anything, that ``drawer`` has a file called ``name``.

    Raises:
        UnknownName: there is no such file; the message lists the names and the nearest one.
    """
    known = names(drawer)
    if name not in known:
        raise UnknownName(
            f"no {SINGULAR[drawer]} is called {name!r}{did_you_mean(name, known)}",
            need=f"one of {', '.join(known)}",
        )


def find(drawer: str, name: str) -> ModuleType:
    """Import the file called ``name`` in ``drawer``.

    Raises:
        UnknownName: there is no such file.
    """
    check_name(drawer, name)
    return importlib.import_module(f"freqkd_cli.{drawer}.{name}")


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` for the nearest option, or the empty string."""
    near = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""


@cache
def arguments(drawer: str, name: str) -> Any:
    """Return a strict, frozen pydantic model of the arguments that ``build`` takes from a recipe.

    Annotations may use ``Literal`` and ``Annotated[..., pydantic.Field(gt=0)]``. They are the whole
    schema.
    """
    from pydantic import ConfigDict, create_model

    build = find(drawer, name).build
    hints = get_type_hints(build, include_extras=True)
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(build).parameters.items():
        if key in FILLED_IN[drawer]:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[key] = (hints[key], default)
    config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=())
    return create_model(f"{drawer}.{name}", __config__=config, **fields)


def first_line(module: ModuleType) -> str:
    """Return the first line of a file's docstring."""
    return (module.__doc__ or "").strip().splitlines()[0] if module.__doc__ else ""


def takes(drawer: str, name: str) -> Collection[str]:
    """Return the keywords of ``build``, including those that the program fills in."""
    return tuple(inspect.signature(find(drawer, name).build).parameters)
