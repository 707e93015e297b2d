"""Steps with auxiliary heads, a frozen student and a loss that is not finite; float32 scores."""

from __future__ import annotations

import pytest
import torch

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import load_model
from freqkd_cli.datasets import scenes
from freqkd_cli.errors import TrainingFailed
from freqkd_cli.losses import logit_kl
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score import eval_source
from freqkd_cli.train import evaluation, training_state
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data: {name: scenes, size: [64, 64], length: 16, held_out: 6, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, auxiliary: true}
losses:
  - {name: cross_entropy}
  - {name: logit_kl}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {steps: 2, batch_size: 4, precision: float32}
"""


def load(*sets: str):
    return recipes.loads(RECIPE, sets=sets)


def test_an_image_whose_loss_is_not_finite_is_named_with_auxiliary_heads(tmp_path, monkeypatch):
    right = logit_kl.LogitKL.forward

    def wrong(self, student, target, batch, step):
        factor = float("nan") if 5 in batch.indices.tolist() else 1.0
        return right(self, student, target, batch, step) * factor

    monkeypatch.setattr(logit_kl.LogitKL, "forward", wrong)
    with pytest.raises(TrainingFailed, match="the loss logit_kl is not finite") as caught:
        distill(load("train.steps=4"), tmp_path / "run", Silent())
    assert caught.value.got.rpartition(" on ")[2] == scenes.build(split="train").name(5)


def test_a_failure_while_rows_are_searched_does_not_hide_the_loss(tmp_path, monkeypatch):
    calls = []

    def wrong(self, student, target, batch, step):
        calls.append(len(batch))
        if len(calls) > 1:
            raise KeyError("aux1")
        return torch.tensor(float("nan"))

    monkeypatch.setattr(logit_kl.LogitKL, "forward", wrong)
    with pytest.raises(TrainingFailed, match="the loss logit_kl is not finite"):
        distill(load(), tmp_path / "run", Silent())
    assert len(calls) == 2


def test_a_frozen_student_with_auxiliary_heads_keeps_every_bit(tmp_path):
    distill(load("train.freeze_student=true"), tmp_path / "run", Silent())
    fresh = assemble.build_student(assemble.check(load())).state_dict()
    trained = load_model(tmp_path / "run").state_dict()
    assert fresh.keys() == trained.keys() and any("auxiliary" in name for name in fresh)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in fresh.items())


def test_a_held_student_has_its_auxiliary_outputs_and_draws_nothing():
    student = assemble.build_student(assemble.check(load("student.dropout=0.5")))
    training_state.hold(student)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        first, again = (student(images, ["aux1", "aux2"]) for _ in range(2))
    assert {"aux1", "aux2"} <= first.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(before[name], x) for name, x in student.state_dict().items())


def test_scores_during_training_are_those_of_eval(tmp_path, monkeypatch):
    """The student trains in bfloat16; it is scored in float32, here and by ``freqkd eval``."""
    dtypes, score = [], evaluation.score

    def recording(model, dataset, compute, *arguments, **options):
        dtypes.append(compute.dtype)
        return score(model, dataset, compute, *arguments, **options)

    monkeypatch.setattr(evaluation, "score", recording)
    sets = ("train.precision=bfloat16", "train.channels_last=false", "train.steps=8")
    summary = distill(load(*sets), tmp_path / "run", Silent())
    assert dtypes == [torch.float32]
    document = eval_source.evaluate(
        str(tmp_path / "run"), eval_source.EvalOptions(device="cpu"), Silent()
    )
    assert summary["miou"] == document["miou"]


def test_epochs_with_accumulated_batches_are_scored_at_their_ends(tmp_path):
    """16 images are 4 batches; 3 a step end the epochs at steps 2, 3 and 4."""
    sets = ("train.epochs=3", "train.accumulate=3", "train.eval_every=1")
    summary = distill(load(*sets), tmp_path / "run", Silent())
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert summary["steps"] == 4
    assert [step for step in range(1, 5) if f'{{"step": {step}, "val"' in text] == [2, 3, 4]
