"""What a recipe may say, how it is read, and what is said when it is wrong. No torch here, and the only YAML of the program."""

from __future__ import annotations

from freqkd_cli.recipe.load import load, loads
from freqkd_cli.recipe.resolved import digest, dump
from freqkd_cli.recipe.sections import Recipe

__all__ = ["Recipe", "digest", "dump", "load", "loads"]
