"""``freqkd data``: check a data set and draw samples of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._options import DataRoot, Json, RecipeArgument, Sets
from freqkd_cli.commands._output import check_file, columns, print_result

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def run(
    recipe: RecipeArgument,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option("--split", help="Check one split only; by default all that exist."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Decode every image and label image instead of a sample.")
    ] = False,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="Draw samples of the split (default: train) with their labels as a PNG.",
        ),
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", metavar="FILE", hidden=True)] = None,
    sets: Sets = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Check the data set of a recipe.

    Print the share of each class, and every problem of the label images with the recipe key that
    fixes it. Exit with code 3 if the labels cannot be used. distill, teacher-dump and eval check
    the same sample before they start.

        freqkd data camvid_fastscnn_ce --data-root data/camvid --image samples.png
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.doctor.diagnosis import describe
    from freqkd_cli.errors import CheckFailed
    from freqkd_cli.report.progress_bars import progress

    image = image or picture
    check_file("--image", image, ".png")
    loaded = recipes.load(recipe, sets or (), {"data.root": data_root and str(data_root)})
    document = describe(loaded, split, every, progress())
    if image is not None:
        _draw(loaded, split or "train", image)
        document["image"] = str(image)
    print_result(document, as_json, _table)
    if document["errors"]:
        number = document["errors"]
        problems = f"{number} problem{'s' * (number > 1)}"
        raise CheckFailed(f"the labels of {loaded.data.name} have {problems}")


def _draw(recipe: Recipe, split: str, path: Path) -> None:
    from freqkd_cli.build.assemble import build_dataset
    from freqkd_cli.doctor.samples import sample_panels
    from freqkd_cli.report.comparison_image import comparison

    dataset = build_dataset(recipe, split)
    comparison(sample_panels(dataset), dataset.classes, dataset.palette, path, width=320)


def _table(document: dict[str, Any]) -> str:
    parts = [part for split in document["splits"] for part in _split(split)]
    if "image" in document:
        parts.append(f"samples: {document['image']}")
    return "\n\n".join(parts)


def _split(split: dict[str, Any]) -> list[str]:
    if "missing" in split:
        return [f"{split['split']}: {split['missing']}"]
    parts = [f"{split['split']}: {split['looked_at']}"]
    if "per_class" in split:
        parts.append(_shares(split))
    return parts + [_finding(finding) for finding in split["findings"]]


def _shares(split: dict[str, Any]) -> str:
    total = sum(row["pixels"] for row in split["per_class"]) + split["void_pixels"] or 1
    rows = [
        (row["name"], f"{100 * row['pixels'] / total:.2f} %", row["masks"])
        for row in split["per_class"]
    ]
    void = ("void", f"{100 * split['void_pixels'] / total:.2f} %", "")
    return columns([("class", "pixels", "masks"), *rows, void])


def _finding(finding: dict[str, Any]) -> str:
    lines = [f"{finding['level']}: {finding['what']}"]
    for label, name in (("got ", "got"), ("need", "need"), ("try ", "tip")):
        if finding[name]:
            lines.append(f"  {label} {finding[name]}")
    return "\n".join(lines)
