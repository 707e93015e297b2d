"""``freqkd data``: the label doctor."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from freqkd_cli.commands._early import check_recipe
from freqkd_cli.commands._options import DataRoot, Json, RecipeArgument, Sets
from freqkd_cli.commands._output import columns, print_result


def run(
    recipe: RecipeArgument,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option("--split", help="One of them; all that are there by default."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Read every label image, not a sample.")
    ] = False,
    sets: Sets = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Look at a recipe's data and find what is wrong.

    Pixels of each class, and everything that is odd about the label images, with the key that mends it; exit 3 where they cannot be used.
    distill, teacher-dump and eval look at the same sample before they start.

        freqkd data camvid_fastscnn_ce --data-root data/camvid --all
    """
    check_recipe(recipe)
    from freqkd_cli import recipe as recipes
    from freqkd_cli.doctor.diagnosis import describe
    from freqkd_cli.errors import CheckFailed

    loaded = recipes.load(recipe, sets or (), {"data.root": data_root and str(data_root)})
    found = describe(loaded, split, every)
    print_result(found, as_json, _table)
    if found["errors"]:
        things = f"{found['errors']} thing{'s are' if found['errors'] > 1 else ' is'} wrong"
        raise CheckFailed(f"{things} with the labels of {loaded.data.name}")


def _table(found: dict[str, Any]) -> str:
    return "\n\n".join(part for one in found["splits"] for part in _split(one))


def _split(found: dict[str, Any]) -> list[str]:
    if "missing" in found:
        return [f"{found['split']}: {found['missing']}"]
    parts = [f"{found['split']}: {found['looked_at']}"]
    if "per_class" in found:
        whole = sum(row["pixels"] for row in found["per_class"]) + found["void_pixels"] or 1
        rows = [
            (row["name"], f"{100 * row['pixels'] / whole:.2f} %", row["masks"])
            for row in found["per_class"]
        ]
        parts.append(
            columns(
                [
                    ("class", "pixels", "masks"),
                    *rows,
                    ("void", f"{100 * found['void_pixels'] / whole:.2f} %", ""),
                ]
            )
        )
    for finding in found["findings"]:
        said = [f"{name:5}{finding[name]}" for name in ("got", "need", "tip") if finding[name]]
        parts.append(
            "\n  ".join([f"{finding['level']}: {finding['what']}", *said]).replace(
                "\n  tip  ", "\n  try  "
            )
        )
    return parts
