"""Charts of a page that are measured: radial spectra of taps, and spectra of their graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli.errors import FreqKDError
from freqkd_cli.report.page_charts import Chart, Series, line_chart
from freqkd_cli.report.page_images import in_one_line
from freqkd_cli.report.page_roles import ShownRun
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.spectrum.graph_measure import graph_spectra
from freqkd_cli.spectrum.locate import SpectrumSource
from freqkd_cli.spectrum.radial import radial_spectra
from freqkd_cli.spectrum.subjects import SpectrumOptions

CUTOFF = 0.25
"""Radial frequency between the two bands whose energies are given."""
GRAPHS = (3, 4)
"""Stages whose graphs are measured."""

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class PageSpectra:
    """Charts of radial spectra and of graph spectra, and what was left out."""

    radial: list[Chart]
    graphs: list[Chart]
    images: int
    notes: list[str]


def page_spectra(
    runs: Sequence[ShownRun],
    count: int,
    progress: Progress,
    *,
    data_root: Path | None = None,
    device: str | None = None,
) -> PageSpectra:
    """Measure the spectra of runs and their teacher on the first ``count`` validation images.

    Large maps are pooled as in ``freqkd spectrum --graph``.
    """
    notes: list[str] = []

    def measured(stages: Sequence[int], graph: bool) -> list[tuple[ShownRun, dict[str, Any]]]:
        options = SpectrumOptions(stages, (), CUTOFF, "val", count, device, data_root)
        measure: Any = graph_spectra if graph else radial_spectra
        documents = []
        for run in runs:
            try:
                spectra = measure(SpectrumSource("run", run.folder), options, progress)
                documents.append((run, spectra.to_json()))
            except (FreqKDError, OSError) as error:
                kind = "graph" if graph else "radial"
                notes.append(f"No {kind} spectra of {run.name}: {in_one_line(error)}.")
        return documents

    radial = measured((), False)
    graphs = measured(GRAPHS, True)
    images = max((document["images"] for _, document in (*radial, *graphs)), default=0)
    return PageSpectra(radial_charts(radial), graph_charts(graphs), images, notes)


def radial_charts(documents: Sequence[tuple[ShownRun, Mapping[str, Any]]]) -> list[Chart]:
    """Return a chart of relative log amplitudes for each tap of ``spectrum --json`` documents."""
    charts = []
    for tap, sides in _by_tap(documents).items():
        energies = ", ".join(
            f"{name} {100 * numbers['high_energy']:.1f} %"
            for name, _, numbers in sides
            if numbers["high_energy"] is not None
        )
        chart = line_chart(
            f"Radial spectrum, {tap}",
            f"Energy above a radial frequency of {CUTOFF:g}: {energies or 'none'}.",
            [
                Series(name, role, numbers["rho"], numbers["relative_log_amplitude"])
                for name, role, numbers in sides
            ],
            x_label="radial frequency (1 = Nyquist)",
            y_label="relative log amplitude",
        )
        charts += [chart] if chart else []
    return charts


def graph_charts(documents: Sequence[tuple[ShownRun, Mapping[str, Any]]]) -> list[Chart]:
    """Return a chart of eigenvalue shares for each stage of ``spectrum --graph --json``."""
    charts = []
    for stage, sides in _by_tap(documents).items():
        ranks = ", ".join(f"{name} {numbers['effective_rank']:.1f}" for name, _, numbers in sides)
        chart = line_chart(
            f"Graph spectrum, {stage}",
            f"Effective rank: {ranks}.",
            [
                Series(
                    name,
                    role,
                    range(1, len(numbers["shares"]) + 1),
                    [100 * share for share in numbers["shares"]],
                )
                for name, role, numbers in sides
            ],
            x_label="number of the eigenvalue",
            y_label="share of the graph, %",
            logarithmic=True,
        )
        charts += [chart] if chart else []
    return charts


def _by_tap(
    documents: Sequence[tuple[ShownRun, Mapping[str, Any]]],
) -> dict[str, list[tuple[str, str, Numbers]]]:
    """Return tap -> (name, role, numbers) of each run, and of the last teacher that is known."""
    taps: dict[str, list[tuple[str, str, Numbers]]] = {}
    teacher: Mapping[str, Numbers] = {}
    for run, document in documents:
        if document["of"] == "student":
            for tap, numbers in document["stages"].items():
                taps.setdefault(tap, []).append((run.name, run.role, numbers))
        teacher = document.get("teacher") or teacher
    for tap, numbers in teacher.items():
        if tap in taps:
            taps[tap].append(("teacher", "teacher", numbers))
    return taps
