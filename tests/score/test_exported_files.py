"""Exported files are scored and label images as the run that they were made from."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_fakes import Notes
from PIL import Image

from freqkd_cli.build.exported_model import CERTAIN, is_exported_file, load_exported
from freqkd_cli.build.pt2_check import is_expression_of_sizes, is_harmless
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.datasets import scenes
from freqkd_cli.errors import FreqKDError, UsageError, WeightsMissing
from freqkd_cli.export.graph_file import ExportOptions, export_file
from freqkd_cli.models import fast_scnn
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.averaging import Averaging
from freqkd_cli.score.eval_source import EvalOptions, evaluate
from freqkd_cli.score.input_conversion import ConversionOptions
from freqkd_cli.score.predict_images import PredictOptions, class_colors, predict
from tests.helpers.small_recipe import SMALL

SIZES = ((1, 64, 64), (2, 65, 97))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on scenes with its exports: ONNX with logits and with labels, and pt2."""
    torch.manual_seed(0)
    model = fast_scnn.build(classes=len(scenes.CLASSES), width=0.25)
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.rand(4, 3, 64, 64))
    folder = tmp_path_factory.mktemp("run")
    save_model(folder, model.eval(), "fast_scnn", dict(enumerate(scenes.CLASSES)))
    (folder / "recipe.yaml").write_text(SMALL)
    colors = class_colors(folder, model)
    for name, kind, head in (
        ("model.onnx", "onnx", {}),
        ("labels.onnx", "onnx", {"upsample": True, "argmax": True}),
        ("probabilities.pt2", "pt2", {"upsample": True, "probabilities": True}),
    ):
        options = ExportOptions(sizes=SIZES, colors=colors, **head)
        export_file(load_model(folder), folder / name, kind, options)
    return folder


FILES = ("model.onnx", "labels.onnx", "probabilities.pt2")


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_score_of_its_run(run, name):
    expected = evaluate(str(run), EvalOptions(), Silent())
    actual = evaluate(str(run / name), EvalOptions(), Silent())
    assert actual["miou"] == pytest.approx(expected["miou"], abs=1e-4)
    assert actual["pixel_accuracy"] == pytest.approx(expected["pixel_accuracy"], abs=1e-3)
    assert actual.keys() - expected.keys() == {"bytes"} and not expected.keys() - actual.keys()
    assert actual["parameters"] is None and actual["bytes"] == (run / name).stat().st_size
    assert actual["latency_ms"] > 0 and actual["device"] == "cpu"


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_its_classes_and_their_colors(run, name):
    facts = load_exported(run / name).facts
    assert facts.names == scenes.CLASSES and facts.classes == len(scenes.CLASSES)
    assert [list(color) for color in facts.colors] == [list(map(int, c)) for c in scenes.PALETTE]
    assert facts.size is None


def test_probabilities_become_class_scores_with_the_same_softmax(run):
    image = torch.rand(1, 3, 64, 96)
    model = load_exported(run / "probabilities.pt2")
    probabilities = model.raw(image)
    torch.testing.assert_close(model(image)["logits"].softmax(1), probabilities)
    labels = load_exported(run / "labels.onnx")
    scores = labels(image)["logits"]
    assert scores.max() == CERTAIN and bool((scores.argmax(1) == labels.raw(image)).all())


