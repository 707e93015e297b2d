"""The weights of the parts of a loss."""

from __future__ import annotations

from freqkd_cli.errors import RecipeError


def require_a_part(loss: str, **weights: float) -> None:
    """
    Raises:
        RecipeError: all weights are 0, so nothing is compared.
    """
    if not any(weights.values()):
        raise RecipeError(
            f"{loss}: no part has a weight",
            got=", ".join(f"{key} 0" for key in weights),
            need="at least one weight above 0",
            tip="remove the line, or give it weight: 0",
            key=next(iter(weights)),
        )
