"""Train a student from a recipe. A recipe without a teacher is the same loop with fewer losses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli.runtime import file_hashes
from freqkd_cli.runtime.processes import join
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.train import baseline_run, environment, extension, run_folder, teacher_gate
from freqkd_cli.train.evaluation import Drawing
from freqkd_cli.train.labels_alone import labels_alone_of
from freqkd_cli.train.loop import Loop, OnScore
from freqkd_cli.train.preparation import make_loop
from freqkd_cli.train.trackers import require

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe
    from freqkd_cli.train.setting import Setting

log = logging.getLogger(__name__)


def distill(
    recipe: Recipe,
    out: Path,
    progress: Progress,
    *,
    cache: Path | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    extend: int | None = None,
    dry_run: bool = False,
    drawing: Drawing | None = None,
    baseline: bool = False,
    verify: bool = False,
    on_score: OnScore | None = None,
) -> dict[str, Any]:
    """Train a recipe into the run folder ``out`` and return the content of ``summary.json``.

    Args:
        extend: train the finished run in ``out`` for so many more steps.
        dry_run: train and write nothing; return what the run would cost.
        drawing: draws the previews of the run; None for none.
        baseline: labels alone are trained too, so the teacher is scored on all images that the
            student is scored on.
        verify: hash every image again, instead of relying on sizes and time stamps.
        on_score: called after each evaluation; it may raise an error to end the run.

    Raises:
        RecipeError, DataMissing, DataBroken, WeightsMissing, CacheMismatch: before any long work.
        TrainingFailed: a loss is not finite; the term is named.
        Interrupted: SIGINT or SIGTERM; the state is saved and ``resume=True`` continues.
    """
    require(recipe.train.trackers)
    processes = join(device)
    if verify:
        file_hashes.hash_again()
    start = processes.share(
        extension.start(out, recipe, resume=resume, overwrite=overwrite, extend=extend)
        if processes.first
        else None
    )
    if start.finished is not None:
        progress.note(f"{out} is already finished")
        return start.finished
    recipe, resume = extension.with_extensions(recipe, start.extensions), start.continues
    # Before the folder is touched, since weights may be missing.
    loop = make_loop(recipe, out, progress, processes, cache, drawing=drawing, resume=resume)
    loop.on_score = on_score or loop.on_score
    if start.extended_at is not None:
        extension.check_length(start.extended_at, loop.setting.length)
        progress.note(extension.note(recipe.train, loop.setting.length))
    alone = labels_alone_of(loop)
    teacher = teacher_gate.check(loop, alone, exact=baseline, keep=not dry_run)
    if dry_run:
        from freqkd_cli.train.estimate import cost

        own = resume and processes.first
        done = processes.share(extension.steps_done(out, recipe) if own else 0)
        return cost(loop, done) | teacher
    with _run_folder(loop, overwrite=overwrite):
        for line in (*_notes(loop.setting), *_note_of_int8(loop)):
            progress.note(line)
        summary = loop.run(resume) | teacher
        if processes.first and teacher:
            _add_gap(loop, alone, summary)
        return summary


def _add_gap(loop: Loop, labels_alone: Recipe, summary: dict[str, Any]) -> None:
    """Add a run on labels alone, where one is known, to the summary of the run of a loop."""
    out = loop.setting.out
    alone = baseline_run.find(out, labels_alone, loop.evaluation.images)
    with run_folder.writing(out):
        baseline_run.finish(out, summary, alone)


@contextmanager
def _run_folder(loop: Loop, *, overwrite: bool) -> Iterator[None]:
    """Hold the run folder in the first process, and record the environment of the run in it."""
    setting = loop.setting
    with ExitStack() as held:
        if setting.processes.first:
            with run_folder.writing(setting.out):
                recipe = setting.checked.recipe
                held.enter_context(run_folder.opened(setting.out, recipe, overwrite=overwrite))
                source = loop.source.name.split()[0]
                now = environment.describe(setting.device, setting.compute.reason, source)
                now |= {"processes": setting.processes.number} | setting.numbers_of_images
                now |= {"image_names": environment.image_names(setting.images)}
                now |= environment.of_teacher(loop.source)
                if setting.class_weights:
                    now |= {"class_weights": setting.class_weights}
                environment.record(setting.out, now)
        yield


def _notes(setting: Setting) -> list[str]:
    """Return the log lines about the arithmetic, and about a batch that comes in parts."""
    train, processes = setting.checked.recipe.train, setting.processes
    notes = [f"computing in {setting.compute.reason}, {torch.get_num_threads()} threads"]
    number = processes.number
    if number * train.accumulate > 1:
        passes = f", {train.accumulate} passes a step" if train.accumulate > 1 else ""
        each = (
            f"{train.batch_size // number} on each of {number} process{'es' * (number > 1)}{passes}"
        )
        notes.append(f"global batch {train.batch_size * train.accumulate}: {each}")
    if number > 1 and not train.freeze_norm:
        notes.append(
            "batch norm is synchronised over the processes"
            if processes.device.type == "cuda"
            else "batch norm is per process, as on all CPUs; "
            "its running statistics are averaged over the processes"
        )
    return notes


def _note_of_int8(loop: Loop) -> list[str]:
    """Return the log line about ``train.quantize``, where the recipe has it."""
    if not loop.setting.checked.recipe.train.quantize:
        return []
    layers = len(loop.training.objective.quantization.layers)
    return [
        "train.quantize int8: the student computes in simulated int8; weights and activations of "
        f"{layers} layers are rounded to 8 bits"
    ]
