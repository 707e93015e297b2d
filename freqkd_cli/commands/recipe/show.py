"""``freqkd recipe show``: what a run would really use."""

from __future__ import annotations

from freqkd_cli.commands._options import Json, RecipeArgument, Sets
from freqkd_cli.commands._output import print_result, warn


def run(recipe: RecipeArgument, sets: Sets = None, as_json: Json = False) -> None:
    """Print a recipe with every default written out.

    freqkd recipe show quickstart --set train.lr=1e-3
    """
    from freqkd_cli.recipe.dump import dump, resolved
    from freqkd_cli.recipe.load import load

    loaded = load(recipe, sets or ())
    warn(loaded.warnings)
    print_result(resolved(loaded), as_json, lambda _: dump(loaded))
