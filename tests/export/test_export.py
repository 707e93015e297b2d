"""Exports give the model's results, describe themselves, and leave nothing behind on failure."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import io
import json
import os
import re
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import freqkd_cli
from freqkd_cli.build.saved import save_model
from freqkd_cli.commands._exporting import parse_size
from freqkd_cli.commands.export import _next
from freqkd_cli.errors import CheckFailed, FreqKDError, UsageError
from freqkd_cli.export import deploy, graph_file
from freqkd_cli.export.graph_file import ExportForm, ExportOptions, export_file
from freqkd_cli.export.parity import SIZES, Parity, compare, probe_image
from freqkd_cli.export.target import check_target
from freqkd_cli.models import fast_scnn, segformer, smp, vmamba
from freqkd_cli.models._pooling import average_pool
from freqkd_cli.runtime.latency import measure_latency, median_ms
from freqkd_cli.weights.config import License

NAMES = ("road", "sky", "tree, bush", "car", "pole", "person", "sign")


def student() -> nn.Module:
    """A Fast-SCNN whose batch norms have seen images, with logits as large as after training."""
    return copy.deepcopy(_student())


@functools.cache
def _student() -> nn.Module:
    torch.manual_seed(0)
    model = fast_scnn.build(classes=len(NAMES), width=0.25).train()
    with torch.no_grad():
        for _ in range(30):
            model(torch.rand(4, 3, 64, 96))
    model.id2label = dict(enumerate(NAMES))
    return model.eval()


class Tiny(nn.Module):
    """Stride 4, two layers: exports in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.id2label = 3, None
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, 2, 1))

    def forward(self, images: Tensor, taps=()) -> dict[str, Tensor]:
        return {"logits": self.layers(images)}


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny().eval()


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory) -> tuple[nn.Module, Path, dict, str]:
    """A Fast-SCNN exported once: the model, the file, the result, and all output on the way."""
    model, path, output = (
        student(),
        tmp_path_factory.mktemp("onnx") / "deep" / "model.onnx",
        io.StringIO(),
    )
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        result = export_file(
            model, path, "onnx", ExportOptions(latency_sizes=((64, 96), (96, 128)), latency_runs=2)
        )
    return model, path, result, output.getvalue()


def session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_onnx_takes_the_image_and_gives_logits_of_any_batch_and_size(onnx_file):
    _, path, _, _ = onnx_file
    (given,), (answer,) = session(path).get_inputs(), session(path).get_outputs()
    assert (given.name, given.type, answer.name) == ("image", "tensor(float)", "logits")
    assert given.shape[1] == 3 and answer.shape[1] == len(NAMES)
    assert [given.shape[axis] for axis in (0, 2, 3)] == [
        "batch",
        "height",
        "width",
    ] and answer.shape[0] == "batch"
    assert "height" in answer.shape[2] and "width" in answer.shape[3], "a fixed axis"


