"""The summary of a finished run: ``summary.json``, and what ``distill --json`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from freqkd_cli.train.final_metrics import final_metrics

if TYPE_CHECKING:
    from freqkd_cli.train.evaluation import Evaluation
    from freqkd_cli.train.setting import Setting
    from freqkd_cli.train.training_state import Training


def summary(
    setting: Setting, training: Training, evaluation: Evaluation, run: tuple[float, int, str]
) -> dict[str, Any]:
    """Return the summary of a run whose last weights are scored.

    Args:
        run: seconds since the start or the last resumption, views that were seen in that time, and
            the name of the source of targets.
    """
    assert training.best is not None and training.last is not None
    seconds, images, source = run
    student, metrics = training.objective.student, setting.checked.recipe.train.metrics
    result = {
        "run": str(setting.out),
        "steps": training.step,
        "miou": training.best["miou"],
        "best_step": training.best["step"],
        "last_miou": training.last["miou"],
        "val_images": evaluation.images,
        **setting.numbers_of_images,
        "seconds": round(seconds, 2),
        "images_per_second": round(images / seconds, 2) if images else None,
        "source": source,
    }
    scored = final_metrics(evaluation, student, setting.out, metrics)
    extended = list(setting.length.stages[:-1])
    return result | scored | ({"extended": extended} if extended else {})
