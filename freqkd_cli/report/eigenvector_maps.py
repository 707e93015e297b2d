"""Figures and the table of ``freqkd spectrum --graph``: spectra of graphs, and their eigenvectors as maps beside the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli.report.plots import INK, MARK, STYLE, save, sign
from freqkd_cli.report.tables import Column, by_stage, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from freqkd_cli.spectrum.graph_result import EigenMaps
    from freqkd_cli.spectrum.graph_result import GraphImage as Picture

_QUIET = "#4a4a52"
_VOID = (0.55, 0.55, 0.58, 1.0)
_CELL = 2.2
"""Inches that one map is wide."""
_OPACITY = 0.72
"""Of a map over its image."""

_READ = "Patches of one colour belong together, red and blue apart; white is neither, grey is void. %: the eigenvalue's share of its graph."
_LIKENESS = "\nBelow each eigenvector of the teacher the student's that is most like it; cos: |cosine| of the two, 1 = the same."


def graph_table(document: Mapping[str, Any]) -> str:
    """One row per stage and model."""
    heads = [
        "stage",
        "model",
        "tap",
        "nodes",
        Column("effective rank", ".1f"),
        Column("first eigenvalue %", ".1f"),
    ]
    heads += [
        Column("first 4 %", ".1f"),
        Column("2nd of Laplacian", ".3f"),
        Column("mean distance px", ".1f"),
    ]
    rows = []
    for stage, present in by_stage(document):
        for role, found in present:
            grid, part, low = "x".join(map(str, found["grid"])), found["shares"], found["laplacian"]
            first, four = (100 * sum(part[:n]) if part else None for n in (1, 4))
            second, distance = low[1] if len(low) > 1 else None, found["distance"]
            rows.append(
                [
                    stage,
                    role,
                    found["tap"],
                    grid,
                    found["effective_rank"],
                    first,
                    four,
                    second,
                    distance,
                ]
            )
    return render(heads, rows, title=f"{document['source']}, {document['images']} images")


def graph_figure(document: Mapping[str, Any], path: Path) -> None:
    """Draw the document of ``freqkd spectrum --graph --json``: one column per stage, student and teacher as two lines.

    Above: the largest eigenvalues as shares of all. Below: the smallest of the normalised Laplacian; values near 0 count groups of nodes
    that hardly touch.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = by_stage(document)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(4.6, 3.0 * len(stages) + 0.8), 6.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(stages), squeeze=False, sharex=True, sharey="row")
        for column, (stage, present) in enumerate(stages):
            for role, found in present:
                _curve(axes[0][column], role, found, [100 * share for share in found["shares"]])
                _curve(axes[1][column], role, found, found["laplacian"])
            ranks = "\n".join(f"{role} {found['effective_rank']:.1f}" for role, found in present)
            _note(axes[0][column], f"effective rank\n{ranks}")
            axes[0][column].set_title(
                f"{stage}   {'x'.join(map(str, present[0][1]['grid']))} nodes", loc="left", pad=8
            )
            axes[1][column].set_xlabel("number of the eigenvalue")
        axes[0][0].set_ylabel("share of the graph, %")
        axes[1][0].set_ylabel("eigenvalue of the Laplacian")
        axes[0][0].set_ylim(bottom=0)
        axes[0][0].xaxis.get_major_locator().set_params(integer=True)
        sign(figure, axes[0], f"Graph spectrum of {document['source']}", document["images"])
        save(figure, path)


def _curve(ax: Axes, role: str, found: Mapping[str, Any], values: Sequence[float]) -> None:
    label = f"{role} ({found['model']})"
    style = {"color": INK[role], "marker": MARK[role], "linewidth": 1.8, "markersize": 3.5}
    ax.plot(range(1, len(values) + 1), values, label=label, **style)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _note(ax: Axes, text: str) -> None:
    ax.text(
        0.97,
        0.97,
        text,
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=_QUIET,
        linespacing=1.35,
    )


