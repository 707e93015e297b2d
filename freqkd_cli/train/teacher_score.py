"""The teacher's IoU on labelled images: computed once per teacher and images, then kept by hash."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

import freqkd_cli
from freqkd_cli.cache.fingerprint import teacher_identity
from freqkd_cli.cache.shards import STORAGE_DTYPES
from freqkd_cli.features.class_map import Mapped
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.runtime import user_cache
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.score.evaluate import Pass, score
from freqkd_cli.teacher.cached import CachedTeacher
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.opening import ready_teacher

if TYPE_CHECKING:
    from freqkd_cli.build.assemble import CheckedRecipe
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.train.setting import Setting

KIND = "teacher-scores"

Teacher = LiveTeacher | CachedTeacher


@dataclass(frozen=True)
class Images:
    """The images that a teacher is scored on: numbers of a labelled split."""

    split: str
    dataset: Dataset
    indices: tuple[int, ...]

    def __str__(self) -> str:
        number, total = len(self.indices), len(self.dataset)
        return f"{number if number == total else f'{number} of {total}'} images of {self.split}"


@dataclass(frozen=True)
class ClassIoU:
    """A class of the data: IoU in [0, 1], None where it is neither labelled nor predicted.

    Attributes:
        covered: whether the teacher can predict it, see :mod:`freqkd_cli.features.class_map`.
    """

    name: str
    iou: float | None
    labelled: bool
    covered: bool


@dataclass(frozen=True)
class TeacherScore:
    """The IoU of every class of the data.

    Attributes:
        kept: whether it was computed by an earlier run.
    """

    images: Images
    classes: tuple[ClassIoU, ...]
    kept: bool

    @property
    def miou(self) -> float | None:
        values = [item.iou for item in self.classes if item.iou is not None]
        return sum(values) / len(values) if values else None


def teacher_score(
    setting: Setting, teacher: Teacher, images: Images, progress: Progress, *, keep: bool
) -> TeacherScore | None:
    """Return the score of a run's teacher; the kept one where there is one.

    None where there is none and the teacher is not on this machine.

    Args:
        keep: keep a new score for later runs.

    Raises:
        FreqKDError: the teacher's logits are not finite.
        DataBroken: an image or its labels cannot be read.
    """
    key = _key(setting.checked, teacher, images)
    if classes := _kept(key):
        return TeacherScore(images, classes, kept=True)
    if setting.checked.stored:
        return None
    classes = _scored(setting, teacher, images, progress)
    if keep:
        user_cache.keep(KIND, key, {"classes": [asdict(item) for item in classes]})
    return TeacherScore(images, classes, kept=False)


def _kept(key: str) -> tuple[ClassIoU, ...] | None:
    """Return the classes of a kept score; None where there is none or it is damaged."""
    stored = user_cache.kept(KIND, key) or {}
    try:
        classes = tuple(ClassIoU(**item) for item in stored["classes"])
    except (KeyError, TypeError):
        return None
    sound = all(item.iou is None or isinstance(item.iou, float) for item in classes)
    return classes if sound and classes else None


def _key(checked: CheckedRecipe, teacher: Teacher, images: Images) -> str:
    """Return the hash of what decides a score."""
    dataset, indices = images.dataset, images.indices
    by_file = isinstance(dataset, FileDataset)  # the other files need not be read
    return user_cache.key_of(
        {
            "freqkd": freqkd_cli.__version__,
            "teacher": _identity(checked, teacher),
            "images": dataset.manifest(indices) if by_file else dataset.manifest(),
            "indices": indices,
        }
    )


def _identity(checked: CheckedRecipe, teacher: Teacher) -> list[Any]:
    """Return weights, architecture and class map of the teacher; a cache has them on record."""
    if isinstance(teacher, CachedTeacher):
        fields = teacher.cache.fingerprint.fields
        identity, class_map = dict(fields["teacher"]), fields.get("class_map")
    else:
        section, mapping = checked.recipe.teacher, teacher.class_map
        identity = teacher_identity(teacher.model, name=section.name, dtype=section.dtype)
        class_map = mapping.to_json() if mapping else None
    identity.pop("license", None)
    return [identity, class_map]


def _scored(
    setting: Setting, teacher: Teacher, images: Images, progress: Progress
) -> tuple[ClassIoU, ...]:
    """Run the teacher on the images, as the run does; return the IoU of every class."""
    checked, device = setting.checked, setting.device
    if isinstance(teacher, CachedTeacher):  # no teacher is loaded yet
        with torch.random.fork_rng(devices=[]):
            model, class_map = ready_teacher(checked, device)
        model = model.to(STORAGE_DTYPES[checked.recipe.teacher.dtype])
    else:
        model, class_map = teacher.model, teacher.class_map
    model = Mapped(model, class_map).eval() if class_map else model
    settings = Pass(workers=checked.recipe.data.workers, indices=images.indices, cheap=True)
    progress.begin("teacher", len(images.indices))
    try:
        compute = for_scores(device)
        result = score(model, images.dataset, compute, device, settings, progress=progress.advance)
    finally:
        progress.end()
    numbers = result.tally.per_class()
    covered = class_map.covered if class_map else range(len(checked.classes))
    return tuple(
        ClassIoU(name, numbers["iou"][k], numbers["accuracy"][k] is not None, k in covered)
        for k, name in enumerate(checked.classes)
    )
