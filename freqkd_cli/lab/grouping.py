"""Runs as rows: the seeds of one recipe together, each row with a name of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from freqkd_cli.errors import UsageError
from freqkd_cli.lab.recipe_values import UNSEEN, Values, differing, identity, values_of
from freqkd_cli.lab.run_record import SEED_FOLDER, RunRecord
from freqkd_cli.train.recipe_identity import shown


@dataclass(frozen=True)
class Group:
    """The runs of one recipe.

    Attributes:
        folder_name: its name without ``--name``.
        values: of the recipe, see :data:`freqkd_cli.lab.recipe_values.Values`.
        runs: seed -> run.
    """

    name: str
    folder_name: str
    values: Values
    runs: Mapping[int, RunRecord]


@dataclass
class _Cell:
    """Runs of one recipe, one name and one folder around them."""

    name: str
    home: Path
    values: Values
    runs: list[RunRecord]

    @property
    def seeds(self) -> set[int]:
        return {run.seed for run in self.runs}


def grouped(records: Sequence[RunRecord], names: Sequence[str] = ()) -> list[Group]:
    """Return the rows of runs, in the order of their first runs.

    Runs are one row where their recipes are equal but for the seed, and their folders differ in
    nothing but the seed. Single runs of one recipe with several seeds are one row as well.

    Args:
        names: of the rows, one each, or of the runs; runs of one name are one row.

    Raises:
        UsageError: two rows have one name, or a row has two runs of one seed.
    """
    by_recipe: dict[object, list[_Cell]] = {}
    by_run = len(names) == len(records)
    order = []
    for number, (record, values) in enumerate(zip(records, values_of(records), strict=True)):
        name, home = (names[number], Path()) if by_run else (record.name, _home(record.folder))
        cells = by_recipe.setdefault(identity(values), [])
        cell = next((cell for cell in cells if (cell.name, cell.home) == (name, home)), None)
        if cell is None:
            cell = _Cell(name, home, values, [])
            cells.append(cell)
            order.append(cell)
        cell.runs.append(record)
    for cells in by_recipe.values():
        for gone in _merged(cells, by_run):
            order.remove(gone)
    for cell in order:
        _require_one_run_per_seed(cell)
    texts = folder_names = _distinct_names(order)
    if by_run:
        folder_names = [cell.runs[0].name for cell in order]
    elif names:
        texts = _given_names(names, texts, len(records))
    return [
        Group(text, folder_name, cell.values, {run.seed: run for run in cell.runs})
        for text, folder_name, cell in zip(texts, folder_names, order, strict=True)
    ]


def _home(folder: Path) -> Path:
    """Return the folder around a run, or around ``NAME/seed-N``."""
    path = Path(os.path.abspath(folder))
    mark = SEED_FOLDER.search(path.name)
    return path.parent.parent if mark and not mark.start() else path.parent


def _merged(cells: list[_Cell], by_run: bool) -> list[_Cell]:
    """Join the cells of one recipe whose seeds differ; return those that are gone."""
    gone = []
    for cell in cells:
        single = not by_run and len(cell.runs) == 1
        for other in cells:
            if cell in gone or other in gone or other is cell or cell.seeds & other.seeds:
                continue
            if other.name == cell.name or (single and len(other.runs) == 1):
                cell.runs += other.runs
                gone.append(other)
    return gone


def _require_one_run_per_seed(cell: _Cell) -> None:
    first: dict[int, RunRecord] = {}
    for run in cell.runs:
        if run.seed in first:
            raise UsageError(
                f"{cell.name} has two runs of seed {run.seed}",
                got=f"{first[run.seed].folder} and {run.folder}",
                tip="leave out one, or give each run a --name",
            )
        first[run.seed] = run


def _distinct_names(cells: Sequence[_Cell]) -> list[str]:
    """Return the names, with as many folders before them as it takes to distinguish them.

    Raises:
        UsageError: two recipes have one name in one folder.
    """
    places: dict[tuple[Path, str], _Cell] = {}
    for cell in cells:
        other = places.setdefault((cell.home, cell.name), cell)
        if other is not cell:
            raise _two_recipes(other, cell)
    paths = [Path(cell.home, cell.name).parts for cell in cells]
    texts = [cell.name for cell in cells]
    for number in range(1, max(map(len, paths), default=0) + 1):
        for text in {text for text in texts if texts.count(text) > 1}:
            for index in [i for i, other in enumerate(texts) if other == text]:
                texts[index] = "/".join(paths[index][-number:])
    return texts


def _two_recipes(one: _Cell, other: _Cell) -> UsageError:
    keys = [key for key in differing(one.values, other.values) if key not in UNSEEN]
    first, second = one.runs[0], other.runs[0]
    if not keys:  # two runs of one seed
        return UsageError(
            f"two rows are called {one.name!r}",
            got=f"{first.folder} and {second.folder}",
            tip="another --name for one of them",
        )
    key = keys[0]
    values = [shown(cell.values.get(key)) for cell in (one, other)]
    got = f"{first.folder} has {key} {values[0]}, {second.folder} {values[1]}"
    return UsageError(
        f"two recipes are called {one.name!r}",
        got=got + (f"; {len(keys) - 1} more keys differ" if len(keys) > 1 else ""),
        need="one recipe for each name",
        tip="give each run a --name, or leave out one of the recipes",
    )


def _given_names(names: Sequence[str], rows: Sequence[str], runs: int) -> list[str]:
    if len(names) != len(rows):
        raise UsageError(
            "--name is given once for each row or each run, or not at all",
            got=len(names),
            need=f"{len(rows)} for the rows {', '.join(rows)}; or {runs} for the runs",
        )
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"two rows are called {name!r}", tip="another --name for one of them")
    return list(names)
