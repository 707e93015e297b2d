"""Figures of matplotlib, drawn off screen: imported late, and quiet where nothing can be cached."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.runtime.files import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.edgecolor": "#8a8a92",
    "axes.grid": True,
    "grid.color": "#e6e6ea",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#4a4a52",
    "ytick.color": "#4a4a52",
    "legend.frameon": False,
    "figure.dpi": 130,
}


def draw_figure(
    path: Path,
    size: tuple[float, float],
    draw: Callable[[Figure], None],
    style: Mapping[str, Any] | None = None,
) -> None:
    """Draw a figure of ``size`` inches and write it as a PNG, its folder made if need be.

    Args:
        style: settings beside :data:`STYLE`.

    Raises:
        OSError: as :func:`freqkd_cli.runtime.files.write_aside`.
    """
    prepare_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({**STYLE, **(style or {})}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Software": "freqkd"}
        write_aside(path, lambda file: figure.savefig(file, format="png", metadata=metadata))


def prepare_matplotlib() -> None:
    """Give matplotlib a temporary folder if the home folder is missing or read-only.

    Otherwise its first import writes warnings. Call this before the first import.
    """
    if "MPLCONFIGDIR" in os.environ or all(map(_writable, _folders())):
        return
    folder = tempfile.mkdtemp(prefix="freqkd-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


def _folders() -> list[Path | None]:
    """Where matplotlib keeps its settings and its font cache; None without a home folder."""
    folders: list[Path | None] = []
    for variable, name in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
        try:
            parent = Path(os.environ.get(variable) or Path.home() / name)
        except RuntimeError:
            parent = None
        folders.append(parent and parent / "matplotlib")
    return folders


def _writable(folder: Path | None) -> bool:
    """Whether a folder is there, or can be made, and files can be written in it."""
    if folder is None:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
