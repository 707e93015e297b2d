"""What a run writes while it trains: ``metrics.jsonl``, and the same for trackers."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from freqkd_cli.train.trackers import OWN, Trackers

if TYPE_CHECKING:
    from freqkd_cli.build.objective import Line
    from freqkd_cli.recipe.sections import Recipe


def loss_row(
    step: int, rate: float, terms: Mapping[str, Tensor], lines: Sequence[Line], total_steps: int
) -> dict[str, Any]:
    """Return the row of ``metrics.jsonl`` for the losses of the ``step``-th step (1-based).

    Args:
        rate: the learning rate of the step.
        terms: id of a loss line, and ``total`` -> value.
    """
    raw = {name: float(value) for name, value in terms.items()}
    total = raw.pop("total")
    weighted = {line.id: raw[line.id] * line.weight_at(step - 1, total_steps) for line in lines}
    return {"step": step, "lr": rate, "total": total, "raw": raw, "weighted": weighted}


class RunLog:
    """The file and the trackers, open from a run's start or resumption to its end.

    Args:
        out: the run's folder.
        step: the step that the run starts at.
        length: bytes of ``metrics.jsonl`` at that step.
        recipe: names the trackers.

    Raises:
        FreqKDError: a tracker cannot be started.
    """

    def __init__(self, out: Path, step: int, length: int, recipe: Recipe) -> None:
        names = recipe.train.trackers
        self._trackers = Trackers(names, out, recipe)
        self._metrics = _Metrics(out / "metrics.jsonl", length)
        self._board = _Board(out / "tensorboard", step) if OWN in names else None

    def trained(self, row: dict[str, Any], images_per_second: float) -> None:
        """Write a row of losses: ``step``, ``lr``, ``total``, ``raw`` and ``weighted``.

        The speed goes to TensorBoard alone, since no seed decides it.
        """
        self._metrics.write(row)
        scalars = {"total": row["total"]}
        for name in row["raw"]:
            scalars |= {f"raw/{name}": row["raw"][name], f"weighted/{name}": row["weighted"][name]}
        self._show(row["step"], scalars | {"speed/images_per_second": images_per_second})
        self._trackers.log(row["step"], {"lr": row["lr"], **scalars})

    def scored(self, row: dict[str, Any]) -> None:
        """A row of scores: ``step``, and ``val`` with the numbers of all cheap metrics.

        ``per_class`` has their numbers per class; trackers do not get them.
        """
        self._metrics.write(row)
        scores = {f"val/{name}": x for name, x in row["val"].items() if x is not None}
        self._show(row["step"], scores)
        self._trackers.log(row["step"], scores)

    def length(self) -> int:
        """Return the bytes of ``metrics.jsonl``, after all of them are on the disk."""
        if self._board:
            self._board.flush()
        return self._metrics.length()

    def close(self) -> None:
        self._metrics.close()
        if self._board:
            self._board.close()
        self._trackers.close()

    def _show(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items() if self._board else ():
            self._board.add_scalar(name, value, step)


class Unwritten:
    """The log of a process that writes nothing."""

    def trained(self, row: dict[str, Any], images_per_second: float) -> None: ...

    def scored(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class _Metrics:
    """``metrics.jsonl``: one JSON object a line.

    It has only numbers that the recipe and the seed decide, so two equal runs write equal files.
    """

    def __init__(self, path: Path, length: int) -> None:
        """Continue after ``length`` bytes; what was written past the checkpoint is cut off."""
        self.file = open(path, "ab")  # noqa: SIM115 - lives as long as the run
        # A file that somebody cut must not be filled up with zeros.
        self.file.truncate(min(length, self.file.tell()))

    def write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()

    def length(self) -> int:
        os.fsync(self.file.fileno())
        return self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        with suppress(OSError):  # a failed write was reported when it happened
            self.file.close()


class _Board:
    """TensorBoard's scalars, one more events file for each start.

    Written in this thread and not by the library's writer: its thread reports a full disk as a
    traceback, and a kill loses two minutes of its events.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Continue after ``step``; what was written past the checkpoint is no longer shown."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self.file = open(folder / name, "wb")  # noqa: SIM115 - lives as long as the run
        self.records = RecordWriter(self.file)
        self._add(file_version="brain.Event:2")
        self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))

    def _add(self, **parts: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **parts).SerializeToString())

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        with suppress(OSError):
            self.file.close()