def eigenvector_figure(
    pictures: Sequence[Picture], source: str, path: Path, *, image: bool = True
) -> None:
    """Draw leading eigenvectors as maps over the image: for each image and stage the teacher's, and below them the student's.

    Args:
        image: show it, beside the maps and faintly beneath them; without, a figure of data that may not be passed on can be.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(picture, row) for picture in pictures for row in picture.rows]
    columns = int(image) + max(len(row.numbers) for _, row in rows)
    height, width = _box(pictures[0])
    with rc_context(
        {**STYLE, "axes.grid": False, "axes.titleweight": "normal", "axes.titlesize": 8}
    ):
        figure = Figure(
            figsize=(_CELL * columns + 0.5, (_CELL * height / width + 0.27) * len(rows) + 0.9),
            layout="constrained",
        )
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (picture, row) in zip(axes, rows, strict=True):
            first = row is picture.rows[0] or row.likeness is None
            if image:
                _image(line[0], picture, shown=first)
            _eigenvectors(
                line[int(image) :], picture, row, beneath=image, named=first and not image
            )
            _label(line[0], row)
        figure.suptitle(
            f"Leading eigenvectors of the graphs over patches, {source}",
            fontsize=11,
            x=0.01,
            ha="left",
        )
        figure.supxlabel(
            _READ + _LIKENESS * any(row.likeness is not None for _, row in rows),
            fontsize=8,
            color=_QUIET,
            x=0.01,
            ha="left",
        )
        save(figure, path)


def _box(picture: Picture) -> tuple[int, int]:
    """Height and width up to the last valid pixel: the view without its padding."""
    valid = picture.valid.numpy()
    return int(valid.any(1).nonzero()[0].max()) + 1, int(valid.any(0).nonzero()[0].max()) + 1


def _image(ax: Axes, picture: Picture, *, shown: bool) -> None:
    ax.set_axis_off()
    height, width = _box(picture)
    if shown:
        ax.imshow(picture.image.numpy()[:height, :width])
        ax.set_title(picture.name, loc="left")
    else:
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect=height / width)


def _label(ax: Axes, row: EigenMaps) -> None:
    text, place = (
        f"{row.role}  {row.tap}",
        {"rotation": 90, "ha": "right", "va": "center", "transform": ax.transAxes},
    )
    ax.text(-0.06, 0.5, text, color=INK[row.role], **place)


def _eigenvectors(
    line: Sequence[Axes], picture: Picture, row: EigenMaps, *, beneath: bool, named: bool
) -> None:
    """The maps of one row, over the image or on white; ``named``: the first title begins with the picture's name."""
    height, width = _box(picture)
    grey = (
        picture.image.numpy()[:height, :width].mean(-1)
        if beneath
        else np.full((height, width), 255.0)
    )
    for ax in line:
        ax.set_axis_off()
    for column, (ax, number) in enumerate(zip(line, row.numbers, strict=False)):
        _map(
            ax,
            row.maps[column].numpy(),
            grey,
            picture.image.shape[:2],
            opacity=_OPACITY if beneath else 1.0,
        )
        cosine = "" if row.likeness is None else f", cos {row.likeness[column]:.2f}"
        name = f"{picture.name}\n" if named and column == 0 else ""
        ax.set_title(
            f"{name}eigenvector {number}: {100 * row.shares[column]:.0f} %{cosine}", loc="left"
        )


def _map(
    ax: Axes, values: np.ndarray, grey: np.ndarray, size: tuple[int, int], opacity: float
) -> None:
    """One eigenvector over what is beneath; its grid covers the whole view of this size."""
    void = np.isnan(values)
    largest = max(float(np.abs(values[~void]).max()), 1e-12)
    frame = {"extent": (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)}
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
    ax.imshow(
        np.where(void, 0.0, values),
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
        alpha=opacity,
        interpolation="bilinear",
        **frame,
    )
    ax.imshow(
        np.where(void[..., None], _VOID, (0.0, 0.0, 0.0, 0.0)), interpolation="nearest", **frame
    )
    ax.set(xlim=(-0.5, grey.shape[1] - 0.5), ylim=(grey.shape[0] - 0.5, -0.5))
