"""The first look at a run: the baseline beside it, its previews, and its cost before it starts."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli.commands.distill import verdict
from freqkd_cli.errors import UsageError
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.report.run_previews import RunPreviews
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train import estimate
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.estimate import duration
from freqkd_cli.train.labels_alone import labels_alone

ROOT = Path(__file__).parents[2]
RECIPE = """
version: 1
data: {name: scenes, size: [64, 64], length: 16, held_out: 6, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: logit_kl}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {steps: 20, batch_size: 4, precision: float32, eval_every: 2}
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


class Recorder:
    """Keeps what is to be drawn."""

    def __init__(self) -> None:
        self.rows, self.panels = [], []

    def curves(self, rows, path) -> None:
        self.rows.append(rows)

    def samples(self, panels, dataset, path) -> None:
        self.panels.append(panels)


def test_baseline_is_the_same_run_on_labels_alone():
    full = recipes.loads(RECIPE)
    alone = resolved(labels_alone(full))
    assert [line["name"] for line in alone.pop("losses")] == ["cross_entropy"]
    rest = resolved(full)
    del rest["losses"], rest["teacher"]
    assert alone == rest


def test_baseline_of_weighted_labels_has_the_labels_without_attention():
    names = [line.id for line in recipes.loads(RECIPE).losses if line.id != "cross_entropy"]
    sets = ("losses.cross_entropy.attention=high", *(f"losses.{id}.weight=0" for id in names))
    alone = labels_alone(recipes.loads(RECIPE, "r.yaml", sets))
    assert [(line.name, line.arguments["attention"]) for line in alone.losses] == [
        ("cross_entropy", "none")
    ]
    assert alone.teacher is None


def test_baseline_needs_a_loss_with_a_teacher_and_one_without():
    for line, text in (
        ("  - {name: cross_entropy}\n", "no loss of this recipe reads labels"),
        (RECIPE[RECIPE.index("  - {name: logit") : RECIPE.index("train:")], "reads a teacher"),
    ):
        with pytest.raises(UsageError, match=text):
            labels_alone(recipes.loads(RECIPE.replace(line, "")))


def test_baseline_needs_a_student_that_is_trained():
    """The run was trained to its end, and then the baseline was refused."""
    with pytest.raises(UsageError, match="train.freeze_student freezes it"):
        labels_alone(recipes.loads(RECIPE, "r.yaml", ["train.freeze_student=true"]))


def test_baseline_runs_beside_and_ends_in_a_table(here, freqkd):
    words = ("distill", "r.yaml", "--out", "runs/a", "--baseline", "--set", "train.steps=4")
    code, out, err = freqkd(*words)
    assert code == 0, err
    head, alone, distilled, difference, *_ = out.splitlines()
    assert head.split() == ["mIoU", "run"] and alone.split()[3] == "runs/a-baseline"
    assert distilled.split()[2] == "runs/a"
    gain = float(distilled.split()[1]) - float(alone.split()[2])
    assert float(difference.split()[1]) == pytest.approx(gain, abs=0.011)
    assert "One seed is no proof" in out
    assert "Next: freqkd eval runs/a" in err
    code, out, _ = freqkd(*words, "--resume", "--json")
    document = json.loads(out)
    assert code == 0 and document["run"] == "runs/a" and document["steps"] == 4
    assert document["baseline"]["run"] == "runs/a-baseline"
    assert document["baseline"]["source"] == "none"


def test_baseline_is_refused_before_the_first_run(here, freqkd):
    Path("runs/a-baseline").mkdir(parents=True)
    Path("runs/a-baseline/mine.txt").write_text("mine")
    code, _, err = freqkd("distill", "r.yaml", "--out", "runs/a", "--baseline")
    assert code == 2 and "a-baseline is not empty" in err and not Path("runs/a").exists()


def test_a_verdict_without_scores_has_no_difference():
    runs = {"miou": None, "run": "a"}
    text = verdict({**runs, "baseline": runs})
    assert text.count("not scored") == 2 and "difference" not in text


