"""Where the time of a training step goes: marks set around the engine's own objects from outside, so what is measured is what runs.

Marks use hooks of torch's modules, tensors and optimisers. Every moment between two marks is laid to one part, so the parts of a step add
up to the step. Autograd runs operations in the reverse order of their making, so the backward pass goes through the losses from the last
to the first, and then through the student.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.teacher.sources import CachedTeacher, LiveTeacher
from freqkd_cli.train.loop import Loop
from freqkd_cli.views.batch import Batch

REST = "rest"
"""What lies between the named parts: moving a batch to the device, the sum of the losses, the log."""


class Stopwatch:
    """Seconds and floating-point operations of the parts of a step.

    Args:
        wait: called before the clock is read, so that work queued on a device belongs to the part that queued it; None on a CPU.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.wait = wait
        self.start()

    def start(self, counter: FlopCounterMode | None = None) -> None:
        """Forget all parts; the next one begins now. With ``counter`` the parts' operations are kept as well."""
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}
        self.counter, self.counted = counter, 0
        self.inner: list[tuple[str, int, float, int]] = []
        self.now = self._read()

    def lap(self, part: str) -> None:
        """Lay the time since the last mark to ``part``, less what calls ``within`` it took."""
        now, counted = self._read(), self._count()
        seconds, operations = now - self.now, counted - self.counted
        threads = len({thread for _, thread, *_ in self.inner})
        for inner, _, taken, done in self.inner:
            self._add(inner, taken / threads, done)
            seconds, operations = seconds - taken / threads, operations - done
        self.inner.clear()
        self._add(part, seconds, operations)
        self.now, self.counted = now, counted

    def _add(self, part: str, seconds: float, operations: int) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        if self.counter is not None:
            self.operations[part] = self.operations.get(part, 0) + operations

    def _count(self) -> int:
        return 0 if self.counter is None else self.counter.get_total_flops()

    def _read(self) -> float:
        if self.wait is not None:
            self.wait()
        return time.perf_counter()

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until one is there is the part ``data``."""
        while True:
            self.lap(REST)
            batch = next(batches)
            self.lap("data")
            yield batch

    def around(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        """``call``, its time laid to ``part``."""

        def timed(*words: Any, **named: Any) -> Any:
            self.lap(REST)
            found = call(*words, **named)
            self.lap(part)
            return found

        return timed

    def within(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        """``call``, laid to ``part`` by the lap that it runs in; threads side by side share the clock."""

        def timed(*words: Any, **named: Any) -> Any:
            start, counted = self._read(), self._count()
            found = call(*words, **named)
            self.inner.append(
                (part, threading.get_ident(), self._read() - start, self._count() - counted)
            )
            return found

        return timed


@contextmanager
def watched(loop: Loop, watch: Stopwatch) -> Iterator[None]:
    """Marks in all parts of ``loop``; they are gone afterwards.

    Parts: ``data``, ``teacher`` or ``cache``, ``losses.ID.target``, ``student.forward``, ``losses.ID.forward``, ``losses.ID.backward``,
    ``student.backward``, ``optimizer``, ``average``, ``rest``. Of a cache of targets, the targets are part of ``cache``.
    """
    training, source = loop.training, loop.source
    with ExitStack() as marks:
        if isinstance(source, LiveTeacher):
            _replace(marks, source, "targets", watch.around(source.targets, "teacher"))
        if isinstance(source, CachedTeacher):
            _replace(marks, source.cache, "read", watch.around(source.cache.read, "cache"))
        backward = _Backward(watch)
        _forward(marks, training.objective.student, watch, "student.forward", backward.student)
        for line in training.objective.lines:
            if line.teacher_taps:
                kind = watch.within if isinstance(source, LiveTeacher) else watch.around
                _replace(
                    marks, line.loss, "target", kind(line.loss.target, f"losses.{line.id}.target")
                )
            _forward(marks, line.loss, watch, f"losses.{line.id}.forward", backward.of(line.id))
        _replace(marks, named_range, "watch", backward)
        marks.enter_context(
            _hook(training.optimizer.register_step_post_hook(lambda *_: watch.lap("optimizer")))
        )
        if training.average:
            _replace(
                marks, training.average, "update", watch.around(training.average.update, "average")
            )
        yield


class _Backward:
    """The backward pass, parted where gradients reach the losses' values and the student's outputs."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.part = watch, REST

    def begin(self, part: str) -> None:
        if part != self.part:
            self.watch.lap(self.part)
            self.part = part

    def of(self, id: str) -> Callable[[Tensor], None]:
        """Marks a loss's value: its gradient comes just before the loss's own operations are run backwards."""

        def mark(value: Tensor) -> None:
            if value.requires_grad:
                value.register_hook(lambda _: self.begin(f"losses.{id}.backward"))

        return mark

    def student(self, outputs: dict[str, Tensor]) -> None:
        """Marks the student's outputs: their gradients are whole when every loss is done."""
        for output in outputs.values():
            if output.requires_grad:
                output.register_hook(lambda _: self.begin("student.backward"))

    def enter(self, name: str) -> None:
        """A named range of the step begins."""

    def exit(self, name: str) -> None:
        """A named range of the step ends."""
        if name == "backward":
            self.begin(REST)


def _forward(
    marks: ExitStack,
    module: nn.Module,
    watch: Stopwatch,
    part: str,
    with_output: Callable[[Any], None] | None = None,
) -> None:
    def after(_module: nn.Module, _given: Any, output: Any) -> None:
        watch.lap(part)
        if with_output is not None:
            with_output(output)

    marks.enter_context(_hook(module.register_forward_pre_hook(lambda *_: watch.lap(REST))))
    marks.enter_context(_hook(module.register_forward_hook(after)))


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _replace(marks: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute of one object until the marks are taken away."""
    before = owner.__dict__.get(name, marks)
    setattr(owner, name, value)
    if before is marks:
        marks.callback(delattr, owner, name)
    else:
        marks.callback(setattr, owner, name, before)
