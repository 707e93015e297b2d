"""``freqkd spectrum``: where in frequency a model's features lie, stage by stage, student beside teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import DataRoot, Device, Json, Quiet, Sets, Split, Verbose, complete_tap
from freqkd_cli.commands._output import check_file, print_result


def run(
    source: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="A run, cache, recipe or model's folder; the newest nearby by default.")
    ] = None,
    stages: Annotated[
        list[int] | None, typer.Option("--stage", min=1, max=4, metavar="N", help="A stage, counted from 1 (repeatable).")
    ] = None,
    taps: Annotated[
        list[str] | None, typer.Option("--tap", metavar="NAME", help="Any other tap (repeatable).", autocompletion=complete_tap)
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="RECIPE", help="Whose data to use for a model's folder; scenes by default.")
    ] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="The teacher of a recipe or a run, alone.")] = False,
    split: Split = "val",
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Only the first N images.")] = 16,
    cutoff: Annotated[
        float, typer.Option("--cutoff", min=0.0, max=1.41, metavar="RHO", help="What parts low from high, in Nyquist units.")
    ] = 0.25,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="The figure; spectrum.png beside the source by default.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="One row per tap and ring.")] = None,
    data_root: DataRoot = None,
    sets: Sets = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Measure the radial power spectrum of a model's taps.

    Student against teacher where both are known. Energy shares leave DC out. Without a source the newest run, cache or model below this
    folder is taken, else the embedded teacher.

        freqkd spectrum --stage 3 runs/a
    """
    from freqkd_cli.engine import spectrum_source as sources
    from freqkd_cli.engine.spectrum import wanted_taps
    from freqkd_cli.report.plots import spectrum_figure
    from freqkd_cli.report.progress import progress

    check_file("--png", png, ".png")
    check_file("--csv", csv, ".csv")
    listener = progress(verbose - quiet)
    found = sources.identify(source) if source else sources.newest(Path.cwd())
    if source is None:
        listener.note(f"no source was named: taking {found}{f' ({found.kind})' if found.path else ' on scenes'}")
    wanted = wanted_taps(stages or (), taps or ())
    look = sources.Look(wanted, bool(stages or taps), cutoff, split, limit, device, data_root, sets or (), recipe, teacher)
    spectra = sources.look(found, look, listener)
    figure = png or (found.path if found.path and found.path.is_dir() else Path()) / "spectrum.png"
    document = spectra.to_json()
    spectrum_figure(document, figure)
    if csv:
        spectra.write_csv(csv)
    print_result(document | {"png": figure, "csv": csv}, as_json, _table)
    for path in (figure, csv):
        if path:
            listener.note(f"written: {path}")


def _table(document: dict[str, Any]) -> str:
    from freqkd_cli.report.tables import Column, render

    cutoff = f"{document['cutoff']:g}"
    shares = [Column(f"low % (rho <= {cutoff})", ".1f"), Column("high %", ".1f")]
    heads = ["tap", "model", "stride", "channels", *shares, Column("log amplitude at Nyquist", ".2f")]
    sides = [(document["of"], document["stages"]), ("teacher", document.get("teacher", {}))]
    rows = []
    for tap in dict.fromkeys(name for _, side in sides for name in side):
        for role, side in sides:
            if tap in side:
                rows.append([tap, role, side[tap]["stride"], side[tap]["channels"], *_numbers(side[tap])])
    return render(heads, rows, title=f"{document['source']}, {document['images']} images")


def _numbers(found: dict[str, Any]) -> list[float | None]:
    """Shares in percent, and the relative log amplitude of the ring nearest to Nyquist."""
    shares = [None if share is None else 100 * share for share in (found["low_energy"], found["high_energy"])]
    nearest = min(range(len(found["rho"])), key=lambda ring: abs(found["rho"][ring] - 1.0))
    return [*shares, found["relative_log_amplitude"][nearest]]
