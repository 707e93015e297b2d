"""``freqkd eval``: score a model on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import DataRoot, Device, Json, Limit, Quiet, Sets, Verbose
from freqkd_cli.commands._output import columns, print_result


def run(
    source: Annotated[str, typer.Argument(help="A run, a model's folder (with --recipe), or a recipe (with --teacher).")],
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "val",
    teacher: Annotated[bool, typer.Option("--teacher", help="Score the recipe's teacher.")] = False,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Whose data to use, where the source does not say.")] = None,
    masks: Annotated[Path | None, typer.Option("--masks", metavar="DIR", help="Write the predicted labels as PNGs.")] = None,
    min_miou: Annotated[float | None, typer.Option("--min-miou", min=0, max=100, help="Exit 3 below this mIoU, in percent.")] = None,
    limit: Limit = None,
    data_root: DataRoot = None,
    sets: Sets = None,
    device: Device = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Score a model: mIoU over one confusion matrix, boundary IoU, parameters, latency.

    Logits are upsampled to the labels' own size before the argmax; classes with an empty union are left out of the mean and named.

        freqkd eval runs/basic --split test --masks out/masks
    """
    from freqkd_cli.engine.evaluate_source import Options, evaluate
    from freqkd_cli.errors import UsageError
    from freqkd_cli.report.progress import progress

    if split not in ("train", "val", "test"):
        raise UsageError(f"there is no split {split!r}", need="train, val or test")
    least = None if min_miou is None else min_miou / 100
    options = Options(split, teacher, recipe, masks, limit or 0, least, data_root, device, tuple(sets or ()))
    print_result(evaluate(source, options, progress(verbose - quiet)), as_json, _table)


def _table(found: dict[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "absent" if value is None else f"{100 * value:.2f}"

    rows: list[tuple[str, Any]] = [(row["name"], percent(row["iou"])) for row in found["per_class"]]
    rows += [("", "")] + [
        (name.replace("_", " "), percent(found[name])) for name in ("miou", "boundary_iou", "pixel_accuracy", "mean_accuracy")
    ]
    height, width = found["latency_size"]
    rows += [
        ("images", str(found["images"])),
        ("parameters", f"{found['parameters']:,}"),
        (f"ms an image, {height}x{width}, {found['device']}, {found['threads']} threads", f"{found['latency_ms']:.1f}"),
    ]
    return columns(rows)
