"""``train.quantize``: a run from another one's weights keeps its ranges and resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cache_fakes import Notes
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli.build.exported_model import load_file_or_folder
from freqkd_cli.build.saved import load_model
from freqkd_cli.commands._exporting import export_command
from freqkd_cli.errors import UsageError
from freqkd_cli.features.simulated_int8 import SimulatedInt8
from freqkd_cli.models import fast_scnn
from freqkd_cli.report import page_images
from freqkd_cli.report.page_roles import ShownRun
from freqkd_cli.runtime.onnx_options import EXACT_INT8
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.eval_source import EvalOptions, evaluate
from freqkd_cli.score.scored_split import ScoredSplit
from freqkd_cli.score.side_by_side import compare
from freqkd_cli.spectrum.locate import identify
from freqkd_cli.spectrum.subjects import SpectrumOptions, open_networks
from freqkd_cli.train import final_metrics
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data: {name: scenes, size: [64, 64], length: 8, held_out: 2, workers: 0}
student: {name: fast_scnn, width: 0.25, auxiliary: true}
losses: [{name: cross_entropy, auxiliary: 0.4}]
train: {epochs: 2, batch_size: 4, lr: 1.0e-3, eval_every: 1, ema: 0.9}
"""


class Stopped(Silent):
    """Ends the run in its third step, after the checkpoint of the second one."""

    def advance(self, done: int, text: str = "") -> None:
        if text and done == 3:
            raise RuntimeError("stopped")


def quantized(out: Path, start: Path, progress: Silent, *sets: str, resume: bool = False) -> None:
    words = ["train.quantize=int8", f"student.weights={start}", *sets]
    distill(recipes.loads(RECIPE, sets=words), out, progress, resume=resume)


