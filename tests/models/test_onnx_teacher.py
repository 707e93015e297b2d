"""``{name: onnx}``: a teacher of any framework as an ONNX file."""

from __future__ import annotations

import copy
import json

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from small_recipe import SMALL

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.cache.fingerprint import teacher_identity
from freqkd_cli.errors import CacheMismatch, FreqKDError, RecipeError, WeightsMissing
from freqkd_cli.features.taps import Tap
from freqkd_cli.models import onnx as teacher_file
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.spectrum.cached_subject import open_cache
from freqkd_cli.spectrum.locate import identify
from freqkd_cli.spectrum.subjects import SpectrumOptions
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.train.distillation import distill

K, C = 5, 6
RNG = np.random.default_rng(0)
FIRST = RNG.normal(size=(C, 3, 4, 4)).astype(np.float32)
SECOND = RNG.normal(size=(K, C, 2, 2)).astype(np.float32)


def write(path, *, size=("h", "w"), batch="b", nhwc=False, softmax=False, kind=TensorProto.FLOAT):
    """Write features at stride 4 and scores at stride 8: two convolutions."""
    shape = [batch, *size, 3] if nhwc else [batch, 3, *size]
    nodes = []
    source = "photo"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [source], ["cast"], to=TensorProto.FLOAT))
        source = "cast"
    if nhwc:
        nodes.append(helper.make_node("Transpose", [source], ["x"], perm=[0, 3, 1, 2]))
        source = "x"
    nodes += [
        helper.make_node("Conv", [source, "first"], ["features"], strides=[4, 4]),
        helper.make_node("Conv", ["features", "second"], ["scores"], strides=[2, 2]),
    ]
    outputs = [("features", C), ("scores", K)]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scores"], ["shares"], axis=1))
        outputs[1] = ("shares", K)
    if nhwc:
        for number, (name, channels) in enumerate(outputs):
            nodes.append(helper.make_node("Transpose", [name], [f"{name}_t"], perm=[0, 2, 3, 1]))
            outputs[number] = (f"{name}_t", channels)
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("photo", kind, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n, _ in outputs],
        [numpy_helper.from_array(x, n) for x, n in ((FIRST, "first"), (SECOND, "second"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    helper.set_model_props(model, {"classes": json.dumps(["a", "b", "c", "d", "e"])})
    onnx.save(model, path)
    return str(path)


OUTPUTS = {"logits": "scores", "decoder": "features"}


def expected(x):
    features = F.conv2d(x.double(), torch.from_numpy(FIRST).double(), stride=4)
    return features, F.conv2d(features, torch.from_numpy(SECOND).double(), stride=2)


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def check(out, x, tolerance=1e-5):
    features, scores = expected(x)
    for name, tensor in (("decoder", features), ("logits", scores)):
        bound = tolerance * float(tensor.abs().max())
        torch.testing.assert_close(out[name].double(), tensor, rtol=0, atol=bound)


def test_taps_and_values_are_those_of_the_file(tmp_path, images):
    path = write(tmp_path / "t.onnx")
    arguments = {"weights": path, "outputs": OUTPUTS}
    taps = teacher_file.taps(classes=9, **arguments)
    assert taps == (Tap("logits", 8, K, "logits"), Tap("decoder", 4, C))
    model = teacher_file.build(classes=9, **arguments)
    assert model.classes == K and model.id2label == dict(enumerate("abcde"))
    assert teacher_file.class_names(**arguments) == model.id2label
    assert teacher_file.class_names(weights=str(tmp_path / "absent.onnx")) == {}
    assert not list(model.parameters())
    check(model(images, ["decoder"]), images)
    assert set(model(images)) == {"logits"}
    half = copy.deepcopy(model).to(torch.bfloat16)
    check(half(images, ["decoder"]), images)


def test_range_mean_std_and_order_of_colors(tmp_path, images):
    path = write(tmp_path / "t.onnx")
    mean, std = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
    keys = {"range": 255.0, "mean": mean, "std": std, "channels": "bgr"}
    model = teacher_file.build(classes=9, weights=path, outputs=OUTPUTS, **keys)
    m, s = (torch.tensor(x).view(1, 3, 1, 1) for x in (mean, std))
    check(model(images, ["decoder"]), ((images * 255 - m) / s).flip(1))
    assert model.mean.flatten().tolist() == pytest.approx([x / 255 for x in mean])


def test_axes_last_whole_numbers_and_a_batch_of_one(tmp_path, images):
    path = write(tmp_path / "t.onnx", nhwc=True, batch=1, kind=TensorProto.UINT8)
    outputs = {"logits": "scores_t", "decoder": "features_t"}
    keys = {"layout": "nhwc", "range": 255.0}
    model = teacher_file.build(classes=9, weights=path, outputs=outputs, **keys)
    check(model(images, ["decoder"]), (images * 255).round())


@pytest.mark.parametrize(
    ("keys", "got", "tip"),
    [
        ({}, "range 1", 255),
        ({"range": 1.0}, "range 1", 255),
        ({"range": 255.0, "mean": [123.5, 116.0, 103.0]}, "mean [123.5, 116, 103]", "null"),
        ({"range": 255.0, "std": [58.0, 57.0, 57.0]}, "std [58, 57, 57]", "null"),
    ],
)
def test_bytes_need_white_at_255(tmp_path, keys, got, tip):
    """Every image was black, and with a mean every dark half."""
    path = write(tmp_path / "t.onnx", kind=TensorProto.UINT8)
    for make in (teacher_file.taps, teacher_file.build):
        with pytest.raises(RecipeError, match="takes bytes from 0 to 255") as refused:
            make(classes=9, weights=path, outputs=OUTPUTS, **keys)
        assert refused.value.got == got
        assert refused.value.tip == f"--set '{refused.value.key}={tip}'"


def test_bytes_with_a_mean_of_zero(tmp_path, images):
    path = write(tmp_path / "t.onnx", kind=TensorProto.UINT8)
    keys = {"range": 255.0, "mean": [0.0] * 3, "std": [1.0] * 3, "channels": "bgr"}
    model = teacher_file.build(classes=9, weights=path, outputs=OUTPUTS, **keys)
    check(model(images, ["decoder"]), (images * 255).round().flip(1))


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_batch_of_four_takes_any_number_of_images(tmp_path, number):
    """A number that is no multiple of the batch was an endless recursion."""
    images = torch.rand(number, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    path = write(tmp_path / "t.onnx", batch=4)
    model = teacher_file.build(classes=9, weights=path, outputs=OUTPUTS)
    check(model(images, ["decoder"]), images)


def test_probabilities_become_logits(tmp_path, images):
    path = write(tmp_path / "t.onnx", softmax=True)
    outputs = {"logits": "shares"}
    model = teacher_file.build(classes=9, weights=path, outputs=outputs, scores="probabilities")
    scores = expected(images)[1]
    torch.testing.assert_close(
        model(images)["logits"].exp().double(), scores.softmax(1), atol=2e-6, rtol=1e-4
    )


def test_probabilities_are_not_read_as_logits(tmp_path):
    path = write(tmp_path / "t.onnx", softmax=True)
    with pytest.raises(RecipeError, match="holds probabilities") as raised:
        teacher_file.build(classes=K, weights=path, outputs=OUTPUTS | {"logits": "shares"})
    assert "scores=probabilities" in str(raised.value)


def test_logits_are_not_read_as_probabilities(tmp_path):
    """All values below 0 were the same probability, without a message."""
    path = write(tmp_path / "t.onnx")
    model = onnx.load(path)
    bias = np.arange(-3, K - 3, dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    model.graph.node[1].input.append("bias")
    onnx.save(model, path)
    arguments = {"weights": path, "outputs": OUTPUTS}
    with pytest.raises(RecipeError, match="(?s)no probabilities.*values from -3 to 1") as raised:
        teacher_file.build(classes=K, scores="probabilities", **arguments)
    assert raised.value.tip == "--set 'scores=logits'"
    assert teacher_file.build(classes=K, **arguments).classes == K


@pytest.mark.parametrize(("key", "number", "own"), [("stride", 8, 4), ("channels", 7, C)])
def test_given_grids_are_those_of_the_file(tmp_path, key, number, own):
    """Losses were made for other sizes: a traceback in the first step, or another band."""
    entry = {"name": "features", "stride": 4, "channels": C}
    outputs = {"logits": "scores", "decoder": entry}
    path = write(tmp_path / "t.onnx")
    assert teacher_file.build(classes=K, weights=path, outputs=outputs).listed["decoder"]
    entry[key] = number
    with pytest.raises(RecipeError, match=f"the tap decoder, has another {key}") as raised:
        teacher_file.build(classes=K, weights=path, outputs=outputs)
    assert (raised.value.got, raised.value.need) == (f"{key}: {number}", f"{key}: {own}")


def test_class_numbers_are_no_scores(tmp_path):
    path = write(tmp_path / "t.onnx")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["labels"], axis=1, keepdims=0))
    labels = helper.make_tensor_value_info("labels", TensorProto.INT64, [None] * 3)
    model.graph.output.append(labels)
    onnx.save(model, path)
    with pytest.raises(RecipeError, match="has no axis of classes"):
        teacher_file.build(classes=K, weights=path, outputs={"logits": "labels"})


def test_a_graph_of_one_size_refuses_others_or_resizes(tmp_path, images):
    path = write(tmp_path / "t.onnx", size=(64, 64))
    model = teacher_file.build(classes=9, weights=path, outputs=OUTPUTS)
    check(model(images[..., :64], ["decoder"]), images[..., :64])
    with pytest.raises(FreqKDError, match="got  64x96(.|\n)*need 64x64(.|\n)*teacher.fit=resize"):
        model(images)
    model = teacher_file.build(classes=9, weights=path, outputs=OUTPUTS, fit="resize")
    out = model(images, ["decoder"])
    assert out["logits"].shape == (3, K, 8, 12) and out["decoder"].shape == (3, C, 16, 24)
    small = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    whole = F.interpolate(expected(small)[1], (8, 12), mode="bilinear")
    torch.testing.assert_close(out["logits"].double(), whole, atol=1e-5, rtol=1e-5)


def test_the_hash_of_the_file_is_in_the_fingerprint(tmp_path):
    one = teacher_file.build(classes=9, weights=write(tmp_path / "a.onnx"), outputs=OUTPUTS)
    same = teacher_file.build(classes=9, weights=write(tmp_path / "b.onnx"), outputs=OUTPUTS)
    other = write(tmp_path / "c.onnx", softmax=True)
    other = teacher_file.build(
        classes=9, weights=other, outputs={"logits": "shares"}, scores="probabilities"
    )
    keys = [teacher_identity(m, name="onnx", dtype="float32") for m in (one, same, other)]
    assert keys[0] == keys[1] and keys[0]["weights_sha256"] != keys[2]["weights_sha256"]
    json.dumps(keys)


def test_taps_without_the_file(tmp_path):
    entry = {"name": "scores", "stride": 8, "channels": 5}
    (tap,) = teacher_file.taps(classes=9, weights=str(tmp_path / "no"), outputs={"logits": entry})
    assert tap == Tap("logits", 8, 5, "logits")
    teacher_file.fetch(weights=str(tmp_path / "no"), outputs={"logits": entry})
    taps = teacher_file.taps(classes=9, weights=str(tmp_path / "no"), outputs=OUTPUTS)
    assert [tap.name for tap in taps] == ["logits", "decoder"] and taps[0].channels == 9
    with pytest.raises(WeightsMissing, match="there is no file"):
        teacher_file.fetch(weights=str(tmp_path / "no"), outputs=OUTPUTS)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "no output 'logits'(.|\n)*features, scores(.|\n)*--set 'outputs="),
        ({"outputs": {"logits": "scores", "x": "gone"}}, "no output 'gone', for the tap x"),
        ({"outputs": OUTPUTS, "input": "image"}, "no input 'image'(.|\n)*the inputs photo"),
        ({"outputs": OUTPUTS, "layout": "nhwc"}, "does not run|one stride"),
    ],
)
def test_keys_that_do_not_fit_the_file(tmp_path, arguments, match):
    with pytest.raises((RecipeError, FreqKDError), match=match):
        teacher_file.build(classes=9, weights=write(tmp_path / "t.onnx"), **arguments)


