"""A run continues on the training images that it was started with, in their order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data: {name: folder, root: data, size: [32, 32], workers: 0}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {steps: 2, batch_size: 2, lr: 1.0e-3, previews: false}
"""


def listed(split: str, *stems: str) -> None:
    Path(f"data/{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The folder of a finished run on the images of a list."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for kind, shape in (("images", (32, 32, 3)), ("masks", (32, 32))):
        Path("data", kind).mkdir(parents=True)
        for stem in "abcdv":
            pixels = random.integers(0, 2, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(f"data/{kind}/{stem}.png")
    Path("data/classes.txt").write_text("road\ncar\n")
    listed("train", "a", "b", "c")
    listed("val", "v")
    distill(recipes.loads(RECIPE, "r.yaml"), Path("run"), Silent())
    return Path("run")


def go_on(run: Path, **options) -> dict:
    return distill(recipes.loads(RECIPE, "r.yaml"), run, Silent(), **options)


def test_other_training_images_are_refused(run):
    for stems, found in (
        ("cba", "the same images in another order"),
        ("abd", "3 images of which some have other names"),
        ("ab", "2 images"),
    ):
        listed("train", *stems)
        summary = (run / "summary.json").read_bytes()
        with pytest.raises(UsageError, match="started on other training images") as error:
            go_on(run, extend=1)
        assert error.value.got == found and (run / "summary.json").read_bytes() == summary
        (run / "summary.json").unlink()  # a run that was interrupted
        with pytest.raises(UsageError, match="started on other training images"):
            go_on(run, resume=True)
        (run / "summary.json").write_bytes(summary)
    listed("train", "a", "b", "c")
    assert go_on(run, extend=1)["steps"] == 3


def test_a_run_without_a_record_of_its_images_is_resumed(run):
    facts = json.loads((run / "environment.json").read_text())
    assert facts.pop("image_names")["number"] == 3
    (run / "environment.json").write_text(json.dumps(facts))
    listed("train", "c", "b", "a")
    assert go_on(run, extend=1)["steps"] == 3
