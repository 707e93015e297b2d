"""``freqkd recipe schema``: the JSON schema with which editors complete and check recipes."""

from __future__ import annotations

from freqkd_cli.commands._output import print_result


def run() -> None:
    """Print the JSON schema of recipes, for editors.

    An editor that reads it completes keys and marks mistakes while you type.

        freqkd recipe schema > recipe.schema.json
    """
    from freqkd_cli.recipe.describe import schema

    print_result(schema(), True, str)
