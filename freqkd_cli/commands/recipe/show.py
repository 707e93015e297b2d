"""``freqkd recipe show``: the recipe that a run would use, with every default."""

from __future__ import annotations

from freqkd_cli.commands._options import Json, RecipeArgument, Sets
from freqkd_cli.commands._output import print_result
from freqkd_cli.runtime.logs import warn


def run(recipe: RecipeArgument, sets: Sets = None, as_json: Json = False) -> None:
    """Print a recipe with every default written out.

    freqkd recipe show quickstart --set train.lr=1e-3
    """
    from freqkd_cli.recipe.load import load
    from freqkd_cli.recipe.resolved import dump, resolved

    loaded = load(recipe, sets or ())
    warn(loaded.warnings)
    print_result(resolved(loaded), as_json, lambda _: dump(loaded))
