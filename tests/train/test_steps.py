"""Steps with auxiliary heads, a frozen student and a loss that is not finite; float32 scores."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import load_model
from freqkd_cli.datasets import scenes
from freqkd_cli.errors import FreqKDError, TrainingFailed
from freqkd_cli.losses import logit_kl
from freqkd_cli.runtime import launch
from freqkd_cli.runtime.processes import ALONE
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score import eval_source
from freqkd_cli.train import compilation, evaluation, training_state
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.loop import LOG_EVERY
from freqkd_cli.train.non_finite import FirstBroken
from freqkd_cli.train.preparation import make_loop

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


def seldom_looked_at(loop):
    """The loop as on a GPU: it looks at numbers every LOG_EVERY steps alone."""
    loop.first_broken = FirstBroken(loop.training, torch.device("cpu"), LOG_EVERY)
    return loop


def made_loop(*sets: str):
    recipe = load("train.steps=8", "train.clip=1.0", "train.ema=0.9", *sets)
    return make_loop(recipe, Path("run"), Silent(), ALONE, None)


def state_of(loop) -> dict[str, torch.Tensor]:
    parameters = dict(loop.training.objective.named_parameters())
    moments = {k: x for k, x in loop.training.tensors().items() if k.startswith("optimizer.")}
    return {k: x.detach().clone() for k, x in (parameters | moments).items()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_weight_changes_after_a_loss_that_is_not_finite(monkeypatch, optimizer):
    """It is seen at the next look, and its step, line and image are named then."""
    right, broken = logit_kl.LogitKL.forward, []

    def wrong(self, student, target, batch, step):
        if step == 2 and not broken:
            broken.append(int(batch.indices[1]))
        here = step == 2 and broken[0] in batch.indices.tolist()
        return right(self, student, target, batch, step) * (float("nan") if here else 1.0)

    monkeypatch.setattr(logit_kl.LogitKL, "forward", wrong)
    loop = seldom_looked_at(made_loop(f"train.optimizer={optimizer}"))
    batches = loop.batches()
    for _ in range(2):
        loop.step(batches)
    before = state_of(loop)
    for _ in range(3):
        loop.step(batches)
    assert broken and all(torch.equal(x, before[k]) for k, x in state_of(loop).items())
    with pytest.raises(TrainingFailed, match="the loss logit_kl is not finite at step 3") as caught:
        loop._save()
    assert caught.value.got.rpartition(" on ")[2] == scenes.build(split="train").name(broken[0])


def test_the_memory_of_a_loss_is_that_of_finite_steps_when_rows_are_searched():
    loop = seldom_looked_at(made_loop())
    memory = torch.ones(3)
    loop.training.objective.lines[1].loss.register_buffer("memory", memory)
    assert loop.first_broken.look() is None  # keeps it
    memory.fill_(torch.nan)
    loop.first_broken.add(1, torch.zeros(4), torch.tensor(torch.nan))
    assert loop.first_broken.look() == (1, [0.0] * 4)
    assert memory.tolist() == [1.0] * 3


def test_a_process_with_a_finite_loss_waits_for_the_one_that_has_the_error():
    """It ended at once, and the other one was killed while it searched its images."""
    loop, waited = made_loop(), []
    loop.processes = types.SimpleNamespace(wait=lambda: waited.append(True))
    loop.first_broken.add(1, torch.ones(4), torch.tensor(torch.nan))
    with pytest.raises(FreqKDError, match=launch.PEER_ENDED):
        loop._require_finite()
    assert waited == [True]


def test_looking_seldom_changes_no_bit():
    states = []
    for loop in (made_loop(), seldom_looked_at(made_loop())):
        batches = loop.batches()
        for _ in range(3):
            loop.step(batches)
        states.append(state_of(loop))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][k]) for k, x in states[0].items())


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


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_scores_during_training_are_those_of_eval(tmp_path, monkeypatch, precision):
    """It is scored in float32, here, for the choice of the best, and by ``freqkd eval``."""
    dtypes, score = [], evaluation.score

    def recording(model, dataset, compute, *arguments, **options):
        dtypes.append(compute.dtype)
        return score(model, dataset, compute, *arguments, **options)

    monkeypatch.setattr(evaluation, "score", recording)
    sets = (f"train.precision={precision}", "train.eval_every=1")
    recipe = recipes.loads(RECIPE.replace("steps: 2", "epochs: 2"), sets=sets)
    summary = distill(recipe, tmp_path / "run", Silent())
    assert dtypes == [torch.float32] * 2
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


def test_a_student_that_cannot_be_compiled_runs_as_it_is(monkeypatch, caplog):
    def refused(self):
        def call(*given, **named):
            raise RuntimeError("InvalidCxxCompiler: no working compiler\nmore lines")

        self._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", refused)
    states = []
    for loop in (made_loop(), made_loop("train.compile=true")):
        loop.step(loop.batches())
        states.append(loop.training.tensors())
    reason = "runs without it: InvalidCxxCompiler: no working compiler"
    assert [record.getMessage() for record in caplog.records if "compile" in record.message] == [
        f"train.compile: the student {reason}",
        f"train.compile: the teacher {reason}",
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][k]) for k, x in states[0].items())


def test_a_compiled_student_is_scored_as_it_was_written_and_saved_under_its_names(monkeypatch):
    calls = []

    def compiled(self):
        def call(*given, **named):
            calls.append(self)
            return self._call_impl(*given, **named)

        self._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    loop, plain = made_loop("train.compile=true", "train.eval_limit=2"), made_loop()
    student, teacher = loop.training.objective.student, loop.source.model
    assert calls == [student, teacher]
    loop.step(loop.batches())
    assert calls.count(student) == 2
    assert loop.training.tensors().keys() - plain.training.tensors().keys() <= {
        name for name in loop.training.tensors() if name.startswith("optimizer.")
    }
    with loop.training.averaged(), compilation.uncompiled(student):
        student(torch.zeros(1, 3, 64, 64))
    assert calls.count(student) == 2
    student(torch.zeros(2, 3, 64, 64))
    assert calls.count(student) == 3


def test_a_quantized_student_is_not_compiled_so_black_images_leave_its_ranges(caplog):
    loop = made_loop("train.compile=true", "train.quantize=int8")
    assert loop.training.objective.student._compiled_call_impl is None
    assert bool(loop.training.objective.quantization.inputs.isnan().all())
    warnings = [record.getMessage() for record in caplog.records if "compile" in record.message]
    assert warnings == ["train.compile has no effect together with train.quantize"]
