"""From a tree of nodes to typed sections. Every mistake is gathered before anything is said.

The keys of a section that are not its own belong to the part it names; they are checked against the signature of that part's ``build``,
whose file is imported here and nowhere else in this room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from freqkd_cli import registry
from freqkd_cli.recipe.nodes import Node
from freqkd_cli.recipe.problems import Place, Problem
from freqkd_cli.recipe.sections import DRAWER, SECTIONS, VERSION, Section

REQUIRED = ("data", "student", "losses", "train")

_WORDS = {
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a word",
    "a valid tuple": "a list",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid dictionary": "keys with values",
    "an object": "keys with values",
}


@dataclass
class Checker:
    """Walks the tree once. ``parts=False`` leaves the arguments of parts unread, so nothing but this room is imported."""

    parts: bool = True
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def read(self, root: Node) -> dict[str, Any]:
        """The sections by name; to be used only where ``problems`` stayed empty."""
        if not isinstance(root.value, dict):
            self.add(
                root.at,
                "",
                f"got {shown(root.plain())}, a recipe is sections: version, {', '.join(SECTIONS)}",
            )
            return {}
        known = ("version", *SECTIONS)
        for key, node in root.value.items():
            if key not in known:
                self.add(
                    node.key_at or node.at,
                    key,
                    f"unknown section{registry.did_you_mean(key, known)}, need one of {', '.join(known)}",
                )
        self.version(root)
        found = {
            key: self.section(key, root.value.get(key), root)
            for key in ("data", "teacher", "student", "train")
        }
        found["losses"] = self.losses(root.value.get("losses"), root)
        return found

    def version(self, root: Node) -> None:
        node = root.value.get("version")
        if node is None:
            self.add(root.at, "version", f"missing, need version: {VERSION}")
        elif node.value != VERSION or isinstance(node.value, bool):
            self.add(
                node.at,
                "version",
                f"got {shown(node.plain())}, this freqkd reads version {VERSION}",
            )

    def section(self, key: str, node: Node | None, root: Node) -> Section | None:
        if node is None or (node.value is None and key not in REQUIRED):
            if key in REQUIRED:
                self.add(root.at, key, "missing section")
            return None
        if key == "train":
            self.length(node)
        return self.one(key, key, node)

    def length(self, node: Node) -> None:
        if not isinstance(node.value, dict):
            return
        given = [
            key
            for key in ("epochs", "steps")
            if key in node.value and node.value[key].value is not None
        ]
        if not given:
            self.add(node.place, "train.epochs", "missing, need epochs or steps")
        elif len(given) == 2:
            last = max((node.value[key] for key in given), key=lambda n: n.at)
            self.add(
                last.key_at or last.at,
                "train.steps",
                "epochs and steps are both given, need one of them",
            )

    def losses(self, node: Node | None, root: Node) -> tuple[Section | None, ...]:
        if node is None:
            self.add(root.at, "losses", "missing section")
            return ()
        if not isinstance(node.value, list) or not node.value:
            self.add(
                node.place,
                "losses",
                f"got {shown(node.plain())}, need a list of losses, each with a name",
            )
            return ()
        self.ids(node.value)
        if not any(
            isinstance(line.value, dict) and line.plain().get("name") == "cross_entropy"
            for line in node.value
        ):
            self.warnings.append(
                "no cross_entropy among the losses: the student never sees a label"
            )
        return tuple(self.one("losses", f"losses.{i}", line) for i, line in enumerate(node.value))

    def ids(self, lines: list[Node]) -> None:
        """Two lines with one id cannot be told apart in logs and by ``--set``."""
        first: dict[str, int] = {}
        for i, line in enumerate(lines):
            said = line.value if isinstance(line.value, dict) else {}
            key = "id" if "id" in said else "name"
            called = said[key].value if key in said else None
            if not isinstance(called, str):
                continue
            if called in first:
                way = (
                    "choose another" if key == "id" else f"add an id, for example id: {called}_{i}"
                )
                self.add(
                    said[key].at,
                    f"losses.{i}.{key}",
                    f"{called!r} is what losses.{first[called]} is called too, {way}",
                )
            first.setdefault(called, i)

    def one(self, kind: str, path: str, node: Node) -> Section | None:
        """One section or one loss line: its own keys, then those of the part it names."""
        if not isinstance(node.value, dict):
            self.add(node.place, path, f"got {shown(node.plain())}, need a section of keys")
            return None
        model = SECTIONS[kind]
        own = [key for key in model.model_fields if key != "arguments"]
        name = node.value["name"].value if "name" in node.value else None
        part = self.part(kind, path, node, name) if kind in DRAWER else None
        if part is not None and "weights" in part.model_fields and "weights" in own:
            own.remove("weights")  # the model reads its weights itself
        mine = {key: child for key, child in node.value.items() if key in own}
        rest = {key: child for key, child in node.value.items() if key not in own}
        section = self.validate(model, mine, path, node, own)
        arguments: dict[str, Any] = {}
        if part is not None:
            checked = self.validate(part, rest, path, node, [*own, *part.model_fields])
            arguments = (
                {key: getattr(checked, key) for key in part.model_fields}
                if checked is not None
                else {}
            )
        elif kind == "train":
            self.unknown(rest, path, own)
        elif not self.parts:
            arguments = {key: child.plain() for key, child in rest.items()}
        if section is None:
            return None
        changes: dict[str, Any] = {"arguments": arguments} if kind in DRAWER else {}
        if kind == "losses" and not section.id:
            changes["id"] = section.name
        return section.model_copy(update=changes)

    def part(self, kind: str, path: str, node: Node, name: Any) -> type[BaseModel] | None:
        """The signature of the part called ``name``; None where there is none, or parts are not looked at."""
        if not isinstance(name, str):
            return None  # missing or of a wrong type, which the section itself says
        drawer, known = DRAWER[kind], registry.names(DRAWER[kind])
        if name not in known:
            said = f"no {registry.SINGULAR[drawer]} is called {name!r}{registry.did_you_mean(name, known)}"
            self.add(
                node.value["name"].at, f"{path}.name", f"{said}, need one of {', '.join(known)}"
            )
            return None
        return registry.arguments(drawer, name) if self.parts else None

    def unknown(self, rest: Mapping[str, Node], path: str, known: Iterable[str]) -> None:
        for key, node in rest.items():
            self.add(
                node.key_at or node.at,
                f"{path}.{key}",
                f"unknown key{registry.did_you_mean(key, known)}",
            )

    def validate(
        self,
        model: type[BaseModel],
        nodes: Mapping[str, Node],
        path: str,
        within: Node,
        known: Iterable[str],
    ) -> BaseModel | None:
        """Values against a model, strictly; JSON mode, so that a list may be a tuple and a string a path while "1" stays a string."""
        self.unknown(
            {key: node for key, node in nodes.items() if key not in model.model_fields}, path, known
        )
        nodes = {key: node for key, node in nodes.items() if key in model.model_fields}
        try:
            return model.model_validate_json(
                json.dumps({key: node.plain() for key, node in nodes.items()}), strict=True
            )
        except ValidationError as error:
            for (key, place), texts in _gathered(error, nodes, path, within, model).items():
                self.add(place, key, _joined(texts))
            return None

    def add(self, place: Place, key: str, text: str) -> None:
        self.problems.append(Problem(place, key, text))


def shown(value: Any) -> str:
    """A value in at most 60 characters, written as in a recipe."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and value:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _gathered(
    error: ValidationError,
    nodes: Mapping[str, Node],
    path: str,
    within: Node,
    model: type[BaseModel],
) -> dict[tuple[str, Place], list[tuple[str, str]]]:
    """Pydantic's errors as {(key path, place): [(got, need), ...]}; the branches of a union are one place."""
    found: dict[tuple[str, Place], list[tuple[str, str]]] = {}
    for one in error.errors(include_url=False):
        here: Node = Node(dict(nodes), within.at, within.key_at)
        steps = [path]
        kind: Any = model
        for part in one["loc"]:
            child = _child(here, part)
            if child is not None:
                steps.append(str(part))
                here, kind = child, _inner(kind, part)
        if one["type"] == "missing":
            found.setdefault((f"{'.'.join(steps)}.{one['loc'][-1]}", here.place), []).append(
                ("", "missing")
            )
        elif one["type"] == "extra_forbidden":
            options = (
                kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else ()
            )
            options = options or (_parent(model, one["loc"]) or ())
            text = f"unknown key{registry.did_you_mean(steps[-1], options)}"
            found.setdefault((".".join(steps), here.key_at or here.at), []).append(("", text))
        else:
            found.setdefault((".".join(steps), here.place), []).append(
                (shown(here.plain()), _need(one))
            )
    return found


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(part))
    return (
        node.value[part]
        if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value)
        else None
    )


