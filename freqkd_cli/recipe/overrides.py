"""``--set key.path=value`` and explicit options, put into the tree of a recipe before it is checked.

They go through the same checks as the file, so a misspelt key is told in the same words, with the ``--set`` as its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freqkd_cli.recipe.nodes import Node, from_value, parse
from freqkd_cli.recipe.problems import Place, Problem
from freqkd_cli.registry import did_you_mean

Overrides = Mapping[str, Any] | Iterable[tuple[str, Any]]

_LENGTHS = {"train.epochs": "steps", "train.steps": "epochs"}
"""Two units of one setting: a later word in one takes the place of an earlier word in the other."""


def apply(root: Node, sets: Sequence[str], overrides: Overrides = ()) -> list[Problem]:
    """Change the tree in place; an override of None is an option that was not given."""
    problems: list[Problem] = []
    for number, text in enumerate(sets, start=1):
        place = Place(number, 0, 0, f"--set {_short(text)}")
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            problems.append(Problem(place, "", "need key.path=value, for example train.lr=1e-3"))
            continue
        node, found = parse(value, lambda line, column, place=place: place)
        problems += [Problem(place, key, problem.text) for problem in found]
        if node is None and not found:
            problems.append(Problem(place, key, "no value after the ="))
        if node is not None and not found:
            problems += _put(root, key, node, place)
    for number, (key, value) in enumerate(dict(overrides).items(), start=len(sets) + 1):
        if value is not None:
            place = Place(number, 0, 0, f"the option for {key}")
            problems += _put(root, key, from_value(value, place), place)
    return problems


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _put(root: Node, key: str, node: Node, place: Place) -> list[Problem]:
    node.key_at = place
    *way, last = key.split(".")
    here = root
    for depth, part in enumerate(way):
        child, problem = _step(here, part)
        if problem:
            return [Problem(place, key, problem)]
        if child is None or child.value is None:
            section = Node({}, place, key_at=place)
            _replace(here, part, child, section)
            child = section
        if not isinstance(child.value, (dict, list)):
            return [Problem(place, key, f"{'.'.join(way[: depth + 1])} is a value, not a section")]
        here = child
    old, problem = _step(here, last)
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


def _step(here: Node, part: str) -> tuple[Node | None, str]:
    """The child that one word of a path names, or what is wrong with that word."""
    if isinstance(here.value, dict):
        return here.value.get(part), "" if part else "an empty word in the path"
    if part.isdecimal() and len(part) < 6:
        if int(part) < len(here.value):
            return here.value[int(part)], ""
        return (
            None,
            f"there is no item {part}, {f'only 0 to {len(here.value) - 1}' if here.value else 'the list is empty'}",
        )
    lines = [child for child in here.value if isinstance(child.value, dict)]
    for match in (_called, _named):
        hits = [child for child in lines if match(child) == part]
        if len(hits) == 1:
            return hits[0], ""
        if len(hits) > 1:
            return (
                None,
                f"{len(hits)} lines are called {part!r}; give them an id, or use their number",
            )
    known = [str(_called(child)) for child in lines]
    return None, f"no line has the id {part!r}{did_you_mean(part, known)}" + (
        f", need one of {', '.join(known)}" if known else ""
    )


def _word(line: Node, key: str) -> Any:
    return line.value[key].value if key in line.value else None


def _called(line: Node) -> Any:
    return _word(line, "id") or _word(line, "name")


def _named(line: Node) -> Any:
    return _word(line, "name")
