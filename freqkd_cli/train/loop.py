"""The training loop: views, teacher targets, a step, the log, an evaluation, a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import Interrupted
from freqkd_cli.runtime.interrupt import asked_to_stop
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.teacher.targets import Source
from freqkd_cli.train import checkpoint, run_folder, whole_batch
from freqkd_cli.train.copies import Copies
from freqkd_cli.train.evaluation import Evaluation
from freqkd_cli.train.non_finite import FirstBroken, not_finite
from freqkd_cli.train.recipe_identity import digests
from freqkd_cli.train.run_log import RunLog, Unwritten, loss_row
from freqkd_cli.train.setting import Setting
from freqkd_cli.train.step_views import laid_out, step_views
from freqkd_cli.train.stop_or_save import stop_or_save
from freqkd_cli.train.summary import summary
from freqkd_cli.train.training_state import Training

if TYPE_CHECKING:
    from freqkd_cli.views.batch import Batch

LOG_EVERY = 10
"""Steps between two rows of metrics.jsonl. In between, nothing waits for a GPU."""

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
        self.train, self.grids = setting.checked.recipe.train, setting.checked.grids
        self.digests = digests(setting.checked.recipe)
        self.started_at, self.first_step, self.waited = time.monotonic(), 0, 0.0
        self.log: RunLog | Unwritten = Unwritten()
        self.on_score: OnScore = lambda step, steps, miou: None
        self.copies = Copies(setting.device, source)
        every = 1 if setting.device.type == "cpu" else LOG_EVERY
        self.first_broken, self.shown_loss = FirstBroken(training, setting.device, every), math.nan

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
            views = self.copies.ahead(self.batches())
            with asked_to_stop() as signals, closing(views) as batches:
                while training.step < length.steps:
                    self.step(batches)
                    done, epoch_ends = training.step == length.steps, length.ends_an_epoch
                    stage_ends = training.step in length.stages
                    if stage_ends or (epochs and epoch_ends(training.step, epochs)):
                        self._evaluate()
                    every, step = self.first_broken.every, training.step
                    stop, due = stop_or_save(step, signals, interval, every, self.processes)
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
            batch = self.copies.of(batch)
            targets = self.source.targets(batch, self.grids)
            batch = laid_out(batch, self.setting.compute)
            # The student's forward pass, every loss, and their weighted sum.
            total, terms = objective(batch, targets, step, total_steps, share)
            with named_range("backward"):
                (total / train.accumulate).backward()
            for name, value in (terms | {"total": total.detach()}).items():
                means[name] = means.get(name, 0) + value / train.accumulate
        own = torch.stack(list(means.values()))
        with named_range("optimizer"):
            whole_batch.average_(objective, means.values(), self.processes)
            self.first_broken.add(step, own, means["total"])
            if self.first_broken.is_due(step + 1, total_steps):
                self._require_finite()
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
        return iter(step_views(self.setting, self.training.step, source=self.source))

    def _next(self, batches: Iterator[Batch]) -> list[Batch]:
        """Return the batches of one step; the time until they are there is added up."""
        started = time.monotonic()
        views = [next(batches) for _ in range(self.train.accumulate)]
        self.waited += time.monotonic() - started
        return views

    def _require_finite(self) -> None:
        """
        Raises:
            TrainingFailed: the loss of a step since the last look was not finite.
            FreqKDError: that of another process was not, which has ended.
        """
        broken = self.first_broken.look()
        if broken is not None:
            if math.isfinite(broken[1][-1]):
                self.processes.wait()  # until the process that has the error has ended with it
            raise not_finite(broken, self.training.objective, self.setting, self.source)

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
        setting, step = self.setting, self.training.step
        with run_folder.writing(setting.out):
            if self.processes.first:
                self.log = RunLog(setting.out, step, length, setting.checked.recipe)
        self.started_at, self.first_step = time.monotonic(), step

    def _log(self, rate: float, terms: dict[str, Tensor]) -> None:
        training, step = self.training, self.training.step
        total_steps = self.setting.length.total(step - 1)
        seconds = time.monotonic() - self.started_at
        speed = self._images() / seconds
        if step % LOG_EVERY == 0 or step == total_steps:
            row = loss_row(step, rate, terms, training.objective.lines, total_steps)
            with run_folder.writing(self.setting.out):
                self.log.trained(row, speed)
        if self.first_broken.is_due(step, total_steps):
            self.shown_loss = float(terms["total"])
        miou = training.best["miou"] if training.best else None
        best = f"  best {100 * miou:.1f} mIoU" if miou else ""
        waiting = f"waiting for data {self.waited / seconds:.0%}"
        text = f"loss {self.shown_loss:.3f}  {speed:.1f} images/s  {waiting}{best}"
        self.progress.advance(step, text)

    def _images(self) -> int:
        """Return the number of views seen since the start or the resumption."""
        steps = self.training.step - self.first_step
        return steps * self.train.batch_size * self.train.accumulate

    def _evaluate(self) -> None:
        """Score the weights that would be deployed, keep the best, and log the score."""
        self._require_finite()
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
        self._require_finite()
        if self.processes.first:
            with run_folder.writing(self.setting.out):
                facts = {"recipe": self.digests[0], "metrics_bytes": self.log.length()}
                folder, facts = self.setting.out / "state", self.training.facts() | facts
                checkpoint.save(folder, self.training.step, self.training.tensors(), facts)
        self.processes.wait()  # no process continues, or reports a save, before it is complete

    def _finish(self) -> dict[str, Any]:
        training = self.training
        seconds, images = time.monotonic() - self.started_at, self._images()
        source = self.source.name
        result = summary(self.setting, training, self.evaluation, (seconds, images, source))
        self.evaluation.draw_curves(self.setting.out)
        if self.processes.first:
            with run_folder.writing(self.setting.out):
                checkpoint.prune(self.setting.out / "state", training.step)
                run_folder.finish(self.setting.out, result)
        return result
