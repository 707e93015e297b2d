"""Recipes: their keys, how they are read and checked, and how their errors read. No torch here."""

from __future__ import annotations

from freqkd_cli.recipe.load import load, loads
from freqkd_cli.recipe.resolved import dump
from freqkd_cli.recipe.sections import Recipe

__all__ = ["Recipe", "dump", "load", "loads"]
