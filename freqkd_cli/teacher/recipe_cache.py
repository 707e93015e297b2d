"""The cache that a recipe needs: its fingerprint, its check, and the command that makes it.

``cache/fingerprint.py`` compares the fingerprint here with that of a cache, and refuses the cache.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from freqkd_cli import registry
from freqkd_cli.build import assemble
from freqkd_cli.build.objective import Line
from freqkd_cli.cache.data_files import changed_files, moved_image
from freqkd_cli.cache.fingerprint import (
    Fingerprint,
    loss_identity,
    teacher_identity,
    versions,
    views_identity,
)
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.stored_teacher import StoredTeacher
from freqkd_cli.errors import CacheMismatch, UsageError, some
from freqkd_cli.features.taps import stored_as
from freqkd_cli.images.pool import manifest_of_pool, partly_labelled
from freqkd_cli.recipe.command_line import given_words, source_word
from freqkd_cli.teacher.recorded import listed_files
from freqkd_cli.teacher.targets import Content, union
from freqkd_cli.teacher.teacher_classes import check_teacher_classes, class_map

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

STORAGE = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "int8": "int8"}
"""``--dtype`` -> how floats are stored."""

LISTED = 3
"""Changed files that a message names."""

_OF_FILES = frozenset({"data.sha256", "data.number", "pool.sha256", "pool.number", "images"})
"""Fields that differ where files changed."""


@dataclass(frozen=True)
class Form:
    """The options of a dump beside the recipe.

    Attributes:
        scores: the largest class scores that are kept of each cell; None = all.
        images: limits their number; None = all.
    """

    content: Content = "taps"
    dtype: str = "fp16"
    scores: int | None = None
    split: str = "train"
    images: int | None = None

    @classmethod
    def of(cls, reader: CacheReader, split: str = "train", images: int | None = None) -> Form:
        """Return the form of an existing cache."""
        dtypes = {long: short for short, long in STORAGE.items()}
        dtype, content = dtypes[reader.storage], reader.content
        return cls(content, dtype, reader.form.scores, split, images)  # type: ignore[arg-type]


def open_cache(
    checked: assemble.CheckedRecipe, lines: Sequence[Line], folder: Path, dataset: Dataset
) -> CacheReader:
    """Return the open cache, after its fingerprint was compared with the one the recipe needs.

    Raises:
        Missing, CacheMismatch, UsageError, CacheDamaged: the cache cannot be used.
    """
    reader = CacheReader(folder)
    stored = reader.fingerprint.fields.get("views", {}).get("stored")
    if checked.recipe.data.views == 0:
        raise UsageError(
            "the recipe draws endless views, but a cache has a fixed number of them",
            got="data.views 0",
            need=f"data.views {stored}",
            tip=f"--set data.views={stored}",
            key="data.views",
        )
    teacher = checked.stored or assemble.build_teacher(checked.recipe, len(checked.classes))
    check_teacher_classes(checked, teacher)
    form = Form.of(reader)
    needed = needed_fingerprint(checked, lines, teacher, dataset, form)
    require_fit(reader, needed, checked.recipe, form, dataset)
    return reader


def require_fit(
    reader: CacheReader, needed: Fingerprint, recipe: Recipe, form: Form, dataset: Dataset
) -> None:
    """Check that a cache has the fingerprint that is needed; log other library versions.

    Raises:
        CacheMismatch: names every field that differs and the command that makes the right cache,
            or the files that changed, or that their order did.
    """
    command = dump_command(recipe, Path(f"{reader.folder}-new"), form)
    fields = [difference.field for difference in reader.fingerprint.differences(needed)]
    if fields and all(field in _OF_FILES for field in fields):
        _refuse_other_files(reader, needed, dataset, command)
    for warning in reader.fingerprint.require(needed, where=reader.folder, command=command):
        log.warning("%s: %s", reader.folder, warning)


def _refuse_other_files(
    reader: CacheReader, needed: Fingerprint, dataset: Dataset, command: str
) -> None:
    """Refuse a cache whose listing shows which files changed, or that their order did.

    Args:
        command: makes a cache of the files that are there now.
    """
    cached, listing = reader.fingerprint.fields, listed_files(dataset, needed.fields) or {}
    if changed := changed_files(reader.folder, cached, listing):
        raise CacheMismatch(
            f"the data set changed since the cache {reader.folder} was made",
            got=some(changed, LISTED),
            need="the files that the cache was made from",
            tip=f"restore them, or make a new cache: {command}",
        )
    if moved := moved_image(reader.folder, cached, listing):
        number, before, after = moved
        raise CacheMismatch(
            f"the order of the images changed since the cache {reader.folder} was made",
            got=f"image {number} is {after}; in the cache it is {before}",
            need="the order of the cache, since its rows have the numbers of the images",
            tip=f"restore the list of the images, or make a new cache: {command}",
        )


def needed_fingerprint(
    checked: assemble.CheckedRecipe,
    lines: Sequence[Line],
    teacher: nn.Module | StoredTeacher,
    dataset: Dataset,
    form: Form,
) -> Fingerprint:
    """Return the fingerprint of a cache for this recipe. ``teacher`` is not cast yet."""
    recipe = checked.recipe
    assert recipe.teacher is not None
    stored = recipe.data.views if form.split == "train" else 0
    fields: dict[str, Any] = {
        "content": form.content,
        "storage": STORAGE[form.dtype],
        **({"scores": form.scores} if form.scores else {}),
        "teacher": _identity(recipe, teacher),
        "taps": list(union(_stored_taps(checked, line) for line in lines)),
        "views": views_identity(checked.view_spec, view_seed=recipe.data.view_seed, stored=stored),
        "data": dataset.manifest(),
        "images": min(len(dataset), form.images or len(dataset)),
        "versions": versions(),
    }
    if pool := manifest_of_pool(dataset):
        fields["pool"] = pool
    mapping = class_map(recipe, teacher, checked.classes)
    if mapping is not None and "logits" in fields["taps"]:
        fields["class_map"] = mapping.to_json()
    if form.content == "targets":
        fields["targets"] = {line.id: _target(checked, line) for line in lines if line.teacher_taps}
        if partly_labelled(dataset):
            # Older caches do not have it: there all pixels were void, and left out by graph losses.
            fields["unlabelled"] = "as a pool"
    return Fingerprint(fields)


def _identity(recipe: Recipe, teacher: nn.Module | StoredTeacher) -> dict[str, Any]:
    section = recipe.teacher
    if isinstance(teacher, StoredTeacher):
        return teacher.identity_for(section.name, section.dtype, section.arguments)
    return teacher_identity(teacher, name=section.name, dtype=section.dtype)


def _stored_taps(checked: assemble.CheckedRecipe, line: Line) -> list[str]:
    return [stored_as(name, checked.teacher_taps) for name in line.teacher_taps]


def _target(checked: assemble.CheckedRecipe, line: Line) -> dict[str, Any]:
    """Return what shapes the targets of one loss."""
    spec = next(spec for spec in checked.recipe.losses if spec.id == line.id)
    arguments = registry.arguments("losses", spec.name)(**spec.arguments).model_dump()
    identity = loss_identity(
        spec.name,
        arguments,
        line.loss.target_arguments,
        taps=_stored_taps(checked, line),
        grids={name: checked.grids[name] for name in line.student_taps},
        file_arguments=line.loss.file_arguments,
    )
    return {**identity, "version": line.loss.target_version}


def dump_command(recipe: Recipe, out: Path, form: Form) -> str:
    """Return the ``freqkd teacher-dump`` line that makes a cache, quoted for a shell."""
    words = ["freqkd", "teacher-dump", source_word(recipe), "--out", str(out), *given_words(recipe)]
    if form.images is not None:
        words += ["--limit", str(form.images)]
    for option in ("content", "dtype", "scores", "split"):
        if getattr(form, option) != getattr(Form(), option):
            words += [f"--{option}", str(getattr(form, option))]
    return shlex.join(words)
