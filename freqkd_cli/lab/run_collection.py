"""All runs of studies and run folders, with the missing and failed ones of a study by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from freqkd_cli import __version__
from freqkd_cli.errors import UsageError
from freqkd_cli.lab import study as studies
from freqkd_cli.lab.plan import VERSION
from freqkd_cli.lab.run_record import RECIPE, RunRecord, read_runs
from freqkd_cli.recipe.nodes import plain_values


@dataclass(frozen=True)
class RunCollection:
    """The runs below some paths.

    Attributes:
        left_out: run folder -> state of a run that a study has planned and that is not finished.
        baseline: name of the row that the first study compares with; None without a study.
    """

    records: list[RunRecord]
    left_out: dict[str, str]
    baseline: str | None = None


def is_run(path: Path) -> bool:
    """Return whether a path is one run, not a study or a folder of runs."""
    return (path / RECIPE).is_file()


def collect(paths: Sequence[Path]) -> RunCollection:
    """Return the runs of studies in the order of their plans, of folders, and single ones.

    Raises:
        WeightsMissing: a path contains no run.
        UsageError: a study was made by another version, or its plan is damaged.
    """
    left_out: dict[str, str] = {}
    baselines: list[str] = []
    searched: list[Path] = []
    for path in paths:
        if studies.is_study(path):
            study = _study(path)
            baselines.append(study.baseline)
            runs = study.runs()
            left_out |= {str(run.folder): text for run in runs if (text := _why_not(run))}
            searched += [run.folder for run in runs if is_run(run.folder)]
        else:
            searched.append(path)
    return RunCollection(read_runs(searched), left_out, next(iter(baselines), None))


def _study(folder: Path) -> studies.Study:
    """
    Raises:
        UsageError: the study was made by another version, or its plan is damaged.
    """
    try:
        plan = plain_values((folder / studies.PLAN).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        plan = None
    version = plan.get("version") if isinstance(plan, dict) else None
    if version is not None and version != VERSION:
        raise UsageError(
            f"the study {folder} was made by another version of freqkd",
            got=f"version {version} of {studies.PLAN}",
            need=f"version {VERSION}, that of freqkd {__version__}",
            tip=f"update freqkd, or give the runs alone: {folder / studies.RUNS}",
        )
    return studies.read(folder)


def _why_not(run: studies.Run) -> str:
    """Return why a planned run has no result; empty for a finished one."""
    if run.summary() is not None:  # no lock is touched
        return ""
    state = run.state()
    if state == "failed":
        return f"failed: {run.failure()}"
    if state == "missing":
        return "not started"
    step = run.step()
    text = "running" if state == "running" else "not finished"
    return f"{text}, step {step:,d}" if step else text
