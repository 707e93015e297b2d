"""Finds the file of a drawer that a recipe names, and reads its arguments.

A name in a recipe is the name of a file in a drawer, which offers ``build(...)``. The keyword-only
arguments of ``build`` are the YAML keys: :func:`arguments` makes a pydantic model of them, so the
signature is the check, the default and the documentation in one. A key whose name the program uses
for something else ends in ``_`` in the signature: ``split_`` is the key ``split``. Listing a drawer
reads a folder and imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_type_hints

from freqkd_cli.errors import UnknownName

T = TypeVar("T")

SINGULAR = {"models": "model", "losses": "loss", "datasets": "data set", "metrics": "metric"}

ALL = "all"
"""Stands for every name of a drawer, in lists of names."""

# Keywords of build() that the program fills in, so they are no keys of a recipe.
FILLED_IN: dict[str, frozenset[str]] = {
    "models": frozenset({"classes", "class_names"}),
    "losses": frozenset(),
    "datasets": frozenset({"split", "root", "size"}),
    "metrics": frozenset({"classes"}),
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
            key="name",
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
    keys: dict[str, Any] = {}
    for key, parameter in inspect.signature(build).parameters.items():
        if key in FILLED_IN[drawer]:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        keys[key_of(key)] = (hints[key], default)
    config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=())
    return create_model(f"{drawer}.{name}", __config__=config, **keys)


def key_of(keyword: str) -> str:
    """Return the recipe key of a keyword of ``build``."""
    return keyword.removesuffix("_")


def keywords(drawer: str, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys of a recipe as keywords of ``build``; the reverse of :func:`key_of`."""
    accepted = takes(drawer, name)
    return {f"{key}_" if f"{key}_" in accepted else key: value for key, value in keys.items()}


def flattened(build: Callable[..., T]) -> Callable[..., T]:
    """Let the fields of a dataclass argument of ``build`` be keys of the recipe.

    ``build(*, student: str, edges: Edges)`` becomes a function of ``student`` and of the fields of
    ``Edges``, in this order. Their defaults are those of ``Edges()``, or of the instance that is
    the argument's default. Parts that share a group of arguments declare it once, and their YAML
    stays flat.
    """
    hints = get_type_hints(build, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for key, parameter in inspect.signature(build).parameters.items():
        if not is_dataclass(hints[key]):
            parameters.append(parameter)
            continue
        group = hints[key]
        groups[key] = default = (
            group() if parameter.default is parameter.empty else parameter.default
        )
        hints |= get_type_hints(group, include_extras=True)
        parameters += [
            parameter.replace(name=field.name, default=getattr(default, field.name))
            for field in fields(default)
        ]
    signature = inspect.Signature(parameters)

    @wraps(build)
    def flat(**arguments: Any) -> T:
        signature.bind(**arguments)  # a TypeError for unknown and missing ones
        grouped = {}
        for key, default in groups.items():
            names = [field.name for field in fields(default) if field.name in arguments]
            grouped[key] = replace(default, **{name: arguments.pop(name) for name in names})
        return build(**arguments, **grouped)

    flat.__signature__ = signature  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: hints[parameter.name] for parameter in parameters}
    return flat


def first_line(module: ModuleType) -> str:
    """Return the first line of a file's docstring."""
    return (module.__doc__ or "").strip().splitlines()[0] if module.__doc__ else ""


def teacher_only(name: str) -> bool:
    """Return whether a model cannot be a student; its file then has ``TEACHER_ONLY``."""
    return getattr(find("models", name), "TEACHER_ONLY", False)


def reads_images(name: str) -> bool:
    """Return whether a model has outputs for any image; else its file has ``READS_IMAGES``."""
    return getattr(find("models", name), "READS_IMAGES", True)


def takes(drawer: str, name: str) -> Collection[str]:
    """Return the keywords of ``build``, including those that the program fills in."""
    return tuple(inspect.signature(find(drawer, name).build).parameters)
