"""The ``config.json`` of a model: its fields as pydantic models, and the function that reads it.

freqkd's fields (``model``, ``arguments``, ``id2label``, ``mean``, ``std``, ``license``, ``format``)
are at the top of the file. Where another library's configuration is at the top, they are under the
key ``freqkd``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.runtime.json_file import read_object
from freqkd_cli.weights.quantization import Quantization

FORMAT = 1

SEGFORMER_TYPES = frozenset(
    f"segformer{class_name}"
    for class_name in ("", "config", "model", "forsemanticsegmentation", "forimageclassification")
)
"""``model_type`` of a SegFormer in transformers' files, in small letters."""

_NUMBER = re.compile(r"-?\d{1,6}")
Fields = TypeVar("Fields", bound=BaseModel)


def whole_number(low: int, high: int) -> Any:
    """Return the annotation of an integer from ``low`` to ``high``.

    True is not an integer; 32.0 is, as some programs write all numbers with a point.
    """
    return Annotated[StrictInt, BeforeValidator(_integral), Field(ge=low, le=high)]


def _integral(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def any_number(low: float, high: float) -> Any:
    """Return the annotation of a number from ``low`` to ``high``; an integer stays an integer."""
    return Annotated[Any, AfterValidator(_number), Field(ge=low, le=high)]


def _number(value: Any) -> int | float:
    if type(value) not in (int, float):
        raise ValueError("a number")
    return value


def several(count: int, kind: Any) -> Any:
    """Return the annotation of a tuple of ``count`` values of one kind; JSON lists are accepted."""
    return Annotated[tuple[kind, ...], Field(min_length=count, max_length=count)]


def names_by_number(names: Any) -> dict[int, str] | None:
    """Return class number -> name, in the order of the numbers.

    Older files list the numbers as words: 0, 1, 10, 100, 11 ...

    Raises:
        ValueError: the numbers are not 0, 1, 2 ..., or a name is not a text or a number.
    """
    if names is None:
        return None
    whole = isinstance(names, dict) and None not in names.values()
    ordered = names_in_order(names) if whole else None
    if not whole or list(ordered or ()) != list(range(len(names))):
        raise ValueError("an object with a name for each class number, from 0 up, none left out")
    return ordered


def names_in_order(names: Any) -> dict[int, str] | None:
    """Return the number that a file gives a class -> its name, ascending, as transformers reads it.

    The n-th of these names is that of the classifier's n-th row, whatever the numbers: they may
    start at 1 or leave some out. A list counts from 0, and an absent name is made up.

    Raises:
        ValueError: the numbers are not whole, one of them occurs twice, or a name is not a text or
            a number.
    """
    if isinstance(names, list):
        names = dict(enumerate(names))
    if names is None:
        return None
    if not isinstance(names, dict) or not all(_NUMBER.fullmatch(str(key)) for key in names):
        raise ValueError("an object with a name for each class number, or a list of names")
    if not all(name is None or type(name) in (str, int, float) for name in names.values()):
        raise ValueError("a text as the name of each class")
    if len({int(key) for key in names}) < len(names):
        raise ValueError("each class number once")
    numbered = sorted((int(key), name) for key, name in names.items())
    return {n: f"LABEL_{n}" if name is None else str(name) for n, name in numbered} or None


ClassNames = Annotated[dict[int, str] | None, BeforeValidator(names_by_number)]
NamesInOrder = Annotated[dict[int, str] | None, BeforeValidator(names_in_order)]
Mean = several(3, any_number(-1e6, 1e6))
Deviation = several(3, any_number(1e-6, 1e6))


class License(BaseModel):
    """The license of a model's weights.

    Attributes:
        name: what the license is called; ``unnamed`` where only a note is known.
        note: what it asks of users, in one or two sentences.
        noncommercial: whether commercial use is excluded, also for models trained from the weights.
    """

    model_config = ConfigDict(frozen=True)

    name: StrictStr
    note: StrictStr | None = None
    noncommercial: bool = False


class ModelSection(BaseModel):
    """freqkd's fields of a ``config.json``.

    ``model`` is None in files of other programs, ``id2label`` where the classes have no names.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())
    model: StrictStr | None = None
    arguments: dict[str, Any] | None = None
    id2label: ClassNames = None
    mean: Mean | None = None  # type: ignore[valid-type]
    std: Deviation | None = None  # type: ignore[valid-type]
    license: License | None = None
    quantization: Quantization | None = None

    @model_validator(mode="before")
    @classmethod
    def _old_note(cls, fields: Any) -> Any:
        """Read ``licence_note`` of older folders, which was written for restricted weights only."""
        note = fields.get("licence_note") if isinstance(fields, Mapping) else None
        if note is None or "license" in fields:
            return fields
        return {**fields, "license": {"name": "unnamed", "note": note, "noncommercial": True}}


@dataclass(frozen=True)
class ModelConfig:
    """A checked ``config.json``.

    Attributes:
        path: the file's name in messages.
        content: the whole file.
        section: freqkd's fields.
    """

    path: str
    content: Mapping[str, Any]
    section: ModelSection

    @property
    def of_segformer(self) -> bool:
        """Whether the file is transformers' own, for a SegFormer.

        Some training scripts write a class as the type: ``SegformerForSemanticSegmentation``.
        """
        family = self.content.get("model_type")
        return isinstance(family, str) and family.lower() in SEGFORMER_TYPES

    @property
    def of_smp(self) -> bool:
        """Whether the file is that of segmentation-models-pytorch's ``save_pretrained``."""
        return "_model_class" in self.content and "encoder_name" in self.content


def read_config(path: Path, name: str | None = None) -> ModelConfig:
    """Read and check a ``config.json``.

    Args:
        path: the file.
        name: what messages call it; the path by default.

    Raises:
        WeightsMissing: it is absent, not a JSON object, of a later format, or a field of freqkd's
            section has a wrong type or range.
    """
    content, name = read_object(path), name or str(path)
    fields: Any = content
    if "freqkd" in content:
        fields = content["freqkd"]
        if not isinstance(fields, dict):
            raise not_a_model(name, {"freqkd": fields}, "freqkd: an object")
    elif not isinstance(content.get("model"), str):  # another program's file of this name
        fields = {}
    if (version := fields.get("format", FORMAT)) != FORMAT:
        raise WeightsMissing(
            f"{name} has another format", got=version, need=FORMAT, tip="install a newer freqkd"
        )
    return ModelConfig(name, content, checked(ModelSection, fields, name))


def checked(model: type[Fields], values: Mapping[str, Any], path: str) -> Fields:
    """Return ``model`` made of ``values``.

    Raises:
        WeightsMissing: lists every field that has a wrong type or range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        needs: dict[str, str] = {}
        for problem in error.errors():
            place = ".".join(map(str, problem["loc"])) or "the file"
            needs.setdefault(str((*problem["loc"], "the file")[0]), f"{place}: {_text(problem)}")
        got = {field: values[field] for field in needs if field in values}
        if "license" in needs and "licence_note" in values:
            got["licence_note"] = values["licence_note"]
        raise not_a_model(path, got, "; ".join(needs.values())) from error


def _text(problem: Any) -> str:
    """Return what pydantic asks for, in the words of JSON."""
    text = str(problem["ctx"]["error"] if problem["type"] == "value_error" else problem["msg"])
    text = text.replace("tuple", "list").replace("Tuple", "List").replace("dictionary", "object")
    return text.removeprefix("Input should be ").replace(" after validation", "")


def not_a_model(path: str, got: Mapping[str, Any], need: str) -> WeightsMissing:
    """Return the error for a file whose fields do not describe a model."""
    shown = "; ".join(f"{field} {_short(value)}" for field, value in got.items()) or None
    return WeightsMissing(f"{path} does not describe a model", got=shown, need=need)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
