"""``data.hold_out``: a part of the training images is scored, not trained on; val is not read."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from cache_fakes import Notes
from PIL import Image
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build import assemble
from freqkd_cli.build.training_images import training_images
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.errors import RecipeError
from freqkd_cli.images.held_out import held_out_numbers, part
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.supervision import supervision
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.labels_alone import labels_alone
from freqkd_cli.train.loop import Loop
from freqkd_cli.views.steps import Steps

SCENES = """
version: 1
data: {name: scenes, size: [32, 64], length: 10, views: 2, workers: 0, hold_out: 0.3,
  augment: {color: 0.2}}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, dropout: 0.0}
losses:
  - {name: cross_entropy, class_weights: auto}
  - {name: logit_kl}
train: {epochs: 3, batch_size: 3, lr: 0.02, optimizer: sgd, freeze_norm: true, eval_every: 1,
  precision: float32, previews: false}
"""
FOLDER = """
version: 1
data: {name: folder, root: mine, size: [32, 64], classes: [road, car], workers: 0, hold_out: 0.4}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy, class_weights: auto}
train: {epochs: 2, batch_size: 3, eval_every: 1}
"""


def load(text: str = SCENES, *sets: str) -> recipes.Recipe:
    return recipes.loads(text, sets=sets)


class Named:
    """A data set of names alone."""

    labelled = True
    classes, palette = ("road", "car"), np.zeros((2, 3), np.uint8)

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


def held_names(names: list[str], share: float) -> set[str]:
    return {names[index] for index in held_out_numbers(Named(names), share)}


def test_the_part_depends_on_names_alone():
    names = [f"image_{number}" for number in range(200)]
    held = held_names(names, 0.2)
    assert len(held) == 40
    assert held_names(names[::-1], 0.2) == held, "not on their order"
    assert held < held_names(names, 0.3), "a larger share contains a smaller one"
    assert len(held ^ held_names([*names, "one_more"], 0.2)) <= 2
    assert held_names(["a", "b"], 0.01) != set() and len(held_names(["a", "b"], 0.99)) == 1
    assert held_out_numbers(Named(["a"]), 0.5) == ()
    # Written down once: another version of freqkd must choose the same images.
    assert sorted(held_names(names[:10], 0.3)) == ["image_0", "image_4", "image_8"]


def test_the_part_does_not_depend_on_how_a_system_writes_letters():
    names = [f"b{'äöü'[k % 3]}um_{k}" for k in range(40)] + ["stra\udcdfe"]
    written = [unicodedata.normalize("NFD", name) for name in names]
    assert names != written
    assert held_out_numbers(Named(names), 0.3) == held_out_numbers(Named(written), 0.3)


def test_steps_draw_every_other_image_once_per_epoch_at_its_own_number():
    recipe = load(SCENES, "data.length=40")
    parts = training_parts(recipe)
    held = set(parts.held)
    assert len(held) == 12 and len(parts.trained) == 28 and len(parts.held_out) == 12
    assert {parts.held_out.name(k) for k in range(12)} == {parts.whole.name(k) for k in held}
    steps = Steps(28, 4, seed=0, start=0, stop=14, numbers=parts.numbers)
    items = [item for batch in steps for item in batch]
    for epoch in range(2):
        assert sorted(i for i, n in items if n == epoch) == sorted(set(range(40)) - held)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A cache of all training images, made without ``hold_out``, and a run with it."""
    folder = tmp_path_factory.mktemp("held")
    whole = load(SCENES, "data.hold_out=null")
    dump_recipe(whole, folder / "cache", Silent(), DumpOptions(Form(dtype="fp32")))
    distill(load(), folder / "run", Silent(), cache=folder / "cache")
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last/model.safetensors")


def test_a_cache_of_all_images_serves_and_equals_the_live_teacher(made, tmp_path):
    distill(load(), tmp_path / "live", Silent())
    first, second = weights(made / "run"), weights(tmp_path / "live")
    assert max((first[name].double() - second[name].double()).abs().max() for name in first) < 1e-5


def test_a_dump_stores_every_image_whatever_the_part(made, tmp_path):
    dump_recipe(load(), tmp_path / "cache", Silent(), DumpOptions(Form(dtype="fp32")))
    index = [json.loads((folder / "cache/index.json").read_text()) for folder in (made, tmp_path)]
    assert index[0]["fingerprint"] == index[1]["fingerprint"]


