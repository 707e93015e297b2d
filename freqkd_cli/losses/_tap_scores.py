"""Base of the losses that compare class scores, or the feature maps of two named taps."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._class_scores import CellWeights, ClassScores, ComparedGrid
from freqkd_cli.losses._pair import require_maps


class TapScores(ClassScores):
    """Compares logits, or the channels of two feature taps as if they were classes.

    The target of features is the teacher's ``map`` ``[B, C, h, w]`` on the compared grid. A trained
    1x1 adapter brings the student to the teacher's channels where they differ.

    Args:
        taps: of student and teacher.

    Raises:
        RecipeError: features beside class scores, or cells weighted by class scores on features.
    """

    def __init__(
        self,
        taps: tuple[str, str],
        temperature: float,
        grid: ComparedGrid,
        weighting: CellWeights,
    ) -> None:
        super().__init__(temperature, grid, weighting)
        self.student, self.teacher = taps
        self.adapter: Adapter | None = None
        if self.on_features:
            self._check()
            self.stored = "map"
            self.target_arguments = ("teacher", "grid")

    @property
    def on_features(self) -> bool:
        """Whether feature maps are compared, and no class scores."""
        return (self.student, self.teacher) != ("logits", "logits")

    @property
    def reads_logits(self) -> bool:
        """Class scores need the same classes on both sides; features do not."""
        return not self.on_features

    def _check(self) -> None:
        sides = {"student": self.student, "teacher": self.teacher}
        for side, tap in sides.items():
            if tap == "logits":
                other = next(name for name in sides.values() if name != "logits")
                raise RecipeError(
                    f"{self.name} compares features with features, or logits with logits",
                    got=f"{side} logits beside {other!r}",
                    need="a feature tap on both sides",
                    key=side,
                )
        for key, used in (
            ("attention", self.weighting.used),
            ("only_where_right", self.weighting.only_where_right),
        ):
            if used:
                raise RecipeError(
                    f"{self.name}: {key} reads class scores, and this line compares features",
                    got=f"student {self.student!r} and teacher {self.teacher!r}",
                    tip=f"leave {key} out",
                    key=key,
                )

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        super().start(student, teacher, classes)
        if self.on_features:
            own, other = student[self.student], teacher[self.teacher]
            require_maps(own, other)
            if own.channels != other.channels:
                self.adapter = Adapter(own.channels, other.channels)

    def projected(self, scores: Tensor) -> Tensor:
        return scores if self.adapter is None else self.adapter(scores)
