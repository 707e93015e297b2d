"""The values that recipe keys take, and the base of all sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
ProperShare = Annotated[float, Field(gt=0, lt=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Side = Annotated[int, Field(ge=32, le=8192)]
_DURATION = r"^[0-9]+(\.[0-9]+)?(s|min|h)$"
_LOSS_ID = r"^[A-Za-z_][A-Za-z0-9_-]*$"
PATTERNS: dict[str, str] = {
    _DURATION: "a time such as 90s, 10min or 2h",
    _LOSS_ID: "letters, digits, _ and -, not a digit first",
}
"""Pattern of a text -> what it needs, in words."""

Duration = Annotated[str, Field(pattern=_DURATION)]
LossId = Annotated[str, Field(pattern=_LOSS_ID)]


class Section(BaseModel):
    """A section of a recipe: no unknown keys, no coercion, no change after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )
