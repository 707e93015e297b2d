"""``freqkd report``: one page about a study or runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._options import DataRoot, Device, Json, Overwrite, Quiet, Verbose
from freqkd_cli.commands._output import check_file, facts, print_result
from freqkd_cli.errors import UsageError

log = logging.getLogger(__name__)

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="STUDY|RUN",
        help="A study of freqkd sweep, run folders, or folders that contain runs.",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Page to write; by default report.html in a single run."
    ),
]
Markdown = Annotated[
    bool,
    typer.Option(
        "--markdown",
        help="Write Markdown instead of HTML, without charts and images; to standard output where "
        "--out is not given.",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="NAME",
        help="Row that differences are taken to; by default that of the study, else labels alone.",
    ),
]
Metric = Annotated[
    str,
    typer.Option("--metric", metavar="NAME", help="Number to compare, such as miou or iou.CLASS."),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="TEXT",
        help="Name of a run, once per run, in order; or of a row of seeds, once per row.",
    ),
]
Images = Annotated[
    int,
    typer.Option(
        "--images",
        min=0,
        metavar="N",
        help="Validation images whose predictions and spectra are shown; 0 runs no model.",
    ),
]
Question = Annotated[
    str | None,
    typer.Option(
        "--question",
        metavar="TEXT",
        help="Heading of the page; by default the first comment of the study's plan.",
    ),
]


def run(
    paths: Paths,
    out: OutFile = None,
    markdown: Markdown = False,
    baseline: Baseline = None,
    metric: Metric = "miou",
    names: Names = None,
    images: Images = 4,
    question: Question = None,
    overwrite: Overwrite = False,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Write one page about a study or runs.

    The page is a single HTML file that needs no network. It has the comparison with its intervals,
    cost against quality, learning curves, scores per class, predictions, spectra, recipes and
    environments. Data or weights that are not here are left out, and the page lists them.

        freqkd report studies/bands --out bands.html
        freqkd report runs/basic
        freqkd report runs/ce runs/basic --markdown
    """
    check_exist(paths, "run folders of freqkd distill, or a study of freqkd sweep")
    out = _file(paths, out, markdown, overwrite)
    from freqkd_cli.report.page import page_of, render, write_page
    from freqkd_cli.report.progress_bars import progress

    page = page_of(
        paths,
        progress(verbose - quiet),
        baseline=baseline,
        metric=metric,
        names=names or (),
        question=question,
        images=0 if markdown else images,
        data_root=data_root,
        device=device,
    )
    text = render(page, "page.md" if markdown else "page.html")
    if out is None:
        print_result({"markdown": text}, as_json, lambda result: result["markdown"])
        return
    result = {"page": out, "bytes": write_page(text, out), **page.to_json()}
    print_result(result, as_json, facts)


def _file(paths: list[Path], out: Path | None, markdown: bool, overwrite: bool) -> Path | None:
    """Return where the page is written; None for standard output.

    Raises:
        UsageError: there is no file name, or the file exists and ``overwrite`` is not given.
    """
    from freqkd_cli.lab.run_record import RECIPE

    check_file("--out", out, ".md" if markdown else ".html")
    if out is None and not markdown:
        if len(paths) > 1 or not (paths[0] / RECIPE).is_file():
            raise UsageError(
                "--out is missing",
                got=f"{len(paths)} folders" if len(paths) > 1 else f"{paths[0]}, not a single run",
                need="the file of the page, such as --out page.html",
            )
        out = paths[0] / "report.html"
    if out is not None and out.exists() and not overwrite:
        option = f"--out {out}" if out.name != "report.html" else str(out)
        raise UsageError(f"{option} exists", tip="--overwrite to replace it, or another --out")
    return out
