"""Int8 files: made from training images, scored, refused where they are worse, and trained ones."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cache_fakes import Notes
from onnx import numpy_helper
from PIL import Image
from torch import nn
from torch.nn import functional as F

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.exported_model import load_exported, onnx_session
from freqkd_cli.commands._exporting import parse_head, parse_threads
from freqkd_cli.errors import CheckFailed, DataMissing, FreqKDError, UsageError
from freqkd_cli.export.activation_ranges import calibrated_ranges, calibration_images
from freqkd_cli.export.card_use import use
from freqkd_cli.export.graph_file import ExportOptions, export_file
from freqkd_cli.export.int8_file import export_int8
from freqkd_cli.export.int8_images import Int8Images, open_images
from freqkd_cli.export.int8_trial import Int8Options
from freqkd_cli.export.quantized_graph import layers, with_trained_ranges, write_int8
from freqkd_cli.features.int8_layers import int8_layers
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.simulated_int8 import SimulatedInt8, rounded, rounded_weight
from freqkd_cli.runtime.onnx_options import EXACT_INT8, onnx_options
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.scored_split import ScoredSplit
from freqkd_cli.train.training_state import freeze_norms
from freqkd_cli.views.upsample import predict_labels
from freqkd_cli.weights.quantization import Quantization
from tests.helpers.small_recipe import SMALL

SIZES = ExportOptions(sizes=((1, 64, 64),))


class Small(Segmenter):
    """Three convolutions; ``outlier`` enlarges two of the 16 channels between the last two.

    The function stays the same in float32. One scale for all channels then leaves few steps for
    the other 14.
    """

    def __init__(self, classes: int, outlier: float = 1.0) -> None:
        super().__init__(classes=classes, arguments={}, tap_names=["logits"])
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, classes, 1),
        )
        images = smooth(8)
        for _ in range(50):
            self.train()(images)
        with torch.no_grad():
            self.net[3].weight[:2] *= outlier
            self.net[3].bias[:2] *= outlier
            self.net[5].weight[:, :2] /= outlier
            # Logits around 0, so that all classes occur.
            self.net[5].bias -= self.eval()(images)["logits"].mean((0, 2, 3))

    def run(self, images, taps):
        return {"logits": self.net(images)}


def smooth(number: int) -> torch.Tensor:
    coarse = torch.rand(number, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)


def small(classes: int, outlier: float = 1.0) -> Small:
    torch.manual_seed(0)
    return Small(classes, outlier)


class Agreeing:
    """A data set whose ground truth is what a model predicts: its mIoU is 1."""

    def __init__(self, images, model: nn.Module) -> None:
        self.images, self.model, self.labelled = images, model, True

    def __getattr__(self, name: str):
        return getattr(self.images, name)

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def read(self, index: int):
        image, _ = self.images.read(index)
        batch = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))[None]
        return image, predict_labels(self.model(batch)["logits"], (64, 64))[0].numpy()


def trial_of(tmp_path: Path, outlier: float) -> tuple[Small, Int8Images]:
    (tmp_path / "recipe.yaml").write_text(SMALL)
    recipe = recipes.load(str(tmp_path / "recipe.yaml"))
    images = open_images(tmp_path, None, None, 0)
    model = small(len(images.train.classes), outlier)
    scored = Agreeing(images.scored.dataset, copy.deepcopy(model))
    return model, Int8Images(images.train, ScoredSplit(recipe, "val", scored))


def test_an_int8_file_is_scored_beside_its_float_file(tmp_path):
    model, images = trial_of(tmp_path, 1.0)
    out = tmp_path / "a.int8.onnx"
    options = replace(SIZES, latency_runs=1, latency_sizes=((32, 32),), latency_threads=(1, 2))
    how = Int8Options(images=3, max_drop=50, calibration="minmax")
    notes = Notes()
    result = export_int8(model, out, options, how, images, notes)
    assert notes.said == [
        "scoring the float32 file on 4 images of val",
        "calibrating the ranges of activations on 3 training images",
        "writing the int8 file",
        "scoring the int8 file on 4 images of val",
    ]
    assert load_exported(out).precision == "int8"
    facts = result["int8"]
    assert facts["float_miou"] == pytest.approx(1, abs=1e-3) and facts["images"] == 4
    assert facts["scored_on"] == "val"
    assert facts["drop"] == pytest.approx(100 * (facts["float_miou"] - facts["miou"]))
    assert 0.8 < facts["agreement"] <= 1 and facts["layers"] == 3 and facts["float_layers"] == []
    assert facts["calibration_images"] == 3 and not facts["trained_ranges"]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".onnx"] == [out.name]
    assert result["bytes"] == out.stat().st_size and result["format"] == "onnx"
    assert [(row["threads"], row["size"]) for row in result["latency_ms"]] == [
        (1, [1, 32, 32]),
        (2, [1, 32, 32]),
    ]
    assert {"torch", "onnxruntime", "onnxruntime int8"} <= set(result["latency_ms"][0])
    graph = onnx.load(out)
    weights = {t.name: t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    assert sum(len(tensor.dims) == 4 for tensor in weights.values()) == 3
    assert any(entry.key == "classes" for entry in graph.metadata_props)


def test_a_file_that_drops_too_much_is_refused_with_figures_and_layers(tmp_path):
    model, images = trial_of(tmp_path, 3000.0)
    out = tmp_path / "a.int8.onnx"
    out.write_text("a good file")
    how = Int8Options(images=3, max_drop=1.0, calibration="minmax")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckFailed) as caught:
        export_int8(model, out, SIZES, how, images, Silent())
    error = caught.value
    assert error.exit_code == 3 and "at most 1 points" in str(error.need)
    assert "points (" in str(error.got) and "net." in str(error.got)
    assert "--mixed" in error.tip and "train.quantize=int8" in error.tip
    assert out.read_text() == "a good file" and sorted(tmp_path.iterdir()) == before


def test_mixed_keeps_the_layers_that_hurt_in_float32(tmp_path):
    model, images = trial_of(tmp_path, 3000.0)
    how = Int8Options(images=3, max_drop=5.0, calibration="minmax", mixed=True)
    result = export_int8(model, tmp_path / "a.int8.onnx", SIZES, how, images, Silent())
    facts = result["int8"]
    assert facts["drop"] <= 5 and 0 < len(facts["float_layers"]) < 3
    assert {"net.3", "net.5"} & set(facts["float_layers"])
    assert facts["layers"] + len(facts["float_layers"]) == 3


def test_held_out_images_are_scored_and_not_calibrated_on(tmp_path):
    """val is not read, as in training: here there is none."""
    for number in range(10):
        for kind, value in (("images", 20 * number), ("masks", number % 2)):
            path = tmp_path / f"data/{kind}/train/p{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (64, 64, 3) if kind == "images" else (64, 64)
            Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    data = f"{{name: folder, root: {tmp_path / 'data'}, classes: [road, car], size: [64, 64], "
    text = SMALL.replace("{name: scenes, size: [64, 64], length: 8, held_out: 4, ", data)
    (tmp_path / "recipe.yaml").write_text(text.replace("workers: 0", "workers: 0, hold_out: 0.3"))
    images = open_images(tmp_path, None, None, 0)
    names = [
        {part.name(k) for k in range(len(part))} for part in (images.train, images.scored.dataset)
    ]
    assert [len(x) for x in names] == [7, 3] and not names[0] & names[1]
    how, notes = Int8Options(images=3, max_drop=101, calibration="minmax"), Notes()
    facts = export_int8(small(2), tmp_path / "a.int8.onnx", SIZES, how, images, notes)["int8"]
    assert facts["images"] == 3 and facts["scored_on"] == "the held-out part"
    assert "scoring the int8 file on 3 images of the held-out part" in notes.said


def test_int8_without_images_is_one_message(tmp_path):
    with pytest.raises(UsageError, match="needs images to calibrate") as caught:
        open_images(tmp_path, None, None, 0)
    assert caught.value.need == "--recipe RECIPE"
    camvid = SMALL.replace("{name: scenes, size: [64, 64], length: 8, held_out: 4", "{name: camvid")
    (tmp_path / "recipe.yaml").write_text(
        camvid.replace("{name: camvid", "{name: camvid, size: [64, 64]")
    )
    with pytest.raises(DataMissing, match="needs training images to calibrate on") as caught:
        open_images(tmp_path, None, tmp_path / "nowhere", 0)
    assert caught.value.exit_code == 4 and "--data-root" in caught.value.tip
    with pytest.raises(DataMissing, match="training split is empty") as caught:
        next(calibration_images([], 2, None))
    assert caught.value.key == "data.root"


def test_a_lost_process_is_one_message_also_while_ranges_are_joined(monkeypatch):
    def lost(*given):
        raise RuntimeError("Connection closed by peer")

    model = small(3)
    SimulatedInt8.of(model, (64, 64))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    with pytest.raises(FreqKDError, match="another process of this job has ended"):
        model.train()(smooth(2))


@pytest.mark.parametrize("method", ["percentile", "entropy", "minmax"])
def test_ranges_hold_the_values_of_the_images(tmp_path, method):
    path = tmp_path / "a.onnx"
    export_file(small(4), path, "onnx", SIZES)
    images = list(smooth(2).split(1))
    ranges = calibrated_ranges(path, [i.numpy() for i in images], method, tmp_path)
    graph = onnx.load(path)
    assert [layer.name for layer in layers(graph)] == ["net.0", "net.3", "net.5"]
    low, high = ranges[layers(graph)[-1].returned]
    with torch.no_grad():
        logits = small(4)(torch.cat(images))["logits"]
    if method == "minmax":
        assert (low, high) == pytest.approx((float(logits.min()), float(logits.max())), rel=1e-4)
    assert low >= float(logits.min()) - 0.1 and high <= float(logits.max()) + 0.1 and low < high


# Trained in simulated int8


def test_values_are_rounded_as_by_a_float64_reference():
    values = torch.linspace(-3, 4, 1001)
    bounds = torch.tensor([-1.5, 3.25])
    scale = (np.float64(3.25) + 1.5) / 255
    zero = np.round(1.5 / scale)
    steps = np.clip(np.round(values.double().numpy() / scale) + zero, 0, 255)
    expected = (steps - zero) * scale
    error = np.abs(rounded(values, bounds).double().numpy() - expected)
    assert np.quantile(error, 0.99) <= 1e-6 and error.max() <= scale * 1.001  # ties by float32


def test_a_weight_has_one_scale_for_each_output_channel():
    torch.manual_seed(0)
    for layer in (nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(3, 5, 3), nn.Linear(7, 5)):
        weight = layer.weight.detach().double()
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        scale = weight.abs().amax([i for i in range(weight.dim()) if i != axis], keepdim=True) / 127
        expected = (weight / scale).round() * scale
        torch.testing.assert_close(rounded_weight(layer).double(), expected, rtol=0, atol=1e-6)


def int8_of(model: nn.Module, images: torch.Tensor, folder: Path, trained=None):
    export_file(copy.deepcopy(model), folder / "float.onnx", "onnx", SIZES)
    each = [image.numpy() for image in images.split(1)]
    ranges = calibrated_ranges(folder / "float.onnx", each, "minmax", folder)
    if trained:
        ranges = with_trained_ranges(onnx.load(folder / "float.onnx"), ranges, trained)
    write_int8(folder / "float.onnx", folder / "int8.onnx", ranges)
    return load_exported(folder / "int8.onnx")


def test_training_in_simulated_int8_loses_less_than_quantizing_afterwards(tmp_path):
    model, images = small(4, outlier=100.0), smooth(8)
    with torch.no_grad():
        teacher = model(images)["logits"].clone()

    def error(logits: torch.Tensor) -> float:
        return float(((logits.detach() - teacher) ** 2).mean() / (teacher**2).mean())

    afterwards = error(int8_of(model, images, tmp_path).raw(images))
    names = list(model.state_dict())
    simulated = SimulatedInt8.of(model, (64, 64))
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    for _ in range(60):
        model.train().net[1].eval()
        ((model(images)["logits"] - teacher) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert list(model.state_dict()) == names
    with torch.no_grad():
        in_training = model.eval()(images)["logits"]
    trained = small(4)
    trained.load_state_dict(model.state_dict())
    file = int8_of(trained, images, tmp_path, simulated.ranges())
    assert error(file.raw(images)) < 0.5 * afterwards
    # The file computes what the training computed, up to a rounding step here and there.
    assert error(in_training) == pytest.approx(error(file.raw(images)), rel=0.2)
    low, high = simulated.ranges().inputs["net.0"]
    scales = {t.name: numpy_helper.to_array(t) for t in onnx.load(file.path).graph.initializer}
    given = layers(onnx.load(tmp_path / "float.onnx"))[0].given
    step = (max(high, 0) - min(low, 0)) / 255
    assert float(scales[f"{given}_scale"]) == pytest.approx(step, rel=1e-5)


class Functional(nn.Module):
    """A convolution whose ReLU is no module, and a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.second(x @ x.transpose(-1, -2) @ x)


def write_onnx(model: nn.Module, image: torch.Tensor, path: Path) -> None:
    torch.onnx.export(model, (image,), path, input_names=["image"], dynamo=True, verbose=False)


def test_a_range_trained_before_a_functional_relu_does_not_remove_it(tmp_path):
    torch.manual_seed(0)
    model, image = Functional().eval(), torch.rand(1, 3, 16, 16)
    path, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_onnx(model, image, path)
    ranges = calibrated_ranges(path, [image.numpy()], "minmax", tmp_path)
    trained = Quantization(
        layers=("first", "second"), inputs={}, outputs={"first": (-2.0, 2.0)}, ends={}
    )
    write_int8(path, out, with_trained_ranges(onnx.load(path), ranges, trained))
    session = onnx_session(out, 1)
    with torch.no_grad():
        expected = model(image).numpy()
    error = np.abs(session.run(None, {"image": image.numpy()})[0] - expected).max()
    assert error < 0.02 * np.abs(expected).max()


def test_sums_of_int8_products_are_not_cut(tmp_path, monkeypatch):
    """x86 without VNNI adds pairs of products in 16 bits unless the session asks for 32."""
    layer, ones = nn.Conv2d(3, 4, 3).eval(), torch.ones(1, 3, 16, 16)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    path, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_onnx(layer, ones, path)
    write_int8(path, out, calibrated_ranges(path, [ones.numpy()], "minmax", tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    checks = {"format": "onnx", "file": out, "output": "logits", "size": (16, 16), "int8": {}}
    exec(use(None, layer, checks).removeprefix("```python").removesuffix("```"), names)
    for session in (onnx_session(out, 1), names["session"]):
        (sums,) = session.run(None, {"image": ones.numpy()})
        assert sums == pytest.approx(np.full((1, 4, 14, 14), 27), rel=1e-5)


@pytest.mark.parametrize("vnni", [False, True])
def test_a_cpu_with_vnni_keeps_its_instructions(monkeypatch, vnni):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni, raising=False)
    options = onnx_options(1)
    if vnni:
        with pytest.raises(RuntimeError, match=EXACT_INT8[0]):
            options.get_session_config_entry(EXACT_INT8[0])
    else:
        assert options.get_session_config_entry(EXACT_INT8[0]) == EXACT_INT8[1]


class Residual(nn.Module):
    """A block as in ResNets: one ReLU for two places, and a sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.relu, self.last = nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norms[0](self.first(x)))
        y = self.norms[1](self.second(y))
        y += x
        return self.last(self.relu(y))


def test_a_sum_in_place_and_a_shared_relu_get_the_ranges_of_the_file(tmp_path):
    """The end of the second layer was the ReLU after the sum, whose range cut the file's values."""
    torch.manual_seed(0)
    model, image = Residual(), 2 * torch.randn(1, 8, 16, 16)
    plain = copy.deepcopy(model).eval()
    simulated = SimulatedInt8(model, int8_layers(model, image))
    ends = {"first": "relu", "second": "norms.1", "last": "last"}
    assert simulated.ranges().ends == ends and all(x.rounds_input for x in simulated.layers[::2])
    model.train()
    freeze_norms(model)
    with torch.no_grad():
        model(image)
        expected = copy.deepcopy(model).eval()(image).numpy()  # lanes copy a model with its hooks
        first = plain.relu(plain.norms[0](plain.first(image)))
    assert simulated.ranges().outputs["first"][1] == pytest.approx(float(first.max()), rel=0.02)
    path, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_onnx(plain, image, path)
    ranges = calibrated_ranges(path, [image.numpy()], "minmax", tmp_path)
    ranges = with_trained_ranges(onnx.load(path), ranges, simulated.ranges())
    write_int8(path, out, ranges)
    error = np.abs(onnx_session(out, 1).run(None, {"image": image.numpy()})[0] - expected).max()
    assert error < 0.02 * np.abs(expected).max()


def test_products_of_two_activations_stay_in_float(tmp_path):
    path, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    image = torch.rand(1, 3, 16, 16)
    write_onnx(Functional().eval(), image, path)
    write_int8(path, out, calibrated_ranges(path, [image.numpy()], "minmax", tmp_path))
    graph = onnx.load(out).graph
    first, _ = (node for node in graph.node if node.op_type == "MatMul")
    assert [n.op_type for n in graph.node if first.output[0] in n.input] == ["MatMul"]


class Tokens(nn.Module):
    """A linear layer over tokens; one of its channels is 300 times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        with torch.no_grad():
            self.layer.weight[0] *= 300

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(2).transpose(1, 2))[..., 1:]


def test_the_output_of_a_linear_layer_stays_in_float_as_in_training(tmp_path):
    torch.manual_seed(0)
    model, image = Tokens(), torch.randn(1, 8, 8, 8)
    plain = copy.deepcopy(model).eval()
    simulated = SimulatedInt8(model, int8_layers(model, image))
    with torch.no_grad():
        model.train()(image)
        expected = model.eval()(image).numpy()
    path, out = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_onnx(plain, image, path)
    ranges = calibrated_ranges(path, [image.numpy()], "minmax", tmp_path)
    write_int8(path, out, with_trained_ranges(onnx.load(path), ranges, simulated.ranges()))
    error = np.abs(onnx_session(out, 1).run(None, {"image": image.numpy()})[0] - expected).max()
    assert error < 0.01 * np.abs(expected).max()


# Options


def test_a_head_is_named_once():
    labels = {"upsample": True, "argmax": True, "probabilities": False}
    assert parse_head("argmax", False, False) == labels == parse_head("logits", True, True)
    assert ExportOptions(**labels).head == "argmax" and ExportOptions(argmax=True).head == "labels"
    assert ExportOptions(**parse_head("probabilities", False, False)).head == "probabilities"
    with pytest.raises(UsageError, match="two options name the output"):
        parse_head("probabilities", False, True)


def test_threads_are_numbers():
    assert parse_threads("1, 2,2") == (1, 2) and parse_threads(None) == ()
    for text in ("", "0", "a", "1,,2", "1 2"):
        with pytest.raises(UsageError, match="--threads cannot be read"):
            parse_threads(text)


def test_a_recipe_may_quantize(tmp_path):
    (tmp_path / "a.yaml").write_text(SMALL)
    recipe = recipes.load(str(tmp_path / "a.yaml"), ["train.quantize=int8"])
    assert recipe.train.quantize == "int8" and assemble.check(recipe)


@pytest.mark.parametrize(
    "option", ["--calibration minmax", "--calibration-images 4", "--max-drop 2"]
)
def test_options_of_int8_need_it(option, tmp_path, freqkd):
    code, _, err = freqkd("export", tmp_path, *option.split())
    assert code == 2 and f"{option.split()[0]} has no effect without --int8" in err
