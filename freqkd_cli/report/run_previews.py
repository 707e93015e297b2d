"""Previews of a run while it trains: its curves, and sample predictions beside the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli.report.comparison_image import comparison
from freqkd_cli.report.matplotlib_figure import draw_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from freqkd_cli.images.dataset import Dataset

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito: distinct for every kind of color vision."""
DASHES = ("-", "--", "-.", ":")


class RunPreviews:
    """Draws what :class:`freqkd_cli.train.evaluation.Evaluation` collects."""

    def curves(self, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
        """Draw a PNG from the rows of ``metrics.jsonl``.

        Left: every weighted loss term and their total over the steps, logarithmic where all are
        positive. Right: mIoU on the validation split.
        """
        losses = [row for row in rows if "weighted" in row]
        scores = [row for row in rows if row.get("val", {}).get("miou") is not None]

        def draw(figure: Figure) -> None:
            left, right = figure.subplots(1, 2)
            _draw_losses(left, losses)
            steps = [row["step"] for row in scores]
            values = [100 * row["val"]["miou"] for row in scores]
            right.plot(steps, values, color=COLORS[0], marker="o", markersize=3.5)
            right.set(title="mIoU during training", xlabel="step", ylabel="mIoU")

        draw_figure(path, (8.4, 3.4), draw)

    def samples(
        self, panels: Sequence[Mapping[str, np.ndarray]], dataset: Dataset, path: Path
    ) -> None:
        """Draw a PNG with a line per image: the image, its ground truth, the prediction."""
        comparison(list(panels), dataset.classes, dataset.palette, path)


def _draw_losses(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the weighted terms and the total of every logged step."""
    steps = [row["step"] for row in rows]
    terms = {"total": [row["total"] for row in rows]}
    for name in rows[-1]["weighted"] if rows else ():
        terms[name] = [row["weighted"].get(name, float("nan")) for row in rows]
    if len(terms) == 2:  # a single loss is the total
        terms.pop("total")
    for number, (name, values) in enumerate(terms.items()):
        color = COLORS[-1] if name == "total" else COLORS[number % (len(COLORS) - 1)]
        dash = DASHES[number // len(COLORS) % len(DASHES)]
        ax.plot(steps, values, label=name, color=color, linestyle=dash, linewidth=1.4)
    if rows and all(value > 0 for values in terms.values() for value in values):
        ax.set_yscale("log")
    ax.set(title="weighted losses", xlabel="step")
    if terms:
        ax.legend(fontsize=7.5)
