"""A page about runs: one HTML file without scripts or outside resources, or the same as Markdown.

``templates/page.html`` and ``templates/page.md`` lay out a :class:`Page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import __version__
from freqkd_cli.lab import study
from freqkd_cli.lab.compared_number import MIOU
from freqkd_cli.lab.comparison import Comparison, compare_records
from freqkd_cli.lab.run_collection import collect
from freqkd_cli.report import page_curves, page_records, page_tables, page_words
from freqkd_cli.report.page_charts import Chart
from freqkd_cli.report.page_roles import Roles, best_row, roles_of, shown_runs
from freqkd_cli.runtime.files import write_aside
from freqkd_cli.runtime.progress import Progress

if TYPE_CHECKING:
    from freqkd_cli.report.page_images import PageImages
    from freqkd_cli.report.page_spectra import PageSpectra

TEMPLATES = Path(__file__).with_name("templates")

UNMEASURED = "Expected: not yet measured"


@dataclass(frozen=True)
class Page:
    """Everything that a template shows.

    Attributes:
        question: the heading; ``about`` is the rest of the plan's note.
        answer: the result in sentences; ``notes`` are limits of the comparison.
        facts: (name, value) of what all runs share.
        heading: title and unit of the number that is compared.
        table, classes, recipes, runs, environments: see ``page_tables``.
        cost, curves: charts of the records.
        images, spectra: None where they were not asked for.
        single: whether there is one row, which is compared with nothing.
    """

    question: str
    about: str
    answer: list[str]
    notes: list[str]
    facts: list[tuple[str, str]]
    heading: str
    baseline: str
    single: bool
    table: list[page_tables.TableRow]
    cost: Chart | None
    curves: list[Chart]
    classes: page_tables.ClassTable | None
    images: PageImages | None
    spectra: PageSpectra | None
    recipes: list[page_records.RecipeText]
    runs: list[page_records.RunRow]
    environments: list[page_records.Environment]
    version: str = __version__

    @property
    def left_out(self) -> list[str]:
        """What the page has not, a sentence each."""
        parts = (self.images, self.spectra)
        return list(dict.fromkeys(note for part in parts if part for note in part.notes))

    def to_json(self) -> dict[str, Any]:
        """Return the counts that ``report --json`` prints."""
        return {
            "recipes": len(self.table),
            "runs": len(self.runs),
            "images": len(self.images.rows) if self.images else 0,
            "baseline": None if self.single else self.baseline,
            "left_out": self.left_out or None,
        }


def page_of(
    paths: Sequence[Path],
    progress: Progress,
    *,
    baseline: str | None = None,
    metric: str = MIOU,
    names: Sequence[str] = (),
    question: str | None = None,
    images: int = 4,
    data_root: Path | None = None,
    device: str | None = None,
) -> Page:
    """Return the page of studies, folders of runs, and single runs.

    Args:
        question: by default the first comment of the plan of a single study.
        images: see :func:`make_page`.

    Raises:
        WeightsMissing: a path contains no run, or no run is finished.
        UsageError: the runs cannot be compared; see ``compare_records``.
    """
    runs = collect(paths)
    comparison = compare_records(
        runs.records,
        baseline or runs.baseline,
        metric=metric,
        names=names,
        left_out=runs.left_out,
        data_root=data_root,
    )
    note = question or _note(paths)
    return make_page(
        comparison, progress, note=note, images=images, data_root=data_root, device=device
    )


def make_page(
    comparison: Comparison,
    progress: Progress,
    *,
    note: str = "",
    images: int = 4,
    data_root: Path | None = None,
    device: str | None = None,
) -> Page:
    """Return the page of a comparison.

    Args:
        note: its first line is the question; by default one is made from the names.
        images: validation images that are predicted and whose spectra are measured; 0 for none.
    """
    roles, best = roles_of(comparison), best_row(comparison)
    records = [record for row in comparison.rows for record in row.records]
    single = len(comparison.rows) == 1
    curves = page_curves.run_curves if len(records) == 1 else page_curves.learning_curves
    question, _, about = note.partition("\n")
    predictions, spectra = _measured(comparison, roles, images, progress, data_root, device)
    return Page(
        question=question or page_words.question(comparison),
        about=about.strip(),
        answer=page_words.answer(comparison, best),
        notes=list(comparison.notes),
        facts=page_words.facts(comparison, roles),
        heading=page_curves.label(comparison.number),
        baseline=comparison.baseline,
        single=single,
        table=page_tables.comparison_table(comparison, roles),
        cost=None if single else page_curves.cost_chart(comparison, roles),
        curves=curves(comparison, roles),
        classes=page_tables.class_table(comparison),
        images=predictions,
        spectra=spectra,
        recipes=page_records.recipe_texts(comparison),
        runs=page_records.run_rows(comparison),
        environments=page_records.environments(comparison),
    )


def _measured(
    comparison: Comparison,
    roles: Roles,
    images: int,
    progress: Progress,
    data_root: Path | None,
    device: str | None,
) -> tuple[PageImages | None, PageSpectra | None]:
    """Return what needs the models, and so torch; None for both where ``images`` is 0."""
    if not images:
        return None, None
    from freqkd_cli.report.page_images import page_images
    from freqkd_cli.report.page_spectra import page_spectra

    shown = shown_runs(comparison, roles)
    predictions = page_images(shown, images, progress, data_root=data_root, device=device)
    spectra = page_spectra(shown, images, progress, data_root=data_root, device=device)
    return predictions, spectra


def _note(paths: Sequence[Path]) -> str:
    """Return the note on top of the plan of a single study; else an empty text.

    Its line ``Expected: not yet measured`` is left out, since the page has the results.
    """
    if len(paths) != 1 or not study.is_study(paths[0]):
        return ""
    lines = study.read(paths[0]).plan.note.splitlines()
    return "\n".join(line for line in lines if not line.startswith(UNMEASURED))


def render(page: Page, template: str) -> str:
    """Return a page as text; ``template`` is ``page.html`` or ``page.md``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = markdown_cell
    return environment.get_template(template).render(page=page)


def write_page(text: str, path: Path) -> int:
    """Write a page, complete or not at all, and return its bytes.

    Raises:
        OSError: as :func:`freqkd_cli.runtime.files.write_aside`.
    """
    content = text.encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: file.write(content))
    return len(content)


def markdown_cell(text: object) -> str:
    """Return a text for a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
