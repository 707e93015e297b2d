"""One process of ``freqkd tune``: it runs trials until the study has enough of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from freqkd_cli.errors import FreqKDError, Interrupted, TrainingFailed, UsageError, quoted
from freqkd_cli.lab.best_recipe import BEST, write_best
from freqkd_cli.lab.trial_recipes import TrialRecipes
from freqkd_cli.lab.tune_study import TuneStudy, state_of
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.memory import out_of_memory
from freqkd_cli.runtime.progress import Progress

Train = Callable[..., dict[str, Any]]
"""Trains a recipe into a folder, as :func:`freqkd_cli.train.distillation.distill` does."""


@dataclass(frozen=True)
class TuneOptions:
    """The options of ``freqkd tune``.

    Attributes:
        searches: ``KEY=VALUES`` each, see :mod:`freqkd_cli.lab.search_space`.
        trials: trials of the whole study, those of all its processes together.
        storage: URL of a database; None = a journal file in the study folder.
        hold_out: share of the training images that is scored; None = as in the recipe, else 0.2.
        prune: end trials that score below the median of the others.
        command: the command, for the note in the best recipe.
    """

    searches: tuple[str, ...]
    trials: int = 20
    storage: str | None = None
    hold_out: float | None = None
    cache: Path | None = None
    device: str | None = None
    prune: bool = True
    command: str = "freqkd tune"


class _Pruned(Exception):
    """Ends the run of a trial that is not worth its steps."""


@dataclass(frozen=True)
class Worker:
    """Runs the trials of a study that are left, one after the other."""

    study: TuneStudy
    trials: TrialRecipes
    options: TuneOptions
    progress: Progress
    train: Train

    def run(self) -> None:
        """Run trials until the study has enough of them.

        Raises:
            Interrupted: a signal asked to stop; the trial is continued by the same command.
            FreqKDError: an error that is not about the values of one trial.
        """
        while True:
            with self.study.next_trial(self.options.trials) as trial:
                if trial is None:
                    return
                self._run(trial)

    def _run(self, trial: Trial) -> None:
        values, number = self.study.values(trial), trial.number
        text = ", ".join(f"{search.setting(value)}" for search, value in values)
        if twin := self.study.finished_twin(trial):  # the same run again
            self.study.study.tell(trial, twin.value)
            self.progress.note(f"trial {number}: the values and the score of trial {twin.number}")
            return
        self.progress.note(f"trial {number} ({number + 1} of {self.options.trials}): {text}")
        out, started = self.study.run_folder(number), time.monotonic()
        try:
            summary = self.train(
                self.trials.of(values, number),
                out,
                self.progress,
                cache=self.options.cache,
                device=self.options.device,
                resume=True,
                on_score=lambda step, steps, miou: self._scored(trial, step, steps, miou),
            )
        except _Pruned:
            self.study.study.tell(trial, state=TrialState.PRUNED)
            self.progress.note(f"trial {number} is pruned")
        except TrainingFailed as error:  # the sampler learns to avoid such values
            self._failed(trial, error, TrialState.PRUNED)
        except UsageError as error:  # values that do not fit together
            self._failed(trial, error, TrialState.FAIL)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            # As it is, the next start would take the trial up again, and end as this one.
            lack = FreqKDError("not enough memory", got=quoted(error))
            self._failed(trial, lack, TrialState.PRUNED)
        except Interrupted as error:
            what = f"trial {number}: {error.what}"
            raise Interrupted(what, tip="the same command continues the study") from error
        else:
            self._finished(trial, summary, time.monotonic() - started)

    def _scored(self, trial: Trial, step: int, steps: int, miou: float) -> None:
        """Report a score; its place is in thousandths of the run, as runs differ in length."""
        place = round(1000 * step / steps)
        if place not in self.study.reported(trial):  # else it was, before the run was resumed
            trial.report(miou, place)
        if step < steps and self.options.prune and trial.should_prune():
            raise _Pruned

    def _failed(self, trial: Trial, error: FreqKDError, state: TrialState) -> None:
        trial.set_user_attr("error", error.line)
        self.study.study.tell(trial, state=state)
        self.progress.note(f"trial {trial.number} failed: {error.line}")

    def _finished(self, trial: Trial, summary: dict[str, Any], seconds: float) -> None:
        """Store the score of the last weights, and write the best recipe so far."""
        score = summary["last_miou"]
        if score is None:
            raise FreqKDError("the held-out images have no labelled pixels, so nothing is scored")
        out = self.study.run_folder(trial.number)
        facts = object_or_none(out / "environment.json") or {}
        device = f"{facts['device']} ({facts['machine']})" if "device" in facts else None
        known = {"seconds": summary.get("seconds", seconds), "scored": summary.get("val_images")}
        for name, value in (known | {"device": device, "run": str(out)}).items():
            if value is not None:
                trial.set_user_attr(name, value)
        self.study.study.tell(trial, score)
        best = self._write_best()
        assert best is not None and best.value is not None
        self.progress.note(
            f"trial {trial.number}: {100 * score:.2f} mIoU on held-out images; "
            f"best {100 * best.value:.2f} (trial {best.number})"
        )

    def _write_best(self) -> FrozenTrial | None:
        with self.study.locked():
            best = self.study.best()
            if best is not None:
                write_best(self.study, self.trials, best, self.options.command)
        return best

    def document(self) -> dict[str, Any]:
        """Return the document of ``tune --json``.

        Raises:
            FreqKDError: every trial failed or was pruned.
        """
        best, rows = self._write_best(), [self._row(trial) for trial in self.study.trials]
        if best is None and all(row["state"] != "running" for row in rows):
            raise FreqKDError(
                f"no trial of {self.study.folder} was finished",
                got=next((row["error"] for row in rows if row["error"]), f"{len(rows)} trials"),
                tip="narrow --search and give another --study",
            )
        rows.sort(key=lambda row: (row["state"] != "complete", -(row["miou"] or 0), row["trial"]))
        parts = self.trials.parts
        return {
            "study": str(self.study.folder),
            "trials": len(rows),
            **self.study.counts(),
            "images": len(parts.trained),
            "held_out_images": len(parts.held),
            "best": self._row(best) if best else None,
            "best_recipe": str(self.study.folder / BEST) if best else None,
            "rows": rows,
        }

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        run = self.study.run_folder(trial.number)
        return {
            "trial": trial.number,
            "state": state_of(trial),
            "miou": trial.value,
            "values": {search.key: value for search, value in self.study.values(trial)},
            "seconds": trial.user_attrs.get("seconds"),
            "run": trial.user_attrs.get("run", str(run)),
            "error": trial.user_attrs.get("error"),
        }
