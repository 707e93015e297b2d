"""The training loop: views, the teacher's half, a step, the log, an evaluation, a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli.build import assemble
from freqkd_cli.build.saved import save_model
from freqkd_cli.build.schedules import loss_weight, rate_factor
from freqkd_cli.errors import Interrupted
from freqkd_cli.runtime.interrupt import asked_to_stop
from freqkd_cli.runtime.precision import Compute
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.score.evaluate import Pass, score
from freqkd_cli.teacher.targets import Source
from freqkd_cli.train import checkpoint, run_folder, whole_batch
from freqkd_cli.train.non_finite import not_finite
from freqkd_cli.train.run_log import RunLog, Unwritten
from freqkd_cli.train.training_state import Training, freeze_norms
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.steps import Steps

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.views.batch import Batch

LOG_EVERY = 10
"""Steps between two rows of metrics.jsonl."""


@dataclass(frozen=True)
class Setting:
    """What stays the same for the whole of a run."""

    plan: assemble.Plan
    out: Path
    processes: Processes
    compute: Compute
    dataset: Dataset
    held_out: Dataset | None
    steps: Steps
    steps_per_epoch: int
    total_steps: int

    @property
    def device(self) -> torch.device:
        return self.processes.device


class Loop:
    """The loop and what it is in the middle of."""

    def __init__(
        self, setting: Setting, training: Training, source: Source, progress: Progress
    ) -> None:
        self.setting, self.training, self.source, self.progress = (
            setting,
            training,
            source,
            progress,
        )
        self.processes = setting.processes
        self.train = setting.plan.recipe.train
        self.grids = setting.plan.grids
        self.digest = run_folder.digest(setting.plan.recipe)
        self.started_at, self.first_step, self.waited = time.monotonic(), 0, 0.0

    def go(self, resume: bool) -> dict[str, Any]:
        length, out, first = 0, self.setting.out, self.processes.first
        # The first process reads for all, so that the folder need not be seen from every machine.
        found = (
            self.processes.share(
                checkpoint.load(out / "state", self.progress.note, self.digest) if first else None
            )
            if resume
            else None
        )
        if found:
            self.training.restore(*found)
            length = found[1]["metrics_bytes"]
            self.progress.note(
                f"resuming at step {self.training.step} of {self.setting.total_steps}"
            )
        with run_folder.writing(out):
            self.log = RunLog(out, self.training.step, length) if first else Unwritten()
        try:
            with asked_to_stop() as stop:
                self._loop(stop)
            return self._finish()
        finally:
            self.progress.end()
            self.log.close()

    def _loop(self, stop: list[int]) -> None:
        setting, training = self.setting, self.training
        self.started_at, self.first_step = time.monotonic(), training.step
        self.progress.begin("step", setting.total_steps, training.step)
        with closing(self.batches()) as batches:
            self._steps(batches, stop)

    def _steps(self, batches: Iterator[Batch], stop: list[int]) -> None:
        setting, training = self.setting, self.training
        while training.step < setting.total_steps:
            self.step(batches)
            done = training.step == setting.total_steps
            epoch_ends = training.step % setting.steps_per_epoch == 0
            every = self.train.eval_every * setting.steps_per_epoch
            if done or (every and training.step % every == 0):
                self._evaluate()
            stopping = self.processes.any(bool(stop))
            if done or epoch_ends or stopping:
                self._save()
            if stopping and not done:
                raise Interrupted(
                    f"stopped at step {training.step} of {setting.total_steps}; everything is saved in {setting.out}",
                    tip="the same command with --resume",
                )

    def batches(self) -> Generator[Batch, None, None]:
        """The views of the steps that are left, one forward pass each."""
        plan, data = self.setting.plan, self.setting.plan.recipe.data
        views = ViewDataset(
            self.setting.dataset, plan.view_spec, view_seed=data.view_seed, views=data.views
        )
        steps = replace(self.setting.steps, start=self.training.step * self.train.accumulate)
        return iter(Loader(views, steps, data.workers))

    def step(self, batches: Iterator[Batch]) -> None:
        """One step of the optimiser, which takes ``train.accumulate`` batches."""
        training, train, total_steps = self.training, self.train, self.setting.total_steps
        step = training.step
        rate = train.lr * rate_factor(
            step, total_steps, kind=train.schedule, warmup=train.warmup, power=train.power
        )
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        # Dropout and drop path are keyed by the step, so a resumed run draws what an undisturbed one would.
        torch.manual_seed(train.seed * 1_000_003 + step)
        training.objective.student.train(not train.freeze_student)
        if train.freeze_norm:
            freeze_norms(training.objective.student)
        waiting = time.monotonic()
        parts = [next(batches) for _ in range(train.accumulate)]
        self.waited += time.monotonic() - waiting
        sums: dict[str, Tensor] = {}
        for batch, shares in zip(
            parts,
            whole_batch.shares(training.objective, parts, self.grids, self.processes),
            strict=True,
        ):
            terms = self._backward(batch.to(self.setting.device), shares, step)
            sums = {
                name: sums.get(name, 0) + value / train.accumulate for name, value in terms.items()
            }
        whole_batch.average_(training.objective, sums.values(), self.processes)
        if train.clip:
            nn.utils.clip_grad_norm_(training.objective.parameters(), train.clip)
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        if training.average:
            with named_range("average"):
                training.average.update(training.objective.student)
        training.step += 1
        self._log(step, rate, sums)

    def _backward(self, batch: Batch, shares: list[float] | None, step: int) -> dict[str, Tensor]:
        targets = self.source.targets(batch, self.grids)
        laid_out = _with_layout(batch, self.setting.compute)
        total, terms = self.training.objective(
            laid_out, targets, step, self.setting.total_steps, shares
        )
        if not torch.isfinite(total):
            at = (step, self.setting.total_steps)
            raise not_finite(
                self.training.objective, terms, laid_out, targets, self.setting.dataset, at
            )
        with named_range("backward"):
            (total / self.train.accumulate).backward()
        return terms | {"total": total.detach()}

    def _log(self, step: int, rate: float, terms: dict[str, Tensor]) -> None:
        training = self.training
        seconds = time.monotonic() - self.started_at
        speed = (
            (training.step - self.first_step)
            * self.train.batch_size
            * self.train.accumulate
            / seconds
        )
        if (step + 1) % LOG_EVERY == 0 or training.step == self.setting.total_steps:
            raw = {name: float(value) for name, value in terms.items()}
            total = raw.pop("total")
            weights = {
                line.id: loss_weight(line.weight, line.warmup, step, self.setting.total_steps)
                for line in training.objective.lines
            }
            row = {
                "step": training.step,
                "lr": rate,
                "total": total,
                "raw": raw,
                "weighted": {k: weights[k] * v for k, v in raw.items()},
            }
            with run_folder.writing(self.setting.out):
                self.log.trained(row, speed)
        best = (
            f"  best {100 * training.best['miou']:.1f} mIoU"
            if training.best and training.best["miou"]
            else ""
        )
        self.progress.advance(
            training.step,
            f"loss {float(terms['total']):.3f}  {speed:.1f} images/s  waiting for data {self.waited / seconds:.0%}{best}",
        )

    def _evaluate(self) -> None:
        """Score the weights that would be deployed; keep the best."""
        training, setting = self.training, self.setting
        model, last_step = training.objective.student, training.step == setting.total_steps
        with training.averaged():
            model.eval()
            miou = self._miou(model)
            training.last = {"miou": miou, "step": training.step}
            with run_folder.writing(setting.out):
                if training.best is None or miou is None or miou > (training.best["miou"] or 0):
                    training.best = training.last
                    if self.processes.first:
                        save_model(setting.out, model)
                if last_step and self.processes.first:
                    save_model(setting.out / "last", model)

    def _miou(self, model: nn.Module) -> float | None:
        training, setting = self.training, self.setting
        if setting.held_out is None:
            self.progress.note(
                f"step {training.step}: no val split with labels, so nothing is scored"
            )
            return None
        result = score(
            model,
            setting.held_out,
            setting.compute,
            setting.device,
            Pass(workers=setting.plan.recipe.data.workers, limit=self.train.eval_limit, cheap=True),
            processes=self.processes,
        )
        values = result.values
        miou = values["miou"]
        with run_folder.writing(setting.out):
            self.log.scored({"step": training.step, "val": values})
        if miou is not None:
            self.progress.note(f"step {training.step}: {100 * miou:.2f} mIoU on val")
        return miou

    def _save(self) -> None:
        if self.processes.first:
            with run_folder.writing(self.setting.out):
                facts = self.training.facts() | {
                    "recipe": self.digest,
                    "metrics_bytes": self.log.length(),
                }
                checkpoint.save(
                    self.setting.out / "state", self.training.step, self.training.tensors(), facts
                )
        self.processes.wait()  # nobody goes on, or says that everything is saved, before it is

    def _finish(self) -> dict[str, Any]:
        training = self.training
        seconds = time.monotonic() - self.started_at
        images = (training.step - self.first_step) * self.train.batch_size * self.train.accumulate
        held_out = len(self.setting.held_out) if self.setting.held_out is not None else 0
        assert training.best is not None and training.last is not None
        summary = {
            "run": str(self.setting.out),
            "steps": training.step,
            "miou": training.best["miou"],
            "best_step": training.best["step"],
            "last_miou": training.last["miou"],
            "val_images": min(held_out, self.train.eval_limit or held_out),
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 2) if images else None,
            "source": self.source.name,
        }
        if self.processes.first:
            with run_folder.writing(self.setting.out):
                checkpoint.prune(self.setting.out / "state", training.step)
                run_folder.finish(self.setting.out, summary)
        return summary


def _with_layout(batch: Batch, compute: Compute) -> Batch:
    return replace(batch, images=compute.layout(batch.images)) if compute.channels_last else batch