def test_a_quantized_run_resumes_to_the_same_bits_and_keeps_its_ranges(tmp_path, freqkd):
    start, whole, cut = (tmp_path / name for name in ("start", "whole", "cut"))
    notes, plain = Notes(), Notes()
    distill(recipes.loads(RECIPE), start, plain)
    quantized(whole, start, notes)
    with pytest.raises(RuntimeError, match="stopped"):
        quantized(cut, start, Stopped())
    quantized(cut, start, Silent(), resume=True)
    for name in ("model.safetensors", "config.json", "last/config.json"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    state = load_file(sorted((whole / "state").glob("*.safetensors"))[-1])
    assert {"objective.quantization.inputs", "objective.quantization.outputs"} <= set(state)

    assert (
        load_file(whole / "model.safetensors").keys()
        == load_file(start / "model.safetensors").keys()
    )
    ranges = json.loads((whole / "config.json").read_text())["quantization"]
    assert "quantization" not in json.loads((start / "config.json").read_text())
    assert set(ranges["outputs"]) <= set(ranges["layers"]) and len(ranges["outputs"]) > 20
    assert not any(name.startswith("auxiliary") for name in ranges["layers"])
    assert all(low < high for low, high in ranges["inputs"].values())

    (line,) = [line for line in notes.said if line.startswith("train.quantize")]
    assert f"simulated int8; weights and activations of {len(ranges['layers'])} layers" in line
    assert not any(line.startswith("train.quantize") for line in plain.said)
    assert export_command(whole) == f"freqkd export {whole} --int8"
    assert export_command(start) == f"freqkd export {start} --format onnx"

    # The score of the run is that of the simulated int8 model, also afterwards.
    miou = json.loads((whole / "summary.json").read_text())["miou"]
    assert evaluate(str(whole), EvalOptions(), notes)["miou"] == pytest.approx(miou, abs=1e-4)
    assert notes.said[-1].endswith("computing in simulated int8 (float32 on cpu)")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        plain = load_model(whole)(image)["logits"]
        simulated = load_file_or_folder(whole)(image)["logits"]
    difference = float((plain - simulated).abs().max() / plain.abs().max())
    assert 0 < difference < 0.5
    _check_comparison_and_page(whole, miou)
    _check_another_process(whole, image, simulated)
    _check_spectrum(whole, image, simulated)
    _check_export(whole, freqkd)


def _check_comparison_and_page(run: Path, miou: float) -> None:
    """A comparison has the score in int8, and the page of a run draws that model."""
    rows = compare([run], Silent(), images=1, device="cpu").rows
    assert rows[0]["miou"] == pytest.approx(miou, abs=1e-4)
    recipe = recipes.load(run / "recipe.yaml")
    drawn = page_images._loaded(
        ShownRun("a", "best", run), ScoredSplit.open(recipe, "val", None, 0)
    )
    assert any(module._forward_pre_hooks for module in drawn.modules())


def _check_spectrum(run: Path, image: torch.Tensor, expected: torch.Tensor) -> None:
    """``freqkd spectrum`` measures the model as it was trained; it was the float32 one."""
    options = SpectrumOptions((), (), 0.5, "val", 1)
    (student,), _ = open_networks(identify(run), options)
    assert str(student) == "student fast_scnn in simulated int8"
    with torch.no_grad():
        assert torch.equal(student.model(image)["logits"], expected)


def _check_export(run: Path, freqkd) -> None:
    """The command writes the file, and its card has the option that other programs need."""
    code, out, err = freqkd("export", run, "--int8", "--max-drop", 100, "--latency", 0, "--json")
    assert code == 0 and json.loads(out)["int8"]["trained_ranges"], err
    card = Path(json.loads(out)["card"])
    assert f"the option that {card} shows" in err and EXACT_INT8[0] in card.read_text()


def test_ranges_follow_the_batches_while_norms_are_frozen(tmp_path):
    """Layers end with their norm, which is in eval mode then; its ranges stayed unknown."""
    start, run = tmp_path / "start", tmp_path / "run"
    distill(recipes.loads(RECIPE), start, Silent())
    quantized(run, start, Silent(), "train.freeze_norm=true")
    before, after = (load_file(folder / "model.safetensors") for folder in (start, run))
    norms = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert norms and all(torch.equal(before[name], after[name]) for name in norms)
    ranges = json.loads((run / "config.json").read_text())["quantization"]
    assert set(ranges["ends"]) == set(ranges["outputs"])
    assert all(low < high for low, high in ranges["outputs"].values())


class SecondOfTwo(Processes):
    """Gets what the first process shares."""

    shared: tuple

    def share(self, value):
        assert value is None
        return self.shared


def _check_another_process(run: Path, image: torch.Tensor, expected: torch.Tensor) -> None:
    """The second process scores with the best weights and ranges, and not with its last ones."""
    student = load_model(run)
    SimulatedInt8.of(student, (64, 64))
    for table in (student.simulated[0].inputs, student.simulated[0].outputs):
        table.copy_(torch.tensor([-0.1, 0.1]).expand_as(table))
    second = SecondOfTwo(torch.device("cpu"), 1, 2)
    best = load_model(run)
    object.__setattr__(second, "shared", (best.state_dict(), best.quantization))
    with torch.no_grad():
        actual = final_metrics._best(student, run, second)(image)["logits"]
    assert torch.equal(actual, expected)


def test_batches_of_one_image_leave_an_output_in_float():
    """Its range was unknown and rounded it to NaN, so that scores were those of garbage."""
    torch.manual_seed(0)
    student, image = fast_scnn.build(classes=3, width=0.25), torch.rand(1, 3, 64, 96)
    simulated = SimulatedInt8.of(student, (64, 96))
    for _ in range(2):
        student.train()(image)
    pooled = student.eval().pyramid.branches[0](torch.rand(2, 32, 2, 3))
    assert pooled.isfinite().all()
    assert "pyramid.branches.0.conv" not in simulated.ranges().outputs


def test_a_frozen_student_is_not_quantized(tmp_path):
    sets = ["train.freeze_student=true", "train.quantize=int8"]
    with pytest.raises(UsageError, match="no effect on a frozen student"):
        distill(recipes.loads(RECIPE, sets=sets), tmp_path / "a", Silent())


def test_the_cost_of_a_quantized_run_is_estimated(tmp_path):
    known, plain = (
        distill(recipes.loads(RECIPE, sets=sets), tmp_path / "run", Silent(), dry_run=True)
        for sets in (["train.quantize=int8"], ["train.quantize=null"])
    )
    assert known["student_gflops"] == plain["student_gflops"] > 0 and known["seconds"] > 0
