"""Options that several commands share, with one help text each.

A command writes ``sets: Sets = None`` and gets ``--set`` with its help. Sizes are ``H,W``: height
and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from freqkd_cli import registry


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the names of shipped recipes; the shell adds files itself."""
    from freqkd_cli.recipe.shipped import paths

    return [name for name in paths() if name.startswith(incomplete)]


def complete_name(drawer: str) -> Callable[[str], list[str]]:
    """Return a completion of the names in a drawer."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in registry.names(drawer) if name.startswith(incomplete)]

    return complete


def complete_tap(incomplete: str) -> list[str]:
    """Complete the taps that recipes use most; ``freqkd zoo MODEL`` lists all of a model."""
    usual = ("stage1", "stage2", "stage3", "stage4", "encoder", "decoder", "logits")
    return [name for name in usual if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="Name of a shipped recipe, a recipe file, or - for standard input.",
        autocompletion=complete_recipe,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, for example train.lr=1e-3 (repeatable).",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", metavar="DIR", help="Folder of the recipe's data set."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="PATH", help="Where to write.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, metavar="N", help="Random seed; replaces train.seed."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu, cuda, cuda:1 or mps; the default is the first CUDA GPU, else mps, else cpu.",
    ),
]
Nproc = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Share the work among N processes of this machine, one for each GPU or CPU core.",
    ),
]
SplitName = Literal["train", "val", "test"]
Split = Annotated[SplitName, typer.Option("--split", help="Split of the data set.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Use only the first N images.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan and its cost without writing anything."),
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Print more.", show_default=False)
]
Quiet = Annotated[
    int,
    typer.Option(
        "--quiet",
        "-q",
        count=True,
        help="Print only warnings and errors; twice, only errors.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume an interrupted run; start if there is none."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what freqkd wrote there before.")
]
