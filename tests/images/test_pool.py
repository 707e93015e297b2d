"""A pool beside labelled images: one numbering, no labels, void everywhere in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freqkd_cli.datasets import folder, scenes
from freqkd_cli.errors import DataMissing
from freqkd_cli.images.pool import WithPool, manifest_of_pool, without_labels
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.view import ViewSpec

SIZE = (40, 56)


def save(path: Path, number: int, shape: tuple[int, ...] = (*SIZE, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, number, np.uint8)).save(path)


def mine(root: Path, masks: int, images: int, name: str = "{}") -> Path:
    """A folder in which the first images of train have a mask."""
    for k in range(images):
        save(root / f"images/train/p{k:02d}.png", k)
        if k < masks:
            save(root / f"masks/train/{name.format(f'p{k:02d}')}.png", k % 2, SIZE)
    (root / "classes.txt").write_text("road\ncar\n")
    return root


def opened(root: Path, **keys):
    return folder.build(split="train", root=root, size=SIZE, **keys)


def test_one_numbering_and_no_labels_of_the_pool():
    dataset = scenes.build(split="train", size=SIZE, length=3)
    pool = without_labels(scenes.build(split="train", size=(64, 32), length=5, seed=7))
    images = WithPool(dataset, pool)
    assert len(images) == 8 and images.labelled and not pool.labelled
    assert images.name(0) == dataset.name(0) and images.name(3) == "pool image train_000000"
    assert images.image_size(2) == SIZE and images.image_size(3) == (64, 32)
    assert np.array_equal(images.read(4)[0], scenes.draw(7, "train", 1, (64, 32))[0])
    assert images.read(4)[1] is None and images.read(2)[1] is not None
    assert images.manifest() == dataset.manifest() and images.classes == dataset.classes
    assert manifest_of_pool(images)["arguments"]["seed"] == 7
    assert manifest_of_pool(dataset) is None


def test_a_batch_marks_its_pool_and_leaves_it_void():
    dataset = scenes.build(split="train", size=SIZE, length=3)
    pool = without_labels(scenes.build(split="train", size=(24, 32), length=2, seed=7))
    views = ViewDataset(WithPool(dataset, pool), ViewSpec((32, 32)), view_seed=1)
    (batch,) = Loader(views, [[(0, 0), (4, 2), (2, 0), (3, 0)]])
    assert batch.from_pool.tolist() == [False, True, False, True]
    assert batch.indices.tolist() == [0, 4, 2, 3] and batch.views.tolist() == [0, 2, 0, 0]
    assert (batch.labels[batch.from_pool] == 255).all() and batch.labelled[[0, 2]].any()
    padded = ~batch.valid[1]
    assert padded.any(), "an image that is smaller than the view is padded"
    assert torch.equal(batch.not_void[1], batch.valid[1])
    assert not batch.not_void[0][~batch.labelled[0]].any()
    (own,) = Loader(views, [[(0, 0), (1, 0)]])
    assert own.from_pool is None
    assert batch[1:3].from_pool.tolist() == [True, False]


def test_broken_labels_of_a_pool_do_not_matter(tmp_path):
    root = mine(tmp_path, masks=4, images=4)
    for path in (root / "masks/train").iterdir():
        path.write_bytes(b"no image")
    (root / "masks/train/p01.png").unlink()
    (root / "classes.txt").write_bytes(b"\xff\xfe\x00")
    pool = folder.build_pool(root=root, arguments={})
    assert len(pool) == 4 and not pool.labelled and pool.read(2)[0][0, 0, 0] == 2
    before = pool.manifest()
    (root / "masks/train/p02.png").write_bytes(b"other")
    assert folder.build_pool(root=root, arguments={}).manifest() == before
    save(root / "images/train/p03.png", 99)
    assert folder.build_pool(root=root, arguments={}).manifest() != before


def test_labels_of_a_split_are_dropped_with_their_files(tmp_path):
    root = mine(tmp_path, masks=4, images=4)
    alone = without_labels(opened(root))
    (root / "masks/train/p01.png").write_bytes(b"no image")
    assert not alone.labelled and alone.read(1)[1] is None
    assert all(pair.label is None for pair in alone.pairs) and alone.manifest()["number"] == 4


@pytest.mark.parametrize("layout", ["{}.png", "images/{}.png", "day/{}.png", "images/train/{}.png"])
def test_a_pool_may_be_any_folder_of_images(tmp_path, layout):
    for k in range(5):
        save(tmp_path / layout.format(f"p{k}"), k)
    assert len(folder.build_pool(root=tmp_path, arguments={})) == 5


def test_a_pool_has_no_images_of_val_and_no_masks(tmp_path):
    mine(tmp_path, masks=2, images=6)
    save(tmp_path / "images/val/v.png", 1)
    pool = folder.build_pool(root=tmp_path, arguments={})
    assert [pool.name(k) for k in range(len(pool))] == [f"p{k:02d}" for k in range(6)]
    beside = tmp_path / "beside"
    for k in range(6):
        save(beside / f"p{k}.jpg", k)
        if k < 3:
            save(beside / f"p{k}_mask.png", 1, SIZE)
    assert len(folder.build_pool(root=beside, arguments={})) == 6


def test_a_pool_without_images_is_missing(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "other" / "images" / "val").mkdir(parents=True)
    save(tmp_path / "other/images/val/v.png", 1)
    for root, what in (
        (tmp_path / "images", "no images in"),
        (tmp_path / "none", "there is no folder"),
        (tmp_path / "other", "no split 'train'"),
    ):
        with pytest.raises(DataMissing, match=what):
            folder.build_pool(root=root, arguments={})


def test_only_images_of_other_formats_are_to_be_converted(tmp_path):
    for name, command in (("readme.txt", None), ("labels.json", None), ("a.heic", "/*.heic'")):
        (tmp_path / name).touch()
        with pytest.raises(DataMissing, match=f"no images in {tmp_path}") as caught:
            folder.build_pool(root=tmp_path, arguments={})
        tip = caught.value.tip
        assert tip is None if command is None else tip.endswith(command)


@pytest.mark.parametrize("name", ["{}", "{}_mask", "mask_{}", "{}.png"])
def test_images_without_masks_are_kept_apart(tmp_path, name):
    root = mine(tmp_path, masks=3, images=20, name=name)
    dataset = opened(root, unlabelled="pool")
    assert dataset.labelled and len(dataset) == 3 and len(dataset.rest) == 17
    for k in range(3):
        image, labels = dataset.read(k)
        assert image[0, 0, 0] % 2 == labels[0, 0]
    assert not dataset.rest.labelled and dataset.rest.read(0)[0][0, 0, 0] == 3
    assert dataset.manifest()["arguments"]["unlabelled"] == "pool"


@pytest.mark.parametrize(
    "name", ["clip3_{:06d}", "clip3_{:06d}_labels", "mask_{:06d}", "clip3_{:d}", "label_{:d}"]
)
def test_a_few_masks_among_many_images_are_paired(tmp_path, name):
    """Rules are tried on images that have a mask, not on the first ones."""
    for k in range(120):
        save(tmp_path / f"images/train/clip3_{k:06d}.png", k)
    for k in (7, 47, 107):
        save(tmp_path / f"masks/train/{name.format(k)}.png", k % 3, SIZE)
    dataset = opened(tmp_path, classes=["road", "car", "sky"], unlabelled="pool")
    assert [dataset.name(k)[-3:] for k in range(len(dataset))] == ["007", "047", "107"]
    assert len(dataset.rest) == 117


def test_a_pattern_and_shares_with_some_masks(tmp_path):
    root = mine(tmp_path, masks=9, images=30, name="{}_left")
    dataset = opened(root, unlabelled="pool", mask="{stem}_left.png")
    assert (len(dataset), len(dataset.rest)) == (9, 21)
    parts = [opened(root, unlabelled="pool", split_=0.5)]
    parts.append(folder.build(split="val", root=root, size=SIZE, unlabelled="pool", split_=0.5))
    assert sum(len(part) for part in parts) == 9 and all(len(part) for part in parts)
    assert sum(len(part.rest) for part in parts) == 21


def test_a_split_with_all_masks_or_none_has_no_rest(tmp_path):
    assert opened(mine(tmp_path / "all", 4, 4), unlabelled="pool").rest is None
    none = opened(mine(tmp_path / "none", 0, 4), unlabelled="pool")
    assert none.rest is None and not none.labelled and len(none) == 4
