"""Encoder weights from a file: equal outputs, or one message; nothing asks a hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as library
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.models import smp
from freqkd_cli.weights.hub import is_path

SMALL = "tu-mobilenetv3_small_100"


def varied(net: nn.Module) -> nn.Module:
    """Return a network whose statistics of batch norm are not the initial ones."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


@torch.no_grad()
def assert_equals_the_library(model: nn.Module, filled: nn.Module, arch: str) -> None:
    """Compare with the library's network whose encoder was filled by hand."""
    net = library.create_model(arch, model.recipe_arguments["encoder"], None, classes=3).eval()
    net.load_state_dict(model.net.state_dict())
    net.encoder.load_state_dict(filled.state_dict())
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = net((images - model.mean) / model.std)
    logits = model.eval()(images)["logits"]
    resized = F.interpolate(logits, expected.shape[-2:], mode="bilinear", align_corners=True)
    torch.testing.assert_close(resized, expected, atol=1e-5, rtol=0)


def encoder_of(name: str) -> nn.Module:
    torch.manual_seed(3)
    return varied(library.encoders.get_encoder(name, weights=None))


def forms_of(name: str) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of an encoder under the names of several programs."""
    encoder = encoder_of(name)
    own = encoder.state_dict()
    torch.manual_seed(4)
    whole = library.create_model("fpn", name, None, classes=5)
    whole.encoder.load_state_dict(own)
    forms = {
        "encoder": own,
        "prefix": {f"encoder.{key}": x for key, x in own.items()},
        "whole network": {f"net.{key}": x for key, x in whole.state_dict().items()},
    }
    if name.startswith("tu-"):
        full = timm.create_model(name.removeprefix("tu-"))
    else:
        full = torchvision.models.get_model(name, weights=None)
    state = full.state_dict()
    mine = {key.removeprefix("model."): x for key, x in own.items()}
    inner = {key for key in state if key.replace(".", "_", 1) in mine or key in mine}
    assert len(inner) == len(mine)
    for key in inner:
        state[key] = mine[key] if key in mine else mine[key.replace(".", "_", 1)]
    forms["classifier"] = state
    forms["half, in parallel"] = {f"module.{key}": x.half() for key, x in state.items()}
    return forms


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((SMALL, form) for form in ("encoder", "prefix", "whole network", "classifier")),
        *(("resnet18", form) for form in ("encoder", "whole network", "classifier")),
        ("tu-convnext_atto", "classifier"),  # timm's extractor renames stages.0 to stages_0
    ],
)
def test_the_encoder_equals_the_librarys(tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / "encoder.pth"
    torch.save({"state_dict": forms_of(name)[form]}, path)
    model = smp.build(classes=3, arch="unet", encoder=name, encoder_weights=str(path))
    assert_equals_the_library(model, encoder_of(name), "unet")


def test_half_numbers_of_a_wrapped_classifier(tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(forms_of(SMALL)["half, in parallel"], path)
    with caplog.at_level(logging.INFO):
        model = smp.build(classes=3, arch="segformer", encoder=SMALL, encoder_weights=str(path))
    expected = encoder_of(SMALL)
    for x in expected.state_dict().values():
        x.copy_(x.half())
    assert_equals_the_library(model, expected, "segformer")
    assert "left out: classifier (2), conv_head (2)" in caplog.text


def test_the_published_lite0_encoder(camvid_root: Path) -> None:
    path = camvid_root.parent / "weights" / "tf_efficientnet_lite0.safetensors"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    given = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "encoder_weights": str(path)}
    model = smp.build(classes=3, arch="segformer", encoder="tu-tf_efficientnet_lite0", **given)
    assert model.mean.flatten().tolist() == pytest.approx([127 / 255] * 3)
    filled = library.encoders.get_encoder("tu-tf_efficientnet_lite0", weights=None)
    from safetensors.torch import load_file

    state = {f"model.{key}": x for key, x in load_file(path).items()}
    filled.load_state_dict({key: state[key] for key in filled.state_dict()})
    assert_equals_the_library(model, filled, "segformer")


def test_a_shallower_encoder_reads_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    whole = forms_of("tu-convnext_atto")["classifier"]
    torch.save(whole, path)
    options = {"encoder_depth": 3, "decoder_channels": [64, 32, 16]}
    given = {"options": options, "encoder_weights": str(path)}
    encoder = smp.build(classes=3, encoder="tu-convnext_atto", **given).net.encoder
    read = [x for x in encoder.state_dict().values() if x.ndim == 4]
    assert read and all(any(x.equal(y) for y in whole.values()) for x in read)


def test_mean_and_std_are_given_or_those_of_the_published_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "encoder.pth"
    torch.save(encoder_of("tu-tf_efficientnet_lite0").state_dict(), path)
    given = {"classes": 3, "encoder": "tu-tf_efficientnet_lite0", "encoder_weights": str(path)}
    with caplog.at_level(logging.INFO):
        model = smp.build(**given)
    assert model.mean.flatten().tolist() == [0.5] * 3
    assert "are those of timm's published weights; give mean and std" in caplog.text
    model = smp.build(**given, mean=[0.1, 0.2, 0.3])
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == [0.5] * 3
    torch.save(encoder_of("resnet18").state_dict(), path)
    model = smp.build(classes=3, encoder="resnet18", encoder_weights=str(path))
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_missing_tensors_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    state = dict(encoder_of("resnet18").state_dict())
    del state["layer1.0.conv1.weight"], state["bn1.running_var"]
    torch.save(state, path)
    given = {"classes": 3, "encoder": "resnet18", "encoder_weights": str(path)}
    with pytest.raises(WeightsMissing) as caught:
        smp.build(**given)
    assert caught.value.got == "2 missing (bn1.running_var, layer1.0.conv1.weight)"
    assert caught.value.key == "encoder_weights" and "encoder resnet18" in caught.value.what
    state = encoder_of("resnet18").state_dict()
    old = {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, path)
    smp.build(**given)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("resnet18", "resnet34"),  # a deeper encoder has all tensors of a smaller one
        ("resnet34", "resnet18"),
        ("tu-tf_efficientnet_lite0", "tu-tf_efficientnet_lite1"),
        ("vgg11", "resnet18"),
    ],
)
def test_the_file_of_another_encoder_is_refused_with_its_name(
    tmp_path: Path, given: str, right: str
) -> None:
    path = tmp_path / "encoder.pth"
    state = encoder_of(right).state_dict()
    torch.save({key.removeprefix("model."): x for key, x in state.items()}, path)
    with pytest.raises(WeightsMissing, match="does not fit the encoder") as caught:
        smp.build(classes=3, encoder=given, encoder_weights=str(path))
    assert caught.value.tip == f"--set 'encoder={right}'"


def test_paths_that_do_not_exist_and_two_kinds_of_weights(tmp_path: Path) -> None:
    for name in ("nowhere/encoder", "encoder.pth", "./encoder", "~/no such.safetensors"):
        with pytest.raises(WeightsMissing, match="does not exist") as caught:
            smp.build(classes=3, encoder="resnet18", encoder_weights=name)
        assert caught.value.key == "encoder_weights"
    both = {"encoder_weights": "encoder.pth", "weights": str(tmp_path)}
    for function in (smp.build, smp.taps):
        with pytest.raises(RecipeError, match="weights contain the encoder too") as caught:
            function(classes=3, **both)
        assert caught.value.key == "encoder_weights"


def test_a_hub_name_is_no_path_even_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "file").touch()
    assert not any(map(is_path, ("imagenet", "imagenet+5k", "noisy-student", "advprop")))
    assert all(map(is_path, ("file", "a/b", "a.pth", "./a", "~/a", "a\\b")))
    with pytest.raises(WeightsMissing, match="'imagenet' for resnet18 could not be fetched"):
        smp.build(classes=3, encoder="resnet18", encoder_weights="imagenet")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_weights_that_cannot_be_fetched_are_one_message(
    encoder: str, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The library warns of the name ``imagenet``, and the hub library logs every attempt."""
    with pytest.raises(WeightsMissing, match="could not be fetched") as caught:
        smp.build(classes=3, encoder=encoder, encoder_weights="imagenet")
    assert "--set 'encoder_weights=FILE'" in caught.value.tip
    assert not recwarn.list and not caplog.records


def test_a_saved_model_needs_no_encoder_file(tmp_path: Path) -> None:
    path = tmp_path / "encoder.pth"
    torch.save(encoder_of("tu-tf_efficientnet_lite0").state_dict(), path)
    given = {"classes": 3, "encoder": "tu-tf_efficientnet_lite0", "encoder_weights": str(path)}
    model = smp.build(**given, mean=[0.4] * 3, std=[0.3] * 3).eval()
    save_model(tmp_path / "run", model)
    path.unlink()
    loaded, images = load_model(tmp_path / "run"), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images)["logits"], model(images)["logits"])