def test_curves_and_samples_are_drawn_at_evaluations(here):
    recorder = Recorder()
    distill(recipes.loads(RECIPE), here / "run", Silent(), drawing=recorder)
    assert len(recorder.rows) == len(recorder.panels) == 3  # epochs 2 and 4, and the last step
    scores = [row["val"]["miou"] for row in recorder.rows[-1] if "val" in row]
    assert len(scores) == 3 and recorder.rows[-1][-1]["step"] == 20
    assert len(recorder.panels[-1]) == 4
    for panels in recorder.panels[-1]:
        assert list(panels) == ["image", "ground truth", "prediction"]
        assert panels["image"].shape == (64, 64, 3)
        assert panels["prediction"].shape == panels["ground truth"].shape == (64, 64)
        assert panels["prediction"].max() < 12


def test_without_previews_only_the_curves_are_drawn_at_the_end(here):
    recorder = Recorder()
    recipe = recipes.loads(RECIPE, sets=["train.previews=false", "train.steps=2"])
    distill(recipe, here / "run", Silent(), drawing=recorder)
    assert len(recorder.rows) == 1 and recorder.rows[0][0]["step"] == 2
    assert not recorder.panels


def test_slow_drawing_waits_for_the_last_evaluation(here, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(Recorder, "curves", lambda self, rows, path: time.sleep(3))
    distill(recipes.loads(RECIPE), here / "run", Silent(), drawing=recorder)
    assert len(recorder.panels) == 2  # the first, and the last one


def test_a_preview_that_cannot_be_drawn_ends_no_run(here, monkeypatch, caplog):
    monkeypatch.setattr(Recorder, "curves", lambda self, rows, path: 1 / 0)
    summary = distill(recipes.loads(RECIPE), here / "run", Silent(), drawing=Recorder())
    assert summary["steps"] == 20 and caplog.text.count("no previews are drawn") == 1


def test_previews_are_images_of_the_run_folder(here):
    previews = RunPreviews()
    distill(recipes.loads(RECIPE), here / "run", Silent(), drawing=previews)
    for name in ("curves.png", "samples.png"):
        pixels = np.asarray(Image.open(here / "run" / name).convert("RGB"))
        assert pixels.std() > 10, name
    distill(recipes.loads(RECIPE), here / "run", Silent(), overwrite=True)
    assert not (here / "run" / "curves.png").exists()


def test_previews_change_no_bit(here):
    for name, drawing in (("with", RunPreviews()), ("without", None)):
        distill(recipes.loads(RECIPE), here / name, Silent(), drawing=drawing)
    for file in ("metrics.jsonl", "model.safetensors", "last/model.safetensors"):
        assert (here / "with" / file).read_bytes() == (here / "without" / file).read_bytes()


def test_previews_without_a_home_are_silent(here):
    """Matplotlib warns where it cannot write its configuration."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPL"))}
    words = ["distill", "r.yaml", "--out", "a", "-q", "--set", "train.steps=1"]
    done = subprocess.run(
        [sys.executable, "-m", "freqkd_cli", *words],
        env={**environment, "HOME": "/proc/nowhere", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "atplotlib" not in done.stderr, done.stderr
    assert Path("a/curves.png").is_file()


def test_a_dry_run_measures_the_time_and_writes_nothing(here, freqkd, caplog):
    caplog.set_level(logging.INFO)
    words = ("distill", "r.yaml", "--out", "a", "--dry-run", "--json")
    code, out, err = freqkd(*words, "--set", "train.steps=100000")
    document = json.loads(out)
    assert code == 0 and not Path("a").exists() and "Next:" not in err
    assert 100 < document["seconds"] < 1e6
    assert document["time"] == f"about {duration(document['seconds'])} on this machine"
    assert document["step_gflops"] > 0


def test_a_first_step_that_compiles_does_not_count(monkeypatch):
    """A run of VMamba was estimated at 3.4 hours, of steps as slow as the compiler."""
    now = [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    lasts = iter([60.0, 1.0, 3.0, 2.0, 1.0])

    def step(batches):
        now[0] += next(lasts)

    loop = SimpleNamespace(
        setting=SimpleNamespace(length=SimpleNamespace(steps=9), device=torch.device("cpu")),
        batches=lambda: (batch for batch in ()),
        step=step,
        processes=SimpleNamespace(any=bool),
    )
    assert estimate._step_seconds(loop) == 2.0
    assert next(lasts) == 1.0  # 6 seconds were enough


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (40, "40 s"), (720, "12 min"), (12600, "3.5 h"), (180_000, "2.1 days")],
)
def test_a_duration_is_one_rough_number(seconds, text):
    assert duration(seconds) == text
