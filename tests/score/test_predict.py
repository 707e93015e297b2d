"""``predict``: pictures of any size and mode become labels as eval would give them, overlays and a legend; nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.datasets import camvid
from freqkd_cli.models import fast_scnn

CLASSES = camvid.CLASSES


def pixels(path, form=lambda picture: picture) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(form(picture))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = fast_scnn.build(classes=len(CLASSES), width=0.25)
    model.classifier[-1].weight.data.mul_(20)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, model, "fast_scnn", dict(enumerate(CLASSES)))
    return folder


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@torch.no_grad()
def labels_by_hand(folder: Path, image: np.ndarray) -> np.ndarray:
    """Padded with grey to multiples of 32, upsampled with torch's own interpolation, cropped."""
    height, width = image.shape[:2]
    shown = torch.full((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), 0.5)
    shown[..., :height, :width] = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))
    logits = load_model(folder)(shown)["logits"]
    return (
        torch.nn.functional.interpolate(logits, size=shown.shape[-2:], mode="bilinear")
        .argmax(1)[0, :height, :width]
        .numpy()
    )


def test_labels_overlays_and_legend(model_folder, freqkd, tmp_path):
    pictures = {"odd": noise(61, 75), "tiny": noise(3, 1), "wide": noise(32, 160, 2)}
    (tmp_path / "in").mkdir()
    for name, image in pictures.items():
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    code, out, err = freqkd(
        "predict",
        model_folder,
        tmp_path / "in",
        "--out",
        tmp_path / "out",
        "--alpha",
        0.25,
        "--json",
        "-q",
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (
        found["images"] == 3
        and found["unreadable"] == []
        and [row["size"] for row in found["files"]] == [[61, 75], [3, 1], [32, 160]]
    )
    legend = json.loads((tmp_path / "out/legend.json").read_text())
    assert legend == found["classes"] and [row["name"] for row in legend] == list(CLASSES)
    colours = np.array([row["color"] for row in legend])
    assert len({*map(tuple, colours)}) == len(CLASSES)
    for row, (name, image) in zip(found["files"], sorted(pictures.items()), strict=True):
        expected = labels_by_hand(model_folder, image)
        with Image.open(row["labels"]) as file:
            assert file.mode == "P" and Path(row["labels"]).name == f"{name}.png"
            written = np.asarray(file)
            np.testing.assert_array_equal(np.asarray(file.convert("RGB")), colours[written])
        assert (written == expected).mean() > 0.999
        overlay = pixels(row["overlay"]).astype(int)
        assert np.abs(overlay - (0.75 * image + 0.25 * colours[written])).max() <= 1
    assert len(np.unique(written)) > 1


def test_pictures_of_a_data_set_get_the_labels_that_eval_writes(model_folder, freqkd, tmp_path):
    (tmp_path / "data/test").mkdir(parents=True)
    (tmp_path / "data/testannot").mkdir()
    for number, size in enumerate(((64, 64), (45, 70))):
        Image.fromarray(noise(*size, number)).save(tmp_path / f"data/test/p{number}.png")
        Image.new("L", size[::-1]).save(tmp_path / f"data/testannot/p{number}.png")
    run = tmp_path / "run"
    save_model(run, load_model(model_folder))
    text = f"version: 1\ndata: {{name: camvid, size: [64, 64], root: {tmp_path / 'data'}, workers: 0}}\n"
    text += "student: {name: fast_scnn, width: 0.25}\n"
    (run / "recipe.yaml").write_text(
        recipes.dump(recipes.loads(text + "losses: [{name: cross_entropy}]\ntrain: {steps: 1}\n"))
    )
    assert freqkd("eval", run, "--split", "test", "--masks", tmp_path / "masks", "-q")[0] == 0
    assert (
        freqkd(
            "predict", run, tmp_path / "data/test", "--out", tmp_path / "out", "--labels-only", "-q"
        )[0]
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "legend.json",
        "p0.png",
        "p1.png",
    ]
    for name in ("p0.png", "p1.png"):
        np.testing.assert_array_equal(
            pixels(tmp_path / "out" / name), pixels(tmp_path / "masks" / name)
        )
    assert [
        row["color"] for row in json.loads((tmp_path / "out/legend.json").read_text())
    ] == camvid.PALETTE.tolist()


def test_grey_transparent_palette_and_turned_pictures(model_folder, freqkd, tmp_path):
    image = noise(40, 64)
    picture, turned = Image.fromarray(image), Image.Exif()
    turned[0x0112] = 6  # shown rotated by a quarter
    alpha = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 64), dtype=np.uint8))
    rgba = picture.copy()
    rgba.putalpha(alpha)
    forms = {
        "rgba": rgba,
        "grey": picture.convert("L"),
        "palette": picture.convert("P"),
        "ga": picture.convert("LA"),
        "one": picture.convert("1"),
    }
    for name, form in forms.items():
        form.save(tmp_path / f"{name}.png")
    picture.save(tmp_path / "phone.jpg", exif=turned, quality=95)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    names = [*(f"{name}.png" for name in forms), "phone.jpg", "cmyk.jpg"]
    code, _, err = freqkd(
        "predict",
        model_folder,
        *(tmp_path / name for name in names),
        "--out",
        tmp_path / "out",
        "-q",
    )
    assert (code, err) == (0, "")
    expected = {
        "rgba": image,
        "grey": np.repeat(np.asarray(forms["grey"])[..., None], 3, 2),
        "palette": np.asarray(forms["palette"].convert("RGB")),
        "phone": pixels(tmp_path / "phone.jpg", ImageOps.exif_transpose),
    }
    assert expected["phone"].shape == (64, 40, 3)
    for name, shown in expected.items():
        written = pixels(tmp_path / "out" / f"{name}.png")
        assert (
            written.shape == shown.shape[:2]
            and (written == labels_by_hand(model_folder, shown)).mean() > 0.999
        ), name
        assert pixels(tmp_path / "out" / f"{name}_overlay.png").shape == shown.shape