@pytest.mark.parametrize(
    "size", [(1, 192, 256), (2, 96, 160), (3, 131, 97), (1, 64, 64), (1, 360, 480)]
)
def test_onnx_gives_the_logits_of_torch(onnx_file, size):
    model, path, _, _ = onnx_file
    image = torch.rand(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(1))
    (answer,) = session(path).run(None, {"image": image.numpy()})
    with torch.no_grad():
        wanted = model(image)["logits"].numpy()
    assert answer.shape == wanted.shape
    assert np.abs(answer - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert (answer.argmax(1) == wanted.argmax(1)).mean() >= 0.9999


def test_onnx_is_one_file_with_its_classes_and_without_output(onnx_file):
    import onnx

    _, path, result, output = onnx_file
    assert [child.name for child in path.parent.iterdir()] == ["model.onnx"]
    graph = onnx.load(path, load_external_data=False)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(facts["classes"]) == list(NAMES) and "RGB" in facts["input"]
    assert output == ""
    assert {"DFT", "STFT"}.isdisjoint(node.op_type for node in graph.graph.node)
    assert result["bytes"] == path.stat().st_size and result["format"] == "onnx"
    assert result["relative_difference"] <= 1e-4 and result["argmax_agreement"] >= 0.9999
    assert [row["size"] for row in result["latency_ms"]] == [[1, 64, 96], [1, 96, 128]] and result[
        "device"
    ] == "cpu"
    assert all(
        row[form] > 0 for row in result["latency_ms"] for form in ("torch", "onnxruntime", "pt2")
    )


def test_a_graph_of_one_size_takes_no_other(tmp_path):
    model = tiny()
    model.one_size = True
    result = export_file(
        model, tmp_path / "a.pt2", "pt2", ExportOptions(own_sizes=((32, 48), (64, 96)))
    )
    assert result["size"] == [32, 48] and result["sizes"] == [[1, 32, 48], [2, 32, 48], [3, 32, 48]]
    asked = export_file(model, tmp_path / "b.pt2", "pt2", ExportOptions().at((40, 56)))
    assert asked["size"] == [40, 56]
    graph = torch.export.load(tmp_path / "b.pt2").module()
    assert graph(torch.rand(4, 3, 40, 56)).shape[0] == 4
    with pytest.raises(Exception, match=r"40|56"):
        graph(torch.rand(1, 3, 32, 48))


def test_a_graph_of_one_size_is_timed_at_no_other(tmp_path):
    model = tiny()
    model.one_size = True
    options = ExportOptions(own_sizes=((32, 48),), latency_sizes=((64, 96),))
    with pytest.raises(UsageError, match="cannot be timed at another") as error:
        export_file(model, tmp_path / "a.pt2", "pt2", options)
    assert error.value.got == "--latency-size 64,96" and "32,48" in error.value.need
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_export_that_is_interrupted_while_it_is_timed_keeps_the_earlier_file(
    tmp_path, monkeypatch, kind
):
    def interrupted(*args) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(graph_file, "latency_rows", interrupted)
    (tmp_path / "model").write_text("earlier")
    with pytest.raises(KeyboardInterrupt):
        export_file(tiny(), tmp_path / "model", kind, ExportOptions().at((32, 48)))
    assert (tmp_path / "model").read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1


def test_the_checked_sizes_have_an_odd_one_a_small_one_and_two_batches():
    assert any(height % 2 and width % 2 for _, height, width in SIZES)
    assert any(min(height, width) / 32 < 6 for _, height, width in SIZES)
    assert {batch for batch, _, _ in SIZES} == {1, 2, 3} and len(set(SIZES)) >= 5


def test_onnx_with_upsample_and_argmax_gives_labels_of_the_image(tmp_path):
    import onnx

    model = tiny()
    result = export_file(
        model,
        tmp_path / "a.onnx",
        "onnx",
        ExportOptions(upsample=True, argmax=True, opset=20, sizes=((1, 33, 47), (2, 64, 32))),
    )
    assert (
        result["output"] == "labels"
        and result["max_abs_difference"] is None
        and result["argmax_agreement"] >= 0.9999
    )
    image = probe_image(2, 50, 70)
    (answer,) = session(tmp_path / "a.onnx").run(["labels"], {"image": image.numpy()})
    with torch.no_grad():
        logits = nn.functional.interpolate(
            model(image)["logits"], size=(50, 70), mode="bilinear", align_corners=False
        )
    assert answer.shape == (2, 50, 70) and answer.dtype == np.int64
    assert (
        next(one.version for one in onnx.load(tmp_path / "a.onnx").opset_import if not one.domain)
        == 20
    )
    assert (answer == logits.argmax(1).numpy()).mean() >= 0.9999


class Pyramid(Tiny):
    """Pooling to bins and upsampling to a size that is a symbol: the hard part of free sizes."""

    def forward(self, images: Tensor, taps=()) -> dict[str, Tensor]:
        x = self.layers(images)
        pooled = nn.functional.interpolate(
            average_pool(x, 6), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        return {"logits": x + pooled}


def test_another_operator_set_than_was_asked_for_is_not_written(tmp_path, monkeypatch):
    """Where torch cannot convert, it keeps its own operator set without a message."""
    write = torch.onnx.export
    monkeypatch.setattr(
        torch.onnx,
        "export",
        lambda *args, opset_version, **more: write(*args, opset_version=18, **more),
    )
    with pytest.raises(
        FreqKDError, match="in that operator set\n  got  18\n  need --opset 21\n"
    ) as caught:
        export_file(tiny(), tmp_path / "a.onnx", "onnx", ExportOptions(opset=21))
    assert caught.value.exit_code == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_file_that_the_system_does_not_let_grow_is_named(tmp_path, kind):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            export_file(tiny(), tmp_path / f"a.{kind}", kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.errno, caught.value.filename) == (
        errno.EFBIG,
        str(tmp_path / f"a.{kind}"),
    ) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda: Pyramid().eval(), pytest.param(student, id="fast_scnn")])
