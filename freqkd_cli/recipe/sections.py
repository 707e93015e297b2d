"""What a recipe may say: its sections, typed, strict and frozen, and the :class:`Recipe` that holds them.

A section also carries ``arguments``: the keys that belong to the part it names (the signature of that file's ``build``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from freqkd_cli.errors import RecipeError
from freqkd_cli.recipe.problems import Place, Problem, as_error

VERSION = 1

STDIN = "<stdin>"
"""What a recipe that came through standard input is called."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Side = Annotated[int, Field(ge=32, le=8192)]
Duration = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(s|min|h)$")]
LossId = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """A part of a recipe: no unknown keys, no coercion, no change after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class Augment(Section):
    """How a view of an image is drawn."""

    scale: tuple[Positive, Positive] = Field(
        (1.0, 1.0), description="smallest and largest zoom of the image before the crop"
    )
    flip: bool = Field(True, description="mirror half of the views left to right")
    color: Share = Field(
        0.0, description="strength of the change of brightness, contrast, saturation and hue"
    )
    blur: Share = Field(0.0, description="probability of a gaussian blur")
    isolate: Share = Field(
        0.0,
        description="probability that only one small box of the crop is kept, the rest grey and ignored",
    )

    @field_validator("scale")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"got {list(value)}, need the smaller zoom first")
        return value


class Data(Section):
    """The images, and how views are drawn from them."""

    name: str = Field(description="a data set: a file of datasets/")
    root: Path | None = Field(None, description="its folder; --data-root goes before it")
    size: tuple[Side, Side] = Field(description="height and width of a view in pixels")
    views: CountOrZero = Field(
        0, description="stored views per image, 0 = endless (a live teacher only)"
    )
    view_seed: CountOrZero = Field(
        0, description="the key of the views, apart from train.seed so that seeds share a cache"
    )
    teacher_sees: Literal["same", "clean"] = Field(
        "same", description="whether colour changes reach the teacher"
    )
    workers: CountOrZero = Field(
        1, description="processes that read and cut images, 0 = none beside the main one"
    )
    augment: Augment = Field(Augment(), description="how a view is drawn")
    arguments: dict[str, Any] = Field({}, description="what the data set itself is told")


class Teacher(Section):
    """The frozen network that is copied."""

    name: str = Field(description="a model: a file of models/")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="the precision the teacher runs in"
    )
    weights: str | None = Field(
        None,
        description="a folder with a trained model, for models that read no weights of their own",
    )
    class_map: dict[str, str] | None = Field(
        None,
        min_length=1,
        description="teacher class (name or number) -> data class; several may become one, others are left out",
    )
    arguments: dict[str, Any] = Field({}, description="what the model itself is told")


class Student(Section):
    """The network that is trained."""

    name: str = Field(description="a model: a file of models/")
    weights: str | None = Field(
        None,
        description="a run's folder to start from, for models that read no weights of their own",
    )
    arguments: dict[str, Any] = Field({}, description="what the model itself is told")


class LossLine(Section):
    """One term of the total loss."""

    name: str = Field(description="a loss: a file of losses/")
    id: LossId = Field(
        "",
        description="what logs and --set call this line; its name where left out",
        validate_default=False,
    )
    weight: NotNegative = Field(1.0, description="lambda; a line of weight 0 is not built")
    warmup: Share = Field(0.0, description="share of all steps over which the weight grows from 0")
    arguments: dict[str, Any] = Field({}, description="what the loss itself is told")


class Train(Section):
    """How long, how fast and in which precision."""

    epochs: Count | None = Field(
        None, description="passes over the training images; either this or steps"
    )
    steps: Count | None = Field(None, description="optimizer steps; either this or epochs")
    batch_size: Count = Field(8, description="views in one forward pass, of all processes together")
    accumulate: Count = Field(1, description="forward passes per optimizer step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="what moves the weights")
    lr: Positive = Field(1e-3, description="largest learning rate")
    weight_decay: NotNegative = Field(0.01, description="pull of the weights towards 0")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd")
    schedule: Literal["poly", "one_cycle", "constant"] = Field(
        "poly", description="how the learning rate moves"
    )
    power: Positive = Field(0.9, description="of the poly schedule")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of all steps over which the learning rate grows from 0"
    )
    clip: NotNegative = Field(0.0, description="largest norm of the gradient, 0 = off")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the averaged weights, 0 = off"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the student's forward pass"
    )
    channels_last: Literal["auto"] | bool = Field("auto", description="memory layout of the images")
    seed: CountOrZero = Field(0, description="rules initialisation, order, dropout and loss noise")
    eval_every: CountOrZero = Field(
        0, description="epochs between evaluations, 0 = only at the end"
    )
    eval_limit: CountOrZero = Field(
        0, description="images of an evaluation during training, 0 = all"
    )
    save_every: CountOrZero | Duration = Field(
        0,
        description="steps (500) or time (10min) between checkpoints, beside those at epoch ends; "
        "0 = epoch ends only",
    )
    previews: bool = Field(True, description="draw curves.png and samples.png at every evaluation")
    freeze_norm: bool = Field(
        False, description="keep the running statistics of batch norm as they are"
    )
    freeze_student: bool = Field(
        False,
        description="a control: train the losses' own parameters alone, the student stays as it is",
    )


SECTIONS: Mapping[str, type[Section]] = {
    "data": Data,
    "teacher": Teacher,
    "student": Student,
    "losses": LossLine,
    "train": Train,
}
DRAWER: Mapping[str, str] = {
    "data": "datasets",
    "teacher": "models",
    "student": "models",
    "losses": "losses",
}
"""Where the part that a section names is looked up."""


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, checked. Two recipes are equal when they say the same, wherever it was written.

    Attributes:
        source: the file as the user named it, :data:`STDIN` for standard input.
        sets, options: what was said beside the file, as ``load`` was given it; what was not given is left out.
        warnings: what is allowed but probably not meant.
        places: key path -> where it was written, for :meth:`locate`.
    """

    data: Data
    student: Student
    losses: tuple[LossLine, ...]
    train: Train
    teacher: Teacher | None = None
    version: int = VERSION
    source: str = field(default="recipe", compare=False)
    sets: tuple[str, ...] = field(default=(), compare=False)
    options: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    places: Mapping[str, Place] = field(default_factory=dict, compare=False, repr=False)

    def locate(self, key: str) -> str:
        """``file:line:column`` of a key path such as ``losses.2.student``; of the nearest section around it where it is not written."""
        return str(self._place(key))

    def _place(self, key: str) -> Place:
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key, Place(0, 0, 0, self.source))

    def error(self, problems: Iterable[tuple[str, str]]) -> RecipeError:
        """Problems found by others, as (key path, what is wrong), located and told at once."""
        return as_error(
            [Problem(self._place(key), key, text) for key, text in problems], self.source
        )
