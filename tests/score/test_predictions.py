"""``eval --predictions``: label PNGs score like a model, and all faults are in one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import save_model
from freqkd_cli.models import fast_scnn

SIZES = ((64, 96), (61, 75), (64, 64))


def pixels(path, form=lambda image: image) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(form(image))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run, its data with odd sizes and void pixels, and the masks that eval wrote."""
    root = tmp_path_factory.mktemp("place")
    for kind in ("images", "masks"):
        (root / "data" / kind / "val").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        labels = random.integers(0, 3, (height, width)).astype(np.uint8)
        labels[random.random((height, width)) < 0.2] = 255
        Image.fromarray(image).save(root / "data/images/val" / f"p{number}.png")
        Image.fromarray(labels).save(root / "data/masks/val" / f"p{number}.png")
    (root / "data" / "classes.txt").write_text("road\ncar\nsky\n")
    torch.manual_seed(0)
    save_model(
        root / "run",
        fast_scnn.build(classes=3, width=0.25),
        "fast_scnn",
        dict(enumerate(("road", "car", "sky"))),
    )
    text = (
        f"version: 1\ndata: {{name: folder, size: [64, 96], root: {root / 'data'}, workers: 0}}\n"
    )
    text += "student: {name: fast_scnn, width: 0.25}\n"
    (root / "run/recipe.yaml").write_text(
        recipes.dump(recipes.loads(text + "losses: [{name: cross_entropy}]\ntrain: {steps: 1}\n"))
    )
    return root


@pytest.fixture
def masks(place, tmp_path, freqkd) -> Path:
    assert freqkd("eval", place / "run", "--masks", tmp_path / "masks", "-q")[0] == 0
    return tmp_path / "masks"


SCORES = (
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "boundary_iou",
    "per_class",
    "absent",
    "images",
)


def test_masks_that_eval_wrote_score_as_eval(place, masks, freqkd, tmp_path):
    own = json.loads(freqkd("eval", place / "run", "--json", "-q")[1])
    document = json.loads(
        freqkd("eval", place / "run/recipe.yaml", "--predictions", masks, "--json", "-q")[1]
    )
    assert {key: document[key] for key in SCORES} == {key: own[key] for key in SCORES} and document[
        "images"
    ] == 3
    assert [document[key] for key in ("parameters", "latency_ms", "device", "test_time")] == [
        None
    ] * 4
    assert document["model"] == str(masks)
    palette = tmp_path / "palette"
    palette.mkdir()
    for path in masks.glob("*.png"):  # as a palette PNG, and void where the label is void
        labels = pixels(path).copy()
        labels[pixels(place / "data/masks/val" / path.name) == 255] = 255
        indexed = Image.fromarray(labels)
        indexed.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
        indexed.save(palette / path.name)
    again = json.loads(freqkd("eval", place / "run", "--predictions", palette, "--json", "-q")[1])
    assert {key: again[key] for key in SCORES} == {key: own[key] for key in SCORES}
    code, out, _ = freqkd("eval", place / "run", "--predictions", masks, "-q")
    assert code == 0 and "mIoU" in out and "parameters" not in out


def test_all_faults_are_in_one_message(place, masks, freqkd):
    (masks / "p0.png").unlink()
    Image.fromarray(np.full((61, 75), 7, np.uint8)).save(masks / "p1.png")
    Image.new("L", (10, 20)).save(masks / "p2.png")
    shutil.copy(masks / "p2.png", masks / "other.png")
    code, out, err = freqkd("eval", place / "run", "--predictions", masks, "-q")
    assert (code, out) == (1, "") and err.count("error:") == 1
    counted = ("p1.png holds 7\n", "p2.png is 20x10, but its image is 64x64\n")
    for part in ("1 missing: p0.png\n", "1 of no image of this split: other.png\n", *counted):
        assert part in err, part
    Image.new("RGB", (75, 61)).save(masks / "p1.png")
    (masks / "p2.png").write_bytes(b"not an image")
    code, _, err = freqkd("eval", place / "run", "--predictions", masks, "-q")
    assert code == 1 and "p1.png has 3 channels" in err and "p2.png cannot be read" in err


def test_a_limit_needs_only_the_first(place, masks, freqkd):
    (masks / "p2.png").unlink()
    assert (
        json.loads(
            freqkd("eval", place / "run", "--predictions", masks, "--limit", 2, "--json", "-q")[1]
        )["images"]
        == 2
    )
    assert freqkd("eval", place / "run", "--predictions", masks, "-q")[0] == 1


@pytest.mark.parametrize("words", [("--flip",), ("--masks", "m"), ("--teacher",)])
def test_options_of_a_model_are_refused(place, masks, freqkd, words):
    code, _, err = freqkd("eval", place / "run", "--predictions", masks, *words)
    assert code == 2 and "runs no model" in err and words[0] in err


def test_a_folder_that_is_not_there_or_empty(place, freqkd, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, part in (("nowhere", "is not a folder"), ("empty", "there is no PNG in")):
        code, _, err = freqkd("eval", place / "run", "--predictions", tmp_path / folder)
        assert code == 4 and part in err
    assert (
        freqkd("eval", place / "run", "--predictions", tmp_path / "empty", "--recipe", "nowhere")[0]
        == 2
    )


def test_files_in_subfolders_are_scored(place, masks, freqkd):
    own = json.loads(freqkd("eval", place / "run", "--predictions", masks, "--json", "-q")[1])
    (masks / "town").mkdir()
    (masks / "p1.png").rename(masks / "town/p1.png")
    words = ("eval", place / "run", "--predictions", masks, "--json", "-q")
    moved = json.loads(freqkd(*words)[1])
    assert {key: moved[key] for key in SCORES} == {key: own[key] for key in SCORES}
    shutil.copy(masks / "town/p1.png", masks / "p1.png")
    code, _, err = freqkd(*words)
    assert code == 1 and "1 with a stem that occurs twice: town/p1.png" in err


def test_files_in_the_coding_of_the_masks_are_offered_and_scored(place, masks, freqkd, tmp_path):
    """Masks that count from 1: predictions of the same program have the same values."""
    root, shifted = tmp_path / "data", tmp_path / "shifted"
    shutil.copytree(place / "data", root)
    shifted.mkdir()
    for path in (root / "masks/val").iterdir():
        stored = pixels(path)
        Image.fromarray(np.where(stored == 255, 0, stored + 1).astype(np.uint8)).save(path)
    for number, path in enumerate(sorted(masks.glob("*.png"))):
        predicted = np.minimum(pixels(path), 1)
        predicted[0, 0] = 2 if number else 1
        Image.fromarray(predicted).save(path)
        Image.fromarray(predicted + np.uint8(1)).save(shifted / path.name)
    words = ("eval", place / "run", "--data-root", root, "--set", "data.zero_label=void", "--json")
    code, _, err = freqkd(*words, "--predictions", shifted)
    assert (code, "try  --coding masks" in err) == (1, True), err
    code, out, err = freqkd(*words, "--predictions", shifted, "--coding", "masks")
    assert code == 0, err
    plain = freqkd(*words, "--predictions", masks)[1]
    for name in SCORES:
        assert json.loads(out)[name] == json.loads(plain)[name], name
    code, _, err = freqkd(*words, "--predictions", shifted, "--limit", "1")
    assert code == 0 and "also fit --coding masks, with other classes" in err
    code, _, err = freqkd("eval", place / "run", "--coding", "masks")
    assert code == 2 and "--coding has no effect without --predictions" in err
