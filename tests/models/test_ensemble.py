"""An ensemble: the log of the mean probability against float64 numpy, its folder, its errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from scipy.special import logsumexp, softmax

from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.cache.fingerprint import teacher_identity, weights_sha256
from freqkd_cli.errors import FreqKDError, RecipeError, WeightsMissing
from freqkd_cli.features.class_map import NEVER
from freqkd_cli.models import ensemble, fast_scnn, segformer, smp
from freqkd_cli.models import onnx as onnx_teacher
from freqkd_cli.weights.config import License

CLASSES = ("road", "sky", "car", "pole")
SMALL = {"name": "fast_scnn", "width": 0.25}
FINER = {"name": "smp", "arch": "segformer", "encoder": "tu-mobilenetv3_small_100"}
TINY = {"channels": [8, 8, 16, 16], "heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "decoder": 16}
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def built(*members: dict[str, Any], **arguments: Any) -> ensemble.Ensemble:
    """Build an ensemble whose members have clearly different probabilities."""
    torch.manual_seed(0)
    model = ensemble.build(classes=4, members=list(members), **arguments)
    with torch.no_grad():
        for member in model.members:
            last = [p for p in member.parameters() if p.dim() == 4][-1]
            last.mul_(8 / member(IMAGES)["logits"].std())
    return model


@torch.no_grad()
def member_logits(model: ensemble.Ensemble, grid: tuple[int, int]) -> list[np.ndarray]:
    """Return the members' own logits on a grid, in float64."""
    parts = [member(IMAGES)["logits"] for member in model.members]
    return [
        (x if x.shape[-2:] == grid else F.interpolate(x, grid, mode="bilinear")).double().numpy()
        for x in parts
    ]


def assert_close(model: ensemble.Ensemble, expected: np.ndarray) -> None:
    """Compare probabilities and, where they are not tiny, logits."""
    with torch.no_grad():
        logits = model(IMAGES)["logits"]
    assert logits.dtype == torch.float32 and not logits.requires_grad
    np.testing.assert_allclose(softmax(logits.double().numpy(), 1), expected, atol=1e-6)
    np.testing.assert_allclose(logits.exp().sum(1), 1, atol=1e-5)
    seen = expected > 1e-4
    np.testing.assert_allclose(logits.numpy()[seen], np.log(expected[seen]), atol=2e-5)


def test_the_logits_are_the_log_of_the_mean_probability() -> None:
    model = built(SMALL, SMALL, SMALL)
    parts = [softmax(x, 1) for x in member_logits(model, (8, 12))]
    assert_close(model, sum(parts) / 3)


def test_weights_and_members_of_other_strides() -> None:
    model = built({**SMALL, "weight": 0.5}, {**FINER, "weight": 2.5})
    assert [tap.stride for tap in ensemble.taps(classes=4, members=[SMALL, FINER])] == [4]
    coarse, fine = member_logits(model, (16, 24))
    assert_close(model, (0.5 * softmax(coarse, 1) + 2.5 * softmax(fine, 1)) / 3)
    odd = torch.rand(1, 3, 70, 97)
    assert model(odd)["logits"].shape == (1, 4, 18, 25)


def test_class_maps_and_classes_that_some_members_do_not_cover() -> None:
    mapped = {**SMALL, "classes": 5, "weight": 3.0}
    mapped["class_map"] = {"0": "sky", "2": "car", "3": "car"}  # 1 and 4 are left out
    model = built(SMALL, mapped, class_names=CLASSES)
    assert model.classes == 4 and model.id2label == dict(enumerate(CLASSES))
    first, second = member_logits(model, (8, 12))
    p = softmax(first, 1)
    merged = np.stack([second[:, 0], logsumexp(second[:, 2:4], axis=1)], 1)
    q = softmax(merged, 1)
    expected = p.copy()
    expected[:, 1:3] = (p[:, 1:3] + 3 * q) / 4
    assert_close(model, expected / expected.sum(1, keepdims=True))
    assert model.class_map is None


def test_a_class_that_no_member_covers_has_probability_0() -> None:
    some = {**SMALL, "classes": 3, "class_map": {"0": "road", "1": "sky"}}
    others = {**SMALL, "classes": 3, "class_map": {"2": "sky", "1": "car"}}
    model = built(some, others, class_names=CLASSES)
    logits = model(IMAGES)["logits"]
    assert bool((logits[:, 3] == NEVER).all()) and bool(logits.isfinite().all())
    assert model.class_map.covered == (0, 1, 2) and model.class_map.groups == ((0,), (1,), (2,))
    first, second = member_logits(model, (8, 12))
    p, q = softmax(first[:, [0, 1]], 1), softmax(second[:, [2, 1]], 1)
    total = np.stack([p[:, 0], (p[:, 1] + q[:, 0]) / 2, q[:, 1], 0 * p[:, 0]], 1)
    assert_close(model, total / total.sum(1, keepdims=True))


def test_nan_of_a_member_is_no_prediction_of_the_others() -> None:
    """It was taken for classes of probability 0, so those of other members alone were left."""
    some = {**SMALL, "classes": 3, "class_map": {"0": "road", "1": "sky"}}
    others = {**SMALL, "classes": 3, "class_map": {"2": "sky", "1": "car"}}
    model = built(some, others, class_names=CLASSES)
    for parameter in model.members[1].parameters():
        parameter.data.fill_(torch.nan)
    assert bool(model(IMAGES)["logits"].isnan().all())


def test_each_member_normalises_in_its_own_way_and_half_members_are_joined_in_float32() -> None:
    own = {**SMALL, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    model = built(SMALL, own)
    assert model.members[1].mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.members[0].mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert model.normalise(IMAGES) is IMAGES
    exact = model(IMAGES)["logits"]
    half = model.to(torch.bfloat16)(IMAGES)["logits"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.exp(), exact.exp(), atol=0.1, rtol=0)


def test_it_is_frozen() -> None:
    model = built(SMALL, FINER).train()
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(FreqKDError, match="no tap 'decoder'"):
        model(IMAGES, ["decoder"])
    before = weights_sha256(model)
    next(model.members[1].parameters()).data += 1
    assert weights_sha256(model) != before


def test_a_folder_gives_the_same_bits(tmp_path: Path) -> None:
    mapped = {**FINER, "classes": 5, "mean": [0.5] * 3, "std": [0.25] * 3, "weight": 2}
    model = built(SMALL, {**mapped, "class_map": {"1": "sky", "4": "pole"}}, class_names=CLASSES)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded(IMAGES)["logits"], model(IMAGES)["logits"])
    assert loaded.recipe_arguments == model.recipe_arguments
    assert loaded.id2label == model.id2label


def test_run_folders_and_names_of_classes(tmp_path: Path) -> None:
    """A member reads its weights as a teacher does, and a map may use its names."""
    names = {0: "sky", 1: "street", 2: "wagon"}
    plain, whole = fast_scnn.build(classes=3, width=0.25), smp.build(classes=4, **_plain(FINER))
    save_model(tmp_path / "a", plain, id2label=names)
    save_model(tmp_path / "b", whole, id2label=dict(enumerate(CLASSES)))
    first = {**SMALL, "weights": str(tmp_path / "a")}
    mapped = {**first, "class_map": {"street": "road", "sky": "sky", "wagon": "car"}}
    second = {"name": "smp", "weights": str(tmp_path / "b")}
    model = ensemble.build(classes=4, members=[mapped, second], class_names=CLASSES)
    assert torch.equal(model.members[0](IMAGES)["logits"], plain.eval()(IMAGES)["logits"])
    # Kernels differ by the alignment of weights in memory, so only these are compared bit by bit.
    read, saved = model.members[1].state_dict(), whole.eval().state_dict()
    assert read.keys() == saved.keys() and all(torch.equal(read[key], saved[key]) for key in saved)
    alone = whole(IMAGES)["logits"]
    torch.testing.assert_close(model.members[1](IMAGES)["logits"], alone, rtol=1e-5, atol=1e-6)
    described = model.recipe_arguments["members"]
    assert described[0]["class_map"] == {"0": "sky", "1": "road", "2": "car"}
    assert not any("weights" in member for member in described)
    for function in (ensemble.taps, ensemble.build):
        with pytest.raises(RecipeError, match="have other classes, and no class_map") as caught:
            function(classes=4, members=[first, second], class_names=CLASSES)
        error = caught.value
        assert error.key == "members.0.class_map"
        assert f"members.0 (fast_scnn, {tmp_path}/a) 3 classes: sky, street, wagon" in error.got
        assert f"members.1 (smp, {tmp_path}/b) 4 classes: road, sky, car, pole" in error.got
    other = {**second, "class_map": {"road": "road", "sky": "sky"}}
    with pytest.raises(RecipeError, match="have other classes"):
        ensemble.build(classes=4, members=[first, other], class_names=CLASSES)
    wrong = {**first, "class_map": {"streat": "road", "sky": "sky"}}
    with pytest.raises(RecipeError, match="did you mean 'street'") as caught:
        ensemble.build(classes=4, members=[wrong, second], class_names=CLASSES)
    assert caught.value.key == "members.0.class_map"
    with pytest.raises(WeightsMissing, match="teacher.members.1: .*nowhere does not exist"):
        ensemble.build(classes=4, members=[first, {"name": "smp", "weights": "nowhere"}])


