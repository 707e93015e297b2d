"""``data.labelled`` of scenes: images without labels are used as those of a pool are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build import assemble
from freqkd_cli.build.class_weights import count_pixels
from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.datasets import scenes
from freqkd_cli.errors import CacheMismatch
from freqkd_cli.features.graphs import node_validity
from freqkd_cli.images.keep import FOLDER, keep_decoded
from freqkd_cli.images.pool import WithPool, without_labels
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.score_files import score_files
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.teacher.recipe_cache import Form, needed_fingerprint
from freqkd_cli.train.distillation import distill
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.view import ViewSpec

SIZE = (64, 96)
RECIPE = """
version: 1
data: {name: scenes, size: [64, 96], length: 6, labelled: 2, held_out: 2, views: 1, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, dropout: 0.0}
losses:
  - {name: cross_entropy}
  - {id: graph, name: graph_laplacian, student: encoder16, teacher: keys4, k: 4}
train: {epochs: 1, batch_size: 3, lr: 0.02, optimizer: sgd, freeze_norm: true, precision: float32}
"""


def load(*sets: str) -> recipes.Recipe:
    return recipes.loads(RECIPE, sets=sets)


def some(labelled: int | None = 2, length: int = 6):
    return scenes.build(split="train", size=SIZE, length=length, labelled=labelled)


def batch_of(dataset):
    (batch,) = Loader(ViewDataset(dataset, ViewSpec(SIZE)), [[(0, 0), (1, 0), (2, 0), (5, 0)]])
    return batch


def fields(content: str, *sets: str) -> dict:
    plan = assemble.check(load(*sets))
    dataset, lines = assemble.build_dataset(plan.recipe, "train"), assemble.build_lines(plan)
    teacher = assemble.build_teacher(plan.recipe, len(plan.classes))
    return dict(needed_fingerprint(plan, lines, teacher, dataset, Form(content)).fields)


def test_a_batch_is_that_of_the_same_images_in_a_pool():
    batch = batch_of(some())
    pool = batch_of(WithPool(some(None, 2), without_labels(some(None, 8))))
    assert batch.from_pool.tolist() == pool.from_pool.tolist() == [False, False, True, True]
    assert torch.equal(batch.labels[:2], pool.labels[:2])
    assert (batch.labels[2:] == 255).all() and (pool.labels[2:] == 255).all()
    assert torch.equal(batch.not_void[2:], batch.valid[2:])
    assert node_validity(batch, (4, 6))[2:].all(), "graph losses see every node"
    assert batch_of(some(None)).from_pool is None


def test_a_cached_graph_loss_sees_images_without_labels_as_a_live_one_does(tmp_path):
    dump_recipe(load(), tmp_path / "cache", Silent(), DumpOptions(Form("targets", "fp32")))
    plan = assemble.check(load())
    dataset, lines = assemble.build_dataset(plan.recipe, "train"), assemble.build_lines(plan)
    views = ViewDataset(dataset, plan.view_spec, views=1)
    (batch,) = Loader(views, [[(3, 0), (4, 0)]])
    line, values = lines[1], []
    student = registry.find("models", "fast_scnn").build(classes=12, width=0.25)
    taps = student(batch.images, taps=["encoder16"])
    for cache in (tmp_path / "cache", None):
        source = open_source(plan, lines, cache, dataset, "cpu")
        targets = source.targets(batch, plan.grids)["graph"]
        values.append(line.loss(taps, targets, batch, 0).item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert values[0] > 0, "nothing is left to compare where all nodes are void"


def test_older_caches_of_taps_fit_and_those_of_targets_do_not():
    """Taps do not depend on labels, but targets of graph losses left void nodes out."""
    assert "unlabelled" not in fields("taps")
    assert fields("targets")["unlabelled"] == "as a pool"
    for labelled in ("null", "6"):
        assert "unlabelled" not in fields("targets", f"data.labelled={labelled}")
    older = {key: x for key, x in fields("targets").items() if key != "unlabelled"}
    (difference,) = Fingerprint(older).differences(Fingerprint(fields("targets")))
    assert difference.line() == 'unlabelled: cached nothing, wanted "as a pool"'


def test_an_older_cache_of_targets_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("freqkd_cli.teacher.recipe_cache.partly_labelled", lambda images: False)
    dump_recipe(load(), tmp_path / "old", Silent(), DumpOptions(Form("targets")))
    monkeypatch.undo()
    assert "unlabelled" not in CacheReader(tmp_path / "old").fingerprint.fields
    with pytest.raises(CacheMismatch, match="unlabelled: cached nothing"):
        distill(load(), tmp_path / "run", Silent(), cache=tmp_path / "old")


def test_class_weights_count_the_labelled_images():
    counted, alone = (count_pixels(x, 12, Silent()) for x in (some(), some(None, 2)))
    assert counted.masks == alone.masks == 2
    assert np.array_equal(counted.pixels, alone.pixels)


def test_kept_images_of_older_versions_are_not_taken(tmp_path, monkeypatch):
    """On a disk, an older version kept labels of 255 for images without labels."""
    dataset = some()
    assert dataset.origin(1) == scenes.Origin([{**dataset.manifest(), "number": None}, 1])
    origin = dataset.origin(2)
    assert not origin.labelled and origin.place[0] == "without labels"
    monkeypatch.setenv(FOLDER, str(tmp_path))
    keep_decoded([dataset], "disk", Silent())
    for _ in range(2):
        image, labels = dataset.kept.read(dataset, 2)
        assert labels is None and np.array_equal(image, dataset.read(2)[0])


def test_masks_are_scored_on_the_labelled_images(tmp_path: Path):
    dataset = some()
    for index in range(len(dataset)):
        labels = dataset.read(index)[1]
        mask = np.zeros(SIZE, np.uint8) if labels is None else np.where(labels == 255, 0, labels)
        Image.fromarray(mask).save(tmp_path / f"{dataset.name(index)}.png")
    assert score_files(tmp_path, dataset).values["miou"] == 1.0
