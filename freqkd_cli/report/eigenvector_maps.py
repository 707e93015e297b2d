"""Figures of ``freqkd spectrum --graph``: graph spectra, and eigenvectors as maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli.report.matplotlib_figure import draw_figure
from freqkd_cli.report.plots import INK, MARK, QUIET, hide_frame, note, title
from freqkd_cli.report.tables import by_stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from freqkd_cli.spectrum.graph_result import EigenMaps, GraphImage

_VOID = (0.55, 0.55, 0.58, 1.0)
_CELL = 2.2
"""Width of one map in inches."""
_OPACITY = 0.72
"""Of a map over its image."""
_STYLE = {"axes.grid": False, "axes.titleweight": "normal", "axes.titlesize": 8}

_READ = (
    "Patches of one color belong together, red and blue apart; white is neither, gray is void. "
    "%: the eigenvalue's share of its graph."
)
_LIKENESS = (
    "\nBelow each eigenvector of the teacher is the student's most similar one; "
    "cos: |cosine| of the two, 1 = the same."
)


def graph_figure(document: Mapping[str, Any], path: Path) -> None:
    """Draw the document of ``freqkd spectrum --graph --json``, one column per stage.

    Student and teacher are two lines. Above are the largest eigenvalues as shares of all; below are
    the smallest of the normalised Laplacian, whose values near 0 count groups of nodes that are
    nearly separate.
    """
    stages = by_stage(document)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, len(stages), squeeze=False, sharex=True, sharey="row")
        for column, (stage, sides) in enumerate(stages):
            for role, numbers in sides:
                shares = [100 * share for share in numbers["shares"]]
                _curve(axes[0][column], role, numbers, shares)
                _curve(axes[1][column], role, numbers, numbers["laplacian"])
            ranks = [f"{role} {numbers['effective_rank']:.1f}" for role, numbers in sides]
            note(axes[0][column], "effective rank\n" + "\n".join(ranks))
            nodes = "x".join(map(str, sides[0][1]["grid"]))
            axes[0][column].set_title(f"{stage}   {nodes} nodes", loc="left", pad=8)
            axes[1][column].set_xlabel("number of the eigenvalue")
        axes[0][0].set_ylabel("share of the graph, %")
        axes[1][0].set_ylabel("eigenvalue of the Laplacian")
        axes[0][0].set_ylim(bottom=0)
        axes[0][0].xaxis.get_major_locator().set_params(integer=True)
        title(figure, axes[0], f"Graph spectrum of {document['source']}", document["images"])

    draw_figure(path, (max(4.6, 3.0 * len(stages) + 0.8), 6.2), draw)


def _curve(ax: Axes, role: str, numbers: Mapping[str, Any], values: Sequence[float]) -> None:
    label = f"{role} ({numbers['model']})"
    style = {"color": INK[role], "marker": MARK[role], "linewidth": 1.8, "markersize": 3.5}
    ax.plot(range(1, len(values) + 1), values, label=label, **style)
    hide_frame(ax)


def eigenvector_figure(
    images: Sequence[GraphImage], source: str, path: Path, *, image: bool = True
) -> None:
    """Draw leading eigenvectors as maps over the image: the teacher's, and below the student's.

    Args:
        image: show it, beside the maps and faintly below them. Without it, the figure may be
            published where the images may not.
    """
    rows = [(shown, row) for shown in images for row in shown.rows]
    columns = int(image) + max(len(row.numbers) for _, row in rows)
    height, width = _box(images[0])

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (shown, row) in zip(axes, rows, strict=True):
            first = row is shown.rows[0] or row.likeness is None
            if image:
                _image(line[0], shown, visible=first)
            named = first and not image
            _eigenvectors(line[int(image) :], shown, row, beneath=image, named=named)
            _label(line[0], row)
        text = f"Leading eigenvectors of the graphs over patches, {source}"
        figure.suptitle(text, fontsize=11, x=0.01, ha="left")
        both = any(row.likeness is not None for _, row in rows)
        style = {"fontsize": 8, "color": QUIET, "x": 0.01, "ha": "left"}
        figure.supxlabel(_READ + _LIKENESS * both, **style)

    size = (_CELL * columns + 0.5, (_CELL * height / width + 0.27) * len(rows) + 0.9)
    draw_figure(path, size, draw, _STYLE)


def _box(shown: GraphImage) -> tuple[int, int]:
    """Height and width up to the last valid pixel: the view without its padding."""
    valid = shown.valid.numpy()
    return int(valid.any(1).nonzero()[0].max()) + 1, int(valid.any(0).nonzero()[0].max()) + 1


def _image(ax: Axes, shown: GraphImage, *, visible: bool) -> None:
    ax.set_axis_off()
    height, width = _box(shown)
    if visible:
        ax.imshow(shown.image.numpy()[:height, :width])
        ax.set_title(shown.name, loc="left")
    else:
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect=height / width)


def _label(ax: Axes, row: EigenMaps) -> None:
    place = {"rotation": 90, "ha": "right", "va": "center", "transform": ax.transAxes}
    ax.text(-0.06, 0.5, f"{row.role}  {row.tap}", color=INK[row.role], **place)


def _eigenvectors(
    line: Sequence[Axes], shown: GraphImage, row: EigenMaps, *, beneath: bool, named: bool
) -> None:
    """The maps of one row, over the image or on white.

    Args:
        named: begin the first title with the name of the image.
    """
    height, width = _box(shown)
    gray = np.full((height, width), 255.0)
    if beneath:
        gray = shown.image.numpy()[:height, :width].mean(-1)
    for ax in line:
        ax.set_axis_off()
    for column, (ax, number) in enumerate(zip(line, row.numbers, strict=False)):
        opacity = _OPACITY if beneath else 1.0
        _map(ax, row.maps[column].numpy(), gray, shown.image.shape[:2], opacity)
        cosine = "" if row.likeness is None else f", cos {row.likeness[column]:.2f}"
        name = f"{shown.name}\n" if named and column == 0 else ""
        share = f"{100 * row.shares[column]:.0f} %"
        ax.set_title(f"{name}eigenvector {number}: {share}{cosine}", loc="left")


def _map(
    ax: Axes, values: np.ndarray, gray: np.ndarray, size: tuple[int, int], opacity: float
) -> None:
    """One eigenvector over ``gray``; its grid covers the whole view of this size."""
    void = np.isnan(values)
    largest = max(float(np.abs(values[~void]).max()), 1e-12)
    frame = {"extent": (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)}
    colors = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest, "interpolation": "bilinear"}
    ax.imshow(gray, cmap="gray", vmin=0, vmax=255)
    ax.imshow(np.where(void, 0.0, values), alpha=opacity, **colors, **frame)
    mask = np.where(void[..., None], _VOID, (0.0, 0.0, 0.0, 0.0))
    ax.imshow(mask, interpolation="nearest", **frame)
    ax.set(xlim=(-0.5, gray.shape[1] - 0.5), ylim=(gray.shape[0] - 0.5, -0.5))