def _plain(member: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in member.items() if key != "name"}


def test_members_of_equal_classes_keep_their_names_and_a_restrictive_license(
    tmp_path: Path,
) -> None:
    model = segformer.build(classes=4, **TINY)
    model.license = License(name="research", noncommercial=True)
    save_model(tmp_path / "a", model, id2label=dict(enumerate(CLASSES)))
    member = {"name": "segformer", "weights": str(tmp_path / "a")}
    joined = ensemble.build(classes=9, members=[{**SMALL, "classes": 4}, member])
    assert joined.classes == 4 and joined.id2label == dict(enumerate(CLASSES))
    assert joined.license.noncommercial
    student = fast_scnn.build(classes=4, width=0.25)
    student.license = model.license
    save_model(tmp_path / "b", student)
    member = {**SMALL, "weights": str(tmp_path / "b"), "classes": 4}
    joined = ensemble.build(classes=9, members=[{**SMALL, "classes": 4}, member])
    assert joined.license == model.license  # it was lost


def test_mean_and_std_of_an_onnx_member_are_those_of_a_teacher(tmp_path: Path) -> None:
    """They were ignored: the file got the images as they are."""
    weights = str(tmp_path / "t.onnx")
    nodes = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[8, 8], strides=[8, 8])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 3, "h", "w"]) for n in "xy")
    graph = helper.make_graph(nodes, "pool", [x], [y])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), weights)
    form = {"range": 255, "mean": [120.0, 110.0, 100.0], "std": [50.0, 60.0, 70.0]}
    member = {"name": "onnx", "weights": weights, **form}
    joined = ensemble.build(classes=3, members=[member, member])
    alone = onnx_teacher.build(classes=3, weights=weights, **form)
    expected = alone(IMAGES)["logits"].log_softmax(1)
    torch.testing.assert_close(joined(IMAGES)["logits"], expected)
    moved = member | {"weights": shutil.copy(weights, str(tmp_path / "moved.onnx"))}
    again = ensemble.build(classes=3, members=[moved, moved])
    first, second = (teacher_identity(x, name="ensemble", dtype="float32") for x in (joined, again))
    assert first == second  # a cache of a moved file was refused
    save_model(tmp_path / "saved", joined)
    torch.testing.assert_close(load_model(tmp_path / "saved")(IMAGES)["logits"], expected)


def test_names_of_members_are_read_from_any_weights(tmp_path: Path) -> None:
    """The check knew those of folders that freqkd wrote alone, so `distill` refused them later."""
    network = fast_scnn.build(classes=12, width=0.25)
    save_model(tmp_path / "a", network, id2label={i: f"thing {i}" for i in range(12)})
    run = {**SMALL, "weights": str(tmp_path / "a")}
    embedded = {"name": "segformer", "weights": "embedded"}
    with pytest.raises(RecipeError, match="have other classes, and no class_map") as caught:
        ensemble.taps(classes=12, members=[run, embedded])
    assert "members.1 (segformer, embedded) 12 classes: road, pavement" in caught.value.got
    assert ensemble.class_names(members=[{**SMALL, "classes": 12}, embedded])[11] == "panel"
