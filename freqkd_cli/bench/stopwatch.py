"""Time and operations of the parts of a training step.

Parts are the ranges of ``runtime/ranges.py`` in the step's own code, and hooks of torch on modules,
tensors and optimizers. Every moment belongs to one part, so the parts of a step add up to the step.
Autograd runs operations in reverse order, so a backward pass goes through the losses from the last
to the first, and then through the student.

``torch.profiler`` shows the same ranges, but it cannot split the backward pass by loss, and it
records every operation of a step.
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
from freqkd_cli.train.loop import Loop
from freqkd_cli.views.batch import Batch

REST = "rest"
"""Time between the named parts: copies to the device, the sum of the losses, the log."""

BACKWARD = "backward"
"""The range of the backward pass, which tensor hooks split into parts."""


class Stopwatch:
    """Seconds and floating-point operations of the parts of a step.

    It listens to :class:`named_range`. Nested ranges count once, for the inner part.

    Args:
        wait: called before the clock is read, so that work queued on a device counts for the part
            that queued it; None on a CPU.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.wait, self.thread = wait, threading.get_ident()
        self.start()

    def start(self, counter: FlopCounterMode | None = None) -> None:
        """Forget all parts and start the clock; ``counter`` also counts operations by part."""
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}
        self.counter, self.counted = counter, 0
        self.open_parts = [REST]
        self.lanes: dict[int, list[tuple[str, float]]] = {}
        self.now = self._read_clock()

    def enter(self, name: str) -> None:
        """Start a part; the parts around it pause."""
        if threading.get_ident() != self.thread:
            self.lanes.setdefault(threading.get_ident(), []).append((name, -self._read_clock()))
            return
        self.lap()
        self.open_parts.append(REST if name == BACKWARD else name)

    def exit(self, name: str) -> None:
        """End the part that was started last."""
        if threading.get_ident() != self.thread:
            started = self.lanes[threading.get_ident()].pop()[1]
            self.lanes[threading.get_ident()].append((name, started + self._read_clock()))
            return
        self.lap()
        self.open_parts.pop()

    def switch(self, name: str) -> None:
        """End the innermost part and start another in its place."""
        if name != self.open_parts[-1]:
            self.lap()
            self.open_parts[-1] = name

    def lap(self, part: str | None = None) -> None:
        """Add the time since the last lap to ``part``, or else to the innermost part.

        Ranges of other threads ran during that time. They share it equally.
        """
        now = self._read_clock()
        counted = 0 if self.counter is None else self.counter.get_total_flops()
        seconds = now - self.now
        for name, duration in (entry for entries in self.lanes.values() for entry in entries):
            self._add(name, duration / len(self.lanes), 0)
            seconds -= duration / len(self.lanes)
        self.lanes.clear()
        self._add(part or self.open_parts[-1], seconds, counted - self.counted)
        self.now, self.counted = now, counted

    def _add(self, part: str, seconds: float, operations: int) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds
        if self.counter is not None:
            self.operations[part] = self.operations.get(part, 0) + operations

    def _read_clock(self) -> float:
        if self.wait is not None:
            self.wait()
        return time.perf_counter()

    def timed_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches; the time until each is ready is the part ``data``."""
        while True:
            self.enter("data")
            batch = next(batches)
            self.exit("data")
            yield batch


@contextmanager
def watched(loop: Loop, watch: Stopwatch) -> Iterator[None]:
    """Let ``watch`` time the parts of ``loop``'s steps; nothing stays behind afterwards.

    Parts: ``data``, ``teacher`` or ``cache``, ``losses.ID.target``, ``student.forward``,
    ``losses.ID.forward``, ``losses.ID.backward``, ``student.backward``, ``optimizer``, ``average``,
    ``rest``. Targets that come from a cache are part of ``cache``.
    """
    training = loop.training
    with ExitStack() as hooks:

        def hold(handle: Any) -> None:
            hooks.callback(handle.remove)

        def time_forward(module: nn.Module, part: str, mark: Callable[[Any], None]) -> None:
            def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
                watch.exit(part)
                mark(output)

            hold(module.register_forward_pre_hook(lambda *_: watch.enter(part)))
            hold(module.register_forward_hook(after))

        time_forward(training.objective.student, "student.forward", _student_marks(watch))
        for line in training.objective.lines:
            time_forward(line.loss, f"losses.{line.id}.forward", _loss_marks(watch, line.id))
        step_end = training.optimizer.register_step_post_hook(lambda *_: watch.lap("optimizer"))
        hold(step_end)
        named_range.watch = watch
        hooks.callback(setattr, named_range, "watch", None)
        yield


def _loss_marks(watch: Stopwatch, id: str) -> Callable[[Tensor], None]:
    """Mark a loss's value: its gradient comes just before the backward pass of the loss."""

    def mark(value: Tensor) -> None:
        if value.requires_grad:
            value.register_hook(lambda _: watch.switch(f"losses.{id}.backward"))

    return mark


def _student_marks(watch: Stopwatch) -> Callable[[dict[str, Tensor]], None]:
    """Mark the student's outputs: their gradients are complete when every loss is done."""

    def mark(outputs: dict[str, Tensor]) -> None:
        for output in outputs.values():
            if output.requires_grad:
                output.register_hook(lambda _: watch.switch("student.backward"))

    return mark
