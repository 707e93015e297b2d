"""Flip, scales and windows: against probabilities averaged by hand, and stated in the result."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.nn.functional import interpolate

from freqkd_cli import recipe as recipes
from freqkd_cli.app import main
from freqkd_cli.build.saved import save_model
from freqkd_cli.datasets import scenes
from freqkd_cli.errors import UsageError
from freqkd_cli.models import fast_scnn, segformer
from freqkd_cli.runtime.precision import choose
from freqkd_cli.score.averaging import Averaged, Averaging, labels_in_windows, parse, windows
from freqkd_cli.score.evaluate import score

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return segformer.build(classes=12, weights="embedded").eval()


@torch.no_grad()
def one_pass(model, image: np.ndarray) -> np.ndarray:
    """Probabilities ``[K, H, W]`` of an image in [0, 1]: torch's resize, scipy's softmax."""
    logits = model(torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float())["logits"]
    return softmax(
        interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)[0]
        .double()
        .numpy(),
        axis=0,
    )


def resized(planes: np.ndarray, size, antialias=False) -> np.ndarray:
    return interpolate(
        torch.from_numpy(planes)[None],
        size=size,
        mode="bilinear",
        align_corners=False,
        antialias=antialias,
    )[0].numpy()


def of_windows(model, image: np.ndarray, side: int, stride: int) -> np.ndarray:
    """Every window starts at a multiple of the stride, or is the last one that fits."""
    height, width = image.shape[:2]
    total, count = 0, np.zeros((height, width))
    for top in sorted({min(t, max(0, height - side)) for t in range(0, height, stride)}):
        for left in sorted({min(x, max(0, width - side)) for x in range(0, width, stride)}):
            area = (slice(top, min(height, top + side)), slice(left, min(width, left + side)))
            part = np.zeros((12, height, width))
            part[(slice(None), *area)] = one_pass(model, image[area])
            total, count[area] = total + part, count[area] + 1
    assert count.min() >= 1
    return total / count


def by_hand(model, image: np.ndarray, case: str) -> np.ndarray:
    height, width = image.shape[:2]
    if case == "flip":
        return (one_pass(model, image) + one_pass(model, image[:, ::-1])[..., ::-1]) / 2
    if case == "slide":
        return of_windows(model, image, 64, 48)
    maps = []
    for size in ((64, 96), (96, 128), (160, 224)):  # 0.75, 1 and 1.7 of 96x128, in multiples of 32
        shown = (
            resized(image.transpose(2, 0, 1), size, antialias=size[0] < height).transpose(1, 2, 0)
            if size != (height, width)
            else image
        )
        for side in (1, -1) if case == "all" else (1,):
            turned = np.ascontiguousarray(shown[:, ::side])
            one = of_windows(model, turned, 64, 48) if case == "all" else one_pass(model, turned)
            maps.append(resized(np.ascontiguousarray(one[..., ::side]), (height, width)))
    return np.mean(maps, axis=0)


CASES = {
    "flip": Averaging(flip=True),
    "scales": Averaging(scales=(0.75, 1.0, 1.7)),
    "slide": Averaging(window=(64, 64), stride=(48, 48)),
    "all": Averaging(True, (0.75, 1.0, 1.7), (64, 64), (48, 48)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_average_equals_that_of_probabilities_by_hand(model, name):
    dataset = scenes.build(split="val", size=(96, 128), held_out=1)
    image, labels = dataset.read(0)
    expected = by_hand(model, image.astype(np.float32) / 255, name)
    seen = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        shares = Averaged(model, CASES[name])(seen)["logits"].exp()[0].numpy()
    np.testing.assert_allclose(shares, expected, atol=2e-4)
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    plain = one_pass(model, image.astype(np.float32) / 255)
    assert np.abs(shares - plain).max() > 0.05, "the average is no plain pass"
    kept = {}
    result = score(
        Averaged(model, CASES[name]),
        dataset,
        choose(CPU, "float32", False),
        CPU,
        each=lambda i, x: kept.update({i: x}),
    )
    assert (kept[0].numpy() == expected.argmax(0)).mean() > 0.999
    counted = labels != 255
    assert result.values["pixel_accuracy"] == pytest.approx(
        (expected.argmax(0) == labels)[counted].mean(), abs=1e-3
    )


@torch.no_grad()
@pytest.mark.parametrize("window", [(64, 64), (32, 96), (512, 512)])
def test_labels_in_windows_are_those_of_the_averaged_map(model, window):
    image = torch.rand(1, 3, 96, 160)
    stride = (window[0] - 24, window[1] - 10)
    averaged = Averaged(model, Averaging(window=window, stride=stride))(image)["logits"]
    labels = labels_in_windows(model, image, window, stride, "name")
    assert labels.shape == (1, 96, 160) and labels.dtype == torch.int64
    assert (labels == averaged.argmax(1)).float().mean() > 0.9999


@torch.no_grad()
def test_averaging_nothing_is_the_plain_pass_and_small_images_are_one_window(model):
    image = torch.rand(1, 3, 64, 96)
    plain = interpolate(model(image)["logits"], size=(64, 96), mode="bilinear").softmax(1)
    for averaging in (Averaging(), Averaging(window=(512, 1024), stride=(256, 512))):
        torch.testing.assert_close(
            Averaged(model, averaging)(image)["logits"].exp(), plain, atol=1e-5, rtol=0
        )
    assert Averaging().plain and Averaging().to_json() is None


@torch.no_grad()
def test_a_probability_of_zero_has_a_finite_logarithm_and_nan_stays_nan():
    sure = torch.tensor([[[[500.0]], [[0.0]], [[-500.0]]]]).expand(1, 3, 32, 32)
    logits = Averaged(lambda images: {"logits": sure}, Averaging(flip=True))(
        torch.rand(1, 3, 32, 32)
    )["logits"]
    assert torch.isfinite(logits).all() and (logits.argmax(1) == 0).all()
    logits = Averaged(lambda images: {"logits": sure * torch.nan}, Averaging(flip=True))(
        torch.rand(1, 3, 32, 32)
    )["logits"]
    assert logits.isnan().all()


def test_windows_reach_every_pixel_and_end_with_the_image():
    areas = list(windows((96, 160), (64, 64), (40, 50)))
    assert [(rows.start, columns.start) for rows, columns in areas] == [
        (0, 0),
        (0, 50),
        (0, 96),
        (32, 0),
        (32, 50),
        (32, 96),
    ]
    assert all(
        (rows.stop - rows.start, columns.stop - columns.start) == (64, 64)
        for rows, columns in areas
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((False, "1,x", None, None), "--scales"),
        ((False, "0", None, None), "--scales"),
        ((False, "1,1", None, None), "--scales has numbers that cannot be used\n  got  1,1"),
        ((False, "nan", None, None), "--scales"),
        ((False, None, None, "64,64"), "--stride needs windows"),
        (
            (False, "", None, None),
            "--scales cannot be read\n  got  nothing\n  need numbers from 0.1 to 8",
        ),
        ((False, None, "", None), "--slide cannot be read"),
        ((False, None, "64,64", ""), "--stride cannot be read"),
        ((False, None, None, ""), "--stride needs windows"),
        (
            (False, None, "64", None),
            "--slide cannot be read\n  got  64\n  need H,W, both multiples of 32",
        ),
        ((False, None, "60,64", None), "multiples of 32"),
        ((False, None, "64,64", "65,64"), "--stride must not be larger than the window"),
        ((False, None, "64,64", "0,64"), "--stride must not be larger than the window"),
    ],
)
def test_options_that_cannot_be_used_are_refused(words, message):
    with pytest.raises(UsageError, match=message):
        parse(*words)


def test_eval_lists_what_was_averaged(tmp_path, capsys):
    text = "version: 1\ndata: {name: scenes, size: [64, 96], held_out: 2, workers: 0}\n"
    text += "student: {name: fast_scnn, width: 0.25}\n"
    save_model(tmp_path / "run", fast_scnn.build(classes=12, width=0.25))
    (tmp_path / "run" / "recipe.yaml").write_text(
        recipes.dump(recipes.loads(text + "losses: [{name: cross_entropy}]\ntrain: {steps: 1}\n"))
    )

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["eval", str(tmp_path / "run"), "-q", *words])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert json.loads(run("--json"))["test_time"] is None
    words = ("--json", "--flip", "--scales", "0.75,1.0", "--slide", "64,64")
    assert json.loads(run(*words))["test_time"] == {
        "text": "flip, scales 0.75 1, windows 64x64 every 32x32; mean of softmax probabilities",
        "flip": True,
        "scales": [0.75, 1.0],
        "window": [64, 64],
        "stride": [32, 32],
        "averaged": "softmax probabilities",
    }
    assert "test time" not in run() and "test time" in run("--flip")
