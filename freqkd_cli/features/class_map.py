"""A teacher's classes expressed as those of the data.

Several teacher classes may become one: their logits are joined by log-sum-exp, which adds their
probabilities. A teacher class that the map leaves out is ignored: probabilities are those among the
mapped classes. A data class that no teacher class becomes is *uncovered*. Losses on logits compare
the covered classes alone, on both sides, renormalised among them. So the teacher neither pulls the
student towards an uncovered class nor away from it. A teacher that is scored never predicts one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freqkd_cli.errors import some
from freqkd_cli.registry import did_you_mean
from freqkd_cli.runtime.constants import constant

NEVER = -1e4
"""Logit of a class that is never predicted: probability 0, yet finite, to be interpolated."""

Problem = tuple[str, str]
"""(key of the map, what is wrong with it)."""


@dataclass(frozen=True)
class ClassMap:
    """A checked map.

    Attributes:
        groups: for every covered class, the numbers of the teacher's classes that become it.
        covered: numbers of the covered classes among the data's, ascending.
        classes: K of the data.
    """

    groups: tuple[tuple[int, ...], ...]
    covered: tuple[int, ...]
    classes: int

    def merged(self, logits: Tensor) -> Tensor:
        """Map the teacher's ``[B, K_T, h, w]`` to ``[B, number of covered classes, h, w]``."""
        groups = (constant(group, torch.int64, logits.device) for group in self.groups)
        parts = [logits[:, group] for group in groups]
        return torch.cat(
            [part if part.shape[1] == 1 else part.logsumexp(1, keepdim=True) for part in parts],
            dim=1,
        )

    def spread(self, logits: Tensor) -> Tensor:
        """Map ``[B, K_T, h, w]`` to ``[B, K, h, w]``, :data:`NEVER` for uncovered classes."""
        out = logits.new_full((logits.shape[0], self.classes, *logits.shape[2:]), NEVER)
        out[:, list(self.covered)] = self.merged(logits)
        return out

    def to_json(self) -> dict[str, list[int]]:
        """Return data class -> teacher classes, as numbers."""
        return {
            str(number): list(group)
            for number, group in zip(self.covered, self.groups, strict=True)
        }


class Mapped(nn.Module):
    """A teacher with logits of the data's classes, to be scored. It has ``logits`` alone."""

    def __init__(self, teacher: nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self.teacher, self.class_map = teacher, class_map
        self.classes = class_map.classes

    def ready(self, device: torch.device) -> None:
        """Prepare the teacher for a device."""
        self.teacher.ready(device)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.class_map.spread(self.teacher(images)["logits"])}


def covered(
    mapping: Mapping[str, str], classes: Sequence[str]
) -> tuple[tuple[int, ...], list[Problem]]:
    """Return the numbers of the data's classes that a map names, ascending, and its problems."""
    listed = ", ".join(classes)
    problems = [
        (
            key,
            f"the data has no class {name!r}{did_you_mean(name, classes)}, need one of {listed}",
        )
        for key, name in mapping.items()
        if name not in classes
    ]
    numbers = {classes.index(name) for name in mapping.values() if name in classes}
    if len(numbers) < 2 and not problems:
        problems = [("", f"got {len(numbers)} of the data's classes, need at least 2")]
    return tuple(sorted(numbers)), problems


def resolve(
    mapping: Mapping[str, str],
    names: Mapping[int, str] | None,
    teacher_classes: int,
    classes: Sequence[str],
) -> tuple[ClassMap, list[Problem]]:
    """Check a recipe's ``teacher.class_map`` against the teacher's and the data's classes.

    The map may be used only where there is no problem.

    Args:
        mapping: teacher class, by name or number -> data class, by name. A key that is both a name
            and a number counts as the name.
        names: the teacher's class names by number, or None where it has none.
        teacher_classes: how many classes it has.
        classes: the data's class names.
    """
    numbers, problems = covered(mapping, classes)
    groups: dict[int, list[int]] = {number: [] for number in numbers}
    taken: dict[int, str] = {}
    for key, name in mapping.items():
        number, problem = _number(key, names or {}, teacher_classes)
        if not problem and number in taken:
            problem = f"is class {number} of the teacher, which {taken[number]!r} names too"
        if problem:
            problems.append((key, problem))
            continue
        taken[number] = key
        if name in classes:
            groups[classes.index(name)].append(number)
    return ClassMap(
        tuple(tuple(sorted(groups[n])) for n in numbers), numbers, len(classes)
    ), problems


def _number(key: str, names: Mapping[int, str], teacher_classes: int) -> tuple[int, str]:
    """Return the number of a teacher class, and the problem where there is none."""
    same = [number for number, name in names.items() if name == key]
    if len(same) == 1:
        return same[0], ""
    if same:
        numbers = ", ".join(map(str, same))
        return -1, f"{len(same)} classes of the teacher have this name, need its number: {numbers}"
    if key.isdecimal() and int(key) < teacher_classes:
        return int(key), ""
    need = f"a number from 0 to {teacher_classes - 1}"
    if not names:
        return -1, f"the teacher names no classes, need {need}"
    listed = some(names.values(), 40)
    hint = did_you_mean(key, names.values())
    return -1, f"the teacher has no class {key!r}{hint}, need {need} or one of {listed}"
