"""A small teacher, images and losses for tests of caches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from freqkd_cli.cache.fingerprint import (
    Fingerprint,
    loss_identity,
    teacher_identity,
    versions,
    views_identity,
)
from freqkd_cli.features.loss import Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump_plan import Job
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.views.view import ViewSpec

TEACHER_TAPS = {
    "stage1": Tap("stage1", 4, 6),
    "stage2": Tap("stage2", 8, 10),
    "logits": Tap("logits", 8, 3, "logits"),
}
STUDENT_TAPS = {"encoder": Tap("encoder", 16, 4), "logits": Tap("logits", 8, 3, "logits")}
SPEC = ViewSpec((32, 64), scale=(0.8, 1.5), flip=True, color=0.3)


class Teacher(nn.Module):
    """Two convolutions and a head; ``passes`` counts forward passes."""

    def __init__(self, seed: int = 0, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = (
            nn.Conv2d(3, 6, 4, stride=4),
            nn.Conv2d(6, 10, 3, stride=2, padding=1),
        )
        self.norm, self.head = nn.BatchNorm2d(10), nn.Conv2d(10, 3, 1)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25), persistent=False)
        self.classes, self.gain, self.passes = 3, gain, 0
        self.recipe_arguments = {"classes": 3, "gain": gain, "weights": "somewhere"}

    def forward(self, images: Tensor, taps: Collection[str] = ()) -> dict[str, Tensor]:
        self.passes += 1
        x = ((images - self.mean) / self.std).to(self.mean.dtype)
        stage1 = self.first(x).relu() * self.gain
        stage2 = self.norm(self.second(stage1))
        outputs = {"stage1": stage1, "stage2": stage2, "logits": self.head(stage2)}
        return {name: outputs[name] for name in ("logits", *taps)}


class Images:
    """Random blocks of color by number; every third image is larger where ``mixed``."""

    labelled = True

    def __init__(self, number: int = 6, mixed: bool = False) -> None:
        self.number, self.mixed = number, mixed

    def __len__(self) -> int:
        return self.number

    def image_size(self, index: int) -> tuple[int, int]:
        return (70, 130) if self.mixed and index % 3 == 0 else (48, 80)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(index)
        height, width = self.image_size(index)
        coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
        return np.ascontiguousarray(image), random.integers(0, 3, (height, width), dtype=np.uint8)

    def manifest(self) -> dict:
        return {"name": "fake", "number": self.number, "mixed": self.mixed}


class Copy(Loss):
    """The target is the tap itself; ``forward`` is its distance from a resized student tap."""

    target_arguments = ()

    def __init__(self, teacher: str = "stage2") -> None:
        super().__init__()
        self.teacher = teacher

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("encoder",)

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return (self.teacher,)

    def target(self, teacher, batch, grids):
        return {
            "map": torch.nn.functional.adaptive_avg_pool2d(teacher[self.teacher], grids["encoder"])
        }

    def forward(self, student, target, batch, step):
        return (student["encoder"].mean(1) - target["map"].mean(1)).pow(2).mean()


class Spectrum(Copy):
    """Its target has complex numbers, integers and one number per row."""

    target_arguments = ("cutoff",)

    def __init__(self, teacher: str = "stage1", cutoff: float = 0.5) -> None:
        super().__init__(teacher)
        self.cutoff = cutoff

    def target(self, teacher, batch, grids):
        x = teacher[self.teacher]
        spectrum = torch.fft.rfft2(x, norm="ortho")
        return {
            "spectrum": spectrum * self.cutoff,
            "largest": x.flatten(2).argmax(2),
            "mean": x.flatten(1).mean(1),
        }

    def forward(self, student, target, batch, step):
        return target["spectrum"].abs().mean() * student["encoder"].mean()


class LabelsOnly(Loss):
    """Reads no teacher."""

    needs_labels = True

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",)

    def forward(self, student, target, batch, step):
        return torch.nn.functional.cross_entropy(
            student["logits"], batch.labels[:, ::8, ::8], ignore_index=255
        )


def losses() -> dict[str, Loss]:
    return {"copy": Copy(), "wave": Spectrum(), "labels": LabelsOnly()}


def grids(height: int = 32, width: int = 64) -> dict[str, tuple[int, int]]:
    return {name: tap.grid(height, width) for name, tap in STUDENT_TAPS.items()}


def make_job(
    *,
    content: str = "taps",
    storage: str = "float16",
    views: int = 2,
    images: Images | None = None,
    teacher: Teacher | None = None,
    spec: ViewSpec = SPEC,
    dtype: str = "float32",
    batch_size: int = 3,
    workers: int = 0,
    cutoff: float = 0.5,
) -> Job:
    """Return a dump of six images and twelve items by default."""
    images, model, parts = images or Images(), teacher or Teacher(), losses()
    parts["wave"] = Spectrum(cutoff=cutoff)
    identity = teacher_identity(model, name="fake", dtype=dtype)
    live = LiveTeacher(model, parts, TEACHER_TAPS, dtype=dtype)
    fields = {
        "content": content,
        "storage": storage,
        "teacher": identity,
        "taps": list(live.wanted),
        "images": len(images),
        "views": views_identity(spec, view_seed=5, stored=views),
        "data": images.manifest(),
        "versions": versions(),
    }
    if content == "targets":
        arguments = {"copy": {}, "wave": {"cutoff": cutoff}}
        fields["targets"] = {
            id: loss_identity(
                id,
                loss_arguments,
                parts[id].target_arguments,
                live.taps_by_loss[id],
                {"encoder": grids()["encoder"]},
            )
            for id, loss_arguments in arguments.items()
        }
    return Job(
        teacher=live,
        split=images,
        spec=spec,
        view_seed=5,
        views=views,
        student_taps=STUDENT_TAPS,
        fingerprint=Fingerprint(fields),
        images=len(images),
        batch_size=batch_size,
        workers=workers,
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a cache except its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


class Notes(Silent):
    """Progress that keeps its notes in ``said``."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


__all__ = [
    "SPEC",
    "STUDENT_TAPS",
    "TEACHER_TAPS",
    "Notes",
    "Images",
    "Teacher",
    "bytes_of",
    "grids",
    "losses",
    "make_job",
]
