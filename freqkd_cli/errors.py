"""Every error that a user can cause, as one family. ``app`` alone turns them into exit codes.

::

    FreqKDError          1   a run-time failure
    |- UsageError        2   options that do not fit together, an --out that is not empty
    |  |- RecipeError    2   one or many problems in a recipe, all reported at once
    |  |- UnknownName    2   no file of that name in a drawer
    |  |- BandError      2   a filter that keeps nothing or everything on some tap
    |  `- CacheMismatch  2   a cache made for another teacher, other views or other losses
    |- ShapeError        1   tensors that cannot be compared
    |- CacheDamaged      1   a shard that does not match its checksum, an index that lies
    |- CheckpointDamaged 1   no checkpoint of a run is whole, or it is of something else
    |- DataBroken        1   an image or a mask that cannot be read, labels outside the classes
    |- TrainingFailed    1   a loss that is not finite
    |- CheckFailed       3   parity, --verify, --min-miou
    |- Missing           4
    |  |- DataMissing    4   a data set that is not where the recipe says
    |  `- WeightsMissing 4   weights that are not there, or do not fit the model
    `- Interrupted      75   stopped on request; --resume goes on
"""

from __future__ import annotations


class FreqKDError(Exception):
    """What was wrong, what was got, what is needed, what to try; in this order, on one screen.

    The four parts stay readable as attributes for those who catch the error in Python.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: object = None, need: object = None, tip: str | None = None) -> None:
        self.what, self.got, self.need, self.tip = what, got, need, tip
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.what]
        if self.got is not None:
            parts.append(f"  got  {self.got}")
        if self.need is not None:
            parts.append(f"  need {self.need}")
        if self.tip is not None:
            parts.append(f"  try  {self.tip}")
        return "\n".join(parts)

    @property
    def line(self) -> str:
        """The message on one line, for lists of problems."""
        parts = [self.what, f"got {self.got}" if self.got is not None else "", f"need {self.need}" if self.need is not None else ""]
        parts += [f"try {self.tip}" if self.tip is not None else ""]
        return "; ".join(" ".join(part.split()) for part in parts if part)

    def __reduce__(self):  # data-loader workers send their errors through pickle
        return (_rebuild, (type(self), self.what, self.got, self.need, self.tip))


def _rebuild(kind: type[FreqKDError], what: str, got: object, need: object, tip: str | None) -> FreqKDError:
    error = kind.__new__(kind)
    FreqKDError.__init__(error, what, got=got, need=need, tip=tip)
    return error


class UsageError(FreqKDError):
    exit_code = 2


class RecipeError(UsageError):
    """All problems of one recipe. ``problems`` holds one ready-made line each, in file order."""

    def __init__(self, what: str, problems: list[str] | None = None, **parts: object) -> None:
        self.problems = list(problems or [])
        super().__init__("\n".join([what, *(f"  {line}" for line in self.problems)]), **parts)  # type: ignore[arg-type]


class UnknownName(UsageError):
    pass


class BandError(UsageError):
    pass


class CacheMismatch(UsageError):
    pass


class ShapeError(FreqKDError):
    pass


class CacheDamaged(FreqKDError):
    pass


class CheckpointDamaged(FreqKDError):
    pass


class DataBroken(FreqKDError):
    pass


class TrainingFailed(FreqKDError):
    pass


class CheckFailed(FreqKDError):
    exit_code = 3


class Missing(FreqKDError):
    exit_code = 4


class DataMissing(Missing):
    pass


class WeightsMissing(Missing):
    pass


class Interrupted(FreqKDError):
    exit_code = 75
