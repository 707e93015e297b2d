"""``freqkd bench``: every moment of a step counts for one part, and the steps are distill's."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from freqkd_cli import recipe as recipes
from freqkd_cli.app import build_app
from freqkd_cli.bench.bound import bound
from freqkd_cli.bench.measure import bench
from freqkd_cli.bench.measured_loop import BenchOptions, measured_loop
from freqkd_cli.bench.stopwatch import Stopwatch, watched
from freqkd_cli.build import assemble
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.runtime.ranges import named_range
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.loop import Loop

RECIPE = """
version: 1
data: {name: scenes, size: [64, 64], length: 16, held_out: 4, workers: 0, views: 2}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: logit_kl, weight: 0.5}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {epochs: 1, batch_size: 2, clip: 1.0, ema: 0.9}
"""
LIVE = [
    "rest data teacher losses.logit_kl.target losses.high.target",
    "student.forward losses.cross_entropy.forward losses.logit_kl.forward losses.high.forward",
    "losses.high.backward losses.logit_kl.backward losses.cross_entropy.backward",
    "student.backward optimizer average",
]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def watched_step(loop: Loop) -> dict[str, float]:
    watch = Stopwatch()
    with closing(loop.batches()) as loaded, watched(loop, watch):
        watch.start()
        loop.step(watch.timed_batches(loaded))
        watch.lap("rest")
    return watch.seconds


class Slow(torch.autograd.Function):
    """The identity, with a slow backward pass."""

    @staticmethod
    def forward(ctx, x, seconds):
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(ctx.seconds)
        return gradient, None


def slowed(owner, name: str, seconds: float, backward: float = 0.0) -> None:
    call = getattr(owner, name)

    def slow(*words, **named):
        time.sleep(seconds)
        output = call(*words, **named)
        if not backward:
            return output
        if isinstance(output, dict):
            return {
                key: Slow.apply(value, backward) if key == "decoder" else value
                for key, value in output.items()
            }
        return Slow.apply(output, backward)

    setattr(owner, name, slow)


def test_planted_time_counts_for_the_part_that_took_it(path):
    loop = measured_loop(recipes.load(path), BenchOptions(), None)
    watched_step(loop)
    objective = loop.training.objective
    entropy, divergence, high = objective.line_losses
    slowed(loop.setting.dataset, "read", 0.15)  # twice a batch
    slowed(loop.source.model, "forward", 0.4)
    slowed(high, "target", 0.5)
    slowed(objective.student, "forward", 0.6, backward=0.7)
    slowed(divergence, "forward", 0.8, backward=0.9)
    slowed(entropy, "forward", 0.0, backward=1.0)
    slowed(loop.training.average, "update", 1.1)
    slow = watched_step(loop)
    planted = {
        "data": 0.3,
        "teacher": 0.4,
        "losses.high.target": 0.5,
        "student.forward": 0.6,
        "student.backward": 0.7,
        "losses.logit_kl.forward": 0.8,
        "losses.logit_kl.backward": 0.9,
        "losses.cross_entropy.backward": 1.0,
        "average": 1.1,
    }
    assert set(slow) == set(" ".join(LIVE).split())
    # A busy processor may add to any part, but planted time cannot be missing from its part.
    for part, seconds in planted.items():
        assert slow[part] >= seconds, part


def test_measuring_changes_no_bit_and_leaves_no_hook(path):
    plain, marked = (measured_loop(recipes.load(path), BenchOptions(), None) for _ in range(2))
    watched_step(marked)
    with closing(plain.batches()) as batches:
        plain.step(batches)
    states = [loop.training.objective.state_dict() for loop in (plain, marked)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    modules = [*marked.training.objective.modules(), *marked.source.model.modules()]
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in modules
        if not isinstance(module, nn.ModuleDict)
    )
    assert named_range.watch is None
    assert not marked.training.optimizer._optimizer_step_post_hooks


def test_a_profiler_shows_the_ranges_of_a_step(path):
    loop = measured_loop(recipes.load(path), BenchOptions(), None)
    with closing(loop.batches()) as batches, torch.profiler.profile() as profile:
        loop.step(batches)
    names = {event.key for event in profile.key_averages() if event.key.startswith("freqkd/")}
    assert names >= {"freqkd/teacher", "freqkd/losses.high.target", "freqkd/backward"}


def test_the_document_adds_up_live_and_cached(path, tmp_path):
    recipe = recipes.load(path)
    live = bench(recipe, BenchOptions(steps=2), Silent())
    parts = {part["name"]: part for part in live["parts"]}
    assert sum(part["share"] for part in live["parts"]) == pytest.approx(1)
    assert (
        live["parts"][-1]["name"] == "rest"
        and parts["teacher"]["gflop"] > parts["student.forward"]["gflop"] > 0
    )
    assert parts["student.backward"]["gflop"] == pytest.approx(
        2 * parts["student.forward"]["gflop"], abs=2e-3
    )
    assert live["images_per_second"] == pytest.approx(
        2 / (live["step_ms"]["median"] / 1e3), rel=0.01
    )
    assert live["memory_bytes"] > 100e6 and set(live["ratios"]) == {
        "ce_step_ms",
        "teacher_ms",
        "over_ce",
        "over_teacher_and_ce",
    }
    assert not (tmp_path / "bench").exists()

    dump_recipe(recipe, tmp_path / "cache", Silent(), DumpOptions(form=Form("taps", "fp16")))
    cached = bench(recipe, BenchOptions(cache=tmp_path / "cache", steps=2), Silent())
    names = {part["name"] for part in cached["parts"]}
    assert (
        "cache" in names
        and "teacher" not in names
        and set(cached["ratios"]) == {"ce_step_ms", "over_ce"}
    )


def test_cross_entropy_alone_is_compared_with_nothing(path):
    recipe = recipes.load(
        path, ["losses.logit_kl.weight=0", "losses.high.weight=0", "train.accumulate=2"]
    )
    result = bench(
        replace(recipe, losses=recipe.losses[:1], teacher=None), BenchOptions(steps=1), Silent()
    )
    assert (
        result["ratios"] == {}
        and result["source"] == "none"
        and result["step_ms"]["low"] == result["step_ms"]["high"]
    )


def test_a_frozen_student_has_no_backward_pass(path):
    """Its pass was counted, and then the cross-entropy step was refused: nothing to train."""
    result = bench(
        recipes.load(path, ["train.freeze_student=true"]), BenchOptions(steps=1), Silent()
    )
    assert result["gflop"] == pytest.approx(sum(p["gflop"] for p in result["parts"]), abs=0.02)
    assert "student.backward" not in {part["name"] for part in result["parts"]}
    assert result["ratios"]["over_ce"]["median"] > 0


def test_labels_with_attention_are_compared_without_it(path):
    """The recipe without a teacher was refused, and so was a sweep with ``fair: seconds``."""
    sets = ["losses.cross_entropy.attention=high", "losses.high.weight=0"]
    result = bench(recipes.load(path, sets), BenchOptions(steps=1), Silent())
    assert {"over_ce", "over_teacher_and_ce"} <= set(result["ratios"])


def test_a_teacher_of_saved_outputs_is_measured(path, tmp_path):
    """It has no forward pass on images; its files are read."""
    data = assemble.build_dataset(recipes.load(path), "train")
    for index in range(len(data)):
        shares = np.full((len(data.classes), 4, 4), 1 / len(data.classes), np.float32)
        np.save(tmp_path / f"{data.name(index)}.npy", shares)
    saved = f"{{name: saved_scores, root: {tmp_path}}}"
    text = RECIPE.replace("{name: segformer, weights: embedded}", saved)
    text = "\n".join(line for line in text.splitlines() if "id: high" not in line)
    recipe = recipes.loads(text)
    assert bench(recipe, BenchOptions(steps=1), Silent())["ratios"]["teacher_ms"]["median"] > 0


STUDENT = {"student.backward": 0.6, "teacher": 0.37, "data": 0.03}


@pytest.mark.parametrize(
    "shares, views, expected",
    [
        (STUDENT, 2, "The student's backward pass: 60% of the step; the teacher"),
        (STUDENT, 2, "37%, a cache would save it; waiting for data: 3%"),
        (
            {"teacher": 0.9, "rest": 0.1},
            0,
            "The teacher's forward pass: 90% of the step, a cache would save it "
            "(with data.views above 0)",
        ),
        (
            {"data": 0.8, "losses.a.target": 0.1, "losses.b.target": 0.1},
            2,
            "80% of the step, try data.workers=1; the losses' targets",
        ),
    ],
)
def test_one_sentence_about_what_bounds_the_step(path, shares, views, expected):
    data = recipes.load(path, [f"data.views={views}"]).data
    assert expected in bound(
        [{"name": name, "share": share} for name, share in shares.items()], data
    )


def test_the_command_prints_a_table_or_one_document(path):
    words = ["bench", str(path), "--steps", "1", "--set", "train.accumulate=2"]
    result = CliRunner().invoke(build_app(), [*words, "--no-against-ce", "--json"])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["ratios"] == {} and document["device"] == "cpu"
    assert document["threads"] == torch.get_num_threads()
    result = CliRunner().invoke(build_app(), [*words])
    assert (
        result.exit_code == 0
        and "step / (bare teacher + CE-only step)" in result.stdout
        and "of the step" in result.stdout
        and "1 step of 4 views of 64x64" in result.stdout
    )
    result = CliRunner().invoke(build_app(), [*words, "--cache", "nowhere"])
    assert result.exit_code == 4 and result.stdout == "" and "nowhere" in result.stderr
