"""Command lines that a message offers, with what was given beside the recipe's file."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from freqkd_cli.recipe import shipped
from freqkd_cli.recipe.sections import STDIN, Recipe

OPTIONS = {"data.root": "--data-root", "train.seed": "--seed"}
"""Recipe keys that have an option of their own."""


def distill_command(recipe: Recipe, cache: Path) -> str:
    """Return the ``freqkd distill`` line that trains from a cache, quoted for a shell."""
    source = source_word(recipe)
    run = Path("runs") / ("recipe" if source == "-" else Path(source).stem)
    words = [source, "--cache", str(cache), "--out", str(run), *given_words(recipe)]
    return shlex.join(["freqkd", "distill", *words])


def eval_command(recipe: Recipe, split: str = "val") -> str:
    """Return the ``freqkd eval`` line that scores the teacher on a split, quoted for a shell."""
    without_seed = {key: value for key, value in recipe.options.items() if key != "train.seed"}
    recipe = replace(recipe, options=without_seed)
    of_split = [] if split == "val" else ["--split", split]
    words = [source_word(recipe), "--teacher", *of_split, *given_words(recipe)]
    return shlex.join(["freqkd", "eval", *words])


def source_word(recipe: Recipe) -> str:
    """Return the recipe as a command names it: a shipped one by its name."""
    if recipe.source == STDIN:
        return "-"
    name = Path(recipe.source).stem
    return name if str(shipped.paths().get(name)) == recipe.source else recipe.source


def given_words(recipe: Recipe) -> list[str]:
    """Return what was given beside the recipe's file."""
    words = []
    for assignment in recipe.sets:
        words += ["--set", assignment]
    for key, option in OPTIONS.items():
        if key in recipe.options:
            words += [option, str(recipe.options[key])]
    return words