def test_pt2_is_read_back_by_torch_alone(tmp_path, make):
    torch.manual_seed(0)
    model = make()
    result = export_file(model, tmp_path / "a.pt2", "pt2")
    assert result["relative_difference"] <= 1e-4 and result["sizes"] == [
        list(size) for size in SIZES
    ]
    image = probe_image(3, 129, 223)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.export.load(tmp_path / "a.pt2").module()(image),
            model(image)["logits"],
            rtol=1e-4,
            atol=1e-4,
        )


def test_an_export_with_other_results_is_not_written(tmp_path, monkeypatch):
    write = graph_file._write_pt2

    def damaged(program, path: Path, metadata) -> None:
        write(graph_file._program(ExportForm(tiny(seed=1)), "pt2", None), path, metadata)

    monkeypatch.setattr(graph_file, "_write_pt2", damaged)
    with pytest.raises(CheckFailed, match="gives other results than") as caught:
        export_file(tiny(), tmp_path / "a.pt2", "pt2", ExportOptions(sizes=((1, 32, 32),)))
    assert caught.value.exit_code == 3 and "--format onnx" in caught.value.tip
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_expressed_is_one_message(tmp_path):
    class Stubborn(Tiny):
        def forward(self, images, taps=()):
            return {"logits": images if images.sum() > 0 else -images}

    with pytest.raises(FreqKDError, match="torch cannot write this model as pt2") as caught:
        export_file(Stubborn().eval(), tmp_path / "a.pt2", "pt2")
    assert len(str(caught.value).splitlines()) == 3 and list(tmp_path.iterdir()) == []


def logits(image: Tensor) -> Tensor:
    return torch.stack([image.mean(1), image[:, 0]], dim=1) + torch.tensor([0.0, 0.01]).view(
        1, 2, 1, 1
    )


def test_compare_measures_the_difference():
    sizes = ((1, 8, 8), (2, 5, 7))
    assert compare(logits, logits, sizes) == Parity(list(sizes), 0.0, 0.0, 1.0)
    off = compare(logits, lambda image: logits(image) + 0.25, sizes)
    assert off.max_abs_difference == pytest.approx(0.25) and off.argmax_agreement == 1.0
    largest = min(float(logits(probe_image(*size)).abs().max()) for size in sizes)
    assert off.relative_difference == pytest.approx(0.25 / largest)
    turned = compare(logits, lambda image: logits(image).flip(1), sizes)
    assert turned.argmax_agreement == 0.0


@pytest.mark.parametrize(
    "exported, text",
    [
        (lambda image: logits(image) * float("nan"), "gives other results"),
        (
            lambda image: logits(image) + 2e-4 * float(logits(image).abs().max()),
            "gives other results",
        ),
        (lambda image: logits(image)[..., 1:], "gives another shape"),
        (
            lambda image: logits(image) if image.shape[-1] % 2 == 0 else image.reshape(7, 11),
            "fails on 2 images of 5x7",
        ),
    ],
)
def test_compare_refuses(exported, text):
    with pytest.raises(CheckFailed, match=text):
        compare(logits, exported, ((1, 8, 8), (2, 5, 7))).require("it")


def test_rounding_passes():
    parity = compare(logits, lambda image: logits(image) * (1 + 1e-5), ((1, 8, 8),))
    parity.require("it")
    assert parity.relative_difference == pytest.approx(1e-5, rel=0.1)
    assert parity.argmax_agreement == 1


def test_labels_are_compared_by_agreement():
    wrong = torch.zeros(1, 100, 100, dtype=torch.int64)
    wrong[0, 0, :2] = 1
    parity = compare(
        lambda image: torch.zeros(1, 100, 100, dtype=torch.int64),
        lambda image: wrong,
        ((1, 100, 100),),
    )
    assert parity.argmax_agreement == pytest.approx(1 - 2e-4)
    assert parity.relative_difference is None
    with pytest.raises(CheckFailed):
        parity.require("it")


