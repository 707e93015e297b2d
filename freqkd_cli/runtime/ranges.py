"""Named ranges of a training step, for ``torch.profiler`` and ``freqkd bench``."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch.profiler import record_function


class RangeWatch(Protocol):
    """A listener that is called at both ends of every range."""

    def enter(self, name: str) -> None: ...

    def exit(self, name: str) -> None: ...


class named_range(record_function):  # noqa: N801 - a context manager, named like its base class
    """A part of a training step, ``freqkd/NAME`` in a profile; a few microseconds where none runs.

    ``watch`` is the listener of this process, set by ``freqkd bench`` alone.
    """

    watch: ClassVar[RangeWatch | None] = None

    def __init__(self, name: str) -> None:
        super().__init__(f"freqkd/{name}")
        self.part = name

    def __enter__(self) -> named_range:
        if self.watch is not None:
            self.watch.enter(self.part)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self.watch is not None:
            self.watch.exit(self.part)
