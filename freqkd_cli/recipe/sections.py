"""The sections of a recipe, typed, strict and frozen, and the :class:`Recipe` that contains them.

A section also has ``arguments``: the keys of the part that it names, which are the arguments of
that file's ``build``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from freqkd_cli import registry
from freqkd_cli.errors import RecipeError
from freqkd_cli.recipe.data_section import Data, Pool
from freqkd_cli.recipe.learning_rate import SCHEDULES
from freqkd_cli.recipe.problems import Place, Problem, as_error
from freqkd_cli.recipe.value_types import (
    Count,
    CountOrZero,
    Duration,
    LossId,
    NotNegative,
    Positive,
    Section,
    Share,
    ShareBelowOne,
)

VERSION = 1

STDIN = "<stdin>"
"""Name of a recipe that was read from standard input."""


class Teacher(Section):
    """The frozen network that the student learns from."""

    name: str = Field(description="name of a model: a file of models/")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="number format in which the teacher runs"
    )
    weights: str | None = Field(
        None,
        description="folder of a trained model, for models without a weights argument",
    )
    class_map: dict[str, str] | None = Field(
        None,
        min_length=1,
        description="teacher class (name or number) -> data class; several may map to one, "
        "unmapped ones are not compared",
    )
    min_iou: Annotated[float, Field(ge=0, le=100)] = Field(
        10.0,
        description="distill warns of classes for which the teacher's IoU in percent is lower; "
        "0 = the teacher is not scored",
    )
    arguments: dict[str, Any] = Field({}, description="arguments of the model")


class Student(Section):
    """The network that is trained."""

    name: str = Field(description="name of a model: a file of models/")
    weights: str | None = Field(
        None,
        description="run folder to start from, for models without a weights argument",
    )
    arguments: dict[str, Any] = Field({}, description="arguments of the model")


class LossLine(Section):
    """One term of the total loss."""

    name: str = Field(description="name of a loss: a file of losses/")
    id: LossId = Field(
        "",
        description="name of this line in logs and for --set; the default is the loss name",
        validate_default=False,
    )
    weight: NotNegative = Field(
        1.0, description="factor of this loss in the total; with 0 it is not built"
    )
    warmup: Share = Field(0.0, description="share of all steps in which the weight rises from 0")
    decay: Share | None = Field(
        None, description="share of all steps, up to the last, in which the weight falls to 0"
    )
    arguments: dict[str, Any] = Field({}, description="arguments of the loss")


class Train(Section):
    """Length, optimizer, schedule, precision and evaluations of the training."""

    epochs: Count | None = Field(
        None, description="passes over the training images; give epochs or steps"
    )
    steps: Count | None = Field(None, description="optimizer steps; give epochs or steps")
    extend: Annotated[tuple[Count, ...], Field(min_length=1)] | None = Field(
        None,
        description="steps that distill --extend added to the run, one number per extension; the "
        "schedule of each is that of the whole length",
    )
    batch_size: Count = Field(8, description="views in one forward pass, all processes together")
    accumulate: Count = Field(1, description="forward passes per optimizer step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimizer")
    lr: Positive = Field(1e-3, description="largest learning rate")
    weight_decay: NotNegative = Field(0.01, description="weight decay")
    momentum: ShareBelowOne = Field(0.9, description="momentum of sgd")
    schedule: Literal[*SCHEDULES] = Field("poly", description="schedule of the learning rate")
    power: Positive = Field(0.9, description="exponent of the poly schedule")
    warmup: ShareBelowOne = Field(
        0.0,
        description="share of the steps in which the learning rate rises; 0.3 for 0 with one_cycle",
    )
    clip: NotNegative = Field(0.0, description="largest norm of the gradient; 0 = no clipping")
    ema: ShareBelowOne = Field(0.0, description="decay of the averaged weights; 0 = no averaging")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="number format of the student's forward pass"
    )
    compile: bool = Field(
        False,
        description="compile student and live teacher with torch.compile; "
        "a warning gives the reason where that fails",
    )
    channels_last: Literal["auto"] | bool = Field("auto", description="memory layout of the images")
    quantize: Literal["int8"] | None = Field(
        None,
        description="round weights and activations as freqkd export --int8 does, and train their "
        "ranges; start from student.weights",
    )
    seed: CountOrZero = Field(
        0, description="seed of initialization, image order, dropout and loss noise"
    )
    eval_every: CountOrZero = Field(
        0, description="epochs between evaluations; 0 = only at the end"
    )
    save_every: CountOrZero | Duration = Field(
        0,
        description="steps (500) or time (10min) between checkpoints, beside those at epoch ends; "
        "0 = epoch ends only",
    )
    previews: bool = Field(
        True,
        description="draw curves.png and samples.png at every evaluation; "
        "false = only curves.png, at the end",
    )
    eval_limit: CountOrZero = Field(0, description="images per evaluation during training; 0 = all")
    metrics: tuple[Literal[registry.ALL, *registry.names("metrics")], ...] = Field(
        (), description="metrics of the final score, beside those of every evaluation"
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        ("tensorboard",),
        description="experiment trackers that get the numbers of metrics.jsonl, offline unless "
        "the tracker's environment variables name a server",
    )
    freeze_norm: bool = Field(
        False,
        description="batch norm uses its running statistics and does not update them",
    )
    freeze_student: bool = Field(
        False,
        description="control experiment: train only the parameters of the losses, not the student",
    )


SECTIONS: Mapping[str, type[Section]] = {
    "data": Data,
    "teacher": Teacher,
    "student": Student,
    "losses": LossLine,
    "train": Train,
}
INNER: Mapping[str, type[Section]] = {"data.pool": Pool}
"""Sections inside a section that name a part."""
DRAWER: Mapping[str, str] = {
    "data": "datasets",
    "data.pool": "datasets",
    "teacher": "models",
    "student": "models",
    "losses": "losses",
}
"""Section -> folder in which the part that it names is a file."""


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, checked. Two recipes are equal if their values are, whatever their places.

    Attributes:
        source: the file as the user named it, :data:`STDIN` for standard input.
        sets, options: the changes that ``load`` was given; options that are None are left out.
        warnings: texts about values that are allowed but probably unintended.
        places: key path -> place, for :meth:`locate`.
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

    def _place(self, key: str) -> Place:
        """Return the place of a key path such as ``losses.2.student``.

        A key that is not in the file has the place of the nearest section around it.
        """
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key, Place(0, 0, 0, self.source))

    def error(self, problems: Iterable[tuple[str, str]]) -> RecipeError:
        """Return one error for problems of other rooms, given as (key path, what is wrong)."""
        return as_error(
            [Problem(self._place(key), key, text) for key, text in problems], self.source
        )
