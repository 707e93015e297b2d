"""The files that ``freqkd spectrum`` writes, and the files that it must not replace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.writable import require_writable
from freqkd_cli.spectrum.locate import SpectrumSource


@dataclass(frozen=True)
class SpectrumFiles:
    """Paths of the figure, the eigenvectors' figure and the table; None is not written."""

    png: Path | None
    maps: Path | None
    csv: Path | None


def choose_files(
    source: SpectrumSource,
    *,
    graph: bool,
    out: Path | None,
    png: Path | None,
    csv: Path | None,
    overwrite: bool,
) -> SpectrumFiles:
    """Return where the figures and the table are written.

    ``out`` gets a figure and a table. Without it, a run folder gets the figure, since freqkd made
    that folder. Other folders get nothing unless ``png`` or ``csv`` names a file.

    Raises:
        UsageError: ``out`` is a file or not empty, or a named file exists, without ``overwrite``.
        FreqKDError: a folder is read-only.
    """
    name = "graph_spectrum" if graph else "spectrum"
    if out is not None:
        _require_free_folder(out, overwrite)
    for option, path in (("png", png), ("csv", csv)):
        _require_free_file(option, path, overwrite)
    if png is not None and graph:
        _require_free_file("png", _maps(png), overwrite)
    folder = out or _run_folder(source)
    png = png or (folder / f"{name}.png" if folder else None)
    csv = csv or (out / f"{name}.csv" if out else None)
    return SpectrumFiles(png, _maps(png) if png and graph else None, csv)


def _maps(png: Path) -> Path:
    return png.with_name(f"{png.stem}_maps.png")


def _run_folder(source: SpectrumSource) -> Path | None:
    if source.kind != "run" or source.path is None or not os.access(source.path, os.W_OK):
        return None
    return source.path


def _require_free_folder(out: Path, overwrite: bool) -> None:
    if out.is_file():
        raise UsageError(f"--out {out} is a file", need="a folder", key="out")
    require_writable("--out", out)
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(
            f"--out {out} is not empty",
            tip="--overwrite, which replaces files of the same names only, or another --out",
            key="out",
        )


def _require_free_file(option: str, path: Path | None, overwrite: bool) -> None:
    if path is None:
        return
    require_writable(f"--{option}", path)
    if path.exists() and not overwrite:
        raise UsageError(
            f"--{option} would replace {path}", tip="--overwrite, or another name", key=option
        )
