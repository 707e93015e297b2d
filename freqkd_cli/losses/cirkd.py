"""Compare how pixels resemble pixels of other images: cross-image relational distillation.

**What** ``minibatch * L_batch + pixel * L_pixel + region * L_region``. A relation of a pixel is the
softmax over cosines with other vectors, over ``temperature``; the terms are
KL(relation of T || relation of S).

- ``L_batch``: the vectors are the pixels of an image of the batch. Mean over pixels and over all
  pairs of images, an image with itself included.
- ``L_pixel``, ``L_region``: the vectors are samples of a memory of the teacher. The student's
  pixels go through a trained head to the teacher's channels. ``kd_temperature^2`` KL, where both
  sides are divided by ``kd_temperature`` as well; mean over labelled pixels.

Each step first stores, of each image and class, up to ``stored_pixels`` random pixels and the mean
of all its pixels (a region) of the teacher. A class has room for ``pixel_memory`` pixels and
``region_memory`` regions; new ones replace the oldest, and at first random directions. Then
``pixel_samples`` and ``region_samples`` vectors are drawn, equally many of each of the K classes:
the number // K + 1.

**Why** The student learns the structure of the teacher's features over the whole data set, where
other losses see one image at a time.

**Shapes and units** Taps ``[B, C, h, w]`` and labels ``[B, H, W]``. Both sides are resampled to the
smaller grid per axis in frequency space. ``L_batch`` averages 4x4 cells where both sides of the
grid have at least 256. The class of a cell is that of its top left pixel. A cache of targets holds
the teacher's map at unit norm. The memory is K x size x C numbers, and every checkpoint holds it.
Where a batch comes in parts (several processes, ``train.accumulate``), pairs are those of a part,
and parts are weighted by their images, also in the terms that are means over labelled pixels. The
authors' code does the same: processes with equally many images count equally.
Each process has a memory of its own images, and a checkpoint that of the first process.

**Source** Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation",
CVPR 2022 (arXiv 2204.06986). Equal to the authors' code (winycg/CIRKD at dab64db,
``losses/cirkd_mini_batch.py`` and ``losses/cirkd_memory.py``, with the defaults and term weights of
``train_cirkdv2_segformer.py``) except for a fault: where a class has m pixels, its pixel memory
stores some of the first m pixels of the image, of any class. Departures: the memory is a ring,
where the code overwrites its newest pixels at the end; a term of weight 0 is not computed; the head
starts from Kaiming numbers. The channel terms of its second version are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.keyed_noise import keyed_generator, keyed_uniform, new_key
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._cells import cell_labels, one_hot
from freqkd_cli.losses._memory import Memory, few_of_each, labelled_rows
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.losses._part_weights import require_a_part
from freqkd_cli.losses._relations import averaged, between_images, divergence, is_large
from freqkd_cli.recipe.value_types import Count, NotNegative, Positive
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.distances import unit
from freqkd_cli.spectral.fourier import common_grid, resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "relations"


@dataclass(frozen=True)
class Terms:
    """Weights of the terms and the temperatures; every field is a key of the recipe."""

    minibatch: NotNegative = 1.0
    pixel: NotNegative = 0.1
    region: NotNegative = 0.1
    temperature: Positive = 0.1
    kd_temperature: Positive = 1.0


@dataclass(frozen=True)
class Sizes:
    """What is stored and what is drawn; every field is a key of the recipe."""

    pixel_memory: Count = 20000
    region_memory: Count = 2000
    pixel_samples: Count = 4096
    region_samples: Count = 1024
    stored_pixels: Count = 16


@flattened
def build(*, student: str, teacher: str, terms: Terms, sizes: Sizes) -> Loss:
    """Build cross-image distillation between two taps; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        minibatch: weight of relations with the pixels of the batch.
        pixel: weight of relations with the memory of pixels; needs labels.
        region: weight of relations with the memory of regions; needs labels.
        temperature: of the relations.
        kd_temperature: of the relations with memories, on both sides, in addition.
        pixel_memory: pixels that the memory holds, per class.
        region_memory: regions that the memory holds, per class.
        pixel_samples: pixels of the memory that a step compares with.
        region_samples: regions of the memory that a step compares with.
        stored_pixels: pixels that are stored, per image and class.

    Raises:
        RecipeError: all three weights are 0.
    """
    require_a_part("cirkd", minibatch=terms.minibatch, pixel=terms.pixel, region=terms.region)
    return CrossImage(student, teacher, terms, sizes)


class CrossImage(PairLoss):
    """Made by :func:`build`.

    Its target is the teacher's ``map`` ``[B, C, h * w]`` of unit norm over C, and on a large grid
    also ``averaged``, of its averaged cells.
    """

    target_arguments = ("teacher",)
    key: Tensor

    def __init__(self, student: str, teacher: str, terms: Terms, sizes: Sizes) -> None:
        super().__init__(student, teacher, adapted=False)
        self.terms, self.sizes = terms, sizes
        self.needs_labels = terms.pixel > 0 or terms.region > 0
        self.classes = 0
        self.head: nn.Sequential | None = None
        self.memories = nn.ModuleDict()

    @property
    def learns_without_labels(self) -> bool:
        return self.terms.minibatch > 0

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        self.classes = classes
        own, channels = student[self.student].channels, teacher[self.teacher].channels
        if self.needs_labels:
            self.register_buffer("key", new_key())
            self._keep_key_number()
            self.register_load_state_dict_post_hook(CrossImage._keep_key_number)
            norm = nn.BatchNorm2d(channels, track_running_stats=False)
            self.head = nn.Sequential(
                Adapter(own, channels), norm, nn.ReLU(), Adapter(channels, channels)
            )
        for kind in ("pixel", "region"):
            if getattr(self.terms, kind) > 0:
                size = getattr(self.sizes, f"{kind}_memory")
                self.memories[kind] = Memory(classes, size, channels)

    def _keep_key_number(self, *_: object) -> None:
        """Keep the key as a number, so that a step need not read it from a GPU."""
        self.key_number = 0 if self.key.is_meta else int(self.key)

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        grid = common_grid(student[self.student], teacher[self.teacher])
        if grid == (1, 1):
            raise RecipeError(
                f"cirkd: {self.student!r} and {self.teacher!r} have a single cell",
                got="a grid of 1x1 cells",
                need="at least 2 cells",
                tip="a finer tap",
                key="student",
            )

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid = self.grid(grids[self.student], batch)
        x = resample(teacher[self.teacher].detach(), grid)
        more = {"averaged": unit(averaged(x).flatten(2))} if is_large(grid) else {}
        return {"map": unit(x.flatten(2)), **more}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            grid = self.grid((x.shape[-2], x.shape[-1]), batch)
            x = resample(x, grid)
            total = x.new_zeros(())
            if self.terms.minibatch > 0:
                own = unit((averaged(x) if is_large(grid) else x).flatten(2))
                teacher = self._teacher(target.get("averaged", target["map"]), own)
                total = total + self.terms.minibatch * between_images(
                    own.mT, teacher.mT, self.terms.temperature
                )
            if self.memories:
                teacher = self._teacher(target["map"], x.flatten(2))
                total = total + self._with_memories(x, teacher, batch, step)
            return total

    def _teacher(self, stored: Tensor, own: Tensor) -> Tensor:
        assert self.teacher_tap is not None, "start() comes first"
        return self.fitted(stored, own, self.teacher_tap.channels)

    def _with_memories(self, x: Tensor, teacher: Tensor, batch: Batch, step: int) -> Tensor:
        """Return the terms of the memories, which first store this batch in training mode.

        Args:
            x: the student's map.
            teacher: ``[B, C, n]``, of unit norm.
        """
        labels = cell_labels(batch, (x.shape[-2], x.shape[-1]), "cirkd")
        if self.training:
            self._store(teacher, labels, keyed_uniform(self.key, batch, step, labels.shape[1]))
        generator = keyed_generator(self.key_number, step)
        assert self.head is not None, "start() comes first"
        projected = self.head(x.to(self.head[1].weight.dtype)).to(x.dtype)
        known = (labels >= 0) & (labels < self.classes)
        own, teacher = labelled_rows(unit(projected.flatten(2)).mT, teacher.mT, known)
        number_of_cells = known.sum().clamp(min=1)
        total = x.new_zeros(())
        for kind, memory in self.memories.items():
            number = getattr(self.sizes, f"{kind}_samples") // self.classes + 1
            vectors = memory.sample(number, generator).to(own.dtype)
            scale = self.terms.temperature * self.terms.kd_temperature
            distance = divergence(own @ vectors.T / scale, teacher @ vectors.T / scale)
            mean = distance / number_of_cells * self.terms.kd_temperature**2
            total = total + getattr(self.terms, kind) * mean
        return total

    def _store(self, teacher: Tensor, labels: Tensor, draws: Tensor) -> None:
        if "pixel" in self.memories:
            taken = few_of_each(labels, self.classes, self.sizes.stored_pixels, draws)
            rows = teacher.mT.flatten(0, 1), labels.flatten(), taken.flatten()
            self.memories["pixel"].add(*rows)
        if "region" in self.memories:
            cells = one_hot(labels, self.classes, teacher.dtype)
            regions, present = unit(teacher @ cells.mT).mT, cells.sum(2) > 0
            numbers = torch.arange(self.classes, device=labels.device).expand_as(present)
            rows = regions.flatten(0, 1), numbers.flatten(), present.flatten()
            self.memories["region"].add(*rows)
