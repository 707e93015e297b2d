"""The numbers of ``train.metrics``, of the weights that a finished run would deploy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.build.exported_model import load_file_or_folder
from freqkd_cli.score.evaluate import Pass, score

if TYPE_CHECKING:
    from torch import nn

    from freqkd_cli.runtime.processes import Processes
    from freqkd_cli.train.evaluation import Evaluation


def final_metrics(
    evaluation: Evaluation, student: nn.Module, out: Path, metrics: Sequence[str]
) -> dict[str, Any]:
    """Score the best weights once more, on the images of the evaluations.

    Args:
        student: a model of the same form. Its weights stay; with ``train.quantize`` its ranges
            become the best ones, except in the first process.
        out: the run folder with the best weights.
        metrics: names of the requested metrics; none for an empty result.

    Returns:
        ``metrics``: name -> number, the cheap metrics too, and ``metrics_per_class``: name -> class
        -> number. Empty where nothing is scored.
    """
    dataset, processes = evaluation.dataset, evaluation.processes
    if not metrics or dataset is None:
        return {}
    result = score(
        _best(student, out, processes).to(processes.device),
        dataset,
        evaluation.compute,
        processes.device,
        Pass(workers=evaluation.workers, limit=evaluation.limit, cheap=True, metrics=metrics),
        processes=processes,
    )
    per_class = {
        name: dict(zip(dataset.classes, values, strict=True))
        for name, values in result.tally.per_class().items()
    }
    return {"metrics": result.values, "metrics_per_class": per_class}


def _best(student: nn.Module, out: Path, processes: Processes) -> nn.Module:
    """Return the model in the run folder, which other machines need not see."""
    best = load_file_or_folder(out) if processes.first else copy.deepcopy(student).eval()
    if processes.number > 1:
        own = (best.state_dict(), best.quantization) if processes.first else None
        state, ranges = processes.share(own)
        best.load_state_dict(state, strict=False)  # a saved model has no training-only heads
        if ranges and not processes.first:
            student.simulated[0].take(ranges)  # the hooks of the copy read these
    return best
