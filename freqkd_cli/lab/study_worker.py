"""Run a plan: what is missing, one run after the other, beside other workers of the same study."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.lab.plan_rows import load_row
from freqkd_cli.lab.prepare_study import OpenStudy, prepare
from freqkd_cli.lab.run_process import check_stop, distill_words, execute, note_failure, pause
from freqkd_cli.lab.study import Run
from freqkd_cli.registry import did_you_mean
from freqkd_cli.runtime.interrupt import asked_to_stop
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.train.recipe_identity import difference, shown

log = logging.getLogger(__name__)

WAIT = 2.0
"""Seconds between two looks at runs of other workers."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep did. ``failed`` is the name of a run -> the reason."""

    runs: int
    finished: int
    failed: Mapping[str, str]

    def to_json(self, study: Path) -> dict[str, Any]:
        return {
            "study": str(study),
            "runs": self.runs,
            "finished": self.finished,
            "failed": [{"run": name, "reason": text} for name, text in self.failed.items()],
        }


def sweep(
    opened: OpenStudy,
    progress: Progress,
    *,
    device: str | None = None,
    only: Sequence[str] = (),
    prepare_only: bool = False,
) -> Outcome:
    """Run every missing run of a study and return what was done.

    A run that fails, or whose recipe file was changed meanwhile, is reported, and the others go on.
    Runs of other workers are waited for.

    Args:
        only: names of runs (``NAME/seed-N``); empty for all.
        prepare_only: make caches and measure, but run nothing.

    Raises:
        UsageError: the folder has another study, or ``only`` names no run.
        Interrupted: SIGINT or SIGTERM; the same sweep continues.
    """
    runs = chosen(opened, only)
    failed: dict[str, str] = {}
    if not (opened.complete and all(run.summary() is not None for run in runs)):
        with asked_to_stop() as stop:
            prepared = prepare(opened, runs, device, progress, stop)
            runs = chosen(prepared, only)
            try:
                if not prepare_only:
                    failed = _Worker(prepared, runs, device, progress, stop).work()
            finally:
                progress.end()
    return Outcome(len(runs), sum(run.summary() is not None for run in runs), failed)


def chosen(opened: OpenStudy, only: Sequence[str]) -> tuple[Run, ...]:
    """Return the runs of a study that ``only`` names, or all.

    Raises:
        UsageError: it names a run that is not in the plan.
    """
    runs = opened.study.runs()
    known = {run.name: run for run in runs}
    for name in only:
        if name not in known:
            near = did_you_mean(name, known)
            need = "NAME/seed-N, as --commands lists them"
            raise UsageError(f"the plan has no run {name!r}{near}", need=need)
    return tuple(known[name] for name in only) or runs


class _Worker:
    """Claims one run after the other until all are finished or have failed."""

    def __init__(
        self,
        opened: OpenStudy,
        runs: Sequence[Run],
        device: str | None,
        progress: Progress,
        stop: Sequence[int],
    ) -> None:
        self.opened, self.runs, self.device = opened, runs, device
        self.progress, self.stop = progress, stop
        self.failed: dict[str, str] = {}
        # These are tried once more; a failure that comes later is that of another worker.
        self.earlier = {run.name: run.failed_at() for run in runs}
        steps = opened.steps
        self.steps = {run.name: steps[run.row.row_name] for run in runs}

    def work(self) -> dict[str, str]:
        self.progress.begin("step", sum(self.steps.values()), self._done())
        waiting = False
        while left := self._left():
            ran = [self._try(run) for run in left]
            if not any(ran):
                names = ", ".join(run.name for run in self._left())
                if names and not waiting:
                    self.progress.note(f"waiting for other workers: {names}")
                waiting = True
                self._report("waiting")
                pause(self.stop, WAIT)
        return self.failed

    def _left(self) -> list[Run]:
        return [run for run in self.runs if run.name not in self.failed and run.summary() is None]

    def _try(self, run: Run) -> bool:
        """Run it where no other worker does; return whether something was done."""
        self._check_stop()
        with run.claimed() as mine:
            if not mine:
                return False
            if run.summary() is not None:
                return True
            if run.failed_at() not in (0, self.earlier[run.name]):  # 0: its worker was killed
                self.failed[run.name] = run.failure()
                return True
            self._run(run)
        return True

    def _run(self, run: Run) -> None:
        finished = sum(other.summary() is not None for other in self.runs)
        self.progress.note(f"run {finished + 1} of {len(self.runs)}: {run.name}")
        reason = self._changed(run)
        if reason is not None:
            note_failure(run, reason)
        else:
            words = distill_words(
                self.opened.study.plan, run, self.opened.caches.get(run.row.row_name), self.device
            )
            reason = execute(run, words, self.stop, lambda: self._report(run.name))
        if self.stop and run.summary() is None:
            return
        if reason is not None:
            self.failed[run.name] = reason
            log.error("%s failed: %s\n  log  %s", run.name, reason, run.log)
            return
        miou = (run.summary() or {}).get("miou")
        score = "not scored" if miou is None else f"{100 * miou:.2f} mIoU"
        self.progress.note(f"{run.name}: {score}")
        self._report(run.name)

    def _changed(self, run: Run) -> str | None:
        """Return how a recipe differs from the one that was checked when this sweep began."""
        plan = self.opened.study.plan
        checked = next(row for row in self.opened.rows if row.planned.row_name == run.row.row_name)
        changed = f"{run.row.recipe} was changed since this sweep began"
        try:
            now = load_row(plan, checked.planned, plan.keys.seeds[0])
        except FreqKDError as error:
            return f"{changed}: {error.line}"
        differing = difference(checked.recipe, now)
        if differing is None:
            return None
        values = [shown(value) for value in (differing.recipe, differing.run)]
        return f"{changed}: {differing.key} {values[0]} instead of {values[1]}"

    def _report(self, text: str) -> None:
        finished = sum(run.summary() is not None for run in self.runs)
        self.progress.advance(self._done(), f"{finished}/{len(self.runs)} runs, {text}")

    def _done(self) -> int:
        """Return the steps of all runs, those of other workers and failed ones included."""
        return sum(
            self.steps[run.name]
            if run.name in self.failed or run.summary() is not None
            else min(run.step(), self.steps[run.name])
            for run in self.runs
        )

    def _check_stop(self) -> None:
        check_stop(self.stop, self.opened.study.folder)


def failure(outcome: Outcome) -> FreqKDError | None:
    """Return the error of a sweep with failed runs; None where there is none."""
    if not outcome.failed:
        return None
    lines = "".join(f"\n  {name}: {reason}" for name, reason in outcome.failed.items())
    number = len(outcome.failed)
    return FreqKDError(
        f"{number} of {outcome.runs} runs failed{lines}",
        tip="the same command again tries them once more",
    )
