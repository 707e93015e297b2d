"""Folders of segmentation-models-pytorch's ``save_pretrained``: outputs equal the library's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as library
import torch

import freqkd_cli
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.features.trained_weights import build_trained
from freqkd_cli.models import fast_scnn, smp

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scse": {"decoder_attention_type": "scse"},
    "depth": {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 8)},
    "auxiliary": {"aux_params": {"classes": 3}},
    "activation": {"activation": "softmax2d"},
    "fpn": {"arch": "fpn", "decoder_merge_policy": "cat", "decoder_segmentation_channels": 32},
    "segformer": {"arch": "segformer", "decoder_segmentation_channels": 64},
}


def saved(folder: Path, classes: int = 3, arch: str = "unet", **arguments: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    net = library.create_model(arch, "resnet18", None, classes=classes, **arguments).eval()
    net.save_pretrained(folder)
    return net


def logits(net: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of the library's network before the head's upsampling and activation."""
    features = net.encoder(images)
    return net.segmentation_head[0](net.decoder(features))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_a_saved_network_is_read_with_all_its_arguments(tmp_path, form):
    net = saved(tmp_path / "a", **FORMS[form])
    model = load_model(tmp_path / "a")
    images = torch.rand(2, 3, 64, 96)
    expected = logits(net, (images - model.mean) / model.std)
    torch.testing.assert_close(model(images)["logits"], expected, atol=1e-5, rtol=1e-5)
    save_model(tmp_path / "b", model)  # a run folder of ours
    again = freqkd_cli.load(tmp_path / "b")
    torch.testing.assert_close(again(images)["logits"], expected, atol=1e-5, rtol=1e-5)
    student = smp.build(classes=3, weights=str(tmp_path / "b"))
    assert student.recipe_arguments == model.recipe_arguments


def test_the_weight_file_of_a_folder_is_read_as_the_folder(tmp_path):
    """Its mean, std and class names were left out without a message."""
    torch.manual_seed(0)
    model = smp.build(classes=2, encoder="resnet18", mean=[0.5] * 3, std=[0.25] * 3)
    save_model(tmp_path, model, id2label={0: "road", 1: "sky"})
    file = str(tmp_path / "model.safetensors")
    student = fast_scnn.build(classes=2, width=0.25)
    save_model(tmp_path / "student", student, id2label={0: "sky", 1: "road"})
    other = str(tmp_path / "student" / "model.safetensors")
    read = smp.build(classes=9, weights=file)
    assert read.recipe_arguments == model.recipe_arguments
    assert smp.taps(classes=9, weights=file) == smp.taps(classes=9, weights=str(tmp_path))
    assert torch.equal(read.mean, model.mean) and torch.equal(read.std, model.std)
    assert read.id2label == {0: "road", 1: "sky"}
    trained = build_trained("fast_scnn", classes=9, arguments={"width": 0.25}, weights=other)
    assert trained.id2label == {0: "sky", 1: "road"} and trained.classes == 2
    (tmp_path / "config.json").unlink()
    plain = smp.build(classes=9, weights=file, encoder="resnet18")
    assert plain.id2label is None and not torch.equal(plain.mean, model.mean)


@pytest.mark.parametrize(("arch", "old"), [("unet", "decoder"), ("pspnet", "psp")])
@pytest.mark.parametrize(("used", "norm"), [(True, "batchnorm"), (False, "identity")])
def test_folders_of_older_versions_are_read(tmp_path, arch, old, used, norm):
    """They were refused: no option 'decoder_use_batchnorm'."""
    saved(tmp_path, arch=arch, decoder_use_norm=norm)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["decoder_use_norm"]
    path.write_text(json.dumps(config | {f"{old}_use_batchnorm": used}))
    options = smp.build(classes=3, weights=str(tmp_path)).recipe_arguments.get("options", {})
    assert options.get("decoder_use_norm", "batchnorm") == norm


@torch.no_grad()
def test_one_output_row_is_two_classes(tmp_path):
    net = saved(tmp_path, classes=1)
    model = load_model(tmp_path)
    images = torch.rand(1, 3, 64, 96)
    z = logits(net, (images - model.mean) / model.std)
    both = model(images)["logits"]
    torch.testing.assert_close(both, torch.cat([torch.zeros_like(z), z], 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.softmax(1)[:, 1:], z.sigmoid(), atol=1e-5, rtol=0)
    assert model.classes == 2 and model.id2label == {0: "background", 1: "foreground"}
    assert {tap.name: tap.channels for tap in smp.taps(classes=2, weights=str(tmp_path))}[
        "logits"
    ] == 2


def test_arguments_that_contradict_the_folder_or_do_not_exist_are_refused(tmp_path):
    saved(tmp_path / "a")
    for arguments in ({"arch": "fpn"}, {"encoder": "resnet34"}, {"options": {"encoder_depth": 4}}):
        with pytest.raises(RecipeError, match="is not that of the weights"):
            smp.build(classes=3, weights=str(tmp_path / "a"), **arguments)
    with pytest.raises(RecipeError, match="did you mean 'decoder_attention_type'"):
        smp.build(classes=3, options={"decoder_attention_typ": "scse"})
    saved(tmp_path / "gray", in_channels=1)
    with pytest.raises(WeightsMissing, match="does not take RGB images"):
        smp.build(classes=3, weights=str(tmp_path / "gray"))
