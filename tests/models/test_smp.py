"""segmentation-models-pytorch: the library's numbers under our names, any size, clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from freqkd_cli.errors import RecipeError, ShapeError, WeightsMissing
from freqkd_cli.models import smp

SMALL = "tu-mobilenetv3_small_100"


@torch.no_grad()
@pytest.mark.parametrize(("arch", "upsampling"), [("unet", 1), ("fpn", 4)])
def test_logits_are_the_librarys_before_its_upsampling(arch: str, upsampling: int) -> None:
    model = smp.build(classes=3, arch=arch, encoder=SMALL).eval()
    images = torch.rand(1, 3, 64, 96)
    outputs = model(images, ["stage1", "stage4", "decoder"])
    features = model.net.encoder(model.normalise(images))
    assert torch.equal(outputs["stage1"], features[2])
    assert torch.equal(outputs["stage4"], features[5])
    assert torch.equal(outputs["decoder"], model.net.decoder(features))
    upsampled = torch.nn.functional.interpolate(
        outputs["logits"], scale_factor=upsampling, mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(
        upsampled if upsampling > 1 else outputs["logits"],
        model.net(model.normalise(images)),
        atol=1e-5,
        rtol=0,
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "encoder", "strides"),
    [
        (
            "unet",
            SMALL,
            {
                "stage1": 4,
                "stage2": 8,
                "stage3": 16,
                "stage4": 32,
                "encoder": 32,
                "decoder": 1,
                "logits": 1,
            },
        ),
        (
            "unet",
            "mit_b0",
            {
                "stage1": 4,
                "stage2": 8,
                "stage3": 16,
                "stage4": 32,
                "encoder": 32,
                "decoder": 1,
                "logits": 1,
            },
        ),
        (
            "deeplabv3plus",
            SMALL,
            {
                "stage1": 4,
                "stage2": 8,
                "stage3": 16,
                "stage4": 16,
                "encoder": 16,
                "decoder": 4,
                "logits": 4,
            },
        ),
        ("pspnet", SMALL, {"stage1": 4, "stage2": 8, "encoder": 8, "decoder": 8, "logits": 8}),
        (
            "segformer",
            SMALL,
            {
                "stage1": 4,
                "stage2": 8,
                "stage3": 16,
                "stage4": 32,
                "encoder": 32,
                "decoder": 4,
                "logits": 4,
            },
        ),
    ],
)
def test_taps_of_many_architectures(arch: str, encoder: str, strides: dict[str, int]) -> None:
    listed = smp.taps(classes=3, arch=arch, encoder=encoder)
    assert {tap.name: tap.stride for tap in listed} == strides
    model = smp.build(classes=3, arch=arch, encoder=encoder).eval()
    outputs = model(torch.rand(1, 3, 97, 130), strides)
    for tap in listed:
        assert outputs[tap.name].shape == (1, tap.channels, *tap.grid(97, 130)), tap


def test_listing_taps_draws_no_random_number() -> None:
    before = torch.random.get_rng_state()
    smp._measured.cache_clear()
    smp.taps(classes=3, arch="unet", encoder="mit_b0")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arch", "encoder", "got"),
    [
        ("dpt", "tu-vit_small_patch14_dinov2", "divisible by patch size (14)"),
        ("unet", "tu-swin_tiny_patch4_window7_224", "doesn't match model (224)"),
    ],
)
def test_an_encoder_that_refuses_the_size_is_one_message(arch: str, encoder: str, got: str) -> None:
    """It was a traceback."""
    for make in (smp.taps, smp.build):
        with pytest.raises(RecipeError, match="does not run on images of 256x256") as refused:
            make(classes=3, arch=arch, encoder=encoder)
        assert got in refused.value.got and refused.value.key == "encoder"


@torch.no_grad()
def test_padding_changes_nothing_where_none_is_needed_and_little_elsewhere() -> None:
    model = smp.build(classes=3, arch="unet", encoder=SMALL).eval()
    images = torch.rand(1, 3, 96, 96)
    grey = model.mean.expand(1, 3, 96, 96).clone()
    grey[..., :90, :80] = images[..., :90, :80]
    assert torch.equal(
        model(images[..., :90, :80])["logits"], model(grey)["logits"][..., :90, :80]
    ), "padded with the mean color"


def test_names_that_the_library_does_not_have() -> None:
    with pytest.raises(RecipeError, match="did you mean 'unet'"):
        smp.taps(classes=3, arch="unett")
    with pytest.raises(RecipeError, match="did you mean 'mobilenet_v2'"):
        smp.taps(classes=3, encoder="mobilenet_v3")
    with pytest.raises(RecipeError, match="linknet with encoder mit_b0"):
        smp.taps(classes=3, arch="linknet", encoder="mit_b0")


def test_weights_of_the_library_and_of_ours(tmp_path: Path) -> None:
    model = smp.build(classes=3, encoder=SMALL)
    torch.save(model.net.state_dict(), tmp_path / "library.pth")
    torch.save(model.state_dict(), tmp_path / "freqkd.pth")
    for name in ("library.pth", "freqkd.pth"):
        loaded = smp.build(classes=3, encoder=SMALL, weights=str(tmp_path / name))
        assert all(
            torch.equal(a, b)
            for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
        )
    with pytest.raises(WeightsMissing, match="missing"):
        smp.build(classes=3, arch="fpn", encoder=SMALL, weights=str(tmp_path / "freqkd.pth"))


@torch.no_grad()
def test_images_that_are_too_small_for_the_poolings_of_pan() -> None:
    """This was a traceback of torch in the first step."""
    model = smp.build(classes=3, arch="pan", encoder="mobilenet_v2").eval()
    with pytest.raises(ShapeError, match="too small for pan(.|\n)*at least 97 a side"):
        model(torch.zeros(1, 3, 96, 160))
    assert model(torch.zeros(1, 3, 97, 128))["logits"].shape == (1, 3, 25, 32)
