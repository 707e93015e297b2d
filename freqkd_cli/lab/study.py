"""A study folder: its plan, its runs in ``runs/NAME/seed-N``, their states and their locks.

::

    STUDY/plan.yaml                  the plan with one entry for each row
    STUDY/caches/                    caches that the runs share
    STUDY/runs/NAME/seed-N/          an ordinary run folder
    STUDY/runs/NAME/seed-N.log       what its last process wrote to stderr
    STUDY/runs/NAME/seed-N.lock      held while a worker runs it
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from freqkd_cli.errors import UsageError
from freqkd_cli.lab import plan as plans
from freqkd_cli.lab.plan import StudyPlan
from freqkd_cli.lab.plan_keys import PlannedRecipe
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.lock import LOCK

PLAN, CACHES, RUNS = "plan.yaml", "caches", "runs"
FAILED = "failed: "
"""Start of the last line in the log of a failed run."""

_TAIL = 8192
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

State = Literal["missing", "started", "running", "failed", "finished"]


@dataclass(frozen=True)
class Run:
    """One run of a study: a row and a seed."""

    row: PlannedRecipe
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Return ``NAME/seed-N``."""
        return f"{self.row.row_name}/seed-{self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def lock(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")

    def summary(self) -> dict[str, Any] | None:
        """Return the content of ``summary.json`` of a finished run, else None."""
        return object_or_none(self.folder / "summary.json")

    def state(self) -> State:
        """Return the state of the run on the disk."""
        if held(self.lock) or held(self.folder / "state" / LOCK):
            return "running"
        if self.summary() is not None:
            return "finished"
        if _last_line(self.log).startswith(FAILED):
            return "failed"
        return "started" if (self.folder / "recipe.yaml").exists() else "missing"

    def failure(self) -> str:
        """Return why the last process of the run failed; empty where it did not."""
        line = _last_line(self.log)
        return line.removeprefix(FAILED) if line.startswith(FAILED) else ""

    def failed_at(self) -> int:
        """Return when the last process of the run failed, in ns; 0 where it did not."""
        return self.log.stat().st_mtime_ns if self.failure() else 0

    def step(self) -> int:
        """Return the step that ``metrics.jsonl`` is at; 0 where there is none."""
        for line in reversed(_tail(self.folder / "metrics.jsonl")):
            try:
                return int(json.loads(line)["step"])
            except (ValueError, KeyError, TypeError):
                continue
        return 0

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Hold the right to run it; yields False where another process has it."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            # A process whose worker was killed may still be saving.
            yield not held(self.folder / "state" / LOCK)
        finally:
            lock.release()


@dataclass(frozen=True)
class Study:
    """A study: its folder, and its plan with one entry for each row."""

    folder: Path
    plan: StudyPlan

    @property
    def rows(self) -> tuple[PlannedRecipe, ...]:
        return self.plan.recipes

    @property
    def baseline(self) -> str:
        """Return the name of the row that differences are taken to."""
        return self.plan.keys.baseline or self.rows[0].row_name

    @property
    def caches(self) -> Path:
        return self.folder / CACHES

    def runs(self) -> tuple[Run, ...]:
        """Return all runs: the first seed of every row, then the second, and so on."""
        return tuple(
            Run(row, seed, self.folder / RUNS / row.row_name / f"seed-{seed}")
            for seed in self.plan.keys.seeds
            for row in self.rows
        )


def is_study(folder: Path) -> bool:
    """Return whether a folder is a study."""
    return (folder / PLAN).is_file()


def read(folder: Path) -> Study:
    """Return the study in a folder.

    Raises:
        UsageError: it is none.
        RecipeError: its plan cannot be read.
    """
    if not is_study(folder):
        tip = f"freqkd sweep PLAN.yaml --out {folder}"
        raise UsageError(f"{folder} is not a study", need=f"the file {folder / PLAN}", tip=tip)
    return Study(folder, plans.load(folder / PLAN))


def held(path: Path) -> bool:
    """Return whether a process holds the lock in a file; False where one may only read it."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return False
    lock.release()
    return False


def _last_line(path: Path) -> str:
    lines = _tail(path)
    return lines[-1] if lines else ""


def _tail(path: Path) -> list[str]:
    """Return the last lines of a file; the first of them may be cut."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
