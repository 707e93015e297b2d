"""``freqkd spectrum``: power spectra of a model's taps, and spectra of their graphs."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqkd_cli.commands._early import check_exist, check_recipe, shipped_names
from freqkd_cli.commands._options import (
    DataRoot,
    Device,
    Json,
    Overwrite,
    Quiet,
    Sets,
    SplitName,
    Verbose,
    complete_tap,
)
from freqkd_cli.commands._output import check_file, print_result
from freqkd_cli.errors import UsageError

if TYPE_CHECKING:
    from freqkd_cli.spectrum.figure_files import SpectrumFiles
    from freqkd_cli.spectrum.graph_result import GraphSpectra
    from freqkd_cli.spectrum.locate import SpectrumSource
    from freqkd_cli.spectrum.radial_result import RadialSpectra

log = logging.getLogger(__name__)

SourceArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="SOURCE",
        help="A run, a cache, a recipe or a model's folder; by default the newest run, cache or "
        "model below this folder, else the embedded teacher.",
    ),
]
Graph = Annotated[
    bool,
    typer.Option(
        "--graph",
        help="Measure the graphs over patches: their eigenvalues, and eigenvectors as maps.",
    ),
]
Stages = Annotated[
    list[int] | None,
    typer.Option(
        "--stage", min=1, max=4, metavar="N", help="Stage to measure, from 1 (repeatable)."
    ),
]
Taps = Annotated[
    list[str] | None,
    typer.Option(
        "--tap",
        metavar="NAME",
        help="Any other tap to measure (repeatable).",
        autocompletion=complete_tap,
    ),
]
DataRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Recipe that defines the images for a model's folder; scenes by default.",
    ),
]
TeacherOnly = Annotated[
    bool, typer.Option("--teacher", help="Measure only the teacher of a recipe or a run.")
]
Split = Annotated[
    SplitName | None,
    typer.Option("--split", help="Split of the data set, by default val; a cache has its own."),
]
Images = Annotated[
    int, typer.Option("--limit", min=1, metavar="N", help="Use only the first N images.")
]
Cutoff = Annotated[
    float,
    typer.Option(
        "--cutoff",
        min=0.0,
        max=1.41,
        metavar="RHO",
        help="Cutoff between low and high, in Nyquist units (ignored with --graph).",
    ),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder for the figure and the table; by default a run folder gets the figure and "
        "other sources write no file.",
    ),
]
Png = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="File for the figure.")]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv", metavar="FILE", help="File for the table: one row per tap and ring or eigenvalue."
    ),
]
NoImage = Annotated[
    bool,
    typer.Option(
        "--no-image",
        help="Draw the --graph maps without the input image (for data you may not share).",
    ),
]


def run(
    source: SourceArgument = None,
    graph: Graph = False,
    stages: Stages = None,
    taps: Taps = None,
    recipe: DataRecipe = None,
    teacher: TeacherOnly = False,
    split: Split = None,
    limit: Images = 16,
    cutoff: Cutoff = 0.25,
    out: OutFolder = None,
    png: Png = None,
    csv: Csv = None,
    no_image: NoImage = False,
    overwrite: Overwrite = False,
    data_root: DataRoot = None,
    sets: Sets = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Measure power spectra of taps, or spectra of their graphs.

    Spectra are radial, and a student is shown beside its teacher where both are known. Energy
    shares leave DC out. With --graph, a stage is the graph of the teacher's keys beside that of the
    student's features, on the same patches.

        freqkd spectrum --stage 3 runs/a

        freqkd spectrum --graph --stage 3 --limit 4
    """
    if source and str(source) not in ("-", *shipped_names()):
        check_exist([source], "a run, a cache, a recipe, or a model folder")
    check_recipe(recipe)
    from freqkd_cli.report.progress_bars import progress
    from freqkd_cli.report.spectrum_tables import graph_table, radial_table
    from freqkd_cli.spectrum import locate
    from freqkd_cli.spectrum.figure_files import choose_files
    from freqkd_cli.spectrum.graph_measure import graph_spectra
    from freqkd_cli.spectrum.radial import radial_spectra
    from freqkd_cli.spectrum.subjects import SpectrumOptions

    check_file("--png", png, ".png")
    check_file("--csv", csv, ".csv")
    if no_image and not graph:
        raise UsageError("--no-image has no effect without --graph", tip="add --graph")
    place = locate.identify(source) if source else locate.newest(Path.cwd())
    if source is None:
        log.info("no source was given: using %s%s", place, f" ({place.kind})" if place.path else "")
    files = choose_files(place, graph=graph, out=out, png=png, csv=csv, overwrite=overwrite)
    options = SpectrumOptions(
        stages=stages or (),
        taps=taps or (),
        cutoff=cutoff,
        split=split,
        limit=limit,
        device=device,
        data_root=data_root,
        sets=sets or (),
        recipe=recipe,
        teacher=teacher,
    )
    measure = graph_spectra if graph else radial_spectra
    spectra: Any = measure(place, options, progress(verbose - quiet))
    if graph:
        document = _write_graphs(spectra, files, image=not no_image)
    else:
        document = _write_radial(spectra, files)
    print_result(document, as_json, graph_table if graph else radial_table)
    _log_files(place, document, graph, f" --recipe {shlex.quote(recipe)}" if recipe else "")


def _write_radial(spectra: RadialSpectra, files: SpectrumFiles) -> dict[str, Any]:
    """Write the figure and the table, and return the document."""
    from freqkd_cli.report.plots import spectrum_figure

    document = spectra.to_json()
    if files.png:
        spectrum_figure(document, files.png)
    if files.csv:
        spectra.write_csv(files.csv)
    return document | {"png": files.png, "csv": files.csv}


def _write_graphs(spectra: GraphSpectra, files: SpectrumFiles, *, image: bool) -> dict[str, Any]:
    """Write the figure, the figure of the eigenvectors and the table; return the document."""
    from freqkd_cli.report.eigenvector_maps import eigenvector_figure, graph_figure

    document = spectra.to_json()
    maps = files.maps if spectra.drawn else None
    if files.png:
        graph_figure(document, files.png)
    if maps:
        eigenvector_figure(spectra.drawn, spectra.source, maps, image=image)
    if files.csv:
        spectra.write_csv(files.csv)
    return document | {"png": files.png, "maps": maps, "csv": files.csv}


def _log_files(source: SpectrumSource, document: dict[str, Any], graph: bool, data: str) -> None:
    for path in filter(None, (document["png"], document.get("maps"), document["csv"])):
        log.info("written: %s", path)
    if not document["png"]:
        log.info("no figure written; --out DIR or --png FILE writes one")
    place = "" if source.path is None else f" {shlex.quote(str(source.path))}"
    if graph and source.kind == "run":
        log.info("Next: freqkd export%s", place)
    elif not graph:
        log.info("Next: freqkd spectrum%s%s --graph", place, data)
