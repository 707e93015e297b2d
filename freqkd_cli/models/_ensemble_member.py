"""One member of an ensemble: what a recipe may say about it, and the model made of that."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from freqkd_cli import registry
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.features.trained_weights import build_trained, names_on_record, trained_classes

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

NO_MEMBERS = ("ensemble", "saved_scores")
"""Models that cannot be members: one is made of others, one has outputs for its own images."""

NORMALISATION = ("mean", "std")
"""Keys of every member that some models read themselves, in units of their own (``onnx``)."""


class Member(BaseModel):
    """The keys of every member. All further keys are arguments of its model."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: str = Field(description="name of a model: a file of models/")
    weights: str | None = Field(
        None, description="weights of the model, or a run folder, as for a teacher"
    )
    class_map: dict[str, str] | None = Field(
        None,
        min_length=1,
        description="class of this member (name or number) -> data class, as for a teacher",
    )
    weight: Positive = Field(1.0, description="weight of this member's probabilities in the mean")
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None, description="number of its classes, where its weights do not contain it"
    )
    mean: Annotated[list[Number], Field(min_length=3, max_length=3)] | None = Field(
        None,
        description="mean of its training images in [0, 1]; that of its weights by default; "
        "of onnx as of a teacher",
    )
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = Field(
        None,
        description="standard deviation of its training images, with the same default and units",
    )

    @model_validator(mode="after")
    def _check_arguments(self) -> Member:
        """Check the keys of the model against its signature, as those of a teacher."""
        problems = self._problems()
        if problems:
            raise ValidationError.from_exception_data("member", problems)
        return self

    @model_serializer(mode="wrap")
    def _without_null(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in fields(self).items() if value is not None}

    def _problems(self) -> list[InitErrorDetails]:
        known = [name for name in registry.names("models") if name not in NO_MEMBERS]
        if self.name not in known:
            hint = registry.did_you_mean(self.name, known)
            text = f"one of {', '.join(known)}{hint}"
            if self.name == "ensemble":
                text = f"a single model as member: {text}"
            return [_problem("value", text, self.name, "name")]
        part, given = registry.arguments("models", self.name), self._given()
        hints = (*type(self).model_fields, *part.model_fields)
        problems = [
            _problem("unknown_key", f"unknown key{registry.did_you_mean(key, hints)}", x, key)
            for key, x in given.items()
            if key not in part.model_fields
        ]
        if given.get("head") == "new":
            text = "keep; class scores of a new head are random"
            problems.append(_problem("value", text, "new", "head"))
        try:
            self.arguments  # noqa: B018 - for its errors
        except ValidationError as error:
            problems += [
                InitErrorDetails(
                    type=entry["type"],
                    loc=entry["loc"],
                    input=entry["input"],
                    ctx=entry.get("ctx", {}),
                )
                for entry in error.errors()
            ]
        return problems

    def _given(self) -> dict[str, Any]:
        """Return the keys for the model, with those of every member that it reads itself."""
        takes = registry.takes("models", self.name)
        shared = {key: getattr(self, key) for key in ("weights", *NORMALISATION) if key in takes}
        given = {key: value for key, value in shared.items() if value is not None}
        return {**(self.__pydantic_extra__ or {}), **given}

    @property
    def run(self) -> str | None:
        """The weights, for a model whose arguments name none."""
        return None if "weights" in registry.takes("models", self.name) else self.weights

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the model's ``build``.

        Raises:
            ValidationError: a value has a wrong type or range.
        """
        part = registry.arguments("models", self.name)
        known = {key: x for key, x in self._given().items() if key in part.model_fields}
        checked = part.model_validate_json(json.dumps(known), strict=True)
        return {key: getattr(checked, key) for key in known}

    def build(self, classes: int) -> Segmenter:
        """Build the model.

        Raises:
            FreqKDError: as its ``build`` does.
        """
        model = build_trained(
            self.name, classes=self.classes or classes, arguments=self.arguments, weights=self.run
        )
        if (self.mean or self.std) and "mean" not in registry.takes("models", self.name):
            own = model.mean.flatten().tolist(), model.std.flatten().tolist()
            model.set_normalisation(self.mean or own[0], self.std or own[1])
        return model

    def names(self) -> dict[int, str]:
        """Return class number -> name of weights on this machine; empty without any names."""
        return names_on_record(self.name, self.arguments, self.run)

    def logits(self, classes: int) -> Tap:
        """Return the tap ``logits`` of the model."""
        listed = registry.find("models", self.name).taps(
            classes=trained_classes(self.run, self.classes or classes), **self.arguments
        )
        return next(tap for tap in listed if tap.name == "logits")


def _problem(kind: str, text: str, value: Any, key: str) -> InitErrorDetails:
    error = PydanticCustomError(kind, "{text}", {"text": text})  # type: ignore[arg-type]
    return InitErrorDetails(type=error, loc=(key,), input=value)
