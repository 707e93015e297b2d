"""``eval --metrics`` and ``freqkd metrics``: requested numbers, refusals, and the list."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build.saved import save_model
from freqkd_cli.models import fast_scnn
from freqkd_cli.score.tally import Tally

SIZES = ((64, 96), (61, 75), (64, 64))
NAMES = ("road", "car", "sky")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run and its data: images of odd sizes, blocks of three classes and void pixels."""
    root, random = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / "data" / kind / "val").mkdir(parents=True)
    for number, (height, width) in enumerate(SIZES):
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        labels = random.integers(0, 3, (8, 12), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        labels = labels[:height, :width].copy()
        labels[20:25, 10:40] = 255
        Image.fromarray(image).save(root / "data/images/val" / f"p{number}.png")
        Image.fromarray(labels).save(root / "data/masks/val" / f"p{number}.png")
    (root / "data" / "classes.txt").write_text("\n".join(NAMES))
    torch.manual_seed(0)
    model = fast_scnn.build(classes=3, width=0.25)
    save_model(root / "run", model, "fast_scnn", dict(enumerate(NAMES)))
    text = "version: 1\ndata: {name: folder, size: [64, 96], workers: 0, "
    text += f"root: {root / 'data'}}}\nstudent: {{name: fast_scnn, width: 0.25}}\n"
    text += "losses: [{name: cross_entropy}]\ntrain: {steps: 1}\n"
    (root / "run/recipe.yaml").write_text(recipes.dump(recipes.loads(text)))
    return root


def scored(freqkd, *words: object) -> dict:
    code, out, err = freqkd("eval", *words, "--json", "-q")
    assert code == 0, err
    return json.loads(out)


def without_times(document: dict) -> dict:
    return {key: document[key] for key in document if key not in ("seconds", "latency_ms")}


def test_requested_metrics_are_new_keys_and_change_no_other(place, freqkd):
    plain = scored(freqkd, place / "run")
    some = scored(freqkd, place / "run", "--metrics", "boundary_f, object_size")
    rows, more = plain.pop("per_class"), some.pop("per_class")
    assert without_times(plain).items() <= without_times(some).items()
    new = {*registry.find("metrics", "boundary_f").NUMBERS}
    new |= {*registry.find("metrics", "object_size").NUMBERS}
    assert some.keys() - plain.keys() == new and len(new) == 9
    assert all(row.items() <= wide.items() for row, wide in zip(rows, more, strict=True))
    assert {"boundary_f", "object_iou_small"} <= more[0].keys() - rows[0].keys()
    assert 0 < some["object_recall_small"] < 1 and some["object_recall_large"] is None


def test_all_metrics_on_a_model_and_on_the_masks_that_it_wrote(place, freqkd, tmp_path, caplog):
    words = ("--metrics", "all", "--masks", tmp_path / "masks")
    own = scored(freqkd, place / "run", *words)
    numbers = {key for name in registry.names("metrics") for key in numbers_of(name)}
    assert numbers <= own.keys() and 0 < own["ece"] < 1
    words = ("--predictions", tmp_path / "masks", "--metrics", "all")
    document = scored(freqkd, place / "run/recipe.yaml", *words)
    assert caplog.messages == ["left out, since label images have no probabilities: calibration"]
    kept = numbers - numbers_of("calibration")
    assert {key: document[key] for key in kept} == {key: own[key] for key in kept}
    assert "ece" not in document and document["per_class"] == own["per_class"]


def numbers_of(name: str) -> set[str]:
    return set(registry.find("metrics", name).NUMBERS)


def test_the_confidence_is_that_of_the_softmax_at_the_size_of_the_image(place, freqkd):
    from freqkd_cli.build.saved import load_model
    from freqkd_cli.views.apply import apply_geometry
    from freqkd_cli.views.view import whole

    tally = Tally(3, requested=["calibration"])
    model = load_model(place / "run")
    for number, (height, width) in enumerate(SIZES):
        image, labels = (
            np.array(Image.open(place / "data" / kind / "val" / f"p{number}.png"))
            for kind in ("images", "masks")
        )
        padded = apply_geometry(whole((height, width)), image, None)[0][None]
        with torch.no_grad():
            logits = model(padded)["logits"]
        shares = torch.nn.functional.interpolate(logits, padded.shape[-2:], mode="bilinear")
        sure, prediction = shares.softmax(1)[0, :, :height, :width].max(0)
        tally.add(prediction, torch.from_numpy(labels.astype(np.int64)), sure)
    document = scored(freqkd, place / "run", "--metrics", "calibration")
    assert document["ece"] == pytest.approx(tally.values()["ece"], abs=1e-5)
    averaged = scored(freqkd, place / "run", "--metrics", "calibration", "--flip")
    assert 0 < averaged["ece"] < 1 and averaged["ece"] != document["ece"]


def test_the_table_has_requested_numbers_in_percent(place, freqkd):
    document = scored(freqkd, place / "run", "--metrics", "thin_structures")
    out = freqkd("eval", place / "run", "--metrics", "thin_structures", "-q")[1]
    rows = dict(line.rsplit(maxsplit=1) for line in out.splitlines() if line)
    assert rows["mIoU, thinner than 16 px"] == f"{100 * document['thin_miou_16']:.2f}"
    assert "IoU, < 4 px" in out.splitlines()[0] and "boundary F" not in out


@pytest.mark.parametrize(
    ("metrics", "parts"),
    [
        ("boundry_f", ["no metric is called 'boundry_f', did you mean 'boundary_f'?", "need"]),
        ("iou,Calibration", ["no metric is called 'Calibration', did you mean 'calibration'?"]),
        (" , ", ["--metrics names no metric", "need one of all, accuracy"]),
    ],
)
def test_unknown_metrics_are_refused_before_anything_is_read(freqkd, place, metrics, parts):
    code, out, err = freqkd("eval", place / "run", "--metrics", metrics)
    assert (code, out) == (2, "") and err.count("error:") == 1
    assert all(part in err for part in parts), err


@pytest.mark.parametrize("metrics", ["calibration", "boundary_f,calibration", "all,calibration"])
def test_label_images_have_no_calibration(freqkd, place, metrics):
    masks = place / "data/masks/val"
    words = ("--predictions", masks, "--metrics", metrics)
    code, out, err = freqkd("eval", place / "run/recipe.yaml", *words)
    assert (code, out) == (2, "") and err.count("error:") == 1
    assert "label images have no probabilities, which calibration needs" in err
    assert "leave out calibration, or score the run without --predictions" in err


def test_the_list_of_metrics(freqkd):
    code, out, _ = freqkd("metrics")
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert code == 0 and set(lines) == set(registry.names("metrics"))
    assert "on request" in lines["object_size"] and "training" in lines["iou"]
    rows = json.loads(freqkd("metrics", "--json")[1])
    assert [row["name"] for row in rows] == list(registry.names("metrics"))
    needing = [row["name"] for row in rows if row["needs_probabilities"]]
    assert needing == ["calibration"]
    code, out, _ = freqkd("metrics", "error_spectrum")
    assert code == 0 and "error_energy_to_1_16" in out and "Parseval" in out and "**" not in out
    code, _, err = freqkd("metrics", "eror_spectrum")
    assert code == 2 and "did you mean 'error_spectrum'" in err


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_every_metric_on_request_is_described(name):
    module = registry.find("metrics", name)
    assert registry.first_line(module).endswith(".")
    if getattr(module, "ON_REQUEST", False):
        assert all(f"**{part}**" in module.__doc__ for part in ("What", "Why", "Unit", "Source"))
