"""The two tables of ``freqkd compare``: scored models, and recipes over their seeds."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.errors import FreqKDError, UsageError

if TYPE_CHECKING:
    from freqkd_cli.lab.comparison import Comparison
    from freqkd_cli.lab.run_collection import RunCollection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a call of the command asks for; the fields are its options.

    Attributes:
        score: None where neither ``--score`` nor ``--no-score`` is given.
    """

    runs: Sequence[Path]
    names: Sequence[str] = ()
    score: bool | None = None
    baseline: str | None = None
    metric: str | None = None
    markdown: bool = False
    out: Path | None = None
    section: str | None = None
    image: Path | None = None
    split: str = "val"
    limit: int = 0
    data_root: Path | None = None
    device: str | None = None
    batch_size: int | None = None

    @property
    def of_models(self) -> bool:
        """Whether an option needs the models."""
        return bool(
            self.image or self.split != "val" or self.limit or self.device or self.batch_size
        )

    @property
    def of_rows(self) -> bool:
        """Whether an option is about recipes over their seeds."""
        return bool(self.baseline or self.metric or self.markdown or self.out)

    def scores_models(self) -> bool:
        """Return whether models are scored; the default is yes for runs, no for studies."""
        from freqkd_cli.lab.run_collection import is_run

        if self.score is None:
            return self.of_models or (all(map(is_run, self.runs)) and not self.of_rows)
        return self.score

    def command(self) -> str:
        """Return the command that makes the table again."""
        words = ["freqkd", "compare", *map(str, self.runs)]
        words += [word for name in self.names for word in ("--name", name)]
        options = ("baseline", "metric", "data_root", "out", "section")
        if self.scores_models():
            options += ("split", "limit", "device", "batch_size")
            words.append("--score")
        for option in options:
            if value := getattr(self, option):
                words += [f"--{option.replace('_', '-')}", str(value)]
        return shlex.join([*words, *(["--markdown"] if not self.out else [])])


def check(request: Request) -> None:
    """Check options that do not fit together, and the section that is to be replaced.

    Raises:
        UsageError: before any work.
    """
    from freqkd_cli.report.marked_section import with_section

    if request.score is False and request.of_models:
        need = "no --image, --split, --limit, --device and --batch-size"
        raise UsageError("--no-score scores no models", need=need)
    if (request.out is None) != (request.section is None):
        given, lacking = ("--out", "--section") if request.out else ("--section", "--out")
        raise UsageError(
            f"{given} is given without {lacking}",
            need="--out FILE --section NAME",
            tip="--markdown prints the table",
        )
    if request.out is not None and request.section is not None:
        with_section(request.out, request.section, "")


def compared(request: Request) -> Comparison:
    """Return the recipes over their seeds, from the scores in the run folders."""
    from freqkd_cli.lab.compared_number import MIOU
    from freqkd_cli.lab.run_collection import collect

    return _rows(request, collect(request.runs), request.metric or MIOU)


def scored(request: Request, verbosity: int) -> tuple[dict[str, Any], Comparison | None]:
    """Score the models; return their table as JSON, and the recipes over their seeds.

    The latter are None where no recipe has several seeds and no option asks for them.
    """
    from freqkd_cli.lab.compared_number import MIOU
    from freqkd_cli.lab.run_collection import collect, is_run
    from freqkd_cli.report.comparison_image import comparison
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.score.side_by_side import compare

    folders, names, collection = request.runs, request.names, None
    if not all(map(is_run, folders)) or request.of_rows:
        collection = collect(folders)
        _check_metric(request.metric or MIOU, collection)
        _rows(request, collection, MIOU)  # its errors come before the long work
        folders = [record.folder for record in collection.records if record.finished]
        names = names if len(names) == len(folders) else ()
    result = compare(
        folders,
        progress(verbosity),
        names=names,
        split=request.split,
        limit=request.limit,
        images=4 if request.image else 0,
        data_root=request.data_root,
        device=request.device,
        batch_size=request.batch_size,
    )
    if request.image:
        comparison(result.panels, result.classes, result.palette, request.image)
    document = {"split": request.split, "models": result.rows, "picture": request.image}
    teacher = next((row["miou"] for row in result.rows[len(folders) :]), None)
    scores = dict(zip(folders, map(_numbers, result.rows), strict=False))
    return document, _rows_of_models(request, collection, scores, teacher)


def _check_metric(metric: str, collection: RunCollection) -> None:
    """
    Raises:
        UsageError: scoring the models measures no such number.
    """
    from freqkd_cli.score.tally import numbers

    every = (name for record in collection.records for name in record.numbers)
    known = [*numbers(), *dict.fromkeys(name for name in every if name.startswith("iou."))]
    if metric not in known and f"iou.{metric}" not in known:
        raise UsageError(
            f"scoring the models measures no {metric!r}",
            need=f"one of {', '.join(known)}",
            tip="--no-score compares the numbers in the run folders",
            key="metric",
        )


def _rows_of_models(
    request: Request,
    collection: RunCollection | None,
    scores: Mapping[Path, dict[str, float]],
    teacher: float | None,
) -> Comparison | None:
    """Return the recipes over their seeds, from the scores of the models.

    Args:
        collection: the runs as they were before the models were scored; None = they are read now.
            A run that has ended since has no score of these images.
        scores: run folder -> its numbers.
    """
    from freqkd_cli.lab.compared_number import MIOU
    from freqkd_cli.lab.run_collection import collect

    try:
        collection = collection or collect(request.runs)
        records = [
            dataclasses.replace(record, scored=scores.get(record.folder, record.scored))
            for record in collection.records
        ]
        collection = dataclasses.replace(collection, records=records)
        if not request.of_rows and not any(record.finished for record in records):
            return None
        rows = _rows(request, collection, request.metric or MIOU, teacher)
    except FreqKDError as error:
        if request.of_rows:
            raise
        log.info("no table of recipes over their seeds: %s", error.line)
        return None
    several = any(len(row.values) > 1 for row in rows.rows)
    return rows if several or request.of_rows else None


def _rows(
    request: Request,
    collection: RunCollection,
    metric: str,
    teacher: float | None = None,
) -> Comparison:
    from freqkd_cli.lab.comparison import compare_records

    return compare_records(
        collection.records,
        request.baseline or collection.baseline,
        metric=metric,
        names=request.names,
        left_out=collection.left_out,
        data_root=request.data_root,
        teacher=teacher,
    )


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return the scores in the row of a model; those of a class are called ``iou.CLASS``."""
    from freqkd_cli.score.tally import numbers

    every = {name: row.get(name) for name in numbers()}
    every |= {f"iou.{label}": value for label, value in row["iou"].items()}
    return {name: value for name, value in every.items() if isinstance(value, float)}
