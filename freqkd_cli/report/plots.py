"""Figures of radial spectra. They read the documents that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.report.matplotlib_figure import draw_figure
from freqkd_cli.report.tables import by_stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = {"student": "#D55E00", "teacher": "#0072B2"}
"""Vermillion and blue of Okabe and Ito, which every kind of color vision can tell apart."""
DASH = {"student": "-", "teacher": (0, (5, 2))}
MARK = {"student": "o", "teacher": "s"}
QUIET = "#4a4a52"
"""Color of notes."""

Side = tuple[str, Mapping[str, Any]]
"""Role (student or teacher), and its numbers of one tap."""


def spectrum_figure(document: Mapping[str, Any], path: Path) -> None:
    """Draw the document of ``freqkd spectrum --json`` into a PNG, one column per tap.

    Student and teacher are two lines. Above is the relative log amplitude, which does not depend
    on a model's scale; below is the power per cell, on a logarithmic axis. The dotted line is the
    cutoff. Right of rho = 1 there are only the corners of the Fourier plane.
    """
    taps = by_stage(document)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, len(taps), squeeze=False, sharex="col", sharey="row")
        for column, (tap, sides) in enumerate(taps):
            _amplitude(axes[0][column], tap, sides, document["cutoff"])
            _power(axes[1][column], sides, document["cutoff"])
        low, high = axes[0][0].get_ylim()
        axes[0][0].set_ylim(low, high + 0.34 * (high - low))  # room for the notes
        axes[0][0].set_ylabel("relative log amplitude")
        axes[1][0].set_ylabel("power")
        title(figure, axes[0], f"Radial spectrum of {document['source']}", document["images"])

    draw_figure(path, (max(4.6, 3.0 * len(taps) + 0.8), 6.2), draw)


def title(figure: Figure, axes: Iterable[Axes], text: str, images: int) -> None:
    """Write the title of a figure above, and the legend of all ``axes`` below."""
    handles = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"{text}, {images} image{'s' * (images != 1)}", fontsize=11, x=0.01, ha="left")


def note(ax: Axes, text: str) -> None:
    """Write a note in the upper right corner."""
    style = {"ha": "right", "va": "top", "fontsize": 8, "color": QUIET, "linespacing": 1.35}
    ax.text(0.97, 0.97, text, transform=ax.transAxes, **style)


def _amplitude(ax: Axes, tap: str, sides: Sequence[Side], cutoff: float) -> None:
    for role, numbers in sides:
        _line(ax, role, numbers, "relative_log_amplitude")
    shares = [
        f"{role} {100 * numbers['high_energy']:.1f} %"
        for role, numbers in sides
        if numbers["high_energy"] is not None
    ]
    note(ax, "energy above the cutoff\n" + "\n".join(shares) if shares else "flat")
    _frame(ax, cutoff)
    strides = sorted({numbers["stride"] for _, numbers in sides})
    ax.set_title(f"{tap}   1/{' and 1/'.join(map(str, strides))}", loc="left", pad=8)
    if len(strides) == 1:
        _cycles_axis(ax, strides[0])


def _cycles_axis(ax: Axes, stride: int) -> None:
    """Add an axis above in cycles per image pixel, rho / (2 stride)."""
    both = (lambda rho: rho / (2 * stride), lambda cycles: cycles * 2 * stride)
    top = ax.secondary_xaxis("top", functions=both)
    top.set_xlabel("cycles per image pixel", fontsize=8, color=QUIET)
    top.tick_params(labelsize=7.5, colors=QUIET)
    ticks = [rho / (2 * stride) for rho in (0, 0.5, 1.0)]
    top.set_xticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])


def _power(ax: Axes, sides: Sequence[Side], cutoff: float) -> None:
    for role, numbers in sides:
        _line(ax, role, numbers, "power")
    if any(value > 0 for _, numbers in sides for value in numbers["power"]):
        ax.set_yscale("log")
    _frame(ax, cutoff)
    ax.set_xlabel("radial frequency rho (1 = Nyquist)")


def _line(ax: Axes, role: str, numbers: Mapping[str, Any], key: str) -> None:
    label = f"{role} ({numbers['model']})" if numbers["model"] != role else role
    style = {
        "color": INK[role],
        "linestyle": DASH[role],
        "linewidth": 1.8,
        "marker": MARK[role] if len(numbers["rho"]) <= 24 else None,
        "markersize": 3.5,
    }
    ax.plot(numbers["rho"], numbers[key], label=label, **style)


def _frame(ax: Axes, cutoff: float) -> None:
    ax.axvspan(1.0, 2**0.5, color="#f2f2f5", zorder=0, linewidth=0)
    ax.axvline(cutoff, color=QUIET, linestyle=":", linewidth=1.2)
    ax.set_xlim(0, 2**0.5)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0, 1.25])
    ax.set_xticklabels(["0", "", "0.5", "", "1", ""])
    hide_frame(ax)


def hide_frame(ax: Axes) -> None:
    """Hide the upper and the right line of the frame."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