# The folder


@pytest.fixture
def run_folder(tmp_path) -> Path:
    run = tmp_path / "run"
    save_model(run, student(), "fast_scnn")
    (run / "recipe.yaml").write_text(
        "version: 1\ndata: {name: scenes, size: [96, 128]}\n"
        "teacher: {name: segformer, weights: nvidia/some-segformer}\n"
        "student: {name: fast_scnn, width: 0.25}\n"
        "losses: [{name: cross_entropy}]\ntrain: {epochs: 1}\n"
    )
    (run / "summary.json").write_text(
        json.dumps({"miou": 0.5531, "best_step": 1200, "steps": 1500})
    )
    return run


def test_a_folder_is_loaded_again_and_describes_its_origin(run_folder, tmp_path):
    model = freqkd_cli.load(run_folder)
    result = deploy.export_folder(
        model,
        "fast_scnn",
        tmp_path / "out",
        run=run_folder,
        options=ExportOptions(sizes=((1, 64, 96), (2, 65, 97))),
    )
    assert result["max_abs_difference"] == 0.0 and result["checked_by"] == ["freqkd"]
    image = probe_image(1, 70, 90)
    with torch.no_grad():
        torch.testing.assert_close(
            freqkd_cli.load(tmp_path / "out")(image), model(image), rtol=0, atol=0
        )
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "recipe.yaml",
        "summary.json",
    }
    assert result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    text = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "mIoU 55.31 on scenes",
        "nvidia/some-segformer",
        "not for commercial use",
        "name: fast_scnn",
        "tree, bush",
        "freqkd_cli.load",
        "license: other",
        "scenes, split train, in views of 96 x 128 pixels",
        f"freqkd {freqkd_cli.__version__}",
        "Not measured: latency, accuracy",
        "## Training\n\n1500 steps",
    ):
        assert part in text
    assert "Apache-2.0" not in text


def test_a_folder_keeps_no_record_of_an_earlier_model(run_folder, tmp_path):
    options, out = ExportOptions(sizes=((1, 64, 96),)), tmp_path / "out"
    deploy.export_folder(student(), "fast_scnn", out, run=run_folder, options=options)
    assert all((out / name).is_file() for name in deploy.COPIED)
    (out / "mine.txt").write_text("kept")
    (run_folder / "summary.json").write_text("no JSON")
    deploy.export_folder(student(), "fast_scnn", out, run=run_folder, options=options)
    assert (out / "recipe.yaml").is_file() and not (out / "summary.json").exists()
    deploy.export_folder(student(), "fast_scnn", out, options=options)
    assert not any((out / name).exists() for name in deploy.COPIED)
    assert (out / "mine.txt").read_text() == "kept"


def test_a_card_says_which_images_were_scored(run_folder):
    words = (str(run_folder), "--format", "safetensors", "--no-latency", "--overwrite")
    card = run_folder / "export" / "README.md"
    assert run_command(*words)[0] == 0 and "on scenes, split val, after 1200" in card.read_text()
    recipe = run_folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("128]}", "128], hold_out: 0.2}"))
    assert run_command(*words)[0] == 0
    assert "on scenes, 20% of the training images, held out, after 1200" in card.read_text()


@pytest.mark.parametrize("file", ["summary.json", "environment.json"])
@pytest.mark.parametrize(
    ("text", "along"),
    [("{", False), ("[]", False), ('{"miou": "x", "steps": [], "libraries": 3}', True)],
)
def test_a_damaged_record_is_a_warning_and_left_out_of_the_card(run_folder, file, text, along):
    (run_folder / file).write_text(text)
    code, out, err = run_command(str(run_folder), "--format", "safetensors", "--no-latency")
    assert code == 0 and f"{file} is damaged: the model card leaves out" in err, err
    card = (run_folder / "export" / "README.md").read_text()
    assert ("mIoU 55.31" in card) == (file != "summary.json")
    if file == "summary.json":
        assert (
            "## Results\n\nNot recorded." in card
            and (run_folder / "export" / file).exists() == along
        )


def test_the_code_of_the_card_runs(run_folder, tmp_path, onnx_file, monkeypatch):
    deploy.export_folder(
        freqkd_cli.load(run_folder),
        "fast_scnn",
        tmp_path / "this" / "folder",
        options=ExportOptions(sizes=((1, 64, 96),)),
    )
    text = (tmp_path / "this" / "folder" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    assert len(blocks) == 2 and all(len(block.splitlines()) == 3 for block in blocks)
    shutil.copy(onnx_file[1], tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        names: dict = {}
        exec(block, names)
        assert tuple(names["logits"].shape) == (1, len(NAMES), 24, 32)


def test_a_card_names_what_is_missing(tmp_path):
    result = deploy.export_folder(
        student(),
        "fast_scnn",
        tmp_path / "a",
        options=ExportOptions(sizes=((1, 64, 96),), latency_runs=1),
    )
    text = (tmp_path / "a" / "README.md").read_text()
    for heading in ("Data", "Results", "Training", "Teacher", "License", "Recipe"):
        assert f"## {heading}\n\nNot recorded." in text
    assert "mIoU" not in text and "license:" not in text
    ms = f"{result['latency_ms'][0]['torch']:.1f} ms"
    assert f"torch, one image of 192 x 256: {ms} (cpu, 1 thread, median of 1" in text


def test_a_folder_that_does_not_read_back_is_not_written(tmp_path, monkeypatch):
    write = deploy.save_model

    def damaged(folder, model, name):
        other = student()
        with torch.no_grad():
            next(other.classifier.parameters()).mul_(1.5)
        write(folder, other, name)

    monkeypatch.setattr(deploy, "save_model", damaged)
    with pytest.raises(CheckFailed, match="the folder gives other results"):
        deploy.export_folder(
            student(), "fast_scnn", tmp_path / "out", options=ExportOptions(sizes=((1, 64, 96),))
        )
    assert list(tmp_path.iterdir()) == []


def small_segformer() -> nn.Module:
    torch.manual_seed(0)
    arguments = {
        "channels": [8, 8, 16, 16],
        "heads": [1, 1, 2, 2],
        "depths": [1, 1, 1, 1],
        "decoder": 16,
    }
    model = segformer.build(classes=len(NAMES), **arguments).eval()
    model.id2label = dict(enumerate(NAMES))
    return model


def test_a_segformers_folder_is_read_by_transformers(tmp_path):
    from transformers import SegformerForSemanticSegmentation

    model = small_segformer()
    result = deploy.export_folder(
        model,
        "segformer",
        tmp_path / "out",
        options=ExportOptions(sizes=((1, 64, 96), (2, 65, 97))),
    )
    assert result["checked_by"] == ["freqkd", "transformers"]
    reference = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    assert reference.config.id2label == dict(enumerate(NAMES))
    image = probe_image(1, 75, 101)
    with torch.no_grad():
        wanted = model(image)["logits"]
        torch.testing.assert_close(
            reference(pixel_values=(image - model.mean) / model.std).logits,
            wanted,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """A U-Net on MobileNetV2 whose batch norms have seen images."""
    torch.manual_seed(0)
    model = smp.build(classes=len(NAMES), arch="unet", encoder="mobilenet_v2").train()
    with torch.no_grad():
        for _ in range(30):
            model(torch.rand(4, 3, 64, 96))
    return model.eval()


def test_another_librarys_pooling_is_written_as_matrices():
    torch.manual_seed(0)
    model = smp.build(classes=3, arch="pspnet", encoder="mobilenet_v2").eval()
    image = probe_image(1, 70, 90)
    program = torch.export.export(ExportForm(model), (image,), strict=False)
    assert not any(
        "adaptive_avg_pool2d" in str(node.target) and node.args[1] != [1, 1]
        for node in program.graph.nodes
    )
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(image), model(image)["logits"], rtol=1e-4, atol=1e-5
        )


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        ("segformer, trained", "onnx"),
        pytest.param("segformer, trained", "pt2", marks=SLOW),
        pytest.param("unet", "onnx", marks=SLOW),
        pytest.param("unet", "pt2", marks=SLOW),
    ],
)
def test_other_students_export_with_free_sizes(tmp_path, kind, which, request):
    model = (
        request.getfixturevalue("unet")
        if which == "unet"
        else freqkd_cli.load(Path(freqkd_cli.__file__).parent / "weights" / "segformer_scenes")
    )
    result = export_file(model, tmp_path / f"a.{kind}", kind)
    assert (
        result["relative_difference"] <= 1e-4
        and result["argmax_agreement"] >= 0.9999
        and len(result["sizes"]) == 5
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_vmamba_exports_at_one_size(tmp_path, kind):
    torch.manual_seed(0)
    model = vmamba.build(classes=5, variant="nano").eval()
    model.classifier.weight.data.mul_(100)
    result = export_file(model, tmp_path / f"model.{kind}", kind, ExportOptions().at((64, 96)))
    assert (
        result["sizes"] == [[1, 64, 96], [2, 64, 96], [3, 64, 96]]
        and result["relative_difference"] < 1e-5
    )


def test_a_kind_that_is_impossible_names_another(tmp_path, monkeypatch):
    def refuse(*words, **named):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(FreqKDError, match="not write it as onnx") as caught:
        export_file(tiny(), tmp_path / "a.onnx", "onnx")
    assert "--format pt2" in caught.value.tip and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(FreqKDError, match="cannot write this model as onnx") as caught:
        export_file(tiny(), tmp_path / "a.onnx", "onnx")
    assert "--format safetensors" in caught.value.tip and list(tmp_path.iterdir()) == []


# The command


def run_command(*words: str) -> tuple[int, str, str]:
    from typer.testing import CliRunner

    from freqkd_cli.app import build_app

    result = CliRunner().invoke(build_app(), ["export", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_one_document_and_refuses_to_overwrite(run_folder):
    code, out, err = run_command(str(run_folder), "--format", "safetensors", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert {"file", "format", "bytes", "max_abs_difference", "argmax_agreement"} <= set(document)
    assert [row["size"] for row in document["latency_ms"]] == [
        [1, 96, 128],
        [1, 192, 256],
    ] and document["latency_runs"] == 5
    assert document["file"] == str(run_folder / "export")
    code, out, err = run_command(str(run_folder), "--format", "safetensors")
    assert code == 2 and "is not empty" in err and out == ""
    (run_folder / "export" / "mine.txt").write_text("kept")
    (run_folder / "export" / "README.md").write_text("old")
    code, out, err = run_command(
        str(run_folder), "--format", "safetensors", "--overwrite", "--no-latency"
    )
    assert "ms per image" not in out
    assert code == 0 and out.startswith("written\t")
    assert (run_folder / "export" / "mine.txt").read_text() == "kept"
    assert (run_folder / "export" / "README.md").read_text() != "old"


@pytest.mark.parametrize(
    "words, code, text",
    [
        (("--format", "safetensors", "--argmax"), 2, "--argmax has no effect"),
        (("--format", "safetensors", "--head", "argmax"), 2, "--head has no effect"),
        (("--format", "pt2", "--opset", "20"), 2, "--opset"),
        (("--format", "onnx", "--out", "{run}"), 2, "is a folder"),
        (("--format", "tflite"), 2, "tflite"),
        (("--opset", "99"), 2, "to that operator set\n  got  --opset 99\n  need 13 .. "),
        (("--size", "0,0"), 2, "at least one pixel\n  got  --size 0,0\n  need height and width"),
        (("--size", "-5x7"), 2, "at least one pixel\n  got  --size -5,7\n"),
        (("--latency-size", "0,0"), 2, "at least one pixel\n  got  --latency-size 0,0\n"),
        (("--latency-size", "-5,10"), 2, "at least one pixel\n  got  --latency-size -5,10\n"),
        (("--size", "192"), 2, "not a height and a width\n  got  --size 192\n  need H,W"),
    ],
)
def test_options_that_do_not_fit_are_refused(run_folder, words, code, text):
    before = sorted(run_folder.rglob("*"))
    actual, out, err = run_command(
        str(run_folder), *(word.format(run=run_folder) for word in words)
    )
    assert actual == code and text in err and out == ""
    assert sorted(run_folder.rglob("*")) == before


def test_a_folder_without_a_model_is_exit_code_4(tmp_path):
    code, out, err = run_command(str(tmp_path))
    assert code == 4 and out == "" and "config.json" in err


# What an export must not replace


@pytest.fixture
def taught_run(run_folder, tmp_path) -> Path:
    """A run whose teacher is a folder on this machine, with what a run keeps beside its weights."""
    save_model(tmp_path / "teacher", small_segformer())
    path = run_folder / "recipe.yaml"
    path.write_text(path.read_text().replace("nvidia/some-segformer", str(tmp_path / "teacher")))
    for name in ("metrics.jsonl", "last/model.safetensors", "state/optimizer.safetensors"):
        (run_folder / name).parent.mkdir(exist_ok=True)
        (run_folder / name).write_text("kept")
    return run_folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "target",
    [
        "run/model.safetensors",
        "run/metrics.jsonl",
        "run/last/model.safetensors",
        "run/state/optimizer.safetensors",
        "teacher/model.safetensors",
        "symbolic.onnx",
        "hard.onnx",
        "folder/config.json",
    ],
)
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_export_never_replaces_a_file_of_the_run_or_its_teacher(
    taught_run, tmp_path, target, kind
):
    (tmp_path / "symbolic.onnx").symlink_to(taught_run / "model.safetensors")
    (tmp_path / "hard.onnx").hardlink_to(taught_run / "model.safetensors")
    (tmp_path / "folder").symlink_to(tmp_path / "teacher")
    before = contents(tmp_path)
    words = ("--format", kind, "--out", str(tmp_path / target), "--overwrite")
    code, out, err = run_command(str(taught_run), *words)
    assert (code, out) == (2, "") and "would replace a file of the run or of its teacher" in err
    assert contents(tmp_path) == before


def test_an_onnx_teacher_is_never_replaced(taught_run, tmp_path):
    teacher = tmp_path / "teacher.onnx"
    teacher.write_bytes(b"weights")
    recipe = taught_run / "recipe.yaml"
    values = yaml.safe_load(recipe.read_text())
    values["teacher"] = {"name": "onnx", "weights": str(teacher)}
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match="would replace a file of the run or of its teacher"):
        check_target(teacher, "onnx", taught_run, overwrite=True)


@pytest.mark.parametrize("target", ["run", "run/last", "teacher", "link", "linked"])
def test_an_exported_folder_never_replaces_a_run_or_its_teacher(taught_run, tmp_path, target):
    (tmp_path / "link").symlink_to(taught_run)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "model.safetensors").hardlink_to(taught_run / "model.safetensors")
    before = contents(tmp_path)
    words = ("--format", "safetensors", "--out", str(tmp_path / target), "--overwrite")
    code, out, err = run_command(str(taught_run), *words)
    assert (code, out) == (2, "") and "would replace a file of the run or of its teacher" in err
    assert contents(tmp_path) == before


def test_an_earlier_export_beside_the_weights_is_replaced(taught_run, monkeypatch):
    for name, kind in (("model.onnx", "onnx"), ("small.pt2", "pt2"), ("model.onnx.md", "onnx")):
        (taught_run / name).write_text("an earlier export")
        with pytest.raises(UsageError, match="already exists"):
            check_target(taught_run / name, kind, taught_run, overwrite=False)
        check_target(taught_run / name, kind, taught_run, overwrite=True)
    (taught_run / "empty").mkdir()
    check_target(taught_run / "empty", "safetensors", taught_run, overwrite=False)


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
@pytest.mark.parametrize(
    ("out", "code", "text"),
    [
        ("/", 2, "--out /"),
        ("/proc/freqkd/below", 1, "--out /proc/freqkd/below cannot be written"),
        ("{run}/recipe.yaml/below", 2, "is a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_message(run_folder, kind, out, code, text):
    before = contents(run_folder)
    words = ("--format", kind, "--out", out.format(run=run_folder), "--overwrite")
    actual, stdout, err = run_command(str(run_folder), *words, "--latency", "0")
    assert (actual, stdout) == (code, "") and text in err and "Traceback" not in err
    assert contents(run_folder) == before


def test_a_read_only_folder_is_refused_before_the_work(run_folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _, mode, **__: not mode & os.W_OK)
    code, out, err = run_command(str(run_folder), "--out", "there.onnx")
    assert (code, out) == (1, "") and "--out there.onnx cannot be written" in err


# Weights that are not finite


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
@pytest.mark.parametrize(
    ("value", "status", "text"),
    [(float("nan"), 4, "are not numbers (NaN)"), (float("inf"), 3, "NaN or infinite")],
)
def test_a_weight_that_is_not_finite_is_refused_by_name(run_folder, kind, value, status, text):
    model = freqkd_cli.load(run_folder)
    with torch.no_grad():
        model.fusion.skip[0].weight[3] = value
        model.fusion.skip[1].running_var[0] = value
    save_model(run_folder, model, "fast_scnn")
    before = contents(run_folder)
    code, out, err = run_command(str(run_folder), "--format", kind)
    assert (code, out) == (status, ""), err
    assert text in err and "fusion.skip.0.weight, fusion.skip.1.running_var" in err
    assert contents(run_folder) == before


def test_logits_that_are_not_finite_are_refused():
    """Finite weights whose products overflow; the exported model may well agree."""
    with pytest.raises(CheckFailed, match="logits are NaN or infinite"):
        compare(lambda image: logits(image) / 0, lambda image: logits(image) / 0, ((1, 8, 8),))
    assert (
        not compare(logits, lambda image: logits(image) / 0, ((1, 8, 8),)).relative_difference < 1
    )


# The license


def test_the_license_of_a_restricted_teacher_is_a_field_of_the_exported_folder(
    run_folder, tmp_path
):
    options = ExportOptions(sizes=((1, 64, 96),))
    model = freqkd_cli.load(run_folder)
    assert model.license is None
    deploy.export_folder(model, "fast_scnn", tmp_path / "out", run=run_folder, options=options)
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["license"]["noncommercial"] is True
    assert freqkd_cli.load(tmp_path / "out").license == segformer.NVIDIA_LICENSE
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other\nlicense_name: NVIDIA Source Code License for SegFormer\n---" in card


def test_the_license_comes_from_the_teachers_folder_or_is_not_recorded(taught_run, tmp_path):
    options = ExportOptions(sizes=((1, 64, 96),))
    model = freqkd_cli.load(taught_run)
    deploy.export_folder(model, "fast_scnn", tmp_path / "a", run=taught_run, options=options)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "is not recorded" in card and "license: other" not in card
    teacher = freqkd_cli.load(tmp_path / "teacher")
    teacher.license = License(name="MIT")
    save_model(tmp_path / "teacher", teacher)
    deploy.export_folder(model, "fast_scnn", tmp_path / "b", run=taught_run, options=options)
    card = (tmp_path / "b" / "README.md").read_text()
    assert (
        "## License\n\nTeacher: MIT (commercial use allowed)." in card
        and "license: other" not in card
    )
    assert freqkd_cli.load(tmp_path / "b").license is None


# Options


def test_a_size_may_be_written_in_three_ways():
    assert {parse_size(text) for text in ("192,256", "192x256", "192 256", " 192, 256")} == {
        (192, 256)
    }


def test_old_options_are_accepted_and_hidden():
    code, out, err = run_command("--help")
    assert code == 0 and "--no-latency" not in out + err and "--latency" in out + err


def test_the_next_step_is_logged(run_folder):
    words = ("--format", "safetensors", "--latency", "0")
    assert "Next: freqkd_cli.load(" in run_command(str(run_folder), *words)[2]
    assert "Next" not in run_command(str(run_folder), *words, "--overwrite", "-q")[2]
    assert _next("onnx", Path("a.int8.onnx"), {}).startswith("freqkd predict a.int8.onnx PHOTOS")
    told = _next("onnx", Path("a.int8.onnx"), {"int8": {}, "card": "a.int8.onnx.md"})
    assert told.endswith("onnxruntime in Python with the option that a.int8.onnx.md shows")


# Latency


def test_the_median_leaves_out_warm_up_and_outliers(monkeypatch):
    """Calls of known length on a clock of our own: 50 ms each in the warm-up, then mostly 10 ms."""
    lengths = iter([0.05, 0.05, 0.05, 0.01, 0.01, 0.05, 0.01, 0.01])
    now = [0.0]

    def call() -> None:
        now[0] += next(lengths)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert median_ms(call, runs=5, warm_up=3) == pytest.approx(10)


def test_latency_is_measured_in_eval_mode_and_the_mode_restored():
    class Watched(Tiny):
        seen: list[bool] = []

        def forward(self, images, taps=()):
            self.seen.append((self.training, tuple(images.shape)))
            return super().forward(images)

    model = Watched().train()
    assert measure_latency(model, (32, 64), runs=3) > 0
    assert model.training and set(model.seen) == {(False, (1, 3, 32, 64))} and len(model.seen) == 6
