"""A run with counted class weights: what it records, and that it resumes with the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cache_fakes import Notes

from freqkd_cli import recipe as recipes
from freqkd_cli.build import class_weights
from freqkd_cli.errors import Interrupted
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train import loop
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data: {name: scenes, size: [32, 64], length: 6, held_out: 2, workers: 0}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy, class_weights: auto}]
train: {steps: 4, batch_size: 2, eval_every: 1, save_every: 1, previews: false}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out, notes = tmp_path_factory.mktemp("run") / "whole", Notes()
    distill(recipes.loads(RECIPE), out, notes)
    return out, weights_of(out), notes.said


def weights_of(out: Path) -> dict[str, dict[str, float]]:
    return json.loads((out / "environment.json").read_text())["class_weights"]


def test_the_weights_are_logged_and_recorded(whole):
    out, recorded, said = whole
    weights = recorded["cross_entropy"]
    assert "road" in weights and min(weights.values()) >= 0
    (line,) = [text for text in said if text.startswith("class weights of cross_entropy")]
    assert "(auto, 6 of 6 masks)" in line and f"road {weights['road']:.4g}" in line
    assert "class_weights: auto" in (out / "recipe.yaml").read_text()


def test_the_run_is_that_of_the_numbers_to_the_bit(whole, tmp_path):
    numbers = list(whole[1]["cross_entropy"].values())
    recipe = recipes.loads(RECIPE.replace("auto", str(numbers)))
    distill(recipe, tmp_path / "run", Silent())
    for name in ("last/model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole[0] / name).read_bytes()


def test_a_resumed_run_keeps_the_weights_it_was_started_with(whole, tmp_path, monkeypatch):
    out, step = tmp_path / "run", loop.Loop.step

    def stopping(self, batches):
        if self.training.step == 2:
            raise Interrupted("stopped")
        step(self, batches)

    monkeypatch.setattr(loop.Loop, "step", stopping)
    with pytest.raises(Interrupted):
        distill(recipes.loads(RECIPE), out, Silent())
    monkeypatch.setattr(loop.Loop, "step", step)
    monkeypatch.setattr(class_weights, "count_pixels", lambda *_: pytest.fail("counted again"))
    distill(recipes.loads(RECIPE), out, Silent(), resume=True)
    assert weights_of(out) == whole[1]
    for name in ("last/model.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (whole[0] / name).read_bytes()


def test_weights_that_cannot_be_read_are_counted_again(whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    (out / "summary.json").unlink()
    shutil.rmtree(out / "state")
    facts = json.loads((out / "environment.json").read_text())
    (out / "environment.json").write_text(json.dumps(facts | {"class_weights": {"a": 1}}))
    distill(recipes.loads(RECIPE), out, Silent(), resume=True)
    for name in ("last/model.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (whole[0] / name).read_bytes()
