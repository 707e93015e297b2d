"""``freqkd data --image``: samples with labels, a legend, and the colors of the recipe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image

from freqkd_cli.build.saved import save_model
from freqkd_cli.datasets import folder
from freqkd_cli.doctor.samples import overlay, sample_panels
from freqkd_cli.images.palette import palette
from freqkd_cli.models import fast_scnn

RECIPE = """\
version: 1
data:
  name: folder
  size: [64, 64]
  workers: 0
  colors: {road: [128, 64, 128], sky: [70, 130, 180]}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {steps: 1, batch_size: 2}
"""


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    masks = [np.zeros(layouts.SIZE, np.uint8) for _ in range(8)]
    for mask in masks:
        mask[20:], mask[40:], mask[:4] = 1, 2, 255
    layouts.folder(Path("d"), masks)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path / "d"


def open_split(root: Path, **arguments: object):
    return folder.build(split="train", root=root, size=(32, 32), **arguments)


def test_an_overlay_blends_classes_and_leaves_void(data):
    split = open_split(data, colors={"road": [200, 0, 0]})
    image, labels = split.read(0)
    mixed = overlay(image, labels, split.palette)
    np.testing.assert_array_equal(mixed[labels == 255], image[labels == 255])
    road = labels == 0
    expected = 0.45 * image[road] + 0.55 * np.array([200, 0, 0])
    assert np.abs(mixed[road].astype(float) - expected).max() <= 0.51


def test_samples_are_spread_and_broken_ones_skipped(data, caplog):
    split = open_split(data)
    rows = sample_panels(split, 3)
    assert [list(row) for row in rows] == [["image", "labels over the image", "labels"]] * 3
    np.testing.assert_array_equal(rows[-1]["image"], split.read(7)[0])
    path = data / "masks/train/p0.png"
    path.write_bytes(path.read_bytes()[:40])
    assert len(sample_panels(split, 3)) == 2
    assert "sample skipped: cannot read" in caplog.text and "p0.png" in caplog.text


@pytest.mark.parametrize("option", ["--image", "--picture"])
def test_the_image_shows_the_colors_of_the_recipe(data, freqkd, option):
    code, out, err = freqkd("data", "r.yaml", "--data-root", "d", option, "a.png", "--json")
    assert (code, err) == (0, "") and json.loads(out)["image"] == "a.png"
    pixels = np.array(Image.open("a.png").convert("RGB"))
    colors = {tuple(color) for color in pixels.reshape(-1, 3).tolist()}
    assert {(128, 64, 128), (70, 130, 180)} <= colors
    assert "--picture" not in freqkd("data", "--help")[1]
    code, out, _ = freqkd("data", "r.yaml", "--data-root", "d", "--image", "a.png")
    assert code == 0 and out.endswith("samples: a.png\n")
    assert freqkd("data", "r.yaml", "--data-root", "d", "--image", "a.txt")[0] == 2


def test_samples_without_labels_are_drawn_alone(tmp_path, freqkd):
    words = ("data", "fastscnn_few_labels", "--image", tmp_path / "a.png")
    code, _, err = freqkd(*words, "--set", "data.labelled=2")
    assert code == 0 and "Traceback" not in err and (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("colors", "problem"),
    [
        ("{bus: [0, 0, 0]}", "names that are no classes"),
        ("[[0, 0, 0]]", "data.colors does not match"),
        ("{road: [0, 0, 256]}", "data.colors"),
        ("{road: [0, 0]}", "data.colors"),
        ("{road: red}", "data.colors"),
    ],
)
def test_colors_that_do_not_fit_are_refused(data, freqkd, colors, problem):
    code, out, err = freqkd("data", "r.yaml", "--data-root", "d", "--set", f"data.colors={colors}")
    assert (code, out) == (2, "") and problem in err


def test_colors_change_no_label_and_no_manifest(data):
    plain, colored = open_split(data), open_split(data, colors=[[1, 1, 1], [2, 2, 2], [3, 3, 3]])
    assert plain.manifest() == colored.manifest()
    np.testing.assert_array_equal(plain.read(0)[1], colored.read(0)[1])


def test_names_that_are_not_utf8_do_not_stop_the_report(data, freqkd):
    for kind in ("images", "masks"):
        source = os.fsencode(data / kind / "train" / "p0.png")
        os.rename(source, source.replace(b"p0.png", b"stra\xdfe.png"))
    mask = os.fsencode(data / "masks/train") + b"/stra\xdfe.png"
    with open(mask, "wb") as file:
        Image.fromarray(np.full(layouts.SIZE, 9, np.uint8)).save(file, "PNG")
    code, out, err = freqkd("data", "r.yaml", "--data-root", "d", "--split", "train", "--json")
    (finding,) = json.loads(out)["splits"][0]["findings"]
    assert code == 3 and finding["files"] == ["d/masks/train/stra\\udcdfe.png"]
    assert "Traceback" not in err
    code, out, err = freqkd("data", "r.yaml", "--data-root", "d", "--split", "train")
    assert code == 3 and "stra\\udcdfe.png contains label values" in out


@pytest.mark.parametrize("colors", [None, {"road": [128, 64, 128]}])
def test_written_masks_use_the_colors_and_keep_the_class_numbers(data, freqkd, colors):
    model = fast_scnn.build(classes=3, width=0.25)
    save_model(Path("run"), model, id2label=dict(enumerate(("road", "car", "sky"))))
    recipe = RECIPE.replace("name: folder", f"name: folder\n  root: {data}")
    if colors is None:
        recipe = recipe.replace("  colors: {road: [128, 64, 128], sky: [70, 130, 180]}\n", "")
    Path("run/recipe.yaml").write_text(recipe)
    words = ("predict", "run", data / "images/val/p0.png", "--out", "out", "-q")
    code, _, err = freqkd(*words)
    assert code == 0, err
    expected = palette(3)
    if colors:
        expected[0], expected[2] = (128, 64, 128), (70, 130, 180)
    with Image.open("out/p0.png") as mask:
        assert mask.mode == "P" and set(np.unique(np.array(mask))) <= {0, 1, 2}
        assert mask.getpalette("RGB")[:9] == expected.ravel().tolist()
    assert freqkd("eval", "run", "--masks", "masks", "-q")[0] == 0
    with Image.open("masks/p0.png") as mask:
        assert set(np.unique(np.array(mask))) <= {0, 1, 2}
