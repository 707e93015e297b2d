"""A GPU gives the numbers of the CPU, from losses to export, and a step does not wait for it.

What can be found without a GPU is in ``test_no_waiting.py``.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_recipe import SMALL

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import TrainingFailed
from freqkd_cli.features.simulated_int8 import SimulatedInt8
from freqkd_cli.losses import logit_kl
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.scan.backends import choose, mamba_kernel
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.loop import LOG_EVERY, Loop
from freqkd_cli.train.preparation import make_loop
from tests.losses.test_every_loss import NAMES, batch_of, evaluate, started, taps_of
from tests.models.test_every_model import CASES, images_of, made
from tests.scan.test_scan import agreed, gradients

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

RECIPE = SMALL.replace(
    "train:", "  - {id: graph, name: graph_lowrank, student: decoder, teacher: keys3, k: 4}\ntrain:"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_the_same(name):
    loss, (of_student, of_teacher) = started(name, (3, 4), (8, 4))
    loss.float()
    batch = batch_of(3)
    teacher = taps_of(of_teacher, 3, (12, 16), 4, seed=1, dtype=torch.float32)
    values = {}
    for device in ("cpu", "cuda"):
        here, student = (
            copy.deepcopy(loss).to(device),
            taps_of(of_student, 3, (6, 8), dtype=torch.float32),
        )
        student = {n: x.to(device).requires_grad_(True) for n, x in student.items()}
        value = evaluate(
            here, student, {n: x.to(device) for n, x in teacher.items()}, batch.to(device)
        )
        value.backward()
        assert value.device.type == device and value.dtype == torch.float32
        values[device] = [
            value.detach().cpu(),
            *(x.grad.cpu() for x in student.values()),
            *(p.grad.cpu() for p in here.parameters()),
        ]
    for on_gpu, true in zip(values["cuda"], values["cpu"], strict=True):
        assert (on_gpu - true).abs().max() <= 1e-4 * true.abs().max() + 1e-7


@pytest.mark.parametrize("backend", ["mamba-ssm", "parallel", "auto"])
@pytest.mark.parametrize("length", [1, 255, 4097])
@pytest.mark.parametrize("states", [1, 16])
def test_a_scan_is_the_same(backend, states, length):
    if backend == "mamba-ssm" and (obstacle := mamba_kernel()[1]):
        pytest.skip(obstacle)
    given, weight, true = agreed(states, length)
    # mamba-ssm is built with --use_fast_math; 1.2e-5 was seen, in the gradient of A.
    most = 3e-5 if choose(backend, "cuda", torch.float32).name == "mamba-ssm" else 1e-5
    on_gpu = gradients(
        {name: value.cuda() for name, value in given.items()}, weight.cuda(), backend
    )
    for name in true:
        error = (
            (on_gpu[name].cpu() - true[name]).abs().max() / true[name].abs().max().clamp(min=1e-30)
        ).item()
        assert error < most, (name, error)


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_model_is_the_same(name, arguments):
    model, listed = made(name, arguments)
    images, taps = (
        images_of((96, 128)),
        [tap.name for tap in listed.values() if tap.kind != "auxiliary"],
    )
    true = model.eval()(images, taps)
    on_gpu = model.cuda()(images.cuda(), taps)
    for tap, x in true.items():
        # Convolutions on a GPU round their inputs to 10 bits (TF32).
        assert (on_gpu[tap].cpu() - x).abs().max() <= 1e-2 * x.abs().max(), tap


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


def test_from_dump_to_export(here, freqkd):
    def run(*words) -> dict:
        code, out, log = freqkd(*words, "--json")
        assert code == 0, log
        return json.loads(out)

    run("teacher-dump", "small.yaml", "--content", "targets", "--out", "cache", "--verify", 4)
    cached = run("distill", "small.yaml", "--cache", "cache", "--out", "cached")
    live = run("distill", "small.yaml", "--out", "live")
    assert cached["steps"] == live["steps"] == 2
    on_gpu, on_cpu = run("eval", "live"), run("eval", "live", "--device", "cpu")
    assert on_gpu["device"] != on_cpu["device"] and on_gpu["miou"] == pytest.approx(
        on_cpu["miou"], abs=0.2
    )
    run("spectrum", "live", "--stage", 3)
    assert (
        run("export", "live", "--format", "onnx", "--out", "live.onnx")["argmax_agreement"]
        >= 0.9999
    )
    run("bench", "small.yaml", "--steps", 2)


NO_SOLVER = SMALL.replace("epochs: 1", "steps: 40").replace(
    "  - {name: logit_kl}", "  - {id: hard, name: cross_entropy, ohem: 0.25}\n  - {name: logit_kl}"
)
"""Without graph losses: their solvers check on the host whether they converged."""
GPU = Processes(torch.device("cuda", 0))


@contextmanager
def refusing_to_wait():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps(loop: Loop, number: int):
    """Take steps, of which none is looked at."""
    batches = loop.copies.ahead(loop.batches())
    for _ in range(2):
        loop.step(batches)  # they fill the caches of constants
    assert number + 2 < LOG_EVERY
    with refusing_to_wait():
        for _ in range(number):
            loop.step(batches)


def loaded(*sets: str) -> recipes.Recipe:
    return recipes.loads(NO_SOLVER, sets=("data.workers=2", *sets))


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("train.clip=1.0", "train.ema=0.9"),
        ("train.accumulate=2",),
        ("train.precision=float32",),
    ],
)
def test_a_step_with_a_live_teacher_waits_for_nothing(sets):
    steps(make_loop(loaded(*sets), Path("run"), Silent(), GPU, None), 5)


def test_a_step_with_a_cache_waits_for_nothing(here, freqkd):
    (here / "cached.yaml").write_text(NO_SOLVER)
    assert freqkd("teacher-dump", "cached.yaml", "--out", "cache")[0] == 0
    steps(make_loop(loaded(), Path("run"), Silent(), GPU, here / "cache"), 5)


def test_batches_are_pinned_and_copied_ahead_on_another_stream():
    loop = make_loop(loaded(), Path("run"), Silent(), GPU, None)
    plain = list(itertools.islice(loop.batches(), 3))
    ahead = loop.copies.ahead(loop.batches())
    for batch in plain:
        host = next(ahead)
        assert host.images.is_pinned() and len(loop.copies._started) == 2
        there = loop.copies.of(host)
        assert there.images.is_cuda and there.items == batch.items
        assert all(
            torch.equal(x.cpu(), batch.tensors[k])
            for k, x in there.tensors.items()
            if k in batch.tensors
        )


def test_a_copy_runs_beside_the_work_of_a_step():
    """The copies of a profile are on a stream on which no kernel of a step is."""
    loop = make_loop(loaded(), Path("run"), Silent(), GPU, None)
    batches = loop.copies.ahead(loop.batches())
    loop.step(batches)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(3):
            loop.step(batches)
        torch.cuda.synchronize()
    events = [e for e in profile.profiler.kineto_results.events() if "CUDA" in str(e.device_type())]
    large = [e for e in events if re.match("Memcpy HtoD.*Pinned", e.name()) and e.nbytes() > 10_000]
    kernels = {e.device_resource_id() for e in events if not e.name().startswith("Mem")}
    assert large and kernels.isdisjoint(e.device_resource_id() for e in large)


def test_a_loss_that_is_not_finite_is_found_and_named(tmp_path, monkeypatch):
    right = logit_kl.LogitKL.forward

    def wrong(self, student, target, batch, step):
        value = right(self, student, target, batch, step)
        return value * (float("nan") if step == 3 else 1.0)

    monkeypatch.setattr(logit_kl.LogitKL, "forward", wrong)
    with pytest.raises(TrainingFailed, match="logit_kl is not finite at step 4"):
        distill(loaded(), tmp_path / "run", Silent(), device="cuda")
    saved = [path.name for path in (tmp_path / "run/state").glob("step-*")]
    assert saved == ["step-00000002.safetensors"]  # an epoch ends there, and where it was found


def test_compiled_models_train_and_are_saved_as_they_were_written(here, freqkd):
    (here / "plain.yaml").write_text(NO_SOLVER)
    rows = {}
    for name in ("true", "false"):
        code, _, log = freqkd(
            "distill",
            "plain.yaml",
            "--out",
            name,
            "--set",
            f"train.compile={name}",
            "--set",
            "train.precision=float32",
        )
        assert code == 0 and "runs without it" not in log, log
        rows[name] = json.loads((here / name / "metrics.jsonl").read_text().splitlines()[0])
    assert rows["true"]["total"] == pytest.approx(rows["false"]["total"], rel=1e-2)
    assert freqkd("eval", "true")[0] == 0
    assert freqkd("export", "true", "--format", "onnx", "--out", "compiled.onnx")[0] == 0


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_scores_of_distill_and_eval_are_equal(here, freqkd, precision):
    (here / "plain.yaml").write_text(NO_SOLVER)
    sets = ("--set", f"train.precision={precision}")
    code, out, log = freqkd("distill", "plain.yaml", "--out", "run", *sets, "--json")
    assert code == 0, log
    code, scored, log = freqkd("eval", "run", "--json")
    assert code == 0 and json.loads(scored)["miou"] == json.loads(out)["miou"], log


@torch.no_grad()
def test_a_quantized_model_may_move_to_the_gpu_after_it_was_loaded():
    model, _ = made("fast_scnn", {})
    model.train()
    SimulatedInt8.of(model, (64, 96))
    model(images_of((64, 96)))
    ranges = model.simulated[0].ranges()
    scored, _ = made("fast_scnn", {})
    scored.load_state_dict(model.state_dict())
    SimulatedInt8.stored(scored.eval(), ranges)
    true = scored(images_of((64, 96)))["logits"]
    on_gpu = scored.cuda()(images_of((64, 96)).cuda())["logits"]
    assert (on_gpu.cpu() - true).abs().mean() <= 5e-2 * true.abs().mean()
