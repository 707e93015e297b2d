"""The loop on tiny streets: the files of a run, resuming to the same bits, and failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import freqkd_cli
from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import load_model
from freqkd_cli.datasets import scenes
from freqkd_cli.errors import CacheMismatch, RecipeError, TrainingFailed, UsageError
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data:
  {name: scenes, size: [64, 64], length: 16, held_out: 4, workers: 0, views: 2,
   augment: {flip: true, color: 0.2}}
teacher: {name: segformer, variant: mini}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: logit_kl, weight: 0.5}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4, warmup: 0.5}
train: {epochs: 2, batch_size: 4, lr: 1.0e-3, clip: 1.0, ema: 0.9, eval_every: 1}
"""


@pytest.fixture
def recipe(tmp_path):
    torch.manual_seed(0)  # the untrained teacher is drawn from torch's generator
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)

    def load(*sets: str):
        return recipes.load(path, sets)

    return load


@pytest.fixture
def teacher_folder(tmp_path):
    from freqkd_cli.build.saved import save_model
    from freqkd_cli.models import segformer

    torch.manual_seed(3)
    save_model(tmp_path / "teacher", segformer.build(classes=12, variant="mini"), "segformer")
    return tmp_path / "teacher"


def test_a_run_leaves_the_files_of_the_contract(recipe, tmp_path):
    out = tmp_path / "run"
    summary = distill(recipe(), out, Silent())
    assert {"run", "steps", "miou", "seconds", "images_per_second"} <= summary.keys()
    assert summary["steps"] == 8
    for name in (
        "recipe.yaml",
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "metrics.jsonl",
        "summary.json",
        "environment.json",
    ):
        assert (out / name).is_file(), name
    assert not list(out.rglob("*.pt")) and not list(out.rglob("*.pkl"))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "raw" in row]
    assert set(steps[0]["raw"]) == {"cross_entropy", "logit_kl", "high"}
    last = steps[-1]
    assert last["weighted"]["logit_kl"] == pytest.approx(0.5 * last["raw"]["logit_kl"])
    assert last["total"] == pytest.approx(sum(last["weighted"].values()), rel=1e-5)
    assert any("val" in row for row in rows)
    logits = freqkd_cli.load(out)(torch.rand(1, 3, 64, 64))["logits"]
    assert logits.shape == (1, 12, 8, 8)
    assert not any("losses" in name for name in load_file(out / "model.safetensors"))
    assert recipes.load(out / "recipe.yaml") == recipe()


def test_an_interrupted_run_is_resumed_to_the_same_bits(recipe, tmp_path, teacher_folder):
    sets = [f"teacher.weights={teacher_folder}", "data.length=40", "train.epochs=3"]
    whole = tmp_path / "whole"
    distill(recipe(*sets), whole, Silent())
    cut = tmp_path / "cut"
    words = [
        sys.executable,
        "-m",
        "freqkd_cli",
        "distill",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(cut),
    ]
    for one in sets:
        words += ["--set", one]
    process = subprocess.Popen(
        words,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
    )
    _wait_for(
        lambda: list((cut / "state").glob("step-*.json")) if (cut / "state").is_dir() else [],
        process,
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been quicker than the signal
        assert process.returncode == 75
        assert not (cut / "summary.json").exists()
    distill(recipe(*sets), cut, Silent(), resume=True)
    resumed, undisturbed = (
        load_file(cut / "last/model.safetensors"),
        load_file(whole / "last/model.safetensors"),
    )
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def _wait_for(condition, process, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    from freqkd_cli.train import checkpoint

    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"x": torch.full((4,), float(step))}, {})
    assert len(list(tmp_path.glob("*.safetensors"))) == checkpoint.KEPT
    newest = tmp_path / "step-00000003.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    tensors, facts = checkpoint.load(tmp_path)
    assert facts["step"] == 2 and tensors["x"].tolist() == [2.0] * 4
    assert "step-00000003" in caplog.messages[0]


def test_a_finished_run_is_not_run_again(recipe, tmp_path):
    out = tmp_path / "run"
    first = distill(recipe("train.epochs=1"), out, Silent())
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert distill(recipe("train.epochs=1"), out, Silent(), resume=True) == first
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="not empty"):
        distill(recipe("train.epochs=1"), out, Silent())
    with pytest.raises(UsageError, match="another recipe"):
        distill(recipe("train.epochs=2"), out, Silent(), resume=True)


def test_overwrite_refuses_a_folder_that_no_run_wrote(recipe, tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"holiday\.jpg"):
        distill(recipe(), out, Silent(), overwrite=True)
    assert (out / "holiday.jpg").exists()


def test_a_loss_that_is_not_finite_is_named(recipe, tmp_path, monkeypatch):
    from freqkd_cli.losses import logit_kl

    monkeypatch.setattr(logit_kl.LogitKL, "forward", lambda self, *_: torch.tensor(float("nan")))
    with pytest.raises(TrainingFailed, match="logit_kl"):
        distill(recipe(), tmp_path / "run", Silent())