def test_a_file_labels_images_as_its_run(run, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(image).resize((130, 90), Image.Resampling.BICUBIC).save(tmp_path / "a.png")

    def labels(source: Path, out: str, **options) -> tuple[np.ndarray, list]:
        how = PredictOptions(out=tmp_path / out, **options)
        predict(source, [tmp_path / "a.png"], how, Silent())
        legend = json.loads((tmp_path / out / "legend.json").read_text())
        return np.asarray(Image.open(tmp_path / out / "a.png")), legend

    expected, legend = labels(run, "run")
    actual, of_file = labels(run / "model.onnx", "file")
    assert (actual == expected).mean() > 0.999 and of_file == legend
    windows = Averaging(window=(64, 64), stride=(32, 32))
    assert labels(run / "model.onnx", "windows", averaging=windows)[0].shape == expected.shape


def test_a_file_away_from_its_run_reads_images_as_the_run(run, freqkd, tmp_path):
    there, alone = tmp_path / "run", tmp_path / "deploy"
    shutil.copytree(run, there)
    text = (there / "recipe.yaml").read_text()
    (there / "recipe.yaml").write_text(
        text.replace("name: scenes", "name: folder, root: data, bands: [3, 2, 1]")
    )
    for kind in ("onnx", "pt2"):
        words = ("export", there, "--format", kind, "--out", alone / f"a.{kind}", "--size", "64,64")
        code, _, err = freqkd(*words, "--latency", 0, "-q")
        assert code == 0, err
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "a.png")

    def labels(source: Path, out: str, **options) -> np.ndarray:
        how = PredictOptions(tmp_path / out, conversion=ConversionOptions(**options))
        predict(source, [tmp_path / "a.png"], how, Silent())
        with Image.open(tmp_path / out / "a.png") as image:
            return np.array(image)

    expected = labels(there, "of_run")
    as_stored = labels(there, "as_stored", bands="1,2,3")
    assert (expected != as_stored).mean() > 0.01
    # A recipe of another run beside the file says nothing about it.
    (alone / "recipe.yaml").write_text(text)
    for name in ("a.onnx", "a.pt2"):
        assert load_exported(alone / name).facts.conversion == {"bands": [3, 2, 1]}
        assert (labels(alone / name, name) == expected).mean() > 0.999
        replaced = labels(alone / name, f"{name}_option", bands="1,2,3")
        assert (replaced == as_stored).mean() > 0.999
    # Files of earlier versions hold no conversion: that of the recipe beside them is used.
    assert load_exported(run / "model.onnx").facts.conversion is None
    shutil.copy(run / "model.onnx", there / "earlier.onnx")
    assert (labels(there / "earlier.onnx", "earlier") == expected).mean() > 0.999


def test_memory_may_run_out_in_onnxruntime(run, tmp_path, monkeypatch):
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    def limited(session):
        def call(image):
            if image.shape[-1] > 32:
                raise Fail("FAIL : Failed to allocate memory" if image.shape[-1] > 64 else "FAIL")
            return torch.zeros(len(image), len(scenes.CLASSES), 8, 8)

        return call

    monkeypatch.setattr("freqkd_cli.build.exported_model.onnx_call", limited)
    for name, width in (("a", 32), ("large", 96), ("z", 32)):
        Image.new("RGB", (width, 32)).save(tmp_path / f"{name}.png")
    how = PredictOptions(out=tmp_path / "out")
    document = predict(run / "model.onnx", [tmp_path], how, Silent())
    (failed,) = document["unreadable"]
    assert failed["image"].endswith("large.png") and "memory ran out" in failed["why"]
    assert document["images"] == 2
    with pytest.raises(FreqKDError, match="cannot be run on 1 image of 32x64"):
        load_exported(run / "model.onnx").raw(torch.zeros(1, 3, 32, 64))


def test_a_file_of_one_size_names_the_size_of_the_images(run, tmp_path):
    options = ExportOptions(sizes=((1, 32, 64),)).at((32, 64))
    export_file(load_model(run), tmp_path / "a.pt2", "pt2", options)
    with pytest.raises(UsageError, match="takes images of one size only") as caught:
        evaluate(str(tmp_path / "a.pt2"), EvalOptions(recipe=str(run / "recipe.yaml")), Silent())
    assert caught.value.need == "32x64" and "--size 64,64" in caught.value.tip


def test_a_file_that_cannot_be_scored_is_one_message(run, tmp_path):
    (tmp_path / "recipe.yaml").write_text(SMALL)
    for name in ("a.onnx", "a.pt2"):
        (tmp_path / name).write_bytes(b"no graph")
        with pytest.raises(WeightsMissing, match=f"{name} cannot be read"):
            evaluate(str(tmp_path / name), EvalOptions(), Silent())
    with pytest.raises(WeightsMissing, match="there is no file"):
        evaluate(str(tmp_path / "missing.onnx"), EvalOptions(), Silent())
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(UsageError, match="no recipe.yaml beside") as caught:
        evaluate(str(tmp_path / "a.onnx"), EvalOptions(), Silent())
    assert caught.value.need == "--recipe RECIPE"
    with pytest.raises(FreqKDError, match="exported files run on the CPU"):
        load_exported(run / "model.onnx").ready(torch.device("meta"))
    assert not is_exported_file(tmp_path) and is_exported_file("model.ONNX")


