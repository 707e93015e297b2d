"""A run as many runs are compared: its recipe, its scores and its cost, read without torch.

Run folders of older versions are read too. What they lack is None or empty here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.recipe.nodes import plain_values
from freqkd_cli.runtime.json_file import object_or_none

RECIPE = "recipe.yaml"
EVAL = "eval.json"
"""What ``freqkd eval RUN --json`` printed, kept in the run folder for its further numbers."""
NO_SCORES = ("images", "parameters", "latency_ms", "threads", "seconds")
"""Other numbers in that file, which no metric computes."""
SAME_MIOU = 1e-3
"""Two devices differ by less where they score the same weights on the same images."""
DEEPEST = 4
"""Levels of folders below a given one in which runs are searched."""
SEED_FOLDER = re.compile(r"(?:^|[-_.])(?:seed[-_]?|s)(\d+)$")


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds.

    Attributes:
        folder: the run folder.
        name: of its row: the folder's name without the seed, or that of the folder around.
        recipe: the resolved recipe as plain values.
        summary: ``summary.json``; empty for a run that is not finished.
        environment: ``environment.json``; empty where it is missing.
        scored: numbers that take the place of those of the folder, from scoring the run again.
    """

    folder: Path
    name: str
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    scored: Mapping[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def seed(self) -> int:
        return _seed(self.recipe)

    @property
    def steps(self) -> int | None:
        """Optimizer steps that were trained; of an unfinished run those of its last checkpoint."""
        if self.finished:
            return self.summary.get("steps")
        steps = [int(path.stem[5:]) for path in self.folder.glob("state/step-*.json")]
        return max(steps, default=None)

    @property
    def views_per_step(self) -> int:
        """Views in one optimizer step."""
        train = self.recipe.get("train", {})
        return int(train.get("batch_size", 8)) * int(train.get("accumulate", 1))

    @property
    def seconds_per_step(self) -> float | None:
        """Seconds of a step, evaluations included; of the last start where it was resumed."""
        speed = self.summary.get("images_per_second")
        return self.views_per_step / speed if speed else None

    @property
    def seconds(self) -> float | None:
        """Seconds of the whole training, as measured by its speed."""
        if self.seconds_per_step is None or self.steps is None:
            return self.summary.get("seconds")
        return self.seconds_per_step * self.steps

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``: losses and scores by step. Damaged lines are left out."""
        return list(_json_lines(self._metrics().splitlines()))

    @cached_property
    def scores(self) -> dict[str, float]:
        """Numbers of the metrics on the scored images, of the weights in ``model.safetensors``."""
        kept = {"miou": self.summary.get("miou"), "last_miou": self.summary.get("last_miou")}
        requested = self.summary.get("metrics") or {}  # by train.metrics
        evaluated = {name: x for name, x in self._evaluated.items() if name not in NO_SCORES}
        numbers = {**evaluated, **requested, **self._best.get("val", {}), **kept}
        return {name: float(x) for name, x in numbers.items() if _is_number(x)}

    @cached_property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Number (``iou``) -> class -> value of those weights; empty in older runs."""
        tables = {
            **_by_number(self._evaluated.get("per_class")),
            **(self.summary.get("metrics_per_class") or {}),
            **(self._best.get("per_class") or {}),
        }
        return {
            name: {label: float(x) for label, x in table.items() if _is_number(x)}
            for name, table in tables.items()
        }

    @cached_property
    def numbers(self) -> Mapping[str, float]:
        """All numbers that can be compared; those of a class are called ``iou.CLASS``."""
        if self.scored:
            return self.scored
        classes = {
            f"{name}.{label}": value
            for name, table in self.per_class.items()
            for label, value in table.items()
        }
        return {**self.scores, **classes}

    @cached_property
    def _best(self) -> dict[str, Any]:
        """The row of scores at the step whose weights are kept."""
        lines = (line for line in self._metrics().splitlines() if '"val"' in line)
        rows = {row["step"]: row for row in _json_lines(lines) if isinstance(row.get("val"), dict)}
        return rows.get(self.summary.get("best_step"), {})

    @cached_property
    def _evaluated(self) -> dict[str, Any]:
        """The content of :data:`EVAL`, where it is about these weights and images."""
        document = object_or_none(self.folder / EVAL) or {}
        own, other = self.summary.get("miou"), document.get("miou")
        same = (
            document.get("split", "val") == "val"
            and document.get("images") == self.summary.get("val_images")
            and not document.get("test_time")
        )
        close = _is_number(own) and _is_number(other) and abs(own - other) < SAME_MIOU
        return document if same and close else {}

    def _metrics(self) -> str:
        try:
            return (self.folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def read_run(folder: Path) -> RunRecord:
    """Return the record of a run folder.

    Raises:
        WeightsMissing: it contains no recipe, or a damaged one.
    """
    try:
        recipe = plain_values((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        recipe = None
    if not _is_recipe(recipe):
        need = "a folder that freqkd distill wrote, with an intact recipe.yaml"
        raise WeightsMissing(f"{folder} is not a run", need=need)
    summary, environment = (
        object_or_none(folder / name) or {} for name in ("summary.json", "environment.json")
    )
    name = run_name(folder, _seed(recipe))
    return RunRecord(folder, name, recipe, summary, environment)


def run_folders(path: Path) -> list[Path]:
    """Return the run folders, finished or not, of a study; of a run, itself.

    Any folder that contains runs is accepted as well.

    Raises:
        WeightsMissing: there is none.
    """
    if (path / RECIPE).is_file():
        return [path]
    folders = []
    for parent, inner, files in os.walk(path):
        if RECIPE in files:
            folders.append(Path(parent))
            inner.clear()
        elif len(Path(parent).relative_to(path).parts) >= DEEPEST:
            inner.clear()
        inner[:] = sorted(name for name in inner if not name.startswith("."))
    if not folders:
        need = "run folders that freqkd distill wrote, or a study of freqkd sweep"
        raise WeightsMissing(f"{path} is not a run and contains none", need=need)
    return folders


def read_runs(paths: Iterable[Path]) -> list[RunRecord]:
    """Return the records of all runs below the paths, each run once, finished or not.

    Raises:
        WeightsMissing: a path contains no run, or a run is damaged.
    """
    folders = {os.path.realpath(folder): folder for path in paths for folder in run_folders(path)}
    return [read_run(folder) for folder in folders.values()]


def run_name(folder: Path, seed: int) -> str:
    """Return the folder's name without its ``seed``, or that of the folder around ``seed-N``."""
    path = Path(os.path.abspath(folder))
    mark = SEED_FOLDER.search(path.name)
    if mark is None or int(mark[1]) != seed:
        return path.name
    return path.name[: mark.start()] or path.parent.name


def _seed(recipe: Mapping[str, Any]) -> int:
    seed = recipe["train"].get("seed", 0)
    return seed if isinstance(seed, int) else 0


def _is_recipe(value: Any) -> bool:
    sections = ("data", "student", "train")
    return isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in sections)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _json_lines(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            yield value


def _by_number(rows: Any) -> dict[str, dict[str, Any]]:
    """Return the rows of ``eval --json``, one per class, as number -> class -> value."""
    tables: dict[str, dict[str, Any]] = {}
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict) or "name" not in row:
            continue
        for key, value in row.items():
            if key != "name":
                tables.setdefault(key, {})[str(row["name"])] = value
    return tables
