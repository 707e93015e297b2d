"""A YAML text as a tree of values with their places. This is the only YAML parser of the program.

PyYAML reads YAML 1.1, where ``on`` is true and ``1e-3`` a string. So only its events are used (they
have marks and are not recursive), and scalars are read here by the core schema of YAML 1.2. Tags,
anchors, aliases and duplicate keys are problems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from freqkd_cli.recipe.problems import Place, Problem

MAX_CHARACTERS = 64 * 1024
MAX_DEPTH = 20
MAX_DIGITS = 30

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = dict.fromkeys(("", "~", "null", "Null", "NULL"), None) | dict.fromkeys(
    ("true", "True", "TRUE"), True
)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)


@dataclass
class Node:
    """A value of a recipe: a scalar, a ``dict[str, Node]`` or a ``list[Node]``.

    ``at`` is where it starts, ``key_at`` where its key starts, ``raw`` the text of a scalar.
    """

    value: Any
    at: Place
    key_at: Place | None = None
    raw: str | None = None

    @property
    def place(self) -> Place:
        """The place for messages: a scalar itself, the key of a section or list."""
        return self.key_at if self.key_at and isinstance(self.value, (dict, list)) else self.at

    def children(self) -> Iterable[tuple[str | int, Node]]:
        """Key or index -> child; nothing for a scalar."""
        if isinstance(self.value, dict):
            return self.value.items()
        return enumerate(self.value) if isinstance(self.value, list) else ()

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        return (
            [child.plain() for child in self.value] if isinstance(self.value, list) else self.value
        )


def scalar(text: str) -> Any:
    """Return the value of an unquoted YAML 1.2 scalar.

    Raises:
        ValueError: a number that is not finite or too long.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("not a finite number")
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise ValueError(f"a number has at most {MAX_DIGITS} digits")
            return int(text, base)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("not a finite number")
        return number
    return text


def from_value(value: Any, at: Place) -> Node:
    """Return a Python value as nodes that all have one place."""
    if isinstance(value, dict):
        return Node({str(key): from_value(child, at) for key, child in value.items()}, at)
    if isinstance(value, (list, tuple)):
        return Node([from_value(child, at) for child in value], at)
    return Node(value if isinstance(value, (bool, int, float, type(None))) else str(value), at)


def parse(text: str, locate: Callable[[int, int], Place]) -> tuple[Node | None, list[Problem]]:
    """Read one YAML document. ``locate`` turns a line and column (from 0) into a :class:`Place`.

    Returns the tree, or None where the text is empty or not YAML, and the problems.
    """
    if len(text) > MAX_CHARACTERS:
        return None, [
            Problem(
                locate(0, 0),
                "",
                f"got {len(text)} characters, need at most {MAX_CHARACTERS}",
            )
        ]
    builder = _Builder(locate)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except _GiveUp:
        return None, builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        return None, [*builder.problems, Problem(locate(line, column), "", _syntax(error))]
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = locate(before.count("\n"), error.position - before.rfind("\n") - 1)
        return None, [
            *builder.problems,
            Problem(place, "", f"a character that YAML does not allow (code {error.character})"),
        ]
    except (ValueError, OverflowError) as error:  # of PyYAML, for invalid escapes and directives
        return None, [*builder.problems, Problem(locate(0, 0), "", f"not YAML: {error}")]
    return builder.root, builder.problems


def plain_values(text: str) -> Any:
    """Return the plain values of a YAML document that freqkd wrote; None where it is damaged.

    The events come from libyaml where PyYAML has it, which is several times as fast.
    """
    builder = _Builder(lambda line, column: Place(0, line + 1, column + 1, ""))
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except (_GiveUp, yaml.YAMLError, ValueError, OverflowError):
        return None
    return None if builder.problems or builder.root is None else builder.root.plain()


def _syntax(error: yaml.MarkedYAMLError) -> str:
    text = " ".join(part for part in (error.context, error.problem) if part)
    if r"'\t'" in text:
        return "a tab; YAML indents with spaces"
    return f"not YAML: {text}"


class _GiveUp(Exception):
    """Stops the parser: the text is nested too deeply or has several documents."""


@dataclass
class _Open:
    """A list or section whose end has not been read yet."""

    node: Node
    key: tuple[str, Place] | None = None


@dataclass
class _Builder:
    """Builds nodes from PyYAML's events."""

    locate: Callable[[int, int], Place]
    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    documents: int = 0

    def take(self, event: yaml.Event) -> None:
        at = self.locate(event.start_mark.line, event.start_mark.column)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.problem(at, "a second document; a recipe has only one")
                raise _GiveUp
        elif isinstance(event, yaml.AliasEvent):
            self.problem(
                at,
                f"an alias (*{event.anchor}); write the value itself",
            )
            self.attach(Node(None, at))
        elif isinstance(event, yaml.NodeEvent):
            self.open_or_attach(event, at)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.attach(self.stack.pop().node)

    def open_or_attach(self, event: yaml.NodeEvent, at: Place) -> None:
        if event.anchor:
            self.problem(at, f"an anchor (&{event.anchor}); anchors are not supported")
        if event.tag:
            self.problem(at, f"a tag ({event.tag}); only plain values are supported")
        if isinstance(event, yaml.ScalarEvent):
            self.attach(self.read(event, at))
            return
        self.stack.append(_Open(Node({} if isinstance(event, yaml.MappingStartEvent) else [], at)))
        if len(self.stack) > MAX_DEPTH:
            self.problem(at, f"nested more than {MAX_DEPTH} deep")
            raise _GiveUp

    def read(self, event: yaml.ScalarEvent, at: Place) -> Node:
        text: str = event.value
        if any("\ud800" <= c <= "\udfff" for c in text):
            self.problem(at, "half of a surrogate pair, which is not a character")
            return Node("", at, raw="")
        if event.style:  # None or "" for an unquoted scalar
            return Node(text, at, raw=text)
        try:
            return Node(scalar(text), at, raw=text)
        except ValueError as error:
            self.problem(at, f"got {text[:40]}, {error}")
            return Node(None, at, raw=text[:40])

    def attach(self, node: Node) -> None:
        if not self.stack:
            self.root = node
            return
        into = self.stack[-1]
        if isinstance(into.node.value, list):
            into.node.value.append(node)
        elif into.key is None:
            if node.raw is None:
                self.problem(node.at, "a key must be a word")
            into.key = (node.raw if node.raw is not None else "", node.at)
        else:
            key, node.key_at = into.key
            into.key = None
            if key in into.node.value:
                line = into.node.value[key].key_at.line  # 0 in a --set
                first = f", first on line {line}" if line else ""
                self.problem(node.key_at, f"{key!r} is written twice{first}")
            else:
                into.node.value[key] = node

    def problem(self, at: Place, text: str) -> None:
        path: list[str] = []
        for level in self.stack:
            if isinstance(level.node.value, list):
                path.append(str(len(level.node.value)))
            elif level.key is not None:
                path.append(level.key[0])
        self.problems.append(Problem(at, ".".join(path), text))