def test_a_damaged_pt2_file_prints_no_traceback_of_torch(run, tmp_path, capfd, caplog):
    """torch printed one, and the message was of its fallback: "check the warnings above"."""
    content = bytearray((run / "probabilities.pt2").read_bytes())
    with zipfile.ZipFile(run / "probabilities.pt2") as archive:
        weights = [entry for entry in archive.infolist() if "/weights/weight_" in entry.filename]
        largest = max(weights, key=lambda entry: entry.file_size)
        with zipfile.ZipFile(tmp_path / "b.pt2", "w") as without:
            for entry in archive.infolist():
                if entry.filename != largest.filename:
                    without.writestr(entry.filename, archive.read(entry))
    content[largest.header_offset + largest.file_size // 2] ^= 1
    (tmp_path / "a.pt2").write_bytes(content)
    with pytest.raises(WeightsMissing, match=r"a\.pt2 is damaged(.|\n)*checksum of .*weight_"):
        load_exported(tmp_path / "a.pt2")
    with pytest.raises(WeightsMissing, match=r"b\.pt2 cannot be read") as caught:
        load_exported(tmp_path / "b.pt2")
    assert "warnings above" not in caught.value.got
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_the_log_names_what_runs_and_the_data(run, caplog):
    """It was "computing in float32 on cpu" for every file, and the recipe was not named."""
    caplog.set_level("INFO", "freqkd_cli")
    for name, computing in (("model.onnx", "onnxruntime"), ("probabilities.pt2", "torch")):
        notes = Notes()
        evaluate(str(run / name), EvalOptions(limit=1), notes)
        assert notes.said[-1].endswith(f"computing in float32 by {computing} on cpu")
        assert f"the data is that of {run / 'recipe.yaml'}; --recipe" in caplog.text
    caplog.clear()
    evaluate(str(run / name), EvalOptions(limit=1, recipe=str(run / "recipe.yaml")), Notes())
    assert "the data is that of" not in caplog.text


def test_options_that_a_file_ignored_are_refused(run, tmp_path):
    with pytest.raises(UsageError, match="model.onnx is an exported file") as caught:
        evaluate(str(run / "model.onnx"), EvalOptions(teacher=True), Silent())
    assert "--teacher" in caught.value.what and caught.value.exit_code == 2
    flip = Averaging(flip=True)
    with pytest.raises(UsageError, match="labels.onnx returns labels, which --flip"):
        evaluate(str(run / "labels.onnx"), EvalOptions(averaging=flip), Silent())
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    how = PredictOptions(out=tmp_path / "out", averaging=flip)
    with pytest.raises(UsageError, match="labels.onnx returns labels"):
        predict(run / "labels.onnx", [tmp_path / "a.png"], how, Silent())
    assert not (tmp_path / "out").exists()
    needing = ("calibration",)
    with pytest.raises(UsageError, match="files that return labels have no probabilities"):
        evaluate(str(run / "labels.onnx"), EvalOptions(metrics=needing, limit=1), Silent())
    assert "ece" not in evaluate(
        str(run / "labels.onnx"), EvalOptions(metrics=("all",), limit=1), Silent()
    )
    windows = Averaging(window=(64, 64), stride=(32, 32))
    assert evaluate(str(run / "labels.onnx"), EvalOptions(averaging=windows, limit=1), Silent())


def test_another_programs_file_is_refused(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("Relu", ["image"], ["logits"])
    shape = ["b", 3, "h", "w"]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("image", "logits")
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "a.onnx",
    )
    with pytest.raises(WeightsMissing, match="was not written by freqkd"):
        load_exported(tmp_path / "a.onnx")


class Harmful:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.made),)


