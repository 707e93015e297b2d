"""Forms of a cache compared before it is made: bytes, seconds, and what each costs every loss."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from freqkd_cli.build import assemble
from freqkd_cli.build.class_weights import counted_weights, rules, with_weights
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.cache.shards import Storage, rounded
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump_plan import Job, stored_parts
from freqkd_cli.teacher.live import rounded_targets
from freqkd_cli.teacher.recipe_cache import STORAGE
from freqkd_cli.teacher.targets import Content, Targets, compute_targets
from freqkd_cli.views.loader import Loader

if TYPE_CHECKING:
    from freqkd_cli.build.objective import Line
    from freqkd_cli.features.loss import Loss
    from freqkd_cli.recipe.sections import Recipe
    from freqkd_cli.views.batch import Batch

VIEWS = 4
"""Views on which the losses are compared."""

SCORES = 4
"""Class scores that are kept in the last row, where the command names no number."""

Outcome = tuple[float, Tensor]
"""Value of a loss, and its gradient with respect to the student's taps, flattened."""


def compare(recipe: Recipe, job: Job, items: int, seconds: float) -> list[dict[str, Any]]:
    """Return one row per form of the cache, on a few views and the student as it starts.

    Args:
        items: views of the whole cache.
        seconds: expected duration of the dump without the conversion to a form.

    Returns:
        rows of ``content``, ``dtype``, ``scores``, ``bytes``, ``bytes_per_view``, ``seconds`` and
        ``losses``: id -> ``relative_error`` of its value and ``gradient_cosine``, both against
        float32 targets.
    """
    batch = _few_views(job)
    grids = {name: tap.grid(*batch.images.shape[-2:]) for name, tap in job.student_taps.items()}
    teacher, taps = job.teacher, job.teacher.taps(batch)

    def targets_of(taps: Mapping[str, Tensor]) -> Targets:
        return compute_targets(teacher.losses, teacher.taps_by_loss, taps, batch, grids)

    exact = targets_of(taps)
    student = _StudentAtStart(recipe, job, batch)
    expected = student.outcomes(exact)
    named = {f"{id}.{name}": x for id, target in exact.items() for name, x in target.items()}
    rows = []
    for content, dtype, form in _forms(job.form.scores, taps.get("logits")):
        started = time.monotonic()
        parts = stored_parts(taps if content == "taps" else named, form)
        converting = (time.monotonic() - started) / len(batch)
        if content == "taps":
            stored = targets_of({name: rounded(name, tap, form) for name, tap in taps.items()})
        else:
            stored = rounded_targets(exact, form)
        actual = student.outcomes(stored)
        per_view = sum(part.nbytes for part in parts.values()) / len(batch)
        rows.append(
            {
                "content": content,
                "dtype": dtype,
                "scores": form.scores,
                "bytes": round(per_view * items),
                "bytes_per_view": round(per_view),
                "seconds": round(seconds + converting * items, 3),
                "losses": {id: _difference(expected[id], actual[id]) for id in expected},
            }
        )
    return rows


def _forms(scores: int | None, logits: Tensor | None) -> Iterator[tuple[Content, str, Storage]]:
    contents: tuple[Content, ...] = ("taps", "targets")
    for content in contents:
        for short, dtype in STORAGE.items():
            yield content, short, Storage(dtype)
        kept = scores or SCORES
        if logits is not None and logits.shape[1] > kept:
            yield content, "int8", Storage("int8", kept)


def _few_views(job: Job) -> Batch:
    """Return the first views of the first size."""
    items = next(job.batches())[:VIEWS]
    return next(iter(Loader(job.dataset, [items]))).to(job.device)


def _difference(expected: Outcome, actual: Outcome) -> dict[str, float]:
    (value, gradient), (other, other_gradient) = expected, actual
    scale = max(abs(value), 1e-12)
    norms = float(gradient.norm() * other_gradient.norm())
    cosine = float(gradient @ other_gradient) / norms if norms else 1.0
    return {"relative_error": abs(other - value) / scale, "gradient_cosine": cosine}


def _lines(checked: assemble.CheckedRecipe) -> list[Line]:
    """Return the lines that read the teacher, with counted class weights in place of rules."""
    lines = [line for line in assemble.build_lines(checked) if line.teacher_taps]
    ids = {line.id for line in lines}
    if ids.isdisjoint(rules(checked.recipe)):
        return lines  # nothing to count: that may read thousands of masks
    trained = training_parts(checked.recipe).trained
    weights = counted_weights(checked.recipe, checked.classes, trained, Silent())
    numbers = replace(checked, recipe=with_weights(checked.recipe, weights))
    return [line for line in assemble.build_lines(numbers) if line.id in ids]


class _StudentAtStart:
    """The taps of a recipe's student before its first step, on some views."""

    def __init__(self, recipe: Recipe, job: Job, batch: Batch) -> None:
        checked = assemble.check(recipe)
        self.batch = batch
        self.lines = {line.id: line for line in _lines(checked)}
        self.losses: dict[str, Loss] = {
            id: line.loss.to(job.device).eval() for id, line in self.lines.items()
        }
        wanted = {name for line in self.lines.values() for name in line.student_taps}
        with torch.random.fork_rng(devices=[]):
            model = assemble.build_student(checked).to(job.device).eval()
            model.training = True  # for auxiliary logits; its parts run on a batch of one image
            with torch.no_grad():
                outputs = model(batch.images, taps=sorted(wanted - {"logits"}))
        self.taps = {name: outputs[name].float() for name in wanted}

    def outcomes(self, targets: Targets) -> dict[str, Outcome]:
        """Return value and gradient of each loss that reads the teacher, by id."""
        return {id: self._outcome(id, targets[id]) for id in self.losses}

    def _outcome(self, id: str, target: dict[str, Tensor]) -> Outcome:
        line = self.lines[id]
        taps = {name: self.taps[name].clone().requires_grad_() for name in line.student_taps}
        loss = copy.deepcopy(self.losses[id])  # it may keep a memory of earlier batches
        value = loss(line.student(taps), target, self.batch, 0)
        gradients = torch.autograd.grad(value, list(taps.values()), allow_unused=True)
        flat = [g.double().flatten() for g in gradients if g is not None]
        return float(value.detach()), torch.cat(flat) if flat else torch.zeros(1).double()
