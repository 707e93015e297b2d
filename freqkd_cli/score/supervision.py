"""What a run was trained with: labelled images, images seen with the teacher, and steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from freqkd_cli import registry
from freqkd_cli.build.schedules import run_length
from freqkd_cli.build.training_images import pool_of
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.held_out import labelled_images
from freqkd_cli.images.pool import WithPool

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class Supervision:
    """The supervision of a recipe.

    Attributes:
        labelled_images: training images whose labels a loss reads.
        teacher_images: training images on which a loss reads the teacher. A loss of labels that
            weights pixels by the teacher reads it on labelled images alone.
        steps: optimizer steps.
    """

    labelled_images: int
    teacher_images: int
    steps: int

    def in_words(self) -> str:
        """Text for a table or a caption, such as ``32 labelled + teacher on 512``."""
        if not self.teacher_images:
            return f"{self.labelled_images:,d} labelled images"
        teacher = f"teacher on {self.teacher_images:,d}"
        if not self.labelled_images:
            return f"{teacher} unlabelled images"
        return f"{self.labelled_images:,d} labelled + {teacher}"


def supervision(recipe: Recipe, data_root: Path | None = None) -> Supervision | None:
    """Return what a recipe trains with; None where its training images are not here any more."""
    reads_labels = reads_teacher = compares = False
    for line in recipe.losses:
        if line.weight > 0:
            loss = registry.find("losses", line.name).build(**line.arguments)
            reads = loss.reads_logits or "teacher" in line.arguments
            reads_labels |= loss.needs_labels
            reads_teacher |= reads
            compares |= reads and loss.learns_without_labels
    try:
        parts = training_parts(recipe, data_root)
        dataset = parts.trained
        pool = pool_of(recipe, parts.whole) if compares else None
    except (DataMissing, DataBroken):  # such as images that were added without a mask
        return None
    labelled = labelled_images(dataset)
    share = parts.pool_share(recipe, WithPool(parts.whole, pool)) if pool else None
    unlabelled = share.length if share else 0
    taught = len(dataset) + unlabelled if compares else labelled * reads_teacher
    steps = run_length(len(dataset), recipe.train, share.share if share else 0.0).steps
    return Supervision(labelled * reads_labels, taught, steps)
