"""What a cache records of its teacher beside the fingerprint, so that it can be used without it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from freqkd_cli.features.taps import Tap


class TeacherFacts(BaseModel):
    """The key ``teacher`` of ``index.json``.

    Attributes:
        weights: where the recipe of the dump had them, for messages.
        classes: K of the teacher, before any class map.
        class_names: their names in order, where these are known.
        taps: every tap of the teacher.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    weights: str | None = None
    classes: Annotated[int, Field(gt=0)]
    class_names: tuple[str, ...] | None = None
    taps: tuple[Tap, ...]
