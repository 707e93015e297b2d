"""What a cache records beside its fingerprint: its teacher, and the files of its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from freqkd_cli.build.recipe_facts import weights_of_teacher
from freqkd_cli.cache.data_files import Listing
from freqkd_cli.cache.teacher_facts import TeacherFacts
from freqkd_cli.features.taps import Tap
from freqkd_cli.images.file_dataset import FileDataset

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe


def listed_files(dataset: Dataset, fields: Mapping[str, Any]) -> Listing | None:
    """Return the files of training images as a cache lists them; None where there are none.

    Args:
        fields: of the fingerprint, with the manifests of the same images.
    """
    images = getattr(dataset, "dataset", dataset)  # without those of a pool
    parts = {"data": images, "pool": getattr(dataset, "pool", None)}
    return {
        key: {"sha256": fields[key]["sha256"], "files": part.files()}
        for key, part in parts.items()
        if isinstance(part, FileDataset) and key in fields
    } or None


def teacher_facts(recipe: Recipe, teacher: nn.Module, taps: Mapping[str, Tap]) -> TeacherFacts:
    """Return what a cache records of a built teacher."""
    names = getattr(teacher, "id2label", None)
    weights = dict(weights_of_teacher(recipe)).values()
    return TeacherFacts(
        weights=", ".join(weights) or None,
        classes=teacher.classes,
        class_names=tuple(names[number] for number in sorted(names)) if names else None,
        taps=tuple(taps.values()),
    )
