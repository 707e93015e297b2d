"""The training loop: views, teacher targets, a step, the log, an evaluation, a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import Interrupted
from freqkd_cli.runtime.interrupt import asked_to_stop
from freqkd_cli.runtime.precision import Compute
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.teacher.targets import Source
from freqkd_cli.train import checkpoint, run_folder, whole_batch
from freqkd_cli.train.evaluation import Evaluation
from freqkd_cli.train.final_metrics import final_metrics
from freqkd_cli.train.non_finite import not_finite
from freqkd_cli.train.recipe_identity import digests
from freqkd_cli.train.run_log import RunLog, Unwritten, loss_row
from freqkd_cli.train.setting import Setting
from freqkd_cli.train.training_state import Training
from freqkd_cli.views.loader import Loader, ViewDataset

if TYPE_CHECKING:
    from freqkd_cli.views.batch import Batch

LOG_EVERY = 10
"""Steps between two rows of metrics.jsonl."""

OnScore = Callable[[int, int, float], None]
"""Called with step, steps of the run, and mIoU in [0, 1]; it may raise an error to end the run."""


class Loop:
    """Trains from the present step to the last one.

    Attributes:
        on_score: called after each evaluation, see :data:`OnScore`.
    """

    def __init__(
        self,
        setting: Setting,
        training: Training,
        source: Source,
        progress: Progress,
        evaluation: Evaluation,
    ) -> None:
        self.setting, self.training, self.source = setting, training, source
        self.progress, self.evaluation, self.processes = progress, evaluation, setting.processes
        self.train, self.grids = setting.plan.recipe.train, setting.plan.grids
        self.digests = digests(setting.plan.recipe)
        self.started_at, self.first_step, self.waited = time.monotonic(), 0, 0.0
        self.log: RunLog | Unwritten = Unwritten()
        self.on_score: OnScore = lambda step, steps, miou: None

    def run(self, resume: bool) -> dict[str, Any]:
        """Train to the last step and return the summary; ``resume`` starts at the last checkpoint.

        Raises:
            Interrupted: a signal asked to stop; everything is saved.
        """
        setting, training = self.setting, self.training
        length, epochs = setting.length, self.train.eval_every
        self._open_log(self._restore() if resume else 0)
        interval = checkpoint.Interval(self.train.save_every)
        try:
            self.progress.begin("step", length.steps, training.step)
            with asked_to_stop() as signals, closing(self.batches()) as batches:
                while training.step < length.steps:
                    self.step(batches)
                    done, epoch_ends = training.step == length.steps, length.ends_an_epoch
                    stage_ends = training.step in length.stages
                    if stage_ends or (epochs and epoch_ends(training.step, epochs)):
                        self._evaluate()
                    stop, due = self._anywhere(bool(signals), interval.due(training.step))
                    if stage_ends or stop or due or epoch_ends(training.step):
                        self._save()
                        interval.saved()
                    if stop and not done:
                        raise Interrupted(
                            f"stopped at step {training.step} of {length.steps}; "
                            f"everything is saved in {setting.out}",
                            tip="the same command with --resume",
                        )
            return self._finish()
        finally:
            self.progress.end()
            self.log.close()

    def step(self, batches: Iterator[Batch]) -> None:
        """Take one optimizer step, from ``train.accumulate`` batches of views to the log.

        ``torch.profiler`` and ``freqkd bench`` see the named ranges.
        """
        training, train, objective = self.training, self.train, self.training.objective
        step, total_steps = training.step, self.setting.length.total(training.step)
        rate = training.prepare(train, total_steps, self.processes.index)
        with named_range("data"):
            views = self._next(batches)
        means: dict[str, Tensor] = {}
        shares = whole_batch.shares(objective, views, self.grids, self.processes)
        for batch, share in zip(views, shares, strict=True):
            batch = batch.to(self.setting.device)
            targets = self.source.targets(batch, self.grids)
            batch = _laid_out(batch, self.setting.compute)
            # The student's forward pass, every loss, and their weighted sum.
            total, terms = objective(batch, targets, step, total_steps, share)
            if not torch.isfinite(total):
                at, images = (step, total_steps), self.setting.images
                raise not_finite(objective, terms, batch, targets, images, at)
            with named_range("backward"):
                (total / train.accumulate).backward()
            for name, value in (terms | {"total": total.detach()}).items():
                means[name] = means.get(name, 0) + value / train.accumulate
        with named_range("optimizer"):
            whole_batch.average_(objective, means.values(), self.processes)
            if train.clip:
                nn.utils.clip_grad_norm_(objective.parameters(), train.clip)
            training.optimizer.step()
            training.optimizer.zero_grad(set_to_none=True)
        if training.average:
            with named_range("average"):
                training.average.update(objective.student)
        training.step += 1
        self._log(rate, means)

    def batches(self) -> Generator[Batch, None, None]:
        """Return the views of the steps that are left, one batch per forward pass."""
        plan, data = self.setting.plan, self.setting.plan.recipe.data
        views = ViewDataset(
            self.setting.images, plan.view_spec, view_seed=data.view_seed, views=data.views
        )
        steps = replace(self.setting.steps, start=self.training.step * self.train.accumulate)
        return iter(Loader(views, steps, data.workers))

    def _next(self, batches: Iterator[Batch]) -> list[Batch]:
        """Return the batches of one step; the time until they are there is added up."""
        started = time.monotonic()
        views = [next(batches) for _ in range(self.train.accumulate)]
        self.waited += time.monotonic() - started
        return views

    def _anywhere(self, *flags: bool) -> list[bool]:
        """Return, for each flag, whether it is set in any of the processes."""
        return self.processes.sum(torch.tensor(flags, dtype=torch.int64)).bool().tolist()

    def _restore(self) -> int:
        """Load the last checkpoint, if there is one; return the bytes of metrics.jsonl at it."""
        # The first process reads for all, so other machines need not see the folder.
        first, folder = self.processes.first, self.setting.out / "state"
        loaded = self.processes.share(checkpoint.load(folder, self.digests) if first else None)
        if loaded is None:
            return 0
        self.training.restore(*loaded)
        self.progress.note(f"resuming at step {self.training.step} of {self.setting.length.steps}")
        return loaded[1]["metrics_bytes"]

    def _open_log(self, length: int) -> None:
        with run_folder.writing(self.setting.out):
            if self.processes.first:
                self.log = RunLog(self.setting.out, self.training.step, length)
        self.started_at, self.first_step = time.monotonic(), self.training.step

    def _log(self, rate: float, terms: dict[str, Tensor]) -> None:
        training, step = self.training, self.training.step
        total_steps = self.setting.length.total(step - 1)
        seconds = time.monotonic() - self.started_at
        speed = self._images() / seconds
        if step % LOG_EVERY == 0 or step == total_steps:
            row = loss_row(step, rate, terms, training.objective.lines, total_steps)
            with run_folder.writing(self.setting.out):
                self.log.trained(row, speed)
        miou = training.best["miou"] if training.best else None
        best = f"  best {100 * miou:.1f} mIoU" if miou else ""
        waiting = f"waiting for data {self.waited / seconds:.0%}"
        text = f"loss {float(terms['total']):.3f}  {speed:.1f} images/s  {waiting}{best}"
        self.progress.advance(step, text)

    def _images(self) -> int:
        """Return the number of views seen since the start or the resumption."""
        steps = self.training.step - self.first_step
        return steps * self.train.batch_size * self.train.accumulate

    def _evaluate(self) -> None:
        """Score the weights that would be deployed, keep the best, and log the score."""
        out, step = self.setting.out, self.training.step
        last = step == self.setting.length.steps
        scores = self.evaluation.run(self.training, out, last=last)
        if scores is None:
            self.progress.note(f"step {step}: no validation split with labels, so no score")
            return
        with run_folder.writing(out):
            per_class = self.evaluation.per_class
            self.log.scored({"step": step, "val": scores, "per_class": per_class})
            self.evaluation.draw(out, last=last)
        miou = scores["miou"]
        if miou is not None:
            self.progress.note(f"step {step}: {100 * miou:.2f} mIoU on {self.evaluation.split}")
            self.on_score(step, self.setting.length.steps, miou)

    def _save(self) -> None:
        if self.processes.first:
            with run_folder.writing(self.setting.out):
                facts = {"recipe": self.digests[0], "metrics_bytes": self.log.length()}
                folder, facts = self.setting.out / "state", self.training.facts() | facts
                checkpoint.save(folder, self.training.step, self.training.tensors(), facts)
        self.processes.wait()  # no process continues, or reports a save, before it is complete

    def _finish(self) -> dict[str, Any]:
        training = self.training
        seconds, images = time.monotonic() - self.started_at, self._images()
        assert training.best is not None and training.last is not None
        student, out = training.objective.student, self.setting.out
        metrics = final_metrics(self.evaluation, student, out, self.train.metrics)
        summary = {
            "run": str(self.setting.out),
            "steps": training.step,
            "miou": training.best["miou"],
            "best_step": training.best["step"],
            "last_miou": training.last["miou"],
            "val_images": self.evaluation.images,
            **self.setting.numbers_of_images,
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 2) if images else None,
            "source": self.source.name,
            **metrics,
        }
        if len(self.setting.length.stages) > 1:
            summary["extended"] = list(self.setting.length.stages[:-1])
        self.evaluation.draw_curves(self.setting.out)
        if self.processes.first:
            with run_folder.writing(self.setting.out):
                checkpoint.prune(self.setting.out / "state", training.step)
                run_folder.finish(self.setting.out, summary)
        return summary


def _laid_out(batch: Batch, compute: Compute) -> Batch:
    return replace(batch, images=compute.layout(batch.images)) if compute.channels_last else batch
