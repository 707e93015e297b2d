"""The embedded teacher: its size, its score, and its need for low and high frequencies."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

import freqkd_cli
from freqkd_cli.build.saved import load_model
from freqkd_cli.datasets import scenes
from freqkd_cli.runtime.precision import choose
from freqkd_cli.score.evaluate import Pass, score
from freqkd_cli.score.tally import Tally
from freqkd_cli.views.loader import whole_batches
from freqkd_cli.views.upsample import predict_labels

FOLDER = Path(freqkd_cli.__file__).parent / "weights" / "segformer_scenes"
TILE, MIDDLE, IMAGES = 48, 24, 16


@pytest.fixture(scope="module")
def teacher():
    return load_model(FOLDER)


@pytest.fixture(scope="module")
def streets():
    return scenes.build(split="test", root=None, size=(192, 256))


def test_it_is_small_and_needs_no_pickle(teacher):
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8e6
    assert {file.suffix for file in FOLDER.iterdir()} == {".safetensors", ".json"}
    parameters = sum(p.numel() for p in teacher.parameters())
    assert 1e6 <= parameters <= 3.7e6
    assert tuple(teacher.id2label.values()) == scenes.classes()


def test_transformers_reads_it(teacher):
    from transformers import SegformerForSemanticSegmentation

    reference = SegformerForSemanticSegmentation.from_pretrained(
        FOLDER, local_files_only=True, dtype=torch.float32
    ).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            teacher(image)["logits"],
            reference(teacher.normalise(image)).logits,
            rtol=1e-4,
            atol=1e-4,
        )


def _ious(model, streets, predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """IoU of every class in percent; a prediction of -1 is not counted."""
    tally = Tally(len(streets.classes), cheap=True)
    with torch.inference_mode():
        for batch in whole_batches(streets, 8, indices=range(IMAGES)):
            guess = predict(batch.images)
            tally.add(guess.clamp(min=0), batch.labels.masked_fill(guess < 0, 255))
    return {
        name: 100 * (iou or 0.0)
        for name, iou in zip(streets.classes, tally.per_class()["iou"], strict=True)
    }


def _drop(before: dict[str, float], after: dict[str, float], classes: tuple[str, ...]) -> float:
    return sum(before[name] - after[name] for name in classes) / len(classes)


def _plain(model, images: Tensor) -> Tensor:
    return predict_labels(model(images)["logits"], tuple(images.shape[-2:]))


def _tiles(model, images: Tensor) -> Tensor:
    """Predict each tile alone, in the middle of a grey image as wide as the scene is high.

    Only the middle of the tile is counted. At its edge a pole may be cut lengthwise, and half a
    pole would measure the cut and not the missing layout.
    """
    height, width = images.shape[-2:]
    guess = torch.full((len(images), height, width), -1)
    margin, rim = (height - TILE) // 2, (TILE - MIDDLE) // 2
    inside = slice(margin + rim, margin + rim + MIDDLE)
    for top in range(0, height - TILE + 1, MIDDLE):
        for left in range(0, width - TILE + 1, MIDDLE):
            alone = torch.full((len(images), 3, height, height), 0.5)
            tile = images[:, :, top : top + TILE, left : left + TILE]
            alone[:, :, margin : margin + TILE, margin : margin + TILE] = tile
            rows, columns = (
                slice(top + rim, top + rim + MIDDLE),
                slice(left + rim, left + rim + MIDDLE),
            )
            guess[:, rows, columns] = _plain(model, alone)[:, inside, inside]
    return guess


def _away_from_the_rim(guess: Tensor) -> Tensor:
    """The same pixels that :func:`_tiles` predicts."""
    rim = (TILE - MIDDLE) // 2
    counted = torch.full_like(guess, -1)
    counted[:, rim:-rim, rim:-rim] = guess[:, rim:-rim, rim:-rim]
    return counted


def test_a_low_pass_costs_the_fine_classes_and_spares_the_layout(teacher, streets):
    before = _ious(teacher, streets, lambda images: _plain(teacher, images))
    after = _ious(
        teacher,
        streets,
        lambda images: _plain(teacher, F.gaussian_blur(images, [17, 17], [2.5, 2.5])),
    )
    assert _drop(before, after, scenes.DETAIL_CLASSES) >= 20
    assert _drop(before, after, scenes.GLOBAL_CLASSES) <= 5


@pytest.mark.slow
def test_small_tiles_cost_the_layout_and_spare_the_fine_classes(teacher, streets):
    before = _ious(teacher, streets, lambda images: _away_from_the_rim(_plain(teacher, images)))
    after = _ious(teacher, streets, lambda images: _tiles(teacher, images))
    assert _drop(before, after, scenes.GLOBAL_CLASSES) >= 20
    assert _drop(before, after, scenes.DETAIL_CLASSES) <= 5


@pytest.mark.slow
def test_its_score_is_the_one_in_its_lab_note(teacher):
    """Within 0.2 points on the whole of val, from the half-precision file."""
    device = torch.device("cpu")
    result = score(
        teacher,
        scenes.build(split="val", root=None, size=(192, 256)),
        choose(device, "float32", "auto"),
        device,
        Pass(cheap=True),
    )
    note = (Path(__file__).parents[2] / "recipes" / "scenes_teacher.yaml").read_text(
        encoding="utf-8"
    )
    noted = re.search(r"shipped, in half precision: (\d+\.\d+) mIoU on val", note)
    assert noted and 100 * result.values["miou"] == pytest.approx(float(noted[1]), abs=0.2)
