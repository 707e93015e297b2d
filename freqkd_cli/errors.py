"""Every error that a user can cause, as one family. Only ``app`` maps them to exit codes.

::

    FreqKDError          1   a run-time failure
    |- UsageError        2   options that do not fit together, an --out that is not empty
    |  |- RecipeError    2   one or many problems in a recipe, all reported at once
    |  |- UnknownName    2   no file of that name in a drawer
    |  |- BandError      2   a filter that keeps nothing or everything on a tap
    |  `- CacheMismatch  2   a cache made for another teacher, other views or other losses
    |- ShapeError        1   tensors that cannot be compared
    |- CacheDamaged      1   a shard or an index that does not match its checksum
    |- CheckpointDamaged 1   a run without an intact checkpoint, or with that of another run
    |- DataBroken        1   an unreadable image or mask, labels outside the classes
    |- TrainingFailed    1   a loss that is not finite
    |- CheckFailed       3   parity, --verify, --min-miou
    |- Missing           4   a cache that is not in its folder
    |  |- DataMissing    4   a data set that is not in its folder
    |  `- WeightsMissing 4   weights that are missing or do not fit the model
    `- Interrupted      75   stopped on request; --resume continues
"""

from __future__ import annotations

from collections.abc import Iterable


class FreqKDError(Exception):
    """A message of four parts: what is wrong, got, need, and what to try.

    Attributes:
        what, got, need, tip: the four parts of the message; all but the first may be None.
        key: the recipe key or the argument that the error is about, such as ``cutoff`` or
            ``student``; None if it is not about a single one. Callers append it to the path that
            they have (``losses.2``), so that a message can point at a place in the recipe.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        need: object = None,
        tip: str | None = None,
        key: str | None = None,
    ) -> None:
        self.what, self.got, self.need, self.tip, self.key = what, got, need, tip, key
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {name:<4} {text}" for name, text in self._parts())])

    @property
    def line(self) -> str:
        """The message on one line, for lists of problems."""
        parts = [self.what, *(f"{name} {text}" for name, text in self._parts())]
        return "; ".join(" ".join(part.split()) for part in parts)

    def _parts(self) -> list[tuple[str, object]]:
        named = (("got", self.got), ("need", self.need), ("try", self.tip))
        return [(name, text) for name, text in named if text is not None]

    def __reduce__(self):  # data-loader workers send their errors through pickle
        return (_rebuild, (type(self), self.what, self.got, self.need, self.tip, self.key))


def _rebuild(kind: type[FreqKDError], what: str, *parts: object) -> FreqKDError:
    error = kind.__new__(kind)
    FreqKDError.__init__(
        error, what, **dict(zip(("got", "need", "tip", "key"), parts, strict=True))
    )  # type: ignore[arg-type]
    return error


class UsageError(FreqKDError):
    exit_code = 2


class RecipeError(UsageError):
    """All problems of one recipe; ``problems`` has one line each, in file order."""

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


def quoted(error: object) -> str:
    """Return the first line of another library's message, without control characters.

    It is cut to 200 characters; the class of the error stands for an empty message.
    """
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    text = "".join(c if c.isprintable() else "?" for c in line)
    return text[:200] or type(error).__name__


def some(texts: Iterable[object], number: int = 3, between: str = ", ") -> str:
    """Return the first few of many texts, and how many more there are."""
    listed = [str(text) for text in texts]
    more = len(listed) - number
    return between.join([*listed[:number], *([f"and {more} more"] if more > 0 else [])])
