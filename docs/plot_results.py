"""Draw ``results.png`` from ``results.csv``: the mean of each recipe and the range of its seeds."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def read(path: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """Group -> (recipe, mIoU of every seed in percent), in the order of the file."""
    groups: dict[str, list[tuple[str, list[float]]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = [float(row[key]) for key in row if key.startswith("seed") and row[key]]
            groups[row["group"]].append((row["recipe"], values))
    return groups


def main() -> None:
    groups = read(HERE / "results.csv")
    figure, axes = plt.subplots(1, len(groups), figsize=(12, 3.4), layout="constrained")
    for axis, (group, rows) in zip(axes, groups.items(), strict=True):
        names = [re.sub("^(camvid_)?(fastscnn|vmamba)_", "", name) for name, _ in rows]
        means = [sum(values) / len(values) for _, values in rows]
        down = [mean - min(values) for mean, (_, values) in zip(means, rows, strict=True)]
        up = [max(values) - mean for mean, (_, values) in zip(means, rows, strict=True)]
        axis.errorbar(means, range(len(rows)), xerr=[down, up], fmt="o", color="#1f4e79", capsize=3)
        axis.axvline(means[0], color="#999999", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(rows)), names)
        axis.invert_yaxis()
        axis.set_title(group, fontsize=10)
        axis.set_xlabel("mIoU (%), mean and range of the seeds")
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(HERE / "results.png", dpi=110)


if __name__ == "__main__":
    main()