def changed(source: Path, out: Path, edit: Callable[[str, bytes], bytes], **added: bytes) -> Path:
    """Write a copy of a pt2 file with other contents; ``edit`` gets an entry's name."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            new.writestr(name, edit(name.removeprefix(f"{root}/"), old.read(name)))
        for name, content in added.items():
            new.writestr(f"{root}/{name}", content)
    return out


def test_a_pt2_file_with_pickled_code_is_refused_before_it_runs(run, tmp_path):
    made = tmp_path / "made"
    torch.save((Harmful(made),), tmp_path / "inputs")
    own, harmful = run / "probabilities.pt2", (tmp_path / "inputs").read_bytes()

    def with_inputs(name: str, content: bytes) -> bytes:
        return harmful if name == "data/sample_inputs/model.pt" else content

    def pickled_weights(name: str, content: bytes) -> bytes:
        if name == "data/weights/model_weights_config.json":
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return harmful if name.startswith("data/weights/weight_") else content

    def with_expression(key: str) -> Callable[[str, bytes], bytes]:
        code = f"__import__('os').mkdir('{made}')"

        def edit(name: str, content: bytes) -> bytes:
            if name != "models/model.json":
                return content
            graph = json.loads(content)
            nodes = graph["graph_module"]["graph"]["nodes"]
            if key == "guards_code":
                graph[key] = [code]
            elif key == "target":
                nodes[0]["target"] = "torch.os.mkdir"
                text = {"name": "", "arg": {"as_string": str(made)}, "kind": 1}
                nodes[0]["inputs"] = [text]
            elif key == "name":
                graph["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = f"x={code}"
            else:
                entry = next(iter(graph["graph_module"]["graph"]["tensor_values"].values()))
                entry["sizes"][0] = {"as_expr": {"expr_str": code, "hint": None}}
            return json.dumps(graph).encode()

        return edit

    def same(name: str, content: bytes) -> bytes:
        return content

    before = dict(os.environ)
    objects = {
        f"data/constants/{name}_0": pickle.dumps(Harmful(made))
        for name in ("custom_obj", "opaque_obj", "OPAQUE_obj")
    }
    files = [
        changed(own, tmp_path / "inputs.pt2", with_inputs),
        changed(own, tmp_path / "weights.pt2", pickled_weights),
        changed(own, tmp_path / "guards.pt2", with_expression("guards_code")),
        changed(own, tmp_path / "sizes.pt2", with_expression("expr_str")),
        changed(own, tmp_path / "target.pt2", with_expression("target")),
        changed(own, tmp_path / "name.pt2", with_expression("name")),
        changed(own, tmp_path / "library.pt2", same, **{"data/aotinductor/model/a.so": b""}),
    ]
    for number, (name, content) in enumerate(objects.items()):
        files.append(changed(own, tmp_path / f"object{number}.pt2", same, **{name: content}))
    for file in files:
        with pytest.raises(WeightsMissing, match="could run code|cannot be read"):
            load_exported(file)
        assert not made.exists(), file
    assert dict(os.environ) == before
    assert load_exported(changed(own, tmp_path / "same.pt2", same)).classes == len(scenes.CLASSES)


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "Max(1, 'x.mkdir')",
        "L['image'].size().__class__",
        "torch.load('a')",
        "[f for f in L]",
        "1 #",
        "getattr",
        "1\n2",
        "(lambda: 1)()",
        "\uff45val(1)",
        "math.Trunc",
    ],
)
def test_only_arithmetic_on_sizes_is_evaluated(text):
    assert not is_expression_of_sizes(text)
    assert not is_harmless("expr_str", text)
    own = "math.trunc(0.5*torch.sym_float(1 + (((-1) + L['image'].size()[3]) // 2))) != 1e3"
    assert is_expression_of_sizes(own)
    assert is_expression_of_sizes("Add(Symbol('s6', positive=True, integer=True), Integer(-1))")


def test_only_operators_of_torch_are_called():
    for target in ("torch.os.system", "_operator.call", "_operator.attrgetter", "math.__loader__"):
        assert not is_harmless("target", target) and not is_harmless("as_operator", target)
    for target in ("torch.ops.aten.from_file.default", "torch.ops.aten.add.__class__", "#a", ""):
        assert not is_harmless("target", target)
    for target in ("torch.ops.aten.__and__.Tensor", "torch.sym_max", "_operator.floordiv"):
        assert is_harmless("target", target)
    assert not is_harmless("name", "x=eval(1)") and is_harmless("name", "conv2d_1")
    assert not is_harmless("in_spec", '[1, {"type": "a.B", "context": "[]", "children_spec": []}]')
