"""The trials of ``freqkd tune``, and which process runs one.

A trial belongs to the study folder whose id it carries, and to the process that holds its lock in
that folder. The operating system releases the lock of a killed process. So its trial, which is
still marked as running, is continued by the next process that asks for a trial.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState

from freqkd_cli.lab.search_space import Search
from freqkd_cli.lab.tune_identity import LOCKS, RECORD, TRIALS, Identity, check_folder
from freqkd_cli.lab.tune_storage import open_study, suggest
from freqkd_cli.runtime.json_file import object_or_none, write_json

STATES = ("complete", "pruned", "failed", "running")
"""States of trials in tables and JSON."""

FOLDER = "folder"
"""User attribute of a trial: id of the study folder that its run is in."""


def state_of(trial: FrozenTrial) -> str:
    """Return the state of a trial, one of :data:`STATES`."""
    if trial.state == TrialState.COMPLETE:
        return "complete"
    if trial.state == TrialState.FAIL or "error" in trial.user_attrs:
        return "failed"
    return "pruned" if trial.state == TrialState.PRUNED else "running"


class TuneStudy:
    """A study folder and its optuna study. Any number of processes may use one at once.

    Args:
        folder: the study folder.
        identity: what decides the trials.
        storage: URL of a database; None = a journal file in the folder.
        seed: of the sampler.

    Raises:
        UsageError: the folder or the storage has another study, or cannot be used.
    """

    def __init__(self, folder: Path, identity: Identity, storage: str | None, seed: int) -> None:
        self.folder, self.identity, self.journal = folder, identity, storage is None
        check_folder(folder, identity, journal=self.journal)
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        with self.locked():
            self.study = open_study(folder, storage, seed)
            stored = self.study.user_attrs.get("freqkd")
            if stored is None and not self.trials:
                self.study.set_user_attr("freqkd", identity.to_json())
            else:
                place = folder if self.journal else "--storage"
                identity.check(stored, f"the study {self.study.study_name} in {place}")
            self.id = self._record()

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the other processes of this folder from asking for a trial."""
        with FileLock(self.folder / LOCKS / "study"):
            yield

    @contextmanager
    def next_trial(self, number: int) -> Iterator[Trial | None]:
        """Yield a trial to run and hold its lock: one that was interrupted, else a new one.

        None where the study has ``number`` trials and no interrupted one of this folder.
        """
        with self.locked():
            trial, lock = self._interrupted() or self._new(number) or (None, None)
        try:
            yield trial
        finally:
            if lock is not None:
                lock.release()

    def run_folder(self, trial: int) -> Path:
        return self.folder / TRIALS / f"{trial:04d}"

    def values(self, trial: Trial | FrozenTrial) -> list[tuple[Search, Any]]:
        """Return the searches and the values of the recipe in a trial."""
        params = trial.params
        return [(s, s.value(params[s.key])) for s in self.identity.searches if s.key in params]

    def finished_twin(self, trial: Trial) -> FrozenTrial | None:
        """Return the first finished trial with the values of this one, where there is one."""
        done = (other for other in self.trials if other.state == TrialState.COMPLETE)
        return next((other for other in done if other.params == trial.params), None)

    def reported(self, trial: Trial) -> Collection[int]:
        """Return the places of the scores that a trial has."""
        return self.trials[trial.number].intermediate_values

    def counts(self) -> dict[str, int]:
        """Return the number of trials in each state."""
        states = [state_of(trial) for trial in self.trials]
        return {state: states.count(state) for state in STATES}

    def best(self) -> FrozenTrial | None:
        """Return the finished trial with the highest score, the first one of equals."""
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)

    def _record(self) -> str:
        """Return the id of the folder; a new folder gets one."""
        stored = object_or_none(self.folder / RECORD)
        if stored is None:
            stored = self.identity.to_json() | {"journal": self.journal, FOLDER: uuid.uuid4().hex}
            write_json(self.folder / RECORD, stored)
        else:  # another process may have been first
            check_folder(self.folder, self.identity, journal=self.journal)
        return stored[FOLDER]

    def _interrupted(self) -> tuple[Trial, FileLock] | None:
        for frozen in self.trials:
            # Without an id, the process was killed right after optuna made the trial.
            owner = frozen.user_attrs.get(FOLDER, self.id if self.journal else None)
            if frozen.state != TrialState.RUNNING or owner != self.id:
                continue
            if (lock := self._claim(frozen.number)) is None:
                continue
            # Its process may have finished it since the trials were read, and then gave the lock.
            if self.trials[frozen.number].state == TrialState.RUNNING:
                return self._ready(Trial(self.study, frozen._trial_id)), lock
            lock.release()
        return None

    def _new(self, number: int) -> tuple[Trial, FileLock] | None:
        started = [trial for trial in self.trials if trial.state != TrialState.WAITING]
        if len(started) >= number:
            return None
        trial = self.study.ask()
        lock = self._claim(trial.number)
        assert lock is not None
        return self._ready(trial), lock

    def _ready(self, trial: Trial) -> Trial:
        """Return a trial with all its values; those that it has are kept."""
        trial.set_user_attr(FOLDER, self.id)
        for search in self.identity.searches:
            suggest(trial, search)
        return trial

    def _claim(self, number: int) -> FileLock | None:
        lock = FileLock(self.folder / LOCKS / f"{number:04d}")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock
