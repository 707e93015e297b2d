"""What a reader must know about a comparison, as sentences below its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from freqkd_cli.errors import some
from freqkd_cli.lab.compared_number import MIOU, ComparedNumber
from freqkd_cli.lab.comparison_row import Row
from freqkd_cli.lab.run_record import RunRecord

MANY = 5
"""Differences from which on some exclude 0 by chance."""
LISTED = 8
"""Rows or run folders that a note lists at most; ``left_out`` of ``--json`` has all folders."""
UNSTEADY = 1.25
"""Ratio of the slowest and the fastest run of a row from which on its cost is doubtful."""


def notes(
    number: ComparedNumber,
    base: Row,
    rows: Sequence[Row],
    left_out: Mapping[str, str],
    teachers: Mapping[str, float],
) -> tuple[str, ...]:
    """Return the notes of a comparison.

    Args:
        base: the row of the baseline, which is among ``rows``.
        left_out: run folder -> why it has no part in the comparison.
        teachers: name of a row -> mIoU of its teacher.
    """
    others = [row for row in rows if row is not base]
    return (
        *_statistics(others),
        *_left_out(left_out),
        *_unpaired(others, base),
        *_unequal(others),
        *_views(rows),
        *_teacher(number, others, teachers),
        *_cost(rows),
        *_versions([record for row in rows for record in row.records]),
    )


def _left_out(left_out: Mapping[str, str]) -> Iterable[str]:
    reasons = _by_text((why, folder) for folder, why in left_out.items())
    return (f"left out: {some(folders, LISTED)}: {why}" for why, folders in reasons.items())


def _unpaired(rows: Sequence[Row], base: Row) -> Iterable[str]:
    texts = _by_text((text, row.name) for row in rows for text in _pairing(row, base))
    return (f"{text}: {some(names, LISTED)}" for text, names in texts.items())


def _pairing(row: Row, base: Row) -> Iterable[str]:
    own = [seed for seed in row.seeds if seed not in row.pairs]
    other = [seed for seed in base.seeds if seed not in row.pairs]
    if not row.paired:
        yield "unpaired (Welch's t test), since fewer than two seeds are those of the baseline"
        return
    if own:
        yield f"not paired, so not in the difference, {_seeds(own)} of the row"
    if other:
        yield f"not paired, so not in the difference, {_seeds(other)} of the baseline"


def _unequal(rows: Sequence[Row]) -> Iterable[str]:
    """Yield one note for each thing that is unequal, such as the steps."""
    for what in dict.fromkeys(what for row in rows for what in row.unequal):
        texts = _by_text((row.unequal[what], row.name) for row in rows if what in row.unequal)
        each = [f"{how} ({some(names, LISTED)})" for how, names in texts.items()]
        yield f"unequal {what}: {some(each, LISTED, '; ')}"


def _by_text(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return text -> names, for pairs of them."""
    names: dict[str, list[str]] = {}
    for text, name in pairs:
        names.setdefault(text, []).append(name)
    return names


def _statistics(rows: Sequence[Row]) -> Iterable[str]:
    tested = [row for row in rows if row.low is not None]
    if tested:
        yield (
            "intervals: 95 %, of a paired t test over the seeds"
            if all(row.paired for row in tested)
            else "intervals: 95 %, of a t test over the seeds"
        )
    if len(tested) >= MANY:
        chance = 0.05 * len(tested)
        yield (
            f"{len(tested)} rows are compared with one baseline: where nothing differs, "
            f"{chance:.1f} of the intervals exclude 0 by chance"
        )


def _views(rows: Sequence[Row]) -> Iterable[str]:
    several = [row for row in rows if len(row.records) > 1]
    seeds = {run.recipe["data"].get("view_seed") for row in several for run in row.records}
    if several and len(seeds) == 1:
        yield "the seeds of a row share their augmented views (data.view_seed)"


def _teacher(
    number: ComparedNumber, rows: Sequence[Row], teachers: Mapping[str, float]
) -> Iterable[str]:
    if number.name != MIOU:
        return
    scores = {f"{100 * teachers[row.name]:.2f}" for row in rows if row.name in teachers}
    if scores:
        yield f"mIoU of the teacher: {' and '.join(sorted(scores))}"
    unknown = [
        row.name
        for row in rows
        if row.name not in teachers and row.records[0].recipe.get("teacher") is not None
    ]
    if unknown:
        yield (
            f"gap closed is unknown for {some(unknown, LISTED)}: no run scored the teacher on all "
            "its validation images; freqkd compare --score does"
        )


def _cost(rows: Sequence[Row]) -> Iterable[str]:
    ratios = {row.name: _unsteadiness(row.records) for row in rows}
    worst = max(ratios, key=lambda name: ratios[name], default=None)
    if worst is not None and ratios[worst] > UNSTEADY:
        yield (
            f"the times are not steady: the slowest seed of {worst} took {ratios[worst]:.1f} times "
            "as long as its fastest; freqkd bench measures the cost of a step"
        )


def _unsteadiness(records: Sequence[RunRecord]) -> float:
    times = [record.seconds_per_step for record in records if record.seconds_per_step]
    return max(times) / min(times) if times else 1.0


def _versions(records: Sequence[RunRecord]) -> Iterable[str]:
    for name in ("freqkd", "torch"):
        versions = {
            str(facts.get("freqkd") if name == "freqkd" else _libraries(facts).get(name))
            for facts in (record.environment for record in records)
            if facts
        }
        if len(versions) > 1:
            texts = sorted("an older version" if x == "None" else x for x in versions)
            yield f"the runs were made with {name} {' and '.join(texts)}"


def _libraries(environment: Mapping[str, object]) -> Mapping[str, object]:
    libraries = environment.get("libraries")
    return libraries if isinstance(libraries, Mapping) else {}


def _list(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {_list(seeds)}"