def test_what_is_no_onnx_file(tmp_path):
    with pytest.raises(WeightsMissing, match="there is no file"):
        teacher_file.build(classes=9, weights=str(tmp_path / "no.onnx"))
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsMissing, match="onnxruntime cannot read(.|\n)*got  "):
        teacher_file.build(classes=9, weights=str(tmp_path / "x.onnx"))
    with pytest.raises(WeightsMissing, match=f"{tmp_path} is a folder") as caught:
        teacher_file.fetch(weights=str(tmp_path))
    assert caught.value.tip == f"--set 'weights={tmp_path / 'x.onnx'}'"
    (tmp_path / "x.onnx").rename(tmp_path / "x.pt2")
    for path, kind in ((tmp_path, "folder"), (tmp_path / "x.pt2", "pt2 file")):
        with pytest.raises(WeightsMissing, match=f"{path} is a {kind}") as caught:
            teacher_file.build(classes=9, weights=str(path))
        assert caught.value.tip == "freqkd export RUN --format onnx"


def test_a_recipe_with_an_onnx_teacher_is_checked_as_a_whole(tmp_path):
    path = write(tmp_path / "t.onnx")
    (tmp_path / "r.yaml").write_text(SMALL)
    teacher = f"teacher={{name: onnx, weights: {path}, outputs: {json.dumps(OUTPUTS)}}}"
    losses = "losses=[{name: feature, student: decoder, teacher: decoder}]"
    plan = assemble.check(recipes.load(tmp_path / "r.yaml", [teacher, losses]), fetch=True)
    assert plan.teacher_taps["decoder"].stride == 4
    assert assemble.build_teacher(plan.recipe, 12).classes == K
    with pytest.raises(RecipeError, match="decoder"):
        recipe = recipes.load(tmp_path / "r.yaml", [teacher.replace("decoder", "other"), losses])
        assemble.check(recipe)


