"""``freqkd recipe copy``: a shipped recipe as the start of a new one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from freqkd_cli.commands._options import Json, Overwrite, complete_recipe
from freqkd_cli.commands._output import print_result
from freqkd_cli.errors import UsageError


def run(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of a shipped recipe or plan.", autocompletion=complete_recipe
        ),
    ],
    dest: Annotated[
        Path | None,
        typer.Argument(
            metavar="DEST", help="File or folder to write; the default is NAME.yaml here."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Copy a shipped recipe or plan to a file that you can edit.

    The copy keeps the comments that explain the recipe. It does not keep the results that were
    measured with the shipped one.

        freqkd recipe copy fastscnn_basic mine.yaml
        freqkd recipe copy rivals plan.yaml
    """
    from freqkd_cli.recipe.shipped import copy_text, find
    from freqkd_cli.runtime.files import write_aside

    source = find(name)
    target = dest or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already", tip="another DEST, or --overwrite")
    if not target.parent.is_dir():
        tip = f"mkdir -p {shlex.quote(str(target.parent))}"
        raise UsageError(f"there is no folder {target.parent}", tip=tip)
    text = copy_text(source, target)
    write_aside(target, lambda file: file.write(text.encode(errors="replace")))
    print_result({"name": name, "path": target}, as_json, lambda result: str(result["path"]))
