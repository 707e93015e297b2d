"""``freqkd compare``: recipes over their seeds, and runs side by side."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freqkd_cli.commands._comparing import Request, check, compared, scored
from freqkd_cli.commands._early import check_exist
from freqkd_cli.commands._options import DataRoot, Device, Json, Limit, Quiet, Split, Verbose
from freqkd_cli.commands._output import check_file, print_result
from freqkd_cli.commands._scoring import BatchSize

if TYPE_CHECKING:
    from freqkd_cli.lab.comparison import Comparison

log = logging.getLogger(__name__)


def run(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY|RUN",
            help="Studies of freqkd sweep, folders of runs, or runs of freqkd distill, on the same "
            "data.",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="ROW",
            help="Row that differences are taken to; the default is that of the study, labels "
            "alone, or the first.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="NUMBER",
            help="Number of the runs to compare, such as pixel_accuracy or iou.CLASS; the default "
            "is miou.",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the Markdown table into a section of this file."
        ),
    ] = None,
    section: Annotated[
        str | None,
        typer.Option("--section", metavar="NAME", help="Section of --out to replace."),
    ] = None,
    score: Annotated[
        bool | None,
        typer.Option(
            "--score/--no-score",
            help="Score the models again, or compare the scores in the run folders. The default "
            "is --score for runs, --no-score for studies and with --baseline, --metric, "
            "--markdown or --out.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="Draw the predictions beside the labels into this PNG, for images spread over "
            "the split.",
        ),
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", hidden=True)] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="TEXT",
            help="Name of a run, once per run, in order; or of a row of seeds, once per row.",
        ),
    ] = None,
    split: Split = "val",
    batch_size: BatchSize = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Compare recipes over seeds; score runs and their teacher.

    Runs whose recipes differ in the seed alone are one row. A row has the mean, the standard
    deviation, the difference to the baseline with a 95 % interval over paired seeds, and a verdict.

    For RUN folders, every model and the teacher are scored on the same images first. With --image,
    images of the whole split are drawn, whatever --limit. Tables are in percent, JSON holds
    fractions.

        freqkd compare studies/rivals --out results.md --section rivals
        freqkd compare runs/ce runs/basic --image comparison.png
    """
    check_exist(runs, "studies or run folders, written by freqkd sweep and freqkd distill")
    check_file("--image", image, ".png")
    check_file("--picture", picture, ".png")
    request = Request(
        runs=runs,
        names=tuple(name or ()),
        score=score,
        baseline=baseline,
        metric=metric,
        markdown=markdown,
        out=out,
        section=section,
        image=image or picture,
        split=split,
        limit=limit or 0,
        data_root=data_root,
        device=device,
        batch_size=batch_size,
    )
    check(request)
    if request.scores_models():
        models, rows = scored(request, verbose - quiet)
        log.info("Next: freqkd spectrum RUN --stage 3, or freqkd export RUN --format onnx")
    else:
        models, rows = None, compared(request)
    _write_section(request, rows)
    document = (models or {}) | (rows.to_json() if rows else {})
    print_result(document, as_json, lambda _: _text(request, models, rows))


def _write_section(request: Request, rows: Comparison | None) -> None:
    """Write the Markdown table into its section of ``--out``."""
    if request.out is None or request.section is None or rows is None:
        return
    from freqkd_cli.report.comparison_table import as_markdown
    from freqkd_cli.report.marked_section import write_section

    write_section(request.out, request.section, as_markdown(rows, request.command()))


def _text(request: Request, models: dict[str, Any] | None, rows: Comparison | None) -> str:
    from freqkd_cli.report.comparison_table import as_markdown, as_text

    if rows and request.markdown:
        return as_markdown(rows, request.command())
    parts = [_table_of_models(models)] if models else []
    parts += [as_text(rows)] if rows else []
    parts += [f"section {request.section}: {request.out}"] if request.out else []
    return "\n\n".join(parts)


def _table_of_models(result: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import Column, render
    from freqkd_cli.score.tally import numbers

    models, shown = result["models"], numbers()
    headings = [Column(number.heading, ".2f") for number in shown.values()]
    training = ["", "trained with", Column("steps", ",d")]
    headings = [*training, *headings, Column("parameters", ",d"), Column("ms per image", ".1f")]
    rows = [
        [
            row["name"],
            *_trained_with(row),
            *(number.printed(row[name]) for name, number in shown.items()),
            row["parameters"],
            row["latency_ms"],
        ]
        for row in models
    ]
    table = render(headings, rows, title=f"{models[0]['images']} images, split {result['split']}")
    return f"{table}\nimage: {result['picture']}" if result["picture"] else table


def _trained_with(row: dict[str, Any]) -> tuple[str, int | None]:
    """Return what a model was trained with, in words, and its number of steps."""
    from freqkd_cli.score.supervision import Supervision

    if row["trained_with"] is None:
        return "", None
    trained_with = Supervision(**row["trained_with"])
    return trained_with.in_words(), trained_with.steps
