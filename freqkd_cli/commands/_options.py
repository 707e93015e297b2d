"""Options that several commands share, spelled once. A command writes ``sets: Sets = None`` and gets ``--set`` with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from freqkd_cli import registry


def complete_recipe(incomplete: str) -> list[str]:
    """Names of shipped recipes; the shell adds files of its own."""
    from freqkd_cli.recipe.shipped import paths

    return [name for name in paths() if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    return [name for name in registry.names("models") if name.startswith(incomplete)]


def complete_loss(incomplete: str) -> list[str]:
    return [name for name in registry.names("losses") if name.startswith(incomplete)]


def complete_tap(incomplete: str) -> list[str]:
    """The taps that recipes use most; a model's own are listed by ``freqkd zoo``."""
    usual = ("stage1", "stage2", "stage3", "stage4", "encoder", "decoder", "logits")
    return [name for name in usual if name.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A file, - for standard input, or the name of a shipped recipe.",
        autocompletion=complete_recipe,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the recipe, for example train.lr=1e-3 (repeatable).",
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Folder of the recipe's data set.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="PATH", help="Where to write.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, metavar="N", help="Instead of the recipe's train.seed."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, mps; the best there is by default."
    ),
]
Split = Annotated[Literal["train", "val", "test"], typer.Option("--split", help="Which pictures.")]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N images.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done and written, and do nothing.")
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more.", show_default=False)
]
Quiet = Annotated[
    int, typer.Option("--quiet", "-q", count=True, help="Say less.", show_default=False)
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on where an interrupted run stopped; start where there is none."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
