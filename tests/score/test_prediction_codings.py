"""``eval --predictions --coding``: a copy of the masks scores 1, and the coding is offered."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from freqkd_cli.datasets.voc import PALETTE


def folder_recipe(root: Path, masks: dict[str, np.ndarray], names: str, keys: str = "") -> Path:
    """A recipe of a folder with these masks, and images of noise."""
    for number, (name, mask) in enumerate(masks.items()):
        layouts.save(root / f"images/val/{name}.png", layouts.noise(number, mask.shape[:2]))
        layouts.save(root / f"masks/val/{name}.png", mask)
    return written(root, f"name: folder, classes: [{names}]{keys}")


def written(root: Path, data: str) -> Path:
    path = root / "recipe.yaml"
    path.write_text(
        f"version: 1\ndata: {{{data}, size: [64, 96], root: {root}, workers: 0}}\n"
        "student: {name: fast_scnn, width: 0.25}\nlosses: [{name: cross_entropy}]\n"
        "train: {steps: 1}\n"
    )
    return path


def copies(masks: dict[str, np.ndarray], folder: Path) -> Path:
    for name, mask in masks.items():
        layouts.save(folder / f"{name}.png", mask)
    return folder


def masks_of(values: list[int], number: int = 2) -> dict[str, np.ndarray]:
    return {f"p{k}": layouts.labels(values, k, (40, 50)) for k in range(number)}


@pytest.mark.parametrize("data", ["cityscapes", "ade20k"])
def test_the_coding_of_the_published_masks_is_offered_and_read(data, tmp_path, freqkd):
    root = tmp_path / "data"
    getattr(layouts, data)(root)
    recipe = written(root, f"name: {data}")
    images, masks = {
        "cityscapes": ("leftImg8bit/val", "_gtFine_labelIds.png"),
        "ade20k": ("images/validation", ".png"),
    }[data]
    ends = {"cityscapes": "gtFine/val", "ade20k": "annotations/validation"}
    for path in sorted((root / ends[data]).rglob(f"*{masks}")):
        image = next((root / images).rglob(path.name.replace(masks, "") + "[._]*"))
        stored = np.array(Image.open(path))
        layouts.save(tmp_path / "out" / f"{image.stem}.png", stored)
    words = ("eval", recipe, "--predictions", tmp_path / "out", "--json", "-q")
    code, out, err = freqkd(*words)
    assert (code, out) == (1, "") and "tip" not in err.split("--coding masks: ")[0]
    assert "try  --coding masks: it fits every file" in err
    code, out, err = freqkd(*words, "--coding", "masks")
    document = json.loads(out)
    assert code == 0 and document["miou"] == 1 and document["coding"] == "masks"


def test_palette_colors_are_offered_and_read(tmp_path, freqkd):
    root = tmp_path / "data"
    layouts.voc(root, layouts.full_palette())
    recipe = written(root, "name: voc")
    for name in (root / "ImageSets/Segmentation/val.txt").read_text().split():
        index = np.array(Image.open(root / f"SegmentationClass/{name}.png"))
        layouts.save(tmp_path / f"out/{name}.png", PALETTE[np.where(index == 255, 0, index)])
    words = ("eval", recipe, "--predictions", tmp_path / "out", "--json", "-q")
    code, _, err = freqkd(*words)
    assert code == 1 and "has 3 channels, not one class number per pixel" in err
    assert "--coding colors: it fits every file" in err
    document = json.loads(freqkd(*words, "--coding", "colors")[1])
    assert document["miou"] == 1 and document["coding"] == "colors"
    (name, *_) = sorted(path.stem for path in (tmp_path / "out").iterdir())
    layouts.save(tmp_path / f"out/{name}.png", np.full((*layouts.SIZE, 3), 7, np.uint8))
    code, _, err = freqkd(*words, "--coding", "colors")
    assert code == 1 and f"{name}.png holds #070707" in err and "--coding" not in err


def test_black_and_white_predictions_score_as_torchmetrics(tmp_path, freqkd):
    masks = masks_of([0, 255])
    recipe = folder_recipe(tmp_path / "data", masks, "back, polyp", ", label_map: {255: 1}")
    guesses = masks_of([0, 255, 255], 2)
    words = ("eval", recipe, "--predictions", copies(guesses, tmp_path / "out"), "--json", "-q")
    code, _, err = freqkd(*words)
    assert code == 1 and "p0.png holds 255" in err and "--coding masks: it fits" in err
    reference = MulticlassJaccardIndex(2, average="macro")
    for name, mask in masks.items():
        reference.update(torch.from_numpy(guesses[name] // 255), torch.from_numpy(mask // 255))
    miou = json.loads(freqkd(*words, "--coding", "masks")[1])["miou"]
    assert miou == pytest.approx(float(reference.compute()), abs=1e-6)


def test_masks_of_colors(tmp_path, freqkd):
    colors = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    masks = {name: colors[index] for name, index in masks_of([0, 1]).items()}
    keys = ", label_map: {'#0a141e': 0, '#28323c': 1}"
    recipe = folder_recipe(tmp_path / "data", masks, "a, b", keys)
    words = ("eval", recipe, "--predictions", copies(masks, tmp_path / "out"), "--json", "-q")
    code, _, err = freqkd(*words)
    assert code == 1 and "--coding masks: it fits" in err
    assert json.loads(freqkd(*words, "--coding", "masks")[1])["miou"] == 1


@pytest.fixture
def shifted(tmp_path) -> tuple[Path, dict[str, np.ndarray]]:
    """Masks with 0 for void and 1 .. 3 for the classes."""
    masks = masks_of([0, 1, 2, 3])
    return folder_recipe(tmp_path / "data", masks, "a, b, c", ", zero_label: void"), masks


def test_values_that_fit_both_codings_are_a_warning(shifted, tmp_path, freqkd, caplog):
    recipe, masks = shifted
    guesses = {name: np.where(mask == 2, 2, 1).astype(np.uint8) for name, mask in masks.items()}
    words = ("eval", recipe, "--predictions", copies(guesses, tmp_path / "out"), "--json")
    with caplog.at_level(logging.WARNING):
        first = json.loads(freqkd(*words)[1])
    text = "the predictions also fit --coding masks, with other classes"
    assert text in caplog.text and first["coding"] == "train-ids"
    second = json.loads(freqkd(*words, "--coding", "masks")[1])
    assert second["per_class"][0]["iou"] > 0.3 and first["per_class"][0]["iou"] == 0


def test_class_numbers_do_not_fit_the_other_coding(shifted, tmp_path, freqkd, caplog):
    recipe, masks = shifted
    guesses = {name: np.maximum(mask, 1) - 1 for name, mask in masks.items()}
    words = ("eval", recipe, "--predictions", copies(guesses, tmp_path / "out"), "--json")
    with caplog.at_level(logging.WARNING):
        assert json.loads(freqkd(*words)[1])["miou"] == 1
    assert "--coding" not in caplog.text
    code, _, err = freqkd(*words, "--coding", "masks")
    assert code == 1 and "p0.png holds 0" in err
    assert "with values that the masks have for a class wherever the label counts" in err
    assert "--coding train-ids: it fits every file" in err


def test_a_range_that_is_one_class_is_no_second_meaning(tmp_path, freqkd, caplog):
    masks = masks_of([3, 250])
    recipe = folder_recipe(tmp_path / "data", masks, "back, polyp", ", threshold: 128")
    guesses = {name: (mask > 128).astype(np.uint8) for name, mask in masks.items()}
    words = ("eval", recipe, "--predictions", copies(guesses, tmp_path / "out"), "--json")
    with caplog.at_level(logging.WARNING):
        assert json.loads(freqkd(*words)[1])["miou"] == 1
    assert "--coding" not in caplog.text


def test_a_coding_that_fits_some_files_is_not_offered(shifted, tmp_path, freqkd):
    recipe, masks = shifted
    folder = copies(masks | {"p1": np.full((40, 50), 9, np.uint8)}, tmp_path / "out")
    code, _, err = freqkd("eval", recipe, "--predictions", folder, "-q")
    assert code == 1 and "p1.png holds 9" in err and "--coding" not in err


def test_a_coding_without_its_data_is_refused(tmp_path, freqkd):
    (tmp_path / "scenes.png").write_bytes(b"")
    words = ("eval", "fastscnn_ce", "--predictions", tmp_path, "--coding", "masks")
    code, _, err = freqkd(*words)
    assert code == 2 and "no coding masks" in err and "--coding train-ids or --coding colors" in err
    code, _, err = freqkd("eval", "fastscnn_ce", "--teacher", "--coding", "masks")
    assert code == 2 and "--coding has no effect without --predictions" in err
