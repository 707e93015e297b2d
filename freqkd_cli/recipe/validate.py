"""The check of a recipe: a tree of nodes becomes typed sections, and every mistake a problem.

The keys of a section that are not its own belong to the part that it names. They are checked
against the signature of that part's ``build``, whose file is imported only here in this room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from freqkd_cli import registry
from freqkd_cli.recipe.nodes import Node
from freqkd_cli.recipe.problems import Place, Problem
from freqkd_cli.recipe.sections import DRAWER, INNER, SECTIONS, VERSION
from freqkd_cli.recipe.value_problems import joined, shown, value_problems
from freqkd_cli.recipe.value_types import Section

REQUIRED = ("data", "student", "losses", "train")
READ_LABELS = ("cross_entropy", "focal", "dice", "lovasz")
"""Losses from which a student learns the task."""


@dataclass
class Checker:
    """Walks the tree once.

    With ``parts=False`` the arguments of parts stay unchecked, so no other room is imported.
    """

    parts: bool = True
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def read(self, root: Node) -> dict[str, Any]:
        """Return the sections by name; they are complete only if ``problems`` stayed empty."""
        if not isinstance(root.value, dict):
            need = f"need the sections version, {', '.join(SECTIONS)}"
            self.add(root.at, "", f"got {shown(root.plain())}, {need}")
            return {}
        known = ("version", *SECTIONS)
        for key, node in root.value.items():
            if key not in known:
                near = registry.did_you_mean(key, known)
                text = f"unknown section{near}, need one of {', '.join(known)}"
                self.add(node.key_at or node.at, key, text)
        self.version(root)
        sections = {
            key: self.section(key, root.value.get(key), root)
            for key in ("data", "teacher", "student", "train")
        }
        sections["losses"] = self.losses(root.value.get("losses"), root)
        return sections

    def version(self, root: Node) -> None:
        node = root.value.get("version")
        if node is None:
            self.add(root.at, "version", f"missing, need version: {VERSION}")
        elif node.value != VERSION or isinstance(node.value, bool):
            text = f"got {shown(node.plain())}, this freqkd reads version {VERSION}"
            self.add(node.at, "version", text)

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
            text = "epochs and steps are both given, need one of them"
            self.add(last.key_at or last.at, "train.steps", text)

    def losses(self, node: Node | None, root: Node) -> tuple[Section | None, ...]:
        if node is None:
            self.add(root.at, "losses", "missing section")
            return ()
        if not isinstance(node.value, list) or not node.value:
            text = f"got {shown(node.plain())}, need a list of losses, each with a name"
            self.add(node.place, "losses", text)
            return ()
        self.ids(node.value)
        if not any(
            isinstance(line.value, dict) and line.plain().get("name") in READ_LABELS
            for line in node.value
        ):
            self.warnings.append(
                "there is no cross_entropy loss, so the student does not learn from labels"
            )
        return tuple(self.one("losses", f"losses.{i}", line) for i, line in enumerate(node.value))

    def ids(self, lines: list[Node]) -> None:
        """Report lines with the same id: logs and ``--set`` could not distinguish them."""
        first: dict[str, int] = {}
        for i, line in enumerate(lines):
            keys = line.value if isinstance(line.value, dict) else {}
            key = "id" if "id" in keys else "name"
            name = keys[key].value if key in keys else None
            if not isinstance(name, str):
                continue
            if name in first:
                tip = "use another id" if key == "id" else f"add an id, for example id: {name}_{i}"
                text = f"losses.{first[name]} is called {name!r} too, {tip}"
                self.add(keys[key].at, f"losses.{i}.{key}", text)
            first.setdefault(name, i)

    def one(self, kind: str, path: str, node: Node) -> Section | None:
        """Check one section or one loss line: its own keys, then those of the part it names."""
        if not isinstance(node.value, dict):
            self.add(node.place, path, f"got {shown(node.plain())}, need a section of keys")
            return None
        model = INNER.get(kind) or SECTIONS[kind]
        own = [key for key in model.model_fields if key != "arguments"]
        name = node.value["name"].value if "name" in node.value else None
        part = self.part(kind, path, node, name) if kind in DRAWER else None
        if part is not None and "weights" in part.model_fields and "weights" in own:
            own.remove("weights")  # the model reads its weights itself
        own_nodes = {key: child for key, child in node.value.items() if key in own}
        rest = {key: child for key, child in node.value.items() if key not in own}
        inner = {
            key: own_nodes.pop(key) for key in own if f"{kind}.{key}" in INNER and key in own_nodes
        }
        section = self.validate(model, own_nodes, path, node, own)
        arguments: dict[str, Any] = {}
        if part is not None:
            checked = self.validate(part, rest, path, node, [*own, *part.model_fields])
            arguments = (
                {key: getattr(checked, key) for key in part.model_fields}
                if checked is not None
                else {}
            )
        elif kind == "train" or name is None:
            self.unknown(rest, path, own)
        elif not self.parts:
            arguments = {key: child.plain() for key, child in rest.items()}
        changes: dict[str, Any] = {"arguments": arguments} if kind in DRAWER else {}
        for key, child in inner.items():
            if child.value is not None:
                changes[key] = self.one(f"{kind}.{key}", f"{path}.{key}", child)
        if section is None:
            return None
        if kind == "losses" and not section.id:
            changes["id"] = section.name
        return section.model_copy(update=changes)

    def part(self, kind: str, path: str, node: Node, name: Any) -> type[BaseModel] | None:
        """Return the signature of a part; None if the part is unknown or not checked."""
        if not isinstance(name, str):
            return None  # missing or of a wrong type, which the check of the section reports
        drawer, known = DRAWER[kind], registry.names(DRAWER[kind])
        if name not in known:
            near = registry.did_you_mean(name, known)
            text = f"no {registry.SINGULAR[drawer]} is called {name!r}{near}"
            text += f", need one of {', '.join(known)}"
            self.add(node.value["name"].at, f"{path}.name", text)
            return None
        if not self.parts:
            return None
        if kind == "student" and registry.teacher_only(name):
            text = f"{name} cannot be a student, only a teacher"
            self.add(node.value["name"].at, f"{path}.name", text)
            return None
        return registry.arguments(drawer, name)

    def unknown(self, rest: Mapping[str, Node], path: str, known: Iterable[str]) -> None:
        for key, node in rest.items():
            text = f"unknown key{registry.did_you_mean(key, known)}"
            self.add(node.key_at or node.at, f"{path}.{key}", text)

    def validate(
        self,
        model: type[BaseModel],
        nodes: Mapping[str, Node],
        path: str,
        within: Node,
        known: Iterable[str],
    ) -> BaseModel | None:
        """Check values strictly against a model.

        JSON mode: a list may be a tuple and a string a path, but "1" stays a string.
        """
        self.unknown(
            {key: node for key, node in nodes.items() if key not in model.model_fields}, path, known
        )
        nodes = {key: node for key, node in nodes.items() if key in model.model_fields}
        try:
            return model.model_validate_json(
                json.dumps({key: node.plain() for key, node in nodes.items()}), strict=True
            )
        except ValidationError as error:
            for (key, place), texts in value_problems(error, nodes, path, within, model).items():
                self.add(place, key, joined(texts))
            return None

    def add(self, place: Place, key: str, text: str) -> None:
        self.problems.append(Problem(place, key, text))
