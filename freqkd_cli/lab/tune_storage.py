"""The optuna study of ``freqkd tune``: its storage, its sampler and its pruner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from freqkd_cli.errors import UsageError, quoted
from freqkd_cli.lab.search_space import Search
from freqkd_cli.lab.tune_identity import JOURNAL, LOCKS

FIRST_RANDOM, FIRST_WHOLE = 8, 5
"""Trials with random values before the sampler learns, and trials that are never pruned."""

EARLIEST = 200
"""A trial is not pruned in its first 200 thousandths."""


def open_study(folder: Path, storage: str | None, seed: int) -> Study:
    """Return the study of a folder; that of a journal keeps its name when the folder is renamed.

    Raises:
        UsageError: the database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        journal = _journal(folder / JOURNAL) if storage is None else None
        names = optuna.get_all_study_names(journal) if journal else []
        return optuna.create_study(
            storage=journal or storage,
            study_name=names[0] if names else folder.resolve().name,
            direction="maximize",
            load_if_exists=True,
            sampler=_SeededByTrial(seed),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=FIRST_WHOLE, n_warmup_steps=EARLIEST, n_min_trials=FIRST_WHOLE
            ),
        )
    except Exception as error:  # of optuna, of its database library, or of a missing driver
        where = folder / JOURNAL if storage is None else "--storage"
        raise UsageError(
            f"{where} cannot be opened",
            got=quoted(error),
            need="a study of freqkd tune, or a database URL such as sqlite:///study.db",
        ) from error


def _journal(path: Path) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))


class _JournalLock(JournalFileOpenLock):
    """A lock that ends with its process; optuna's own ones wait 30 s for a killed one."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path.parent / LOCKS / "journal")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


class _SeededByTrial(BaseSampler):
    """The TPE sampler with a seed of each trial, so a resumed study draws what it would have drawn.

    With one seed for the process, a second start would draw the values of the first one again.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.sampler = seed, TPESampler()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        seed = (self.seed * 1_000_003 + trial.number) % 2**32
        self.sampler = TPESampler(
            seed=seed, n_startup_trials=FIRST_RANDOM, multivariate=False, constant_liar=True
        )

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.sampler.after_trial(study, trial, state, values)


def suggest(trial: Trial, search: Search) -> None:
    """Give a trial a value of a key; one that it has stays."""
    if search.choices:
        trial.suggest_categorical(search.key, search.labels)
    elif search.integer:
        trial.suggest_int(search.key, *search.probes, log=search.log)
    else:
        trial.suggest_float(search.key, *search.probes, log=search.log)
