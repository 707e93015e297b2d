"""``folder`` with more than 255 classes in masks of 16 bits, from training to predicted labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqkd_cli.datasets import folder
from freqkd_cli.images.stored_labels import read_values
from freqkd_cli.views.loader import whole_batches

CLASSES = 300
NAMES = [f"c{k}" for k in range(CLASSES)]
RECIPE = f"""version: 1
data: {{name: folder, size: [64, 64], workers: 0, classes: [{", ".join(NAMES)}]}}
student: {{name: fast_scnn, width: 0.25}}
losses: [{{name: cross_entropy}}, {{name: dice}}]
train: {{steps: 2, batch_size: 2}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "d" / kind / split).mkdir(parents=True)
        for number in range(2):
            labels = rng.integers(0, CLASSES, (8, 8)).repeat(8, 0).repeat(8, 1)
            labels[:8, :8] = 255  # a class like the others
            labels[8:16, :8] = 65535
            image = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / f"d/images/{split}/{number}.png")
            Image.fromarray(labels.astype(np.uint16)).save(
                tmp_path / f"d/masks/{split}/{number}.png"
            )
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def test_255_is_a_class_and_65535_is_void(place):
    dataset = folder.build(split="val", root=place / "d", size=(64, 64), classes=NAMES)
    stored = read_values(place / "d/masks/val/0.png")
    labels = dataset.read(0)[1]
    assert labels.dtype == np.uint16 and np.array_equal(labels, stored)
    (batch,) = whole_batches(dataset, 2)
    assert batch.ignore == 65535 and not batch.labelled[:, 8:16, :8].any()
    assert batch.labelled.sum() == 2 * (64 * 64 - 64) and (batch.labels[:, :8, :8] == 255).all()


def test_data_distill_eval_and_predict(place, freqkd):
    root = ("--data-root", place / "d")
    code, out, err = freqkd("data", place / "r.yaml", *root, "--all", "--json")
    assert code == 0, err
    stored = [read_values(path) for path in sorted((place / "d/masks/train").iterdir())]
    counts = np.bincount(np.stack(stored)[np.stack(stored) != 65535], minlength=CLASSES)
    rows = json.loads(out)["splits"][0]["per_class"]
    assert [row["pixels"] for row in rows] == counts.tolist()
    assert freqkd("distill", place / "r.yaml", *root, "--out", place / "run")[0] == 0
    code, out, err = freqkd("eval", place / "run", *root, "--masks", place / "m", "--json")
    assert code == 0, err
    assert json.loads(out)["miou"] is not None
    written = read_values(place / "m/0.png")
    assert written.dtype == np.uint16 and written.shape == (64, 64)
    code, out, err = freqkd("eval", place / "r.yaml", *root, "--predictions", place / "m", "--json")
    assert code == 0, err
