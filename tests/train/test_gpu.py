"""A GPU gives the numbers of the CPU: losses, scan backends, models, and dump to export."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from small_recipe import SMALL

from freqkd_cli.scan.backends import choose, mamba_kernel
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
