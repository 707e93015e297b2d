"""Figures, drawn off screen by matplotlib. They read the documents that ``--json`` prints, so a saved document can be drawn again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.report.tables import by_stage
from freqkd_cli.runtime.files import write_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = {"student": "#D55E00", "teacher": "#0072B2"}
"""Vermillion and blue of Okabe and Ito: told apart by every kind of colour vision, and in print by their dashes."""
DASH = {"student": "-", "teacher": (0, (5, 2))}
MARK = {"student": "o", "teacher": "s"}

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


def spectrum_figure(document: Mapping[str, Any], path: Path) -> None:
    """Draw the document of ``freqkd spectrum --json`` into a PNG: one column per tap, student and teacher as two lines.

    Above: relative log amplitude, which does not depend on a model's scale. Below: power per cell, logarithmic. The dotted line is the
    cutoff; right of rho = 1 only the corners of the Fourier plane remain.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    taps = by_stage(document)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(4.6, 3.0 * len(taps) + 0.8), 6.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(taps), squeeze=False, sharex="col", sharey="row")
        for column, (tap, present) in enumerate(taps):
            _amplitude(axes[0][column], tap, present, document["cutoff"])
            _power(axes[1][column], present, document["cutoff"])
        low, high = axes[0][0].get_ylim()
        axes[0][0].set_ylim(low, high + 0.34 * (high - low))  # room for the notes
        axes[0][0].set_ylabel("relative log amplitude")
        axes[1][0].set_ylabel("power")
        sign(figure, axes[0], f"Radial spectrum of {document['source']}", document["images"])
        save(figure, path)


def sign(figure: Figure, axes: Iterable[Axes], what: str, images: int) -> None:
    """The legend of all that ``axes`` show, below, and what the figure is, above."""
    handles = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"{what}, {images} image{'s' * (images != 1)}", fontsize=11, x=0.01, ha="left")


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(
        path, lambda file: figure.savefig(file, format="png", metadata={"Software": "freqkd"})
    )


def _amplitude(
    ax: Axes, tap: str, present: list[tuple[str, Mapping[str, Any]]], cutoff: float
) -> None:
    for role, found in present:
        _line(ax, role, found, "relative_log_amplitude")
    shares = [
        f"{role} {100 * found['high_energy']:.1f} %"
        for role, found in present
        if found["high_energy"] is not None
    ]
    note = "energy above the cutoff\n" + "\n".join(shares) if shares else "flat"
    ax.text(
        0.97,
        0.97,
        note,
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color="#4a4a52",
        linespacing=1.35,
    )
    _frame(ax, cutoff)
    strides = sorted({found["stride"] for _, found in present})
    ax.set_title(f"{tap}   1/{' and 1/'.join(map(str, strides))}", loc="left", pad=8)
    if len(strides) == 1:
        stride = strides[0]
        top = ax.secondary_xaxis(
            "top", functions=(lambda rho: rho / (2 * stride), lambda cycles: cycles * 2 * stride)
        )
        top.set_xlabel("cycles per image pixel", fontsize=8, color="#4a4a52")
        top.tick_params(labelsize=7.5, colors="#4a4a52")
        ticks = [rho / (2 * stride) for rho in (0, 0.5, 1.0)]
        top.set_xticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])


def _power(ax: Axes, present: list[tuple[str, Mapping[str, Any]]], cutoff: float) -> None:
    for role, found in present:
        _line(ax, role, found, "power")
    if any(value > 0 for _, found in present for value in found["power"]):
        ax.set_yscale("log")
    _frame(ax, cutoff)
    ax.set_xlabel("radial frequency rho (1 = Nyquist)")


def _line(ax: Axes, role: str, found: Mapping[str, Any], key: str) -> None:
    label = f"{role} ({found['model']})" if found["model"] != role else role
    marker = MARK[role] if len(found["rho"]) <= 24 else None
    style = {
        "color": INK[role],
        "linestyle": DASH[role],
        "linewidth": 1.8,
        "marker": marker,
        "markersize": 3.5,
    }
    ax.plot(found["rho"], found[key], label=label, **style)


def _frame(ax: Axes, cutoff: float) -> None:
    ax.axvspan(1.0, 2**0.5, color="#f2f2f5", zorder=0, linewidth=0)
    ax.axvline(cutoff, color="#4a4a52", linestyle=":", linewidth=1.2)
    ax.set_xlim(0, 2**0.5)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0, 1.25])
    ax.set_xticklabels(["0", "", "0.5", "", "1", ""])
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
