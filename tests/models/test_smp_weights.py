"""Weights of segmentation-models-pytorch as people have them: equal outputs, or one message."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as library
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.errors import FreqKDError, WeightsMissing
from freqkd_cli.export.deploy import model_name
from freqkd_cli.features.class_names import same_classes
from freqkd_cli.models import smp

ENCODER = "resnet18"


def made(arch: str = "unet", classes: int = 3, **options: Any) -> nn.Module:
    """Return a network of the library with statistics of batch norm that are not the initial."""
    torch.manual_seed(0)
    net = library.create_model(arch, ENCODER, encoder_weights=None, classes=classes, **options)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
    return net.eval()


@torch.no_grad()
def outputs(net: nn.Module, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the logits of the library's network and of ours, both in the size of the image."""
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = net(model.normalise(images))
    expected = expected[0] if isinstance(expected, tuple) else expected
    logits = model.eval()(images)["logits"]
    return expected, F.interpolate(logits, expected.shape[-2:], mode="bilinear", align_corners=True)


def assert_equal(net: nn.Module, model: nn.Module) -> None:
    expected, logits = outputs(net, model)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "scse": ("unet", {"decoder_attention_type": "scse"}),
    "depth 4": ("unet", {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 8)}),
    "auxiliary head": ("unet", {"aux_params": {"classes": 4}}),
    "no norm": ("unet", {"decoder_use_norm": False}),
    "interpolation": ("unet", {"decoder_interpolation": "bilinear"}),
    "pyramid": ("fpn", {"decoder_merge_policy": "cat", "decoder_pyramid_channels": 64}),
    "rates": ("deeplabv3plus", {"decoder_atrous_rates": (2, 4, 6), "decoder_channels": 32}),
    "output stride": ("deeplabv3plus", {"encoder_output_stride": 8}),
    "shallow": ("pspnet", {"psp_out_channels": 64}),
    "segformer": ("segformer", {"decoder_segmentation_channels": 64}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_folder_of_save_pretrained_is_the_same_network(tmp_path: Path, name: str) -> None:
    arch, options = OPTIONS[name]
    net = made(arch, **options)
    net.save_pretrained(tmp_path / "theirs")
    assert_equal(net, smp.build(classes=9, weights=str(tmp_path / "theirs")))
    loaded = load_model(tmp_path / "theirs")
    assert_equal(net, loaded)
    save_model(tmp_path / "ours", loaded)
    assert_equal(net, load_model(tmp_path / "ours"))
    assert model_name(tmp_path / "theirs") == model_name(tmp_path / "ours") == "smp"
    taps = {tap.name: tap for tap in smp.taps(classes=9, weights=str(tmp_path / "theirs"))}
    assert taps["logits"].channels == 3


@pytest.mark.parametrize("form", ["folder", "file"])
def test_one_output_row_is_two_classes(tmp_path: Path, form: str) -> None:
    net = made(classes=1)
    net.save_pretrained(tmp_path / "folder")
    torch.save({"net": net.state_dict()}, tmp_path / "file")
    arguments = {} if form == "folder" else {"arch": "unet", "encoder": ENCODER}
    model = smp.build(classes=2, weights=str(tmp_path / form), **arguments)
    expected, logits = outputs(net, model)
    assert model.classes == 2 and model.id2label == {0: "background", 1: "foreground"}
    torch.testing.assert_close(logits[:, 1:], expected, atol=1e-5, rtol=0)
    assert not logits[:, 0].any()
    assert torch.equal(logits.argmax(1), (expected[:, 0] > 0).long())
    assert same_classes(model, ("background", "foreground"))
    assert not same_classes(model, ("foreground", "background"))


def test_a_sigmoid_of_several_classes_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = made(activation="sigmoid")
    net.save_pretrained(tmp_path)
    model = smp.build(classes=3, weights=str(tmp_path))
    assert "ends in a sigmoid for each of its 3 classes" in caplog.text
    expected, logits = outputs(net, model)
    torch.testing.assert_close(logits.sigmoid(), expected, atol=1e-5, rtol=0)


def test_gray_images_are_refused(tmp_path: Path) -> None:
    made(in_channels=1).save_pretrained(tmp_path)
    for read in (load_model, lambda path: smp.build(classes=2, weights=str(path))):
        with pytest.raises(WeightsMissing, match="in_channels 1"):
            read(tmp_path)


def test_the_librarys_own_lightning_example(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps mean and std as buffers beside ``self.model``, and an argument object."""
    net = made("fpn")
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    state = {"mean": mean.view(1, 3, 1, 1), "std": std.view(1, 3, 1, 1)}
    state |= {f"model.{key}": x for key, x in net.state_dict().items()}
    content = {"state_dict": state, "epoch": 1, "hyper_parameters": {"arch": "FPN"}}
    torch.save(content, tmp_path / "example.ckpt")
    with caplog.at_level(logging.INFO):
        model = smp.build(
            classes=2, arch="fpn", encoder=ENCODER, weights=str(tmp_path / "example.ckpt")
        )
    assert_equal(net, model)
    torch.testing.assert_close(model.mean.flatten(), mean)
    torch.testing.assert_close(model.std.flatten(), std)
    assert "mean and std of the images are taken from its tensors" in caplog.text
    state |= {"mean": 255 * state["mean"], "std": 255 * state["std"]}
    torch.save({"state_dict": state}, tmp_path / "bytes.ckpt")
    given = {"classes": 2, "arch": "fpn", "encoder": ENCODER}
    model = smp.build(**given, weights=str(tmp_path / "bytes.ckpt"))
    torch.testing.assert_close(model.std.flatten(), std, atol=1e-6, rtol=0)
    model = smp.build(**given, weights=str(tmp_path / "bytes.ckpt"), mean=[0.5, 0.5, 0.5])
    assert model.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_a_mean_of_0_and_a_std_of_1_mean_nothing(tmp_path: Path) -> None:
    state = {"mean": torch.zeros(3), "std": torch.ones(3)} | made().state_dict()
    torch.save(state, tmp_path / "w.pth")
    model = smp.build(classes=3, arch="unet", encoder=ENCODER, weights=str(tmp_path / "w.pth"))
    torch.testing.assert_close(model.mean.flatten()[0], torch.tensor(0.485))


def test_mean_and_std_of_pretrained_encoders_of_timm(tmp_path: Path) -> None:
    name = "tu-inception_v4"
    net = library.create_model("unet", name, encoder_weights=None, classes=2)
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_weights": "imagenet"}))
    assert smp.build(classes=2, weights=str(tmp_path)).mean.flatten().tolist() == [0.5, 0.5, 0.5]


FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "arch": ("fpn", {}),
    "encoder": ("unet", {"encoder_name": "resnet34"}),
    "both": ("unetplusplus", {"encoder_name": "resnet34"}),
    "scse": ("unet", {"decoder_attention_type": "scse"}),
    "depth": ("unet", {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 8)}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_network_names_the_arguments_that_read_it(
    tmp_path: Path, name: str
) -> None:
    """A deeper encoder has all tensors of a smaller one, so it must not be read as that."""
    arch, options = FILES[name]
    options = {"encoder_name": ENCODER, "encoder_weights": None, "classes": 3} | options
    net = library.create_model(arch, **options).eval()
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": {f"net.{k}": x for k, x in net.state_dict().items()}}, path)
    given = {"classes": 3, "arch": "unet", "encoder": ENCODER, "weights": str(path)}
    with pytest.raises(WeightsMissing, match="does not fit the model") as caught:
        smp.build(**given)
    pairs = re.findall(r"--set '(\w+)=([^']*)'", str(caught.value.tip))
    assert pairs
    fixed = {key: json.loads(x) if key == "options" else x for key, x in pairs}
    assert_equal(net, smp.build(**given | fixed))


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(FreqKDError, match="decoder_attention_type"):
        smp.taps(classes=2, encoder=ENCODER, options={"decoder_attention": "scse"})
    with pytest.raises(FreqKDError, match="decoder_channels"):
        smp.taps(classes=2, encoder=ENCODER, options={"encoder_depth": 4})
    made(decoder_attention_type="scse").save_pretrained(tmp_path)
    for wrong in ({"arch": "fpn"}, {"encoder": "resnet34"}, {"options": {"encoder_depth": 4}}):
        with pytest.raises(FreqKDError) as caught:
            smp.build(classes=3, weights=str(tmp_path), **wrong)
        assert caught.value.tip and caught.value.key