def test_summary_log_and_class_weights_are_those_of_the_parts(made, tmp_path):
    summary = json.loads((made / "run/summary.json").read_text())
    assert (summary["images"], summary["held_out_images"], summary["val_images"]) == (7, 3, 3)
    assert summary["steps"] == 6 and summary["teacher_scored_on"] == "3 images of the held-out part"
    listener = Notes()
    distill(load(SCENES, "train.steps=1"), tmp_path / "a", listener)
    text = "\n".join(listener.said)
    assert "of 7 masks" in text, "class weights count the labels that are trained on"
    assert "mIoU on the held-out part" in text
    assert supervision(load()).labelled_images == 7


def test_the_score_is_that_of_the_held_out_images(made):
    from freqkd_cli.build.saved import load_model
    from freqkd_cli.runtime.precision import for_scores
    from freqkd_cli.score.evaluate import score

    parts, device = training_parts(load()), torch.device("cpu")
    assert [parts.whole.name(k) for k in parts.held] == [
        parts.held_out.name(k) for k in range(len(parts.held_out))
    ]
    result = score(load_model(made / "run/last"), parts.held_out, for_scores(device), device)
    summary = json.loads((made / "run/summary.json").read_text())
    assert result.values["miou"] == summary["last_miou"]


def test_an_interrupted_run_resumes_to_the_same_bits(made, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stopping(loop: Loop, batches) -> None:
        if loop.training.step == 3:
            raise Stop
        step(loop, batches)

    step = Loop.step
    monkeypatch.setattr(Loop, "step", stopping)
    with pytest.raises(Stop):
        distill(load(), tmp_path / "run", Silent(), cache=made / "cache")
    monkeypatch.setattr(Loop, "step", step)
    distill(load(), tmp_path / "run", Silent(), cache=made / "cache", resume=True)
    first, second = weights(made / "run"), weights(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_held_out_images_of_the_same_pool_are_not_trained_on():
    text = SCENES.replace("hold_out: 0.3", "hold_out: 0.3, pool: {name: scenes, length: 12}")
    recipe = load(text)
    plan, parts = assemble.check(recipe), training_parts(recipe)
    share = parts.pool_share(recipe, training_images(plan, parts.whole))
    assert share.length == 9
    assert set(share.numbers) == set(range(10, 22)) - {10 + index for index in parts.held}
    steps = Steps(7, 4, seed=0, start=0, stop=30, pool=share, numbers=parts.numbers)
    drawn = {index for batch in steps for index, _ in batch}
    assert drawn == set(parts.numbers) | set(share.numbers)
    other = load(text.replace("length: 12", "length: 12, seed: 1"))
    share = training_parts(other).pool_share(other, training_images(plan, parts.whole))
    assert share.length == 9, "the pool of the plan"
    images = training_images(assemble.check(other), parts.whole)
    assert training_parts(other).pool_share(other, images).length == 12


def test_with_a_pool_a_cache_serves_and_a_baseline_has_the_same_steps(tmp_path):
    text = SCENES.replace("hold_out: 0.3", "hold_out: 0.3, pool: {name: scenes, length: 5}")
    text = text.replace("train: {epochs: 3", "train: {epochs: 1").replace(
        "batch_size: 3", "batch_size: 4"
    )
    whole = load(text, "data.hold_out=null")
    dump_recipe(whole, tmp_path / "cache", Silent(), DumpOptions(Form(dtype="fp32")))
    summary = distill(load(text), tmp_path / "run", Silent(), cache=tmp_path / "cache")
    held = [index for index in training_parts(load(text)).held if index < 5]
    assert (summary["images"], summary["pool_images"]) == (7, 5 - len(held)) and held
    assert labels_alone(load(text)).train.steps == summary["steps"]


def write(folder: Path, split: str, number: int, masks: bool = True) -> None:
    rng = np.random.default_rng(number)
    for kind in ("images", "masks") if masks else ("images",):
        for k in range(number):
            path = folder / kind / split / f"p{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape, most = ((40, 70, 3), 255) if kind == "images" else ((40, 70), 2)
            Image.fromarray(rng.integers(0, most, shape, np.uint8)).save(path)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", "train", 10)
    write(tmp_path / "mine", "val", 3)
    return tmp_path / "mine"


def test_copies_of_held_out_files_in_a_pool_are_left_out(mine):
    recipe = load(
        FOLDER + "teacher: {name: segformer, weights: embedded}\n",
        "data.pool={name: folder, root: photos}",
        "losses={}".format(
            "[{name: cross_entropy}, {name: feature, student: decoder, teacher: decoder}]"
        ),
    )
    photos = mine.with_name("photos")
    photos.mkdir()
    whole = training_parts(load(FOLDER)).whole
    held = training_parts(load(FOLDER)).held
    for number in (held[0], held[1], next(k for k in range(10) if k not in held)):
        shutil.copy(whole.pairs[number].image, photos / f"copy_{number}.png")
    Image.fromarray(np.zeros((40, 70, 3), np.uint8)).save(photos / "other.png")
    parts = training_parts(recipe)
    images = training_images(assemble.check(recipe), parts.whole)
    share = parts.pool_share(recipe, images)
    names = {images.name(number) for number in share.numbers}
    assert share.length == 2 and not names & {f"pool image copy_{k}" for k in held[:2]}


_forbidden: set[str] = set()
_opened: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    """Note every forbidden file that this process opens."""
    if event == "open" and _forbidden and isinstance(arguments[0], (str, bytes, Path)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path in _forbidden:
            _opened.append(path)


@pytest.fixture
def trap():
    """Set the files that no run may open; return those that were opened."""

    def forbid(paths) -> list[str]:
        _forbidden.update(os.path.realpath(path) for path in paths)
        return _opened

    sys.addaudithook(_watch)
    yield forbid
    _forbidden.clear()
    _opened.clear()


def files_of(recipe: recipes.Recipe, split: str) -> set[Path]:
    pairs = assemble.build_dataset(recipe, split).pairs
    return {path for pair in pairs for path in (pair.image, pair.label)}


def test_no_file_of_val_is_opened(mine, tmp_path, trap):
    opened = trap(mine.glob("*/val/*"))
    summary = distill(load(FOLDER), tmp_path / "run", Silent())
    assert not opened and summary["val_images"] == 4 and summary["steps"] == 4
    distill(load(FOLDER, "data.hold_out=null"), tmp_path / "whole", Silent())
    assert len(set(opened)) == 6, "the trap works"


@pytest.mark.parametrize("name", sorted({*registry.names("datasets")} - {"scenes", "folder", "hf"}))
def test_every_data_set_of_files(name, tmp_path, trap, request):
    root = tmp_path / "data"
    if name == "voc":
        layouts.voc(root, layouts.full_palette())
    elif name == "camvid":
        root = request.getfixturevalue("camvid_root")
    else:
        getattr(layouts, name)(root)
    sets = (f"data={{name: {name}, root: {root}, size: [64, 64], workers: 0, hold_out: 0.3}}",)
    steps = ("train.steps=2", "train.batch_size=2", "train.eval_limit=1")
    recipe = load(FOLDER, *sets, *steps, "losses=[{name: cross_entropy}]")
    parts = training_parts(recipe)
    held, trained = (
        {part.name(index) for index in range(len(part))} for part in (parts.held_out, parts.trained)
    )
    assert held and trained and not held & trained
    assert held | trained == {parts.whole.name(index) for index in range(len(parts.whole))}
    opened = trap(files_of(recipe, "val") - files_of(recipe, "train"))
    summary = distill(recipe, tmp_path / "run", Silent())
    assert not opened and summary["held_out_images"] == len(held) and summary["miou"] is not None


def test_no_val_is_needed(mine, tmp_path):
    shutil.rmtree(mine / "images/val")
    shutil.rmtree(mine / "masks/val")
    assert distill(load(FOLDER), tmp_path / "run", Silent())["miou"] is not None


@pytest.mark.parametrize("share", [0, 1, 1.5, "some"])
def test_bad_shares_are_one_message(share):
    with pytest.raises(RecipeError, match="data.hold_out"):
        load(SCENES, f"data.hold_out={share}")


def test_images_without_labels_cannot_be_held_out(mine, tmp_path):
    shutil.rmtree(mine / "masks")
    text = FOLDER + "teacher: {name: segformer, weights: embedded}\n"
    losses = "losses=[{name: feature, student: decoder, teacher: decoder}]"
    with pytest.raises(RecipeError, match="fewer than two training images have labels") as raised:
        distill(load(text, losses), tmp_path / "run", Silent())
    assert "--set data.hold_out=null" in str(raised.value)
    few = load(SCENES, "data.labelled=1")
    with pytest.raises(RecipeError, match="fewer than two"):
        training_parts(few)


def test_of_partly_labelled_images_only_labelled_ones_are_held_out():
    parts = training_parts(load(SCENES, "data.length=50", "data.labelled=10"))
    assert len(parts.held) == 3 and max(parts.held) < 10 and len(parts.trained) == 47


def test_a_part_of_files_is_a_data_set_of_files(mine):
    whole = training_parts(load(FOLDER, "data.hold_out=null")).whole
    some = part(whole, (1, 3))
    assert [some.name(0), some.name(1)] == [whole.name(1), whole.name(3)]
    assert np.array_equal(some.read(1)[1], whole.read(3)[1])
    assert some.manifest()["sha256"] == whole.manifest((1, 3))["sha256"]
