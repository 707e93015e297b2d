"""``freqkd spectrum``: where in frequency a model's features lie, and the graphs that they make, stage by stage, student beside teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqkd_cli.commands._early import check_exist, check_recipe, shipped_names
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    Json,
    Quiet,
    Sets,
    Split,
    Verbose,
    complete_tap,
)
from freqkd_cli.commands._output import check_file, print_result
from freqkd_cli.errors import UsageError

if TYPE_CHECKING:
    from freqkd_cli.report.progress_bars import Bars, Lines
    from freqkd_cli.spectrum.locate import Source
    from freqkd_cli.spectrum.look import Look

SourceArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="SOURCE",
        help="A run, cache, recipe or model's folder; the newest nearby by default.",
    ),
]
Graph = Annotated[
    bool,
    typer.Option(
        "--graph",
        help="The graphs over patches instead: their eigenvalues, and their eigenvectors as maps.",
    ),
]
Stages = Annotated[
    list[int] | None,
    typer.Option(
        "--stage", min=1, max=4, metavar="N", help="A stage, counted from 1 (repeatable)."
    ),
]
Taps = Annotated[
    list[str] | None,
    typer.Option(
        "--tap", metavar="NAME", help="Any other tap (repeatable).", autocompletion=complete_tap
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Whose data to use for a model's folder; scenes by default.",
    ),
]
Teacher = Annotated[
    bool, typer.Option("--teacher", help="The teacher of a recipe or a run, alone.")
]
Images = Annotated[
    int, typer.Option("--limit", min=1, metavar="N", help="Only the first N images.")
]
Cutoff = Annotated[
    float,
    typer.Option(
        "--cutoff",
        min=0.0,
        max=1.41,
        metavar="RHO",
        help="What parts low from high, in Nyquist units; no say in --graph.",
    ),
]
Png = Annotated[
    Path | None,
    typer.Option(
        "--png",
        metavar="FILE",
        help="The figure; spectrum.png, or graph_spectrum.png, beside the source by default.",
    ),
]
NoImage = Annotated[
    bool,
    typer.Option(
        "--no-image",
        help="The maps of --graph without the picture, where that may not be passed on.",
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="One row per tap and ring, or eigenvalue."),
]

Answer = tuple[dict[str, Any], Callable[[dict[str, Any]], str]]
"""The document, and what makes a table of it."""


def run(
    source: SourceArgument = None,
    graph: Graph = False,
    stages: Stages = None,
    taps: Taps = None,
    recipe: Recipe = None,
    teacher: Teacher = False,
    split: Split = "val",
    limit: Images = 16,
    cutoff: Cutoff = 0.25,
    png: Png = None,
    csv: Csv = None,
    no_image: NoImage = False,
    data_root: DataRoot = None,
    sets: Sets = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Measure the power spectra of taps, or those of their graphs.

    Radial, student against teacher where both are known; energy shares leave DC out. With --graph a stage is the teacher's keys beside
    the student's features, on the same patches. Without a source the newest run, cache or model below this folder is taken, else the
    embedded teacher.

        freqkd spectrum --stage 3 runs/a

        freqkd spectrum --graph --stage 3 --limit 4
    """
    if source and str(source) not in shipped_names():
        check_exist([source], "a run, a cache, a recipe, or a model folder")
    check_recipe(recipe)
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.spectrum import locate as sources
    from freqkd_cli.spectrum.look import Look

    check_file("--png", png, ".png")
    check_file("--csv", csv, ".csv")
    if no_image and not graph:
        raise UsageError(
            "--no-image leaves the picture out beside the eigenvectors, and without --graph there are none",
            tip="add --graph",
        )
    listener = progress(verbose - quiet)
    found = sources.identify(source) if source else sources.newest(Path.cwd())
    if source is None:
        listener.note(
            f"no source was named: taking {found}{f' ({found.kind})' if found.path else ''}"
        )
    how = Look(
        stages or (),
        taps or (),
        cutoff,
        split,
        limit,
        device,
        data_root,
        sets or (),
        recipe,
        teacher,
    )
    figure = png or (found.path if found.path and found.path.is_dir() else Path()) / (
        "graph_spectrum.png" if graph else "spectrum.png"
    )
    document, table = (
        _graphs(found, how, listener, figure, csv, image=not no_image)
        if graph
        else _frequencies(found, how, listener, figure, csv)
    )
    print_result(document, as_json, table)
    for path in (figure, document.get("maps"), csv):
        if path:
            listener.note(f"written: {path}")


def _frequencies(
    source: Source, how: Look, listener: Lines | Bars, figure: Path, csv: Path | None
) -> Answer:
    from freqkd_cli.report.plots import spectrum_figure
    from freqkd_cli.spectrum.look import look

    spectra = look(source, how, listener)
    spectrum_figure(spectra.to_json(), figure)
    if csv:
        spectra.write_csv(csv)
    return spectra.to_json() | {"png": figure, "csv": csv}, _table


def _graphs(
    source: Source,
    how: Look,
    listener: Lines | Bars,
    figure: Path,
    csv: Path | None,
    *,
    image: bool,
) -> Answer:
    """The figure, and beside it ``..._maps.png`` with the eigenvectors."""
    from freqkd_cli.report.eigenvector_maps import eigenvector_figure, graph_figure, graph_table
    from freqkd_cli.spectrum.graph_look import look_at_graphs

    spectra = look_at_graphs(source, how, listener)
    maps = figure.with_name(f"{figure.stem}_maps.png") if spectra.pictures else None
    graph_figure(spectra.to_json(), figure)
    if maps:
        eigenvector_figure(spectra.pictures, str(source), maps, image=image)
    if csv:
        spectra.write_csv(csv)
    return spectra.to_json() | {"png": figure, "maps": maps, "csv": csv}, graph_table


def _table(document: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import Column, by_stage, render

    cutoff = f"{document['cutoff']:g}"
    shares = [Column(f"low % (rho <= {cutoff})", ".1f"), Column("high %", ".1f")]
    heads = [
        "tap",
        "model",
        "stride",
        "channels",
        *shares,
        Column("log amplitude at Nyquist", ".2f"),
    ]
    rows = [
        [tap, role, found["stride"], found["channels"], *_numbers(found)]
        for tap, present in by_stage(document)
        for role, found in present
    ]
    return render(heads, rows, title=f"{document['source']}, {document['images']} images")


def _numbers(found: dict[str, Any]) -> list[float | None]:
    """Shares in percent, and the relative log amplitude of the ring nearest to Nyquist."""
    shares = [
        None if share is None else 100 * share
        for share in (found["low_energy"], found["high_energy"])
    ]
    nearest = min(range(len(found["rho"])), key=lambda ring: abs(found["rho"][ring] - 1.0))
    return [*shares, found["relative_log_amplitude"][nearest]]
