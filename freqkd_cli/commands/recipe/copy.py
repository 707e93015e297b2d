"""``freqkd recipe copy``: a shipped recipe to start one's own from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freqkd_cli.commands._options import Json, Overwrite, complete_recipe
from freqkd_cli.commands._output import print_result
from freqkd_cli.errors import UsageError


def run(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A shipped recipe.", autocompletion=complete_recipe),
    ],
    dest: Annotated[
        Path | None,
        typer.Argument(metavar="DEST", help="File or folder; NAME.yaml here by default."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Copy a shipped recipe, to change it.

    freqkd recipe copy fastscnn_basic mine.yaml
    """
    from freqkd_cli.recipe.shipped import find

    source = find(name)
    target = dest or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already", tip="another name, or --overwrite")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", tip=f"mkdir -p {target.parent}")
    # Beside the copy there is no schema for editors: its first line then names the shipped one.
    schema = f"$schema={source.with_name('recipe.schema.json')}"
    target.write_text(
        source.read_text(encoding="utf-8").replace("$schema=recipe.schema.json", schema, 1),
        encoding="utf-8",
    )
    print_result({"name": name, "path": target}, as_json, lambda result: str(result["path"]))
