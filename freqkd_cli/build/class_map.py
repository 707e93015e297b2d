"""A teacher's classes told as those of the data.

Several teacher classes may become one: their logits are joined by log-sum-exp, which adds their probabilities. A teacher class that the
map leaves out has no say: probabilities are those among the mapped classes. A data class that no teacher class becomes is *uncovered*:
losses of class scores compare the covered classes alone, on both sides, each renormalised among them, so the teacher neither pulls the
student towards an uncovered class nor away from it; where the teacher itself is scored, it never predicts one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freqkd_cli.registry import did_you_mean

NEVER = -1e4
"""Logit of a class that is never predicted: probability 0, and finite, so that it can be interpolated."""

Problem = tuple[str, str]
"""(key of the map, what is wrong with it)."""


@dataclass(frozen=True)
class ClassMap:
    """A map that was checked.

    Attributes:
        groups: for every covered class, the numbers of the teacher's classes that become it.
        covered: numbers of the covered classes among the data's, ascending.
        classes: K of the data.
    """

    groups: tuple[tuple[int, ...], ...]
    covered: tuple[int, ...]
    classes: int

    def merged(self, logits: Tensor) -> Tensor:
        """The teacher's ``[B, K_T, h, w]`` as ``[B, number of covered classes, h, w]``."""
        parts = [logits[:, list(group)] for group in self.groups]
        return torch.cat(
            [part if part.shape[1] == 1 else part.logsumexp(1, keepdim=True) for part in parts],
            dim=1,
        )

    def spread(self, logits: Tensor) -> Tensor:
        """The teacher's ``[B, K_T, h, w]`` as ``[B, K, h, w]``, :data:`NEVER` for uncovered classes."""
        out = logits.new_full((logits.shape[0], self.classes, *logits.shape[2:]), NEVER)
        out[:, list(self.covered)] = self.merged(logits)
        return out

    def to_json(self) -> dict[str, list[int]]:
        """Data class -> teacher classes, as numbers."""
        return {
            str(number): list(group)
            for number, group in zip(self.covered, self.groups, strict=True)
        }


class Mapped(nn.Module):
    """A teacher that answers in the data's classes, for scoring it. Gives ``logits`` alone."""

    def __init__(self, teacher: nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self.teacher, self.class_map = teacher, class_map
        self.classes = class_map.classes

    def ready(self, device: torch.device) -> None:
        """As the teacher has it."""
        self.teacher.ready(device)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.class_map.spread(self.teacher(images)["logits"])}


def covered(
    said: Mapping[str, str], classes: Sequence[str]
) -> tuple[tuple[int, ...], list[Problem]]:
    """Numbers of the data's classes that a map names, ascending, and what is wrong with the names."""
    problems = [
        (
            key,
            f"the data has no class {name!r}{did_you_mean(name, classes)}, need one of {', '.join(classes)}",
        )
        for key, name in said.items()
        if name not in classes
    ]
    found = {classes.index(name) for name in said.values() if name in classes}
    if len(found) < 2 and not problems:
        problems = [("", f"got {len(found)} of the data's classes, need at least 2 to tell apart")]
    return tuple(sorted(found)), problems


def resolve(
    said: Mapping[str, str],
    names: Mapping[int, str] | None,
    teacher_classes: int,
    classes: Sequence[str],
) -> tuple[ClassMap, list[Problem]]:
    """A recipe's ``teacher.class_map`` against the teacher's and the data's classes; to be used only where there is no problem.

    Args:
        said: teacher class, by name or number -> data class, by name. A key that is a name and a number is taken as the name.
        names: the teacher's class names by number, or None where it has none.
        teacher_classes: how many classes it has.
        classes: the data's class names.
    """
    numbers, problems = covered(said, classes)
    groups: dict[int, list[int]] = {number: [] for number in numbers}
    taken: dict[int, str] = {}
    for key, name in said.items():
        number, wrong = _number(key, names or {}, teacher_classes)
        if not wrong and number in taken:
            wrong = f"is class {number} of the teacher, which {taken[number]!r} names too"
        if wrong:
            problems.append((key, wrong))
            continue
        taken[number] = key
        if name in classes:
            groups[classes.index(name)].append(number)
    return ClassMap(
        tuple(tuple(sorted(groups[n])) for n in numbers), numbers, len(classes)
    ), problems


def _number(key: str, names: Mapping[int, str], teacher_classes: int) -> tuple[int, str]:
    """The number of a teacher class, and what is wrong where there is none."""
    called = [number for number, name in names.items() if name == key]
    if len(called) == 1:
        return called[0], ""
    if called:
        return (
            -1,
            f"{len(called)} classes of the teacher have this name, need its number: {', '.join(map(str, called))}",
        )
    if key.isdecimal() and int(key) < teacher_classes:
        return int(key), ""
    need = f"a number from 0 to {teacher_classes - 1}"
    if not names:
        return -1, f"the teacher names no classes, need {need}"
    listed = ", ".join([*names.values()][:40]) + (" ..." if len(names) > 40 else "")
    return (
        -1,
        f"the teacher has no class {key!r}{did_you_mean(key, names.values())}, need {need} or one of {listed}",
    )
