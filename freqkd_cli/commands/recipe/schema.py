"""``freqkd recipe schema``: for editors that complete and check YAML."""

from __future__ import annotations

from freqkd_cli.commands._output import print_result


def run() -> None:
    """Print the JSON schema of recipes, for editors.

    With it an editor completes and checks as one types.

    freqkd recipe schema > recipe.schema.json
    """
    from freqkd_cli.recipe.describe import schema

    print_result(schema(), True, str)