def _inner(model: Any, part: str | int) -> Any:
    """The model that a field holds, where it holds one."""
    if (
        not (isinstance(model, type) and issubclass(model, BaseModel))
        or part not in model.model_fields
    ):
        return None
    annotation = model.model_fields[part].annotation
    held = [
        kind
        for kind in (annotation, *get_args(annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]
    return held[0] if held else None


def _parent(model: Any, loc: tuple[str | int, ...]) -> Iterable[str] | None:
    for part in loc[:-1]:
        model = _inner(model, part)
    return model.model_fields if model is not None else None


def _need(error: Mapping[str, Any]) -> str:
    """What pydantic wants, in the words of a recipe."""
    if error["type"] in ("too_short", "too_long"):
        few = error["type"] == "too_short"
        return (
            f"at least {error['ctx']['min_length']} items"
            if few
            else f"at most {error['ctx']['max_length']} items"
        )
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    for long, short in (
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater than", "more than"),
    ):
        text = text.replace(long, short)
    return _WORDS.get(text, text)


def _joined(texts: list[tuple[str, str]]) -> str:
    got, needs = texts[0][0], list(dict.fromkeys(need for _, need in texts))
    if not got:
        return needs[0]
    return needs[0] if needs[0].startswith("got ") else f"got {got}, need {' or '.join(needs)}"
