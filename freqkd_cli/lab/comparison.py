"""Runs grouped by recipe, paired by seed, and compared with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli.errors import UsageError, WeightsMissing, some
from freqkd_cli.lab.compared_number import MIOU, ComparedNumber, compared_number
from freqkd_cli.lab.comparison_notes import notes
from freqkd_cli.lab.comparison_row import Row, row_against, row_alone
from freqkd_cli.lab.grouping import Group, grouped
from freqkd_cli.lab.inequality import inequalities, require_same_data
from freqkd_cli.lab.run_record import RunRecord
from freqkd_cli.registry import did_you_mean

LISTED = 5
"""Runs that an error lists at most."""


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the runs, the baseline among them.

    Attributes:
        number: what is compared, such as the mIoU.
        baseline: name of the row that differences are taken to.
        left_out: run folder -> why it has no part in the comparison.
        teachers: name of a row -> mIoU of its teacher on the same images, where it is known.
        notes: what a reader must know about the comparison, a sentence each.
    """

    number: ComparedNumber
    baseline: str
    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    teachers: Mapping[str, float]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``compare --json`` prints."""
        return {
            "metric": self.number.name,
            "baseline": self.baseline,
            "rows": [row.to_json(self.number.name) for row in self.rows],
            "teachers": dict(self.teachers),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


def compare_records(
    records: Sequence[RunRecord],
    baseline: str | None = None,
    *,
    metric: str = MIOU,
    names: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    data_root: Path | None = None,
    teacher: float | None = None,
) -> Comparison:
    """Group the runs by recipe and compare each group with the baseline.

    Args:
        baseline: name of a row; by default labels alone, or else the first row.
        metric: a number of the runs, such as ``miou``, ``pixel_accuracy`` or ``iou.CLASS``.
        names: of the rows, one each, or of the runs.
        left_out: run folder -> why it is known to have no score, such as a failure.
        data_root: the folder that all runs used copies of.
        teacher: mIoU of the teacher of the first run that has one; by default what each run
            recorded.

    Raises:
        WeightsMissing: no run is finished.
        UsageError: the runs have different validation images, two rows have one name, or the
            baseline or the number does not exist.
    """
    finished = [record for record in records if record.finished]
    missing = {str(r.folder): _unfinished(r) for r in records if not r.finished} | (left_out or {})
    if not finished:
        raise _nothing_finished(missing)
    number = compared_number(metric, finished)
    groups = grouped(records, names)
    require_same_data(groups, finished, data_root)
    missing |= {
        str(r.folder): f"it has no {number.title}" for r in finished if number.name not in r.numbers
    }
    alone = {group.name: row for group in groups if (row := row_alone(group, number)) is not None}
    if not alone:
        raise WeightsMissing(
            f"no finished run has a {number.title}", need="a validation split with labels"
        )
    reference = _reference(groups, alone, baseline, missing)
    base, with_teacher = alone[reference.name], _first_with_teacher(groups, reference)
    teachers = _teachers(groups, finished, teacher) if number.name == MIOU else {}
    rows = tuple(
        base
        if group is reference
        else row_against(
            alone[group.name],
            base,
            number,
            teachers.get(group.name),
            inequalities(group, reference, with_teacher),
        )
        for group in groups
        if group.name in alone
    )
    sentences = notes(number, base, rows, missing, teachers)
    return Comparison(number, base.name, rows, missing, teachers, sentences)


def _unfinished(record: RunRecord) -> str:
    total = record.recipe["train"].get("steps")
    of = f" of {total:,d}" if isinstance(total, int) else ""
    return f"not finished: step {record.steps:,d}{of}" if record.steps else "not finished"


def _nothing_finished(missing: Mapping[str, str]) -> WeightsMissing:
    shown = [f"{folder} ({why})" for folder, why in missing.items()]
    got = some(shown, LISTED, "; ")
    tip = "freqkd distill ... --resume, or the command of the sweep again"
    return WeightsMissing("no run is finished", got=got or "no runs", tip=tip)


def _reference(
    groups: Sequence[Group], rows: Mapping[str, Row], name: str | None, missing: Mapping[str, str]
) -> Group:
    """Return the baseline.

    Args:
        rows: name of a row with a score -> that row.
        missing: run folder -> why it has no score.

    Raises:
        UsageError: there is none of that name, or it has no score.
    """
    scored = [group for group in groups if group.name in rows]
    if name is None:
        plain = [group for group in scored if "teacher.name" not in group.values]
        return plain[0] if len(plain) == 1 else scored[0]
    fits = (
        [group for group in groups if group.name == name]
        or [group for group in groups if group.folder_name == name]
        or [group for group in groups if group.folder_name.endswith(f"/{name}")]
    )
    reasons = [why for folder, why in missing.items() if Path(folder).parent.name == name]
    if len(fits) == 1 and fits[0].name not in rows or not fits and reasons:
        names = [group.name for group in scored]
        raise UsageError(
            f"the baseline {name!r} has no finished run",
            got="; ".join(dict.fromkeys(reasons)) or None,
            need=f"one of {', '.join(names)}",
            tip=f"--baseline {names[0]}",
        )
    if len(fits) != 1:
        names = [group.name for group in groups]
        what = f"no row is called {name!r}{did_you_mean(name, names)}"
        if fits:
            what = f"{len(fits)} rows are called {name!r}"
        raise UsageError(f"--baseline: {what}", need=f"one of {', '.join(names)}")
    return fits[0]


def _first_with_teacher(groups: Sequence[Group], reference: Group) -> Group | None:
    """Return the first row with a teacher, the baseline before the others."""
    ordered = [reference, *groups]
    return next((group for group in ordered if "teacher.name" in group.values), None)


def _teachers(
    groups: Sequence[Group], finished: Sequence[RunRecord], known: float | None
) -> dict[str, float]:
    """Return the mIoU of the teacher of each row, where some run scored it on all its images.

    Args:
        finished: the finished runs, in the order in which their models were scored.
        known: mIoU of the teacher of the first of them that has one.
    """
    if known is not None:
        by_folder = {
            run.folder: _teacher_of(group) for group in groups for run in group.runs.values()
        }
        first = next(filter(None, (by_folder.get(run.folder) for run in finished)), None)
        return {group.name: known for group in groups if _teacher_of(group) == first}
    if any(run.scored for run in finished):
        return {}  # these scores may be of other images than the teacher's in the run folders
    scores: dict[str, float] = {}
    for group in groups:
        for run in group.runs.values():
            score, images = (run.summary.get(f"teacher_{key}") for key in ("miou", "images"))
            if isinstance(score, float) and images == run.summary.get("val_images"):
                scores.setdefault(_teacher_of(group), score)
    return {g.name: scores[_teacher_of(g)] for g in groups if _teacher_of(g) in scores}


def _teacher_of(group: Group) -> str:
    """Return the teacher of a row as text; empty without one."""
    teacher = {key: x for key, x in group.values.items() if key.startswith("teacher.")}
    teacher.pop("teacher.min_iou", None)
    return str(sorted(teacher.items())) if "teacher.name" in teacher else ""
