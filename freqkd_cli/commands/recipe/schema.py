"""``freqkd recipe schema``: the JSON schemas with which editors complete and check YAML files."""

from __future__ import annotations

from typing import Annotated

import typer

from freqkd_cli.commands._output import print_result


def run(
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the schema of plans for freqkd sweep.")
    ] = False,
) -> None:
    """Print the JSON schema of recipes, for editors.

    An editor that reads it completes keys and marks mistakes while you type.

        freqkd recipe schema > recipe.schema.json
        freqkd recipe schema --plan > plan.schema.json
    """
    if plan:
        from freqkd_cli.lab.plan_keys import schema
    else:
        from freqkd_cli.recipe.describe import schema

    print_result(schema(), True, str)
