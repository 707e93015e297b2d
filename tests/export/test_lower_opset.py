"""Older operator sets: every rewritten operator computes the same, and so do whole students."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import FreqKDError
from freqkd_cli.export.graph_file import ExportOptions, export_file
from freqkd_cli.export.lower_opset import BASE, OLDEST, lowered
from freqkd_cli.models import fast_scnn, segformer, smp, vmamba

IMAGE = np.random.default_rng(0).normal(size=(2, 6, 4, 8)).astype(np.float32)


def graph(text: str) -> onnx.ModelProto:
    """A model of operator set 18: float x [2, 6, h, w] -> float y."""
    head = '<ir_version: 10, opset_import: ["" : 18]> net (float[2, 6, h, w] x) => (float y)'
    model = onnx.parser.parse_model(f"{head} {{ {text} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


OPERATORS = {
    "layer normalization": """
        s = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]> ()
        b = Constant <value_floats = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]> ()
        y = LayerNormalization <axis = -1, epsilon = 0.01> (x, s, b)""",
    "layer normalization over two axes without bias": """
        s = Constant <value_float = 3.0> ()
        y = LayerNormalization <axis = -2> (x, s)""",
    "hard swish": "y = HardSwish (x)",
    "equal split": """
        a, b, c = Split <axis = 1, num_outputs = 3> (x)
        d = Sub (a, b)
        y = Mul (d, c)""",
    "part of a shape": """
        s = Shape <start = 2> (x)
        f = Cast <to = 1> (s)
        y = ReduceSum <keepdims = 0> (f)""",
    "shape up to the last axis": """
        s = Shape <start = -3, end = -1> (x)
        y = Cast <to = 1> (s)""",
    "reshape": """
        s = Constant <value_ints = [2, -1, 8]> ()
        y = Reshape <allowzero = 1> (x, s)""",
    "padding": """
        p = Constant <value_ints = [0, 0, 1, 2, 0, 0, 3, 4]> ()
        y = Pad <mode = "edge"> (x, p)""",
    "resize": """
        s = Constant <value_ints = [2, 6, 7, 19]> ()
        y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel",
            antialias = 0, keep_aspect_ratio_policy = "stretch"> (x, , , s)""",
}


@pytest.mark.parametrize("opset", range(OLDEST, BASE))
@pytest.mark.parametrize("name", OPERATORS)
def test_a_rewritten_operator_gives_the_same_numbers(name, opset):
    model = graph(OPERATORS[name])
    older = lowered(model, opset)
    assert [(entry.domain, entry.version) for entry in older.opset_import] == [("", opset)]
    assert older.ir_version == onnx.helper.find_min_ir_version_for(older.opset_import) <= 8
    np.testing.assert_allclose(run(older), run(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax", "ReduceL2"])
def test_axes_become_an_attribute(kind):
    model = graph(f"y = {kind} <keepdims = 0> (x, axes)")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3]), "axes"))
    np.testing.assert_allclose(run(lowered(model, 13)), run(model), rtol=1e-5)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": IMAGE})[0]


@pytest.mark.parametrize(
    ("text", "opset", "lowest"),
    [
        ("g = Constant <value_ints = [2, 4, 8, 2]> ()\n f = ConstantOfShape (g)\n"
         "y = GridSample (x, f)", 13, 16),
        ("y = Mish (x)", 15, 18),
        ("a = Constant <value_ints = [1]> ()\n y = Resize <antialias = 1, mode = \"linear\"> "
         "(x, , , a)", 17, 18),
    ],
)  # fmt: skip
def test_an_operator_without_older_form_is_named_with_the_lowest_set(text, opset, lowest):
    operator = text.split("y = ")[1].split()[0]
    with pytest.raises(FreqKDError) as caught:
        lowered(graph(text), opset)
    assert operator in caught.value.got and f"--opset {opset}" in caught.value.got
    assert caught.value.tip == f"--opset {lowest}" and caught.value.key == "opset"
    if lowest < BASE:
        assert lowered(graph(text), lowest).opset_import[0].version == lowest


STUDENTS = {
    "fast_scnn": lambda: fast_scnn.build(classes=4, width=0.25),
    "segformer": lambda: segformer.build(
        classes=4, channels=[8, 8, 16, 16], heads=[1, 1, 2, 2], depths=[1, 1, 1, 1], decoder=16
    ),
    "smp": lambda: smp.build(classes=4, arch="unet", encoder="mobilenet_v2"),
    "vmamba": lambda: vmamba.build(classes=4, variant="nano"),
}
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("which", "opset"),
    [
        ("fast_scnn", 17),  # the command below writes one in set 13
        ("segformer", 13),
        pytest.param("segformer", 17, marks=SLOW),
        *(pytest.param(k, n, marks=SLOW) for k in ("smp", "vmamba") for n in (13, 17)),
    ],
)
def test_students_are_written_in_older_sets(tmp_path, which, opset):
    torch.manual_seed(0)
    model = STUDENTS[which]().eval()
    options = ExportOptions(upsample=opset == 17, opset=opset)
    result = export_file(model, tmp_path / "a.onnx", "onnx", options.at((64, 96)))
    written = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", opset)]
    assert result["opset"] == opset and result["relative_difference"] <= 1e-5


def test_the_command_writes_labels_of_any_size_in_set_13(tmp_path, freqkd):
    torch.manual_seed(0)
    model = fast_scnn.build(classes=3, width=0.25)
    save_model(tmp_path, model, "fast_scnn", dict(enumerate(["sky", "road", "car"])))
    words = ("export", tmp_path, "--opset", 13, "--upsample", "--argmax", "--latency", 0)
    code, out, err = freqkd(*words, "--json", "-q")
    assert code == 0, err
    document = json.loads(out)
    assert document["opset"] == 13 and len(document["sizes"]) == 5
    written = onnx.load(document["file"])
    onnx.checker.check_model(written, full_check=True)
    assert [entry.version for entry in written.opset_import] == [13] and written.ir_version == 7
    dims = [axis.dim_param for axis in written.graph.input[0].type.tensor_type.shape.dim]
    assert [dims[0], *dims[2:]] == ["batch", "height", "width"]
    assert {"key": "classes", "value": '["sky", "road", "car"]'} in [
        {"key": entry.key, "value": entry.value} for entry in written.metadata_props
    ]


class Warped(nn.Module):
    """A model with an operator that older sets do not have."""

    classes = 3

    def forward(self, images: Tensor, taps=()) -> dict[str, Tensor]:
        grid = images[:, :2].permute(0, 2, 3, 1)
        return {"logits": F.grid_sample(images, grid, align_corners=False)}


def test_a_model_that_an_older_set_cannot_hold_is_not_written(tmp_path):
    fixed = ExportOptions().at((32, 32))
    with pytest.raises(FreqKDError, match="has no GridSample") as caught:
        export_file(Warped(), tmp_path / "a.onnx", "onnx", replace(fixed, opset=13))
    assert caught.value.exit_code == 1 and list(tmp_path.iterdir()) == []
    assert (
        export_file(Warped(), tmp_path / "a.onnx", "onnx", replace(fixed, opset=16))["opset"] == 16
    )


def test_other_formats_have_no_operator_set(tmp_path: Path):
    options = ExportOptions(sizes=((1, 32, 32),))
    assert export_file(Warped(), tmp_path / "a.pt2", "pt2", options.at((32, 32)))["opset"] is None
