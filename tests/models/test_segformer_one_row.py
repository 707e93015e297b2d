"""A SegFormer with one output row is a network of two classes, everywhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import freqkd_cli
from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.models import segformer
from freqkd_cli.teacher.teacher_classes import build_scored_teacher, check_teacher_classes

RECIPE = """
version: 1
data: {name: folder, size: [64, 96]}
teacher: {name: segformer, weights: one}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}, {name: logit_kl}]
train: {steps: 2, batch_size: 2}
"""


def network(**labels: Any) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16,
        **labels,
    )
    net = SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        net.decode_head.classifier.weight.normal_(std=3.0)
        net.decode_head.classifier.bias.fill_(-0.08)
    return net


@pytest.fixture(scope="module")
def net() -> Any:
    return network(id2label={0: "crack"}, label2id={"crack": 0})


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "d" / kind / split).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(
                tmp_path / "d" / "images" / split / f"{i}.png"
            )
            Image.fromarray(rng.integers(0, 2, (64, 96), dtype=np.uint8)).save(
                tmp_path / "d" / "masks" / split / f"{i}.png"
            )
    (tmp_path / "d" / "classes.txt").write_text("background\ncrack\n")
    return tmp_path / "d"


@torch.no_grad()
def test_logits_are_zero_and_transformers_own(
    tmp_path: Path, net: Any, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    net.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = segformer.build(classes=9, weights=str(tmp_path)).eval()
    assert "0 is background, 1 is crack where the output is above 0" in caplog.text
    z = net(model.normalise(images)).logits
    logits = model(images)["logits"]
    assert logits.shape[1] == model.classes == 2
    torch.testing.assert_close(logits[:, 1:] - logits[:, :1], z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], z.sigmoid(), atol=1e-5, rtol=1e-5)
    clear = z.abs() > 1e-4
    assert torch.equal(logits.argmax(1, keepdim=True)[clear], (z > 0).long()[clear])
    assert 0.05 < float((z > 0).float().mean()) < 0.95, "both classes occur"
    taps = {tap.name: tap for tap in segformer.taps(classes=9, weights=str(tmp_path))}
    assert taps["logits"].channels == 2


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"id2label": {0: "crack"}, "label2id": {"crack": 0}}, ["background", "crack"]),
        ({"id2label": {1: "crack"}, "label2id": {"crack": 1}}, ["background", "crack"]),
        ({"num_labels": 1}, ["background", "foreground"]),
        ({"id2label": {0: "Background"}}, ["foreground", "Background"]),
    ],
)
def test_names_of_the_two_classes(
    tmp_path: Path, labels: dict[str, Any], names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    network(**labels).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = freqkd_cli.load(tmp_path)
    assert model.id2label == dict(enumerate(names))
    assert f"0 is {names[0]}, 1 is {names[1]}" in caplog.text and "row 0 is" not in caplog.text


@torch.no_grad()
def test_a_saved_folder_has_two_rows(tmp_path: Path, net: Any, images: Tensor) -> None:
    from transformers import SegformerForSemanticSegmentation

    net.save_pretrained(tmp_path / "one")
    model = freqkd_cli.load(tmp_path / "one")
    save_model(tmp_path / "two", model)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["id2label"] == {"0": "background", "1": "crack"}
    again = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "two").eval()
    torch.testing.assert_close(
        again(model.normalise(images)).logits, model(images)["logits"], atol=1e-5, rtol=1e-5
    )


def test_a_new_head_has_the_data_classes(tmp_path: Path, net: Any) -> None:
    net.save_pretrained(tmp_path)
    model = segformer.build(classes=5, weights=str(tmp_path), head="new")
    assert (model.classes, model.id2label) == (5, None)


def loaded(data: Path, *sets: str, weights: Path) -> Any:
    sets = (f"data.root={data}", f"teacher.weights={weights}", *sets)
    return assemble.check(recipes.loads(RECIPE, "r.yaml", sets))


def test_as_teacher_it_has_the_classes_of_the_data(tmp_path: Path, net: Any, data: Path) -> None:
    net.save_pretrained(tmp_path / "one")
    plan = loaded(data, weights=tmp_path / "one")
    teacher = assemble.build_teacher(plan.recipe, 2)
    assert check_teacher_classes(plan, teacher) is None
    mapped = loaded(
        data,
        "teacher.class_map={background: background, crack: crack}",
        weights=tmp_path / "one",
    )
    groups = check_teacher_classes(mapped, teacher)
    assert groups is not None and groups.groups == ((0,), (1,))


def test_other_names_are_refused_with_a_class_map_that_works(
    tmp_path: Path, net: Any, data: Path
) -> None:
    network(num_labels=1).save_pretrained(tmp_path / "one")
    plan = loaded(data, weights=tmp_path / "one")
    teacher = assemble.build_teacher(plan.recipe, 2)
    with pytest.raises(RecipeError) as caught:
        check_teacher_classes(plan, teacher)
    change = caught.value.tip.split("--set '")[1].split("'")[0]
    assert change == "teacher.class_map={background: background, foreground: crack}"
    mapped = loaded(data, change, weights=tmp_path / "one")
    groups = check_teacher_classes(mapped, teacher)
    assert groups is not None and groups.groups == ((0,), (1,))


def test_a_teacher_with_a_new_head_is_refused_where_scores_are_compared(
    tmp_path: Path, net: Any, data: Path
) -> None:
    net.save_pretrained(tmp_path / "one")
    plan = loaded(data, "teacher.head=new", weights=tmp_path / "one")
    with pytest.raises(RecipeError, match="the teacher's head is new") as caught:
        check_teacher_classes(plan, assemble.build_teacher(plan.recipe, 2))
    assert "--set 'teacher.head=keep'" in caught.value.tip and "logit_kl" in caught.value.got
    with pytest.raises(RecipeError, match="the teacher's head is new"):
        build_scored_teacher(plan.recipe, plan.classes)


def test_the_tip_of_a_teacher_without_a_head_keeps_its_own_section(
    tmp_path: Path, net: Any, data: Path
) -> None:
    net.segformer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(WeightsMissing, match="no segmentation head") as caught:
        build_scored_teacher(loaded(data, weights=tmp_path / "encoder").recipe, ("a", "b"))
    assert "--set 'student.head=new'" in caught.value.tip and "teacher.student" not in str(
        caught.value
    )


def test_as_a_student_it_starts_with_its_own_head(
    tmp_path: Path, net: Any, images: Tensor, data: Path
) -> None:
    net.save_pretrained(tmp_path / "one")
    student = f"student={{name: segformer, weights: {tmp_path / 'one'}, head: keep}}"
    plan = loaded(data, student, weights=tmp_path / "one")
    model = assemble.build_student(plan).eval()
    with torch.no_grad():
        logits = model(images)["logits"]
        z = net(model.normalise(images)).logits
    torch.testing.assert_close(logits[:, 1:] - logits[:, :1], z, atol=1e-5, rtol=1e-5)


def test_a_tip_of_the_weights_names_its_section(tmp_path: Path, net: Any, data: Path) -> None:
    for step in (1, 2):
        net.save_pretrained(tmp_path / "out" / f"checkpoint-{step}")
    with pytest.raises(WeightsMissing) as caught:
        loaded(data, weights=tmp_path / "out")
    change = caught.value.tip.split("--set '")[1].split("'")[0]
    assert change == f"teacher.weights={tmp_path / 'out' / 'checkpoint-2'}"
    assert loaded(data, change, weights=tmp_path / "out").classes == ("background", "crack")
