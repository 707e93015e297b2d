"""Experiment trackers beside TensorBoard (``train.trackers``), through those of accelerate.

They get the numbers of ``metrics.jsonl``. Nothing leaves the machine unless the tracker's
environment variables name a server: ``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``,
``TRACKIO_SPACE_ID``. A resumed run continues the run of its trackers, which ``trackers.json`` in
the run folder names.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.errors import FreqKDError, UsageError, quoted
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.runtime.json_file import object_or_none, write_json
from freqkd_cli.runtime.leaves import leaves

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

OWN = "tensorboard"
"""Written by this program itself."""

PROJECT = "freqkd"
STATE = "trackers.json"


def require(names: Iterable[str]) -> None:
    """Check that the libraries of the trackers are installed; nothing is imported.

    Raises:
        UsageError: some are not.
    """
    others = [name for name in names if name != OWN]
    wanted = ["accelerate", *others] if others else []
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"train.trackers needs {' and '.join(missing)}, which is not installed",
            got=f"train.trackers [{', '.join(names)}]",
            tip=f"pip install {' '.join(missing)}, or --set 'train.trackers=[tensorboard]'",
            key="train.trackers",
        )


class Trackers:
    """The trackers of a run but TensorBoard, open from its start or resumption to its end.

    Args:
        names: those of ``train.trackers``.
        out: the run's folder.

    Raises:
        FreqKDError: one cannot be started.
    """

    def __init__(self, names: Sequence[str], out: Path, recipe: Recipe) -> None:
        self._open: dict[str, Any] = {}
        others = [name for name in names if name != OWN]
        if not others:
            return
        state = object_or_none(out / STATE) or {}
        state.setdefault("id", uuid.uuid4().hex[:8])
        for name in others:
            try:
                with _quiet():
                    self._open[name] = _started(name, out, state, recipe)
            except Exception as error:  # each library raises errors of its own
                self.close()
                raise FreqKDError(
                    f"the tracker {name} cannot be started",
                    got=quoted(error),
                    tip="--set 'train.trackers=[tensorboard]'",
                    key="train.trackers",
                ) from error
        write_json(out / STATE, state)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Pass on numbers; a tracker that fails is left out from here on, with a warning."""
        for name, tracker in list(self._open.items()):
            try:
                with _quiet():
                    tracker.log(dict(numbers), step=step)
            except Exception as error:
                log.warning("logging to %s stopped: %s", name, quoted(error))
                del self._open[name]

    def close(self) -> None:
        for name, tracker in self._open.items():
            try:
                with _quiet():
                    tracker.finish()
            except Exception as error:
                log.warning("%s is not complete: %s", name, quoted(error))
        self._open.clear()


def _started(name: str, out: Path, state: dict[str, Any], recipe: Recipe) -> Any:
    """Return an open tracker of accelerate; ``state`` gets what continues its run later."""
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # its log needs it; a group of processes is there already
    kind = LOGGER_TYPE_TO_CLASS[name]
    arguments = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}[name](out, state)
    tracker = kind(**arguments)
    tracker.main_process_only = False  # only the first process has any
    tracker.start()
    if name == "mlflow":
        state["mlflow"] = tracker.tracker.info.run_id
    tracker.store_init_configuration({key: str(value) for key, value in leaves(resolved(recipe))})
    return tracker


def _wandb(out: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    mode = os.environ.get("WANDB_MODE", "offline")
    run = {"id": state["id"], "name": out.name, "resume": "allow"}
    return {"run_name": PROJECT, "dir": str(out), "mode": mode, **run}


def _mlflow(out: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    import mlflow

    run = {"run_id": state.get("mlflow"), "run_name": f"{out.name}-{state['id']}"}
    if "MLFLOW_TRACKING_URI" in os.environ:
        return {"experiment_name": PROJECT, **run}
    mlflow.set_tracking_uri(f"sqlite:///{out.absolute()}/mlflow.db")
    return {"experiment_name": PROJECT, "logging_dir": (out.absolute() / "mlflow").as_uri(), **run}


def _trackio(out: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    return {"run_name": PROJECT, "name": f"{out.name}-{state['id']}", "resume": "allow"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a library prints out of standard output, which is for the result alone."""
    with redirect_stdout(sys.stderr):
        yield
