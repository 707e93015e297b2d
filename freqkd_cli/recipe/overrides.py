"""``--set key.path=value`` and explicit options: changes to the tree of a recipe before its check.

They pass the same checks as the file. A misspelt key gives the same message, with the ``--set`` as
its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freqkd_cli.recipe.nodes import Node, from_value, parse
from freqkd_cli.recipe.problems import Place, Problem
from freqkd_cli.registry import did_you_mean

Overrides = Mapping[str, Any] | Iterable[tuple[str, Any]]

_LENGTHS = {"train.epochs": "steps", "train.steps": "epochs"}
"""Two units of one setting: setting one removes the other that the file has."""


def apply(root: Node, sets: Sequence[str], overrides: Overrides = ()) -> list[Problem]:
    """Change the tree in place and return the problems; an override of None was not given."""
    problems: list[Problem] = []
    for number, text in enumerate(sets, start=1):
        key, equals, value = (part.strip() for part in text.partition("="))
        place = Place(number, 0, 0, f"--set {short(text)}", key)
        if not equals or not key or not value:
            problems.append(Problem(place, "", "need key.path=value, for example train.lr=1e-3"))
            continue
        node, syntax = parse(value, lambda line, column, place=place: place)
        for problem in syntax:
            # YAML reads a text that starts with a brace as a mapping with something behind it.
            in_braces = value.startswith("{") and "<document start>" in problem.text
            tip = f"; a text needs quotes: --set '{key}=\"{value}\"'" if in_braces else ""
            problems.append(Problem(place, key, problem.text + tip))
        if node is None and not syntax:
            problems.append(Problem(place, key, "no value after the ="))
        if node is not None and not syntax:
            problems += _put(root, key, node, place)
    for number, (key, value) in enumerate(dict(overrides).items(), start=len(sets) + 1):
        if value is None:
            continue
        place = Place(number, 0, 0, f"the option for {key}", key)
        if any("\ud800" <= c <= "\udfff" for c in str(value)):
            problems.append(Problem(place, key, f"got {value}, need a name in UTF-8"))
        else:
            problems += _put(root, key, from_value(value, place), place)
    return problems


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _put(root: Node, key: str, node: Node, place: Place) -> list[Problem]:
    node.key_at = place
    *parents, last = key.split(".")
    here = root
    for depth, part in enumerate(parents):
        child, problem = _step(here, part, parents[:depth] == ["losses"])
        if problem:
            return [Problem(place, key, problem)]
        if child is None or child.value is None:
            section = Node({}, place, key_at=place)
            _replace(here, part, child, section)
            child = section
        if not isinstance(child.value, (dict, list)):
            path = ".".join(parents[: depth + 1])
            return [Problem(place, key, f"{path} is a value, not a section")]
        here = child
    old, problem = _step(here, last, parents == ["losses"])
    if problem:
        return [Problem(place, key, problem)]
    _replace(here, last, old, node)
    other = here.value.get(_LENGTHS[key]) if key in _LENGTHS and node.value is not None else None
    if other is not None and other.at.order == 0:
        del here.value[_LENGTHS[key]]
    return []


def _replace(here: Node, part: str, old: Node | None, new: Node) -> None:
    if isinstance(here.value, dict):
        here.value[part] = new
    else:
        here.value[next(i for i, child in enumerate(here.value) if child is old)] = new


def _step(here: Node, part: str, losses: bool) -> tuple[Node | None, str]:
    """Return the child that one word of a path names, or what is wrong with that word.

    Args:
        losses: ``here`` is the list of losses.
    """
    if isinstance(here.value, dict):
        return here.value.get(part), "" if part else "an empty word in the path"
    items = f"only 0 to {len(here.value) - 1}" if here.value else "the list is empty"
    if part.isdecimal() and len(part) < 6:
        if int(part) < len(here.value):
            return here.value[int(part)], ""
        return None, f"there is no item {part}, {items}"
    lines = [child for child in here.value if isinstance(child.value, dict)]
    if not lines:
        return None, f"{part!r} is not the number of an item, {items}"
    for match in (_called, _named):
        hits = [child for child in lines if match(child) == part]
        if len(hits) == 1:
            return hits[0], ""
        if len(hits) > 1 and losses:
            return None, f"{len(hits)} losses are called {part!r}; add ids, or use their number"
        if len(hits) > 1:
            return None, f"{len(hits)} items are called {part!r}; use their number"
    known = list(dict.fromkeys(str(_called(child)) for child in lines))
    what = "no loss has the id" if losses else "no item is called"
    return None, f"{what} {part!r}{did_you_mean(part, known)}, need one of {', '.join(known)}"


def _word(line: Node, key: str) -> Any:
    return line.value[key].value if key in line.value else None


def _called(line: Node) -> Any:
    return _word(line, "id") or _word(line, "name")


def _named(line: Node) -> Any:
    return _word(line, "name")
