"""A recipe's teacher as a source of targets, live or from a cache, and the fingerprint that the two are compared by."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from freqkd_cli import registry
from freqkd_cli.build import assemble
from freqkd_cli.build.objective import Line
from freqkd_cli.cache.fingerprint import (
    dump_command,
    loss_identity,
    teacher_identity,
    versions,
    views_identity,
)
from freqkd_cli.cache.reader import CacheReader, Fingerprint
from freqkd_cli.errors import UsageError
from freqkd_cli.features.taps import stored_as
from freqkd_cli.recipe.sections import STDIN
from freqkd_cli.teacher.sources import CachedTeacher, Content, LiveTeacher, NoTeacher, Source, union
from freqkd_cli.teacher.teacher_classes import check_teacher_classes, class_map

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

STORAGE = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
"""What ``--dtype`` says -> the type on disk."""


@dataclass(frozen=True)
class Form:
    """What a cache is to look like, beside what the recipe says. ``images`` is the largest number of pictures, None = all."""

    content: Content = "taps"
    dtype: str = "fp16"
    split: str = "train"
    images: int | None = None

    @classmethod
    def of(cls, reader: CacheReader, split: str = "train", images: int | None = None) -> Form:
        """The form of a cache that is there."""
        short = next(
            (short for short, long in STORAGE.items() if long == reader.storage), reader.storage
        )
        return cls(reader.content, short, split, images)  # type: ignore[arg-type]


OPTIONS = {"data.root": "--data-root", "train.seed": "--seed"}
"""Keys of a recipe that have an option of their own."""


def command_for(recipe: Recipe, folder: Path, form: Form) -> str:
    """The command that makes the cache that ``folder`` is not, with all that was said beside the recipe's file."""
    options = {OPTIONS[key]: str(value) for key, value in recipe.options.items() if key in OPTIONS}
    if form.images is not None:
        options["--limit"] = str(form.images)
    name = "-" if recipe.source == STDIN else recipe.source
    shape = {"content": form.content, "dtype": form.dtype, "split": form.split}
    return dump_command(name, f"{folder}-new", sets=recipe.sets, options=options, **shape)


def open_source(
    plan: assemble.Plan,
    lines: Sequence[Line],
    cache: Path | None,
    dataset: Dataset,
    device: torch.device | str,
) -> Source:
    """Where the teacher's half of ``lines`` comes from: ``cache``, or else the recipe's teacher itself.

    Raises:
        CacheMismatch: the cache was made for something else; every field and the right command are named.
        UsageError: there is no finished cache, or the recipe draws endless views, or it reads no teacher.
        WeightsMissing, RecipeError: the teacher cannot be had.
    """
    losses = {line.id: line.loss for line in lines}
    if not any(line.teacher_taps for line in lines):
        if cache is not None:
            raise UsageError(
                "no loss of this recipe reads the teacher, so it needs no cache",
                got=f"--cache {cache}",
                tip="leave it out",
            )
        return NoTeacher()
    if cache is None:
        teacher = assemble.build_teacher(plan.recipe, len(plan.classes))
        mapped = check_teacher_classes(plan, teacher)
        teacher.ready(torch.device(device))
        return LiveTeacher(
            teacher.to(device),
            losses,
            plan.teacher_taps,
            dtype=plan.recipe.teacher.dtype,
            class_map=mapped,
        )
    return CachedTeacher(_open_cache(plan, lines, cache, dataset), losses, plan.teacher_taps)


def _open_cache(
    plan: assemble.Plan, lines: Sequence[Line], folder: Path, dataset: Dataset
) -> CacheReader:
    reader = CacheReader(folder)
    cached = reader.fingerprint.fields.get("views", {}).get("stored")
    if plan.recipe.data.views == 0:
        raise UsageError(
            "the recipe draws endless views, and a cache holds a fixed number of them",
            got="data.views 0",
            need=f"data.views {cached}",
            tip=f"--set data.views={cached}",
        )
    teacher = assemble.build_teacher(plan.recipe, len(plan.classes))
    check_teacher_classes(plan, teacher)
    form = Form.of(reader)
    wanted = fingerprint(plan, lines, teacher, dataset, form)
    for warning in reader.fingerprint.require(
        wanted, where=folder, command=command_for(plan.recipe, folder, form)
    ):
        log.warning("%s: %s", folder, warning)
    return reader


def fingerprint(
    plan: assemble.Plan, lines: Sequence[Line], teacher: nn.Module, dataset: Dataset, form: Form
) -> Fingerprint:
    """What a cache for this recipe is made from. ``teacher`` as it was loaded, not yet cast."""
    recipe = plan.recipe
    assert recipe.teacher is not None
    stored = recipe.data.views if form.split == "train" else 0
    fields: dict[str, Any] = {
        "content": form.content,
        "storage": STORAGE[form.dtype],
        "teacher": teacher_identity(teacher, name=recipe.teacher.name, dtype=recipe.teacher.dtype),
        "taps": list(union(_places(plan, line) for line in lines)),
        "views": views_identity(plan.view_spec, view_seed=recipe.data.view_seed, stored=stored),
        "data": dataset.manifest(),
        "images": min(len(dataset), form.images or len(dataset)),
        "versions": versions(),
    }
    found = class_map(recipe, teacher, plan.classes)
    if found is not None and "logits" in fields["taps"]:
        fields["class_map"] = found.to_json()
    if form.content == "targets":
        fields["targets"] = {line.id: _target(plan, line) for line in lines if line.teacher_taps}
    return Fingerprint(fields)


def _places(plan: assemble.Plan, line: Line) -> list[str]:
    return [stored_as(name, plan.teacher_taps) for name in line.teacher_taps]


def _target(plan: assemble.Plan, line: Line) -> dict[str, Any]:
    spec = next(spec for spec in plan.recipe.losses if spec.id == line.id)
    arguments: Mapping[str, Any] = registry.arguments("losses", spec.name)(
        **spec.arguments
    ).model_dump()
    grids = {name: plan.grids[name] for name in line.student_taps}
    identity = loss_identity(
        spec.name,
        arguments,
        line.loss.target_arguments,
        _places(plan, line),
        grids,
        file_arguments=line.loss.file_arguments,
    )
    return {**identity, "version": line.loss.target_version}
