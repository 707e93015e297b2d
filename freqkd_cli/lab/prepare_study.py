"""Before the runs of a study: its folder, the steps of every row, its caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from freqkd_cli.lab import plan as plans
from freqkd_cli.lab import study as studies
from freqkd_cli.lab.fairness import measured_step_ms, own_steps, steps_of_equal_time
from freqkd_cli.lab.plan import StudyPlan
from freqkd_cli.lab.plan_rows import CheckedRow, expand, load_row
from freqkd_cli.lab.run_process import check_stop, pause
from freqkd_cli.lab.shared_caches import SharedCache, make, shared_caches
from freqkd_cli.lab.study import PLAN, Run, Study
from freqkd_cli.lab.study_check import (
    check_folder,
    check_runs,
    same_data,
    with_measured_steps,
    with_rows,
)
from freqkd_cli.runtime.files import write_synced
from freqkd_cli.runtime.lock import LOCK
from freqkd_cli.runtime.progress import Progress


@dataclass(frozen=True)
class OpenStudy:
    """A study that was checked against its plan.

    Attributes:
        rows: its rows with their recipes.
        own_steps: row -> the steps that its recipe itself asks for.
        shared: its caches, made or not.
        caches: row -> the finished cache that its runs read.
    """

    study: Study
    rows: tuple[CheckedRow, ...]
    own_steps: Mapping[str, int]
    shared: tuple[SharedCache, ...]
    caches: Mapping[str, Path] = field(default_factory=dict)

    @property
    def steps(self) -> dict[str, int]:
        """Return row -> the number of steps of its runs."""
        return {row.row_name: row.steps or self.own_steps[row.row_name] for row in self.study.rows}

    @property
    def measured(self) -> bool:
        """Return whether the fairness rule has everything that it needs."""
        return self.study.plan.keys.fair != "seconds" or all(row.step_ms for row in self.study.rows)

    @property
    def complete(self) -> bool:
        """Return whether the folder holds this plan already."""
        folder = self.study.folder
        return studies.is_study(folder) and studies.read(folder).plan.keys == self.study.plan.keys


def open_study(plan: StudyPlan, folder: Path) -> OpenStudy:
    """Check a plan, its recipes and the folder of its study; nothing is written.

    Raises:
        RecipeError: problems of the plan or of its recipes, all at once.
        UsageError: the folder holds another study, or one that was measured for another length.
        DataMissing, WeightsMissing: data or weights of a recipe.
    """
    plan, rows = expand(_unmeasured(plan))
    study = Study(folder, plan)
    same_data(study, rows)
    before = check_folder(study)
    lengths = {row.planned.row_name: own_steps(row.checked) for row in rows}
    if plan.keys.fair == "steps":
        wanted = lengths[study.baseline]
        study = with_rows(
            study,
            [
                row if lengths[row.row_name] == wanted else row.model_copy(update={"steps": wanted})
                for row in study.rows
            ],
        )
    study = with_measured_steps(study, before, lengths[study.baseline])
    check_runs(study)
    shared = tuple(shared_caches(study.caches, rows, plan.keys.cache))
    return OpenStudy(study, rows, lengths, shared)


def prepare(
    opened: OpenStudy,
    runs: Sequence[Run],
    device: str | None,
    progress: Progress,
    stop: Sequence[int],
) -> OpenStudy:
    """Write the plan, make the missing caches and measure what the fairness rule needs.

    One worker of a study does this at a time, and the others wait.

    Args:
        runs: those to be run; caches that none of them reads are not made.
        stop: gets a signal when this process is asked to stop.

    Raises:
        UsageError: the folder holds another study by now, as :func:`open_study`.
        Interrupted: a signal asked to stop.
    """
    folder = opened.study.folder
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, progress, stop):
        before = check_folder(opened.study)
        steps = opened.own_steps[opened.study.baseline]
        opened = replace(opened, study=with_measured_steps(opened.study, before, steps))
        check_runs(opened.study)
        _write(opened)
        for line in _new_lengths(opened):
            progress.note(line)
        opened = replace(opened, caches=_made_caches(opened, runs, device, progress, stop))
        if not opened.measured:
            opened = _measured(opened, device, progress, stop)
            check_runs(opened.study)
            _write(opened)
    return opened


def _unmeasured(plan: StudyPlan) -> StudyPlan:
    """Return a plan of equal time without the steps of the study that it was read from."""
    if plan.keys.fair != "seconds":
        return plan
    rows = tuple(row.model_copy(update={"steps": None, "step_ms": None}) for row in plan.recipes)
    return replace(plan, keys=plan.keys.model_copy(update={"recipes": rows}))


def _made_caches(
    opened: OpenStudy,
    runs: Sequence[Run],
    device: str | None,
    progress: Progress,
    stop: Sequence[int],
) -> dict[str, Path]:
    """Return row -> the finished cache that its runs read; missing ones are made."""
    rows = {run.row.row_name for run in runs if run.summary() is None}
    if not opened.measured:
        rows |= _to_measure(opened.study)
    caches: dict[str, Path] = {}
    for cache in opened.shared:
        check_stop(stop, opened.study.folder)
        if rows & set(cache.rows) and make(cache, device, progress):
            caches |= dict.fromkeys(cache.rows, cache.folder)
    return caches


def _new_lengths(opened: OpenStudy) -> list[str]:
    """Return a line for each row that the fairness rule gives other steps than its recipe."""
    return [
        f"{row.row_name}: {row.steps} steps instead of {opened.own_steps[row.row_name]}, "
        f"as the baseline (fair: {opened.study.plan.keys.fair})"
        for row in opened.study.rows
        if row.steps and not row.step_ms and row.steps != opened.own_steps[row.row_name]
    ]


def _to_measure(study: Study) -> set[str]:
    """Return the rows without a measured step, and the baseline as their measure."""
    return {row.row_name for row in study.rows if not row.step_ms} | {study.baseline}


def _measured(
    opened: OpenStudy, device: str | None, progress: Progress, stop: Sequence[int]
) -> OpenStudy:
    """Return the study with the steps that take the time of the baseline."""
    study = opened.study
    seed = study.plan.keys.seeds[0]
    known = {row.row_name: row.step_ms for row in study.rows if row.step_ms}
    names = _to_measure(study)
    todo = {
        row.row_name: (load_row(study.plan, row, seed), opened.caches.get(row.row_name))
        for row in study.rows
        if row.row_name in names
    }
    now = measured_step_ms(
        todo, device, progress, before_each=lambda: check_stop(stop, study.folder)
    )
    # Rows of an earlier sweep were measured under another load of the machine.
    factor = known.get(study.baseline, now[study.baseline]) / now[study.baseline]
    times = {name: round(ms * factor, 3) for name, ms in now.items()} | known
    steps = steps_of_equal_time(times, study.baseline, opened.own_steps[study.baseline])
    rows = [
        row
        if row.row_name in known
        else row.model_copy(update={"steps": steps[row.row_name], "step_ms": times[row.row_name]})
        for row in study.rows
    ]
    for row in rows:
        progress.note(f"{row.row_name}: {row.steps} steps of {row.step_ms:.1f} ms")
    return replace(opened, study=with_rows(study, rows))


def _write(opened: OpenStudy) -> None:
    if not opened.complete:
        text = plans.dump(opened.study.plan)
        write_synced(opened.study.folder / PLAN, lambda file: file.write(text.encode()))


@contextmanager
def _alone(folder: Path, progress: Progress, stop: Sequence[int]) -> Iterator[None]:
    """Wait until no other worker prepares the study, and keep the others waiting."""
    lock = FileLock(folder / LOCK)
    noted = False
    while not lock.is_locked:
        check_stop(stop, folder)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not noted:
                progress.note(f"waiting for another worker that makes the caches of {folder}")
            noted = True
            pause(stop, 1.0)
    try:
        yield
    finally:
        lock.release()
