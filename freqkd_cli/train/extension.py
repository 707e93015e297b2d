"""``distill --extend``: whether a run starts, continues, or is extended, and what that means.

An extended run is the run of its recipe with ``train.extend``, the steps of each extension. The
steps before an extension follow the schedule of the shorter run, those after it the schedule of
the whole length. So a run of that recipe from the start gives the same bits.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import UsageError
from freqkd_cli.recipe.learning_rate import rate_factor
from freqkd_cli.train import checkpoint, run_folder
from freqkd_cli.train.recipe_identity import digests

if TYPE_CHECKING:
    from freqkd_cli.build.schedules import RunLength
    from freqkd_cli.recipe.sections import Recipe, Train


@dataclasses.dataclass(frozen=True)
class Start:
    """How a run starts.

    Attributes:
        extensions: ``train.extend`` of the run, this extension included.
        continues: the last checkpoint is loaded.
        finished: the summary where nothing is left to do.
        extended_at: the steps of the finished run that is now extended.
    """

    extensions: tuple[int, ...] | None
    continues: bool = False
    finished: dict[str, Any] | None = None
    extended_at: int | None = None


def start(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool, extend: int | None) -> Start:
    """Return how the run of ``recipe`` in ``out`` starts; nothing is changed.

    Raises:
        UsageError: ``out`` does not allow it; see :func:`run_folder.check`.
        CheckpointDamaged: the run to extend has no intact checkpoint.
    """
    if overwrite or not (resume or extend):
        run_folder.check(out, recipe, resume=False, overwrite=overwrite)
        return Start(recipe.train.extend)
    if extend and not (out / "recipe.yaml").exists():
        raise UsageError(
            f"--extend continues a finished run, and --out {out} contains none",
            tip="leave out --extend to start one, or give the --out of a run",
        )
    recipe = _as_in(out, recipe)
    finished = run_folder.check(out, recipe, resume=True, overwrite=False)
    before = recipe.train.extend or ()
    if extend is None or (resume and before[-1:] == (extend,)):
        return Start(recipe.train.extend, continues=True, finished=finished)
    if finished is None:
        raise UsageError(
            f"the run in {out} is not finished, so it cannot be extended",
            tip="finish it first: the same command with --resume instead of --extend",
        )
    if checkpoint.load(out / "state", digests(recipe)) is None:
        raise UsageError(
            f"the run in {out} has no checkpoint to continue from",
            need=f"{out / 'state'}",
            tip="start a run from its weights: student.weights in the recipe, and another --out",
        )
    return Start((*before, extend), continues=True, extended_at=finished.get("steps", 0))


def steps_done(out: Path, recipe: Recipe) -> int:
    """Return the step from which a run continues: that of its newest intact checkpoint, or 0.

    The tensors are not read, see :func:`freqkd_cli.train.checkpoint.facts_of`.

    Raises:
        CheckpointDamaged: there are checkpoints, and none is intact.
    """
    facts = checkpoint.facts_of(out / "state", digests(recipe))
    return facts["step"] if facts else 0


def with_extensions(recipe: Recipe, extensions: tuple[int, ...] | None) -> Recipe:
    """Return the recipe with ``train.extend`` replaced."""
    train = recipe.train.model_copy(update={"extend": extensions})
    return dataclasses.replace(recipe, train=train)


def _as_in(out: Path, recipe: Recipe) -> Recipe:
    """Return the recipe with the extensions of the run in ``out``, where it names none itself."""
    if recipe.train.extend is not None or not (out / "recipe.yaml").exists():
        return recipe
    return with_extensions(recipe, recipes.load(out / "recipe.yaml").train.extend)


def check_length(steps: int, length: RunLength) -> None:
    """Refuse to extend a run whose length is no longer that of its recipe.

    Args:
        steps: the steps of the finished run.

    Raises:
        UsageError: the number of training images has changed, and with it that of the steps.
    """
    if steps != length.stages[-2]:
        raise UsageError(
            "the run cannot be extended, since its length depends on the number of training images",
            got=f"a run of {steps} steps, and images for {length.stages[-2]}",
            need="the training images that the run was started with",
            tip="start a new run with another --out",
        )


def note(train: Train, length: RunLength) -> str:
    """Return the log line of an extension: what happens to the learning rate."""
    steps, total = length.stages[-2], length.steps
    before, after = (
        train.lr
        * rate_factor(step, whole, kind=train.schedule, warmup=train.warmup, power=train.power)
        for step, whole in ((steps - 1, steps), (steps, total))
    )
    return (
        f"extending the run from step {steps} to {total}: learning rate {before:.2g} at step "
        f"{steps}, {after:.2g} at step {steps + 1}, as in a run of {total} steps; the result is "
        f"not that of {total} steps without a break"
    )
