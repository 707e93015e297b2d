"""Base classes of the losses that compare one student tap with one teacher tap."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from freqkd_cli.errors import RecipeError, ShapeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap, pick
from freqkd_cli.spectral.fourier import common_grid, resample, widened
from freqkd_cli.views.batch import Batch


def require_maps(student: Tap, teacher: Tap) -> None:
    """
    Raises:
        RecipeError: one of the taps is a graph and no map.
    """
    for tap, side in ((student, "student"), (teacher, "teacher")):
        if tap.kind in ("nodes", "graph"):
            raise RecipeError(
                f"the {side}'s tap {tap.name!r} is a graph and no map",
                got=f"a tap of kind {tap.kind}",
                need="a tap of kind features or logits",
                key=side,
            )


class TwoTaps(Loss):
    """One student tap against one teacher tap, by name.

    Args:
        student, teacher: tap names.
    """

    def __init__(self, student: str, teacher: str) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        pick(tuple(available.values()), self.student, "the student", key="student")
        return (self.student,)

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        pick(tuple(available.values()), self.teacher, "the teacher", key="teacher")
        return (self.teacher,)

    def require_same_channels(self, student: Tap, teacher: Tap) -> None:
        """
        Raises:
            RecipeError: the taps have different channels, so they need an adapter.
        """
        if student.channels != teacher.channels:
            raise RecipeError(
                f"{student.name!r} and {teacher.name!r} have different channels and no adapter",
                got=f"{student.channels} and {teacher.channels} channels",
                tip="adapter: true, or represent: attention where the loss has it",
                key="adapter",
            )

    def mismatch(self, got: str, need: str) -> ShapeError:
        """Return the error for a target that was made for another grid or other channels."""
        return ShapeError(
            f"the target of {self.teacher!r} does not fit the student's tap {self.student!r}",
            got=got,
            need=need,
            tip="make the cache again for this student and these views",
        )


class PairLoss(TwoTaps):
    """Maps of one student tap against those of one teacher tap.

    Args:
        student, teacher: tap names.
        adapted: a 1x1 convolution brings the student to the teacher's channels.
    """

    def __init__(self, student: str, teacher: str, *, adapted: bool) -> None:
        super().__init__(student, teacher)
        self.adapted = adapted
        self.adapter: Adapter | None = None
        self.teacher_tap: Tap | None = None
        self.stride = 0

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        student_tap, self.teacher_tap = student[self.student], teacher[self.teacher]
        self.stride = max(student_tap.stride, self.teacher_tap.stride)
        require_maps(student_tap, self.teacher_tap)
        if self.adapted:
            self.adapter = Adapter(student_tap.channels, self.teacher_tap.channels)

    def grid(self, student: Grid, batch: Batch) -> Grid:
        """Return the common grid (h, w): per axis the smaller of both taps on these views."""
        assert self.teacher_tap is not None, "start() comes first"
        return common_grid(student, self.teacher_tap.grid(*batch.images.shape[-2:]))

    def fitted(self, target: Tensor, rows: Tensor, channels: int | None = None) -> Tensor:
        """Return the target in the type of the student's rows before or after the adapter.

        Args:
            channels: of the target, where they need not be those of the adapted student.

        Raises:
            ShapeError: the target was made for another grid or other channels.
        """
        if channels is None:
            channels = rows.shape[1] if self.adapter is None else len(self.adapter.weight)
        need = (rows.shape[0], channels, rows.shape[2])
        if tuple(target.shape) != need:
            raise self.mismatch(f"a target of shape {tuple(target.shape)}", str(need))
        return widened(target).to(rows.dtype)


class TeacherMapLoss(PairLoss):
    """A pair whose target is the teacher's map on the common grid, ``map`` ``[B, C, h * w]``."""

    target_arguments = ("teacher",)

    def __init__(self, student: str, teacher: str) -> None:
        super().__init__(student, teacher, adapted=False)

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = resample(teacher[self.teacher].detach(), self.grid(grids[self.student], batch))
        return {"map": x.flatten(2)}