@pytest.mark.parametrize("logits", [{"logits": "scores"}, {"logits": {"name": "scores"}}])
def test_a_cache_trains_without_the_file(tmp_path, logits):
    """The cache has names of outputs, and the recipe may have strides and channels as well."""
    path = write(tmp_path / "t.onnx")
    (tmp_path / "r.yaml").write_text(SMALL)
    losses = "losses=[{name: feature, student: decoder, teacher: decoder}]"
    mapping = "class_map: {a: road, b: sky}"

    def load(**more):
        decoder = {"name": "features", "stride": 4, "channels": C} | more
        outputs = json.dumps({**logits, "decoder": decoder})
        teacher = f"teacher={{name: onnx, weights: {path}, outputs: {outputs}, {mapping}}}"
        return recipes.load(tmp_path / "r.yaml", [teacher, losses])

    # It ended with a traceback: a file has no parameters, of which the device was read.
    assert distill(load(), tmp_path / "r", Silent(), dry_run=True)["teacher_gflops"] == 0
    dump_recipe(load(), tmp_path / "c", Silent(), DumpOptions())
    options = SpectrumOptions((), (), 0.5, "train", 1)
    assert "decoder" in open_cache(identify(tmp_path / "c"), options)[1].taps  # it named no file
    (tmp_path / "t.onnx").unlink()
    result = distill(load(), tmp_path / "r", Silent(), cache=tmp_path / "c", dry_run=True)
    assert result["steps"] == 2
    with pytest.raises(CacheMismatch, match='outputs.decoder: cached "features", wanted "other"'):
        distill(load(name="other"), tmp_path / "r", Silent(), cache=tmp_path / "c")
