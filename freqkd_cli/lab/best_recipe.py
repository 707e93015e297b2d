"""``best.yaml``: the best recipe of a tune, with a lab note of how it was tuned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from freqkd_cli import recipe as recipes
from freqkd_cli.lab.trial_recipes import TrialRecipes
from freqkd_cli.lab.tune_study import TuneStudy
from freqkd_cli.runtime.files import write_synced

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BEST = "best.yaml"


def write_best(study: TuneStudy, trials: TrialRecipes, best: FrozenTrial, command: str) -> Path:
    """Write the recipe of the best trial into the study folder and return its path."""
    text = f"{_note(study, trials, best, command)}{recipes.dump(trials.best(study.values(best)))}"
    recipes.loads(text)  # as recipe check reads it
    path = study.folder / BEST
    write_synced(path, lambda file: file.write(text.encode()))
    return path


def _note(study: TuneStudy, trials: TrialRecipes, best: FrozenTrial, command: str) -> str:
    values = study.values(best)
    tuned = ", ".join(f"{search.setting(value)} of {search.values}" for search, value in values)
    keys = ", ".join(search.key for search, _ in values)
    counts = ", ".join(f"{count} {state}" for state, count in study.counts().items() if count)
    attributes = best.user_attrs
    seconds, device = attributes.get("seconds"), attributes.get("device", "an unknown device")
    took = f", {seconds / 60:.1f} min for this trial" if seconds else ""
    date = f"{best.datetime_complete:%Y-%m-%d}" if best.datetime_complete else "an unknown date"
    images, held = len(trials.parts.trained), len(trials.parts.held)
    share = recipes.loads(trials.text).data.hold_out
    lines = [
        f"Which values of {keys} are best for {trials.recipe.source}?",
        f"Source: {trials.recipe.source}, tuned by freqkd tune",
        f"Command: {command}",
        f"Tuned: {tuned}",
        f"Trials: {counts}; the values are those of trial {best.number}",
        f"Score: {100 * best.value:.2f} mIoU on {attributes.get('scored', held)} held-out training "
        f"images (data.hold_out {share}); {images} were trained on, val was not read",
        f"Measured: {date}, seed {trials.recipe.train.seed}, {device}{took}",
        "Expected: not yet measured on val",
    ]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)
