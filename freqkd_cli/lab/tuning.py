"""``freqkd tune``: trials of a recipe with other values, scored on held-out training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.errors import UsageError
from freqkd_cli.lab.best_recipe import BEST
from freqkd_cli.lab.search_space import read_searches
from freqkd_cli.lab.trial_recipes import TrialRecipes, check_searches, trial_recipes
from freqkd_cli.lab.tune_identity import RECORD, TRIALS, Identity, check_folder
from freqkd_cli.lab.tune_study import TuneStudy
from freqkd_cli.lab.tune_worker import Train, TuneOptions, Worker
from freqkd_cli.runtime.launch import processes
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.estimate import duration

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


def tune(
    recipe: Recipe,
    folder: Path,
    options: TuneOptions,
    progress: Progress,
    *,
    dry_run: bool = False,
    train: Train = distill,
) -> dict[str, Any]:
    """Run the trials that are left of a study and return the document of ``tune --json``.

    Args:
        folder: the study folder; a study in it is continued.
        dry_run: return what the study would cost; nothing is written.

    Raises:
        RecipeError, UsageError, DataMissing, CacheMismatch: before any trial.
        Interrupted: SIGINT or SIGTERM; the same command continues.
        FreqKDError: no trial could be finished.
    """
    if processes() > 1:
        raise UsageError(
            "a trial of freqkd tune is one process",
            got=f"{processes()} processes",
            tip="start the same command several times, each without torchrun",
        )
    pick_device(options.device)  # in a trial, its error would use up the trial
    searches = read_searches(options.searches)
    trials = trial_recipes(recipe, options.hold_out, options.cache)
    identity = Identity(trials.text, searches)
    check_folder(folder, identity, journal=options.storage is None)
    check_searches(trials, searches, options.cache, options.device or "cpu")
    if dry_run:
        return _cost(trials, folder, identity, options, progress, train)
    study = TuneStudy(folder, identity, options.storage, recipe.train.seed)
    worker = Worker(study, trials, options, progress, train)
    worker.run()
    return worker.document()


def _cost(
    trials: TrialRecipes,
    folder: Path,
    identity: Identity,
    options: TuneOptions,
    progress: Progress,
    train: Train,
) -> dict[str, Any]:
    """Return trials, steps, images and expected hours of a study; nothing is written."""
    finished = 0
    if (folder / RECORD).exists():
        study = TuneStudy(folder, identity, options.storage, trials.recipe.train.seed)
        finished = sum(trial.state.is_finished() for trial in study.trials)
    left = max(0, options.trials - finished)
    out, given = folder / TRIALS / "0000", {"cache": options.cache, "device": options.device}
    # Nothing is written, and a run that is there stays.
    cost = train(trials.of([]), out, progress, overwrite=True, dry_run=True, **given)
    seconds = cost["seconds"] * left
    return {
        "study": str(folder),
        "search": [search.text for search in identity.searches],
        "trials": left,
        "finished": finished,
        "steps": trials.steps,
        "images": len(trials.parts.trained),
        "held_out_images": len(trials.parts.held),
        "seconds_per_trial": cost["seconds"],
        "hours": round(seconds / 3600, 3),
        "time": f"about {duration(seconds)} on this machine in one process, without pruning",
        "writes": [str(folder / TRIALS), str(folder / BEST)],
    }