def test_unreadable_pictures_are_told_at_the_end_and_the_others_done(
    model_folder, freqkd, tmp_path
):
    Image.fromarray(noise(40, 40)).save(tmp_path / "good.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    code, out, err = freqkd(
        "predict", model_folder, tmp_path, "--out", tmp_path / "out", "--json", "-q"
    )
    assert (
        code == 1
        and err.count("error:") == 1
        and "3 of 4 pictures could not be read; the others are done" in err
    )
    assert (
        all(f"{tmp_path / name}: " in err for name in ("torn.jpg", "text.png", "deep.png"))
        and "8 bits a channel" in err
    )
    found = json.loads(out)
    assert [Path(row["image"]).name for row in found["unreadable"]] == [
        "deep.png",
        "text.png",
        "torn.jpg",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "good.png",
        "good_overlay.png",
        "legend.json",
    ]
    code, out, err = freqkd(
        "predict", model_folder, tmp_path / "text.png", "--out", tmp_path / "none", "-q"
    )
    assert code == 1 and "1 of 1 pictures could not be read\n" in err and "others" not in err


def test_nothing_is_overwritten_silently(model_folder, freqkd, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(32, 32)).save(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("mine")
    (out / "mine.txt").write_text("mine")
    code, _, err = freqkd("predict", model_folder, tmp_path / "a.png", "--out", out)
    assert code == 2 and "is not empty" in err and (out / "a.png").read_text() == "mine"
    assert (
        freqkd("predict", model_folder, tmp_path / "a.png", "--out", out, "--overwrite", "-q")[0]
        == 0
    )
    assert pixels(out / "a.png").shape == (32, 32) and (out / "mine.txt").read_text() == "mine"
    assert freqkd("predict", model_folder, tmp_path / "a.png", "--out", tmp_path / "b.png")[0] == 2
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.jpg")
    code, _, err = freqkd(
        "predict", model_folder, tmp_path / "a.png", tmp_path / "a.jpg", "--out", tmp_path / "new"
    )
    assert (
        code == 2
        and "two pictures would be written to a.png" in err
        and not (tmp_path / "new").exists()
    )
    code, _, err = freqkd("predict", model_folder, tmp_path / "none.png", "--out", tmp_path / "new")
    assert code == 4 and "none.png is not there" in err
    code, _, err = freqkd(
        "predict", tmp_path / "nowhere", tmp_path / "a.png", "--out", tmp_path / "new"
    )
    assert code == 4 and "nowhere" in err and not (tmp_path / "new").exists()
