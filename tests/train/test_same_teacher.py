"""A run is resumed with the teacher, and the form of the cache, that it was started with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import UsageError
from freqkd_cli.models import segformer
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data: {name: scenes, size: [32, 64], length: 4, held_out: 2, views: 1, workers: 0}
teacher: {name: segformer, weights: teacher, min_iou: 0}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: logit_kl}
train: {steps: 2, batch_size: 2, previews: false, precision: float32}
"""


def teacher(seed: int) -> None:
    torch.manual_seed(seed)
    save_model("teacher", segformer.build(classes=12, variant="mini"), "segformer")


def run(**options) -> dict:
    return distill(recipes.loads(RECIPE), Path("run"), Silent(), **options)


def record(**changes) -> dict:
    path = Path("run/environment.json")
    facts = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    return facts


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    teacher(0)
    return tmp_path


def test_another_teacher_in_the_same_place_is_refused(here):
    """The run went on with it without a word."""
    run()
    teacher(1)
    with pytest.raises(UsageError, match="was started with another teacher") as caught:
        run(extend=1)
    assert f"need weights of sha256 {record()['teacher_sha256'][:16]}" in str(caught.value)
    record(teacher_sha256=None)  # as of an earlier version
    assert run(extend=1)["steps"] == 3


def test_another_form_of_the_cache_is_a_warning(here, caplog):
    """Every cache was the same source."""
    for name, form in (("a", Form()), ("b", Form(dtype="int8", scores=4))):
        dump_recipe(recipes.loads(RECIPE), Path(name), Silent(), DumpOptions(form))
    run(cache=Path("a"))
    caplog.clear()
    assert run(cache=Path("a"), extend=1)["steps"] == 3 and "resumed with" not in caplog.text
    run(cache=Path("b"), extend=1)
    before = "cache taps in int8 of 4 scores instead of taps in float16"
    assert f"resumed with {before}: the bits may differ" in caplog.text
    caplog.clear()
    record(cache=None, teacher_sha256=None, resumed=None)  # as of an earlier version
    assert run(cache=Path("b"), extend=1)["steps"] == 5 and "resumed with" not in caplog.text