def test_the_image_whose_loss_is_not_finite_is_named(recipe, tmp_path, monkeypatch):
    from freqkd_cli.losses import logit_kl

    right = logit_kl.LogitKL.forward

    def wrong(self, student, target, batch, step):
        return right(self, student, target, batch, step) * (
            float("nan") if 5 in batch.indices.tolist() else 1.0
        )

    monkeypatch.setattr(logit_kl.LogitKL, "forward", wrong)
    with pytest.raises(TrainingFailed, match="the loss logit_kl is not finite") as caught:
        distill(recipe(), tmp_path / "run", Silent())
    assert caught.value.got.rpartition(" on ")[2] == scenes.build(split="train").name(5)
    monkeypatch.setattr(
        logit_kl.LogitKL,
        "forward",
        lambda *given: torch.tensor(float("inf") if len(given[3]) > 1 else 0.0),
    )
    with pytest.raises(TrainingFailed, match="though on none of them alone"):
        distill(recipe(), tmp_path / "again", Silent())


def test_a_frozen_student_is_a_control(recipe, tmp_path):
    """The student keeps every bit, and the losses' own parameters are trained."""
    distill(recipe("train.freeze_student=true", "train.epochs=2"), tmp_path / "run", Silent())
    torch.manual_seed(0)
    fresh = assemble.build_student(assemble.check(recipe()))
    kept = load_model(tmp_path / "run").state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in fresh.state_dict().items())
    totals = [
        json.loads(row)["total"]
        for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if "total" in row
    ]
    assert totals
    with pytest.raises(UsageError, match="leaves nothing to train"):
        distill(
            recipe("train.freeze_student=true", "losses.high.weight=0"), tmp_path / "none", Silent()
        )


def test_a_line_of_weight_zero_is_not_built(recipe):
    lines = assemble.build_lines(assemble.check(recipe("losses.high.weight=0")))
    assert [line.id for line in lines] == ["cross_entropy", "logit_kl"]


def test_all_problems_of_a_recipe_at_once(recipe):
    with pytest.raises(RecipeError) as caught:
        assemble.check(
            recipe("losses.high.student=decodr", "losses.high.teacher=stage9", "data.size=[64, 72]")
        )
    text = str(caught.value)
    assert "did you mean 'decoder'" in text and "multiples of 32" in text


def test_cached_training_is_live_training(recipe, tmp_path, teacher_folder):
    weights = f"teacher.weights={teacher_folder}"
    dumped = dump_recipe(
        recipe(weights), tmp_path / "cache", Silent(), DumpOptions(Form(dtype="fp32"))
    )
    assert dumped["items"] == 32
    live = distill(recipe(weights), tmp_path / "live", Silent())
    cached = distill(recipe(weights), tmp_path / "cached", Silent(), cache=tmp_path / "cache")
    from_cache, from_teacher = (
        load_file(tmp_path / "cached/last/model.safetensors"),
        load_file(tmp_path / "live/last/model.safetensors"),
    )
    for name, tensor in from_teacher.items():
        torch.testing.assert_close(from_cache[name], tensor, rtol=2e-3, atol=2e-4, msg=name)
    assert live["source"] == "live teacher" and "cache" in cached["source"]
    with pytest.raises(CacheMismatch, match="views"):
        distill(
            recipe(weights, "data.augment.color=0.1"),
            tmp_path / "other",
            Silent(),
            cache=tmp_path / "cache",
        )


def test_a_student_learns_from_its_teacher_on_images_without_masks(tmp_path, teacher_folder):
    import numpy as np
    from PIL import Image

    images = tmp_path / "video" / "images" / "train"
    images.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(
            np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        ).save(images / f"{number}.png")
    text = RECIPE.replace(
        "name: scenes, size: [64, 64], length: 16, held_out: 4",
        f"name: folder, root: {tmp_path / 'video'}, size: [64, 64]",
    )
    text = text.replace("variant: mini", f"weights: {teacher_folder}")
    with pytest.raises(RecipeError, match=r"losses\.0.*reads labels"):
        distill(recipes.loads(text), tmp_path / "run", Silent())
    summary = distill(
        recipes.loads(text.replace("  - {name: cross_entropy}\n", "")), tmp_path / "run", Silent()
    )
    assert summary["miou"] is None and summary["steps"] == 2
    assert freqkd_cli.load(tmp_path / "run").classes == 12


def test_gradients_reach_no_teacher(recipe, tmp_path):
    plan = assemble.check(recipe())
    teacher = assemble.build_teacher(plan.recipe, 12)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_an_export_of_the_recipe_is_the_same_student(recipe, tmp_path):
    """``student.weights`` starts from a trained student."""
    distill(recipe("train.epochs=1"), tmp_path / "first", Silent())
    again = assemble.build_student(assemble.check(recipe(f"student.weights={tmp_path / 'first'}")))
    stored = load_file(Path(tmp_path) / "first/model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in again.state_dict().items())
