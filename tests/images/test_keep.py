"""Decoded images that are kept have the bits of the files, whatever happens to either."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_fakes import Notes
from fill_store import fill
from kept_images import SIZES, kept, opened, read, refused, same, write, write_all
from PIL import Image

from freqkd_cli.datasets import folder, scenes
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.decoded_slot import slot_size, unpacked
from freqkd_cli.images.decoded_store import SUFFIX, MemoryStore
from freqkd_cli.images.held_out import part
from freqkd_cli.images.keep import FOLDER, keep_decoded
from freqkd_cli.images.pool import WithPool, without_labels
from freqkd_cli.runtime.byte_sizes import size
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.view import ViewSpec

STORES = ("memory", "disk")


@pytest.fixture(autouse=True)
def disk(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def root(tmp_path) -> Path:
    return write_all(tmp_path / "data")


def only_file(disk: Path) -> Path:
    (path,) = disk.glob(f"*/*{SUFFIX}")
    return path


# --- the same bits, without decoding ---


@pytest.mark.parametrize("where", STORES)
def test_an_image_is_decoded_once_and_keeps_its_bits(root, where):
    dataset, plain = kept(opened(root), where), opened(root)
    for index in range(3):
        assert same(read(dataset, index), plain.read(index))
    dataset.read = refused()
    for index in (2, 0, 1):
        image, labels = read(dataset, index)
        assert same((image, labels), plain.read(index))
        assert not image.flags.writeable and not labels.flags.writeable


@pytest.mark.parametrize("where", STORES)
def test_images_without_labels_and_labels_of_16_bits(root, where):
    for dataset in (opened(root).images_alone(), many_classes(root)):
        plain = dataset.read(1)
        kept(dataset, where)
        read(dataset, 1)
        dataset.read = refused()
        assert same(read(dataset, 1), plain)


def many_classes(root: Path):
    names = [f"c{number}" for number in range(300)]
    return folder.build(split="train", root=root, size=(32, 32), classes=names)


@pytest.mark.parametrize("where", STORES)
def test_views_of_workers_have_the_bits_of_views_without_a_store(root, where):
    spec = ViewSpec((32, 32), scale=(0.5, 2.0), color=0.3)
    steps = [[(0, 0), (1, 0)], [(2, 0), (0, 1)], [(1, 1), (2, 1)]] * 2
    expected = list(Loader(ViewDataset(opened(root), spec), steps))
    dataset = kept(opened(root), where)
    batches = list(Loader(ViewDataset(dataset, spec), steps, workers=2))
    for batch, plain in zip(batches, expected, strict=True):
        assert torch.equal(batch.images, plain.images)
        assert torch.equal(batch.labels, plain.labels)
    dataset.read = refused()  # the workers have filled the store of this process too
    for batch, plain in zip(Loader(ViewDataset(dataset, spec), steps), expected, strict=True):
        assert torch.equal(batch.images, plain.images)


@pytest.mark.parametrize("where", STORES)
def test_pools_parts_and_generated_images_are_kept_too(root, where):
    made = scenes.build(split="train", size=(32, 64), length=4)
    for dataset in (
        WithPool(opened(root), without_labels(made)),
        WithPool(part(made, [1, 3]), opened(root).images_alone()),
    ):
        plain = [dataset.read(index) for index in range(len(dataset))]
        kept(dataset, where)
        for _ in range(2):
            for index, content in enumerate(plain):
                assert same(read(dataset, index), content)
            dataset.read = refused()
        del dataset.read


def test_a_second_process_uses_the_files_of_the_first(root):
    plain = opened(root).read(0)
    read(kept(opened(root), "disk"), 0)
    notes = Notes()
    second = opened(root)
    keep_decoded([second], "disk", notes)
    second.read = refused()
    assert same(read(second, 0), plain)
    missing = slot_size(*SIZES[1], 1) + slot_size(*SIZES[2], 1)
    assert f", {size(missing)} of it new" in notes.said[0]


def test_other_keys_of_the_labels_have_files_of_their_own(root):
    one, other = opened(root), opened(root, label_map={"0": 0, "1": 0, "2": 2})
    assert not same(one.read(0), other.read(0))
    for dataset in (one, other):
        kept(dataset, "disk")
        for _ in range(2):
            assert same(read(dataset, 0), opened_like(dataset).read(0))


def opened_like(dataset):
    return dataset.part(range(len(dataset)))


def test_a_process_that_is_not_forked_shares_the_memory():
    store, key = MemoryStore([slot_size(4, 6, 0)] * 2), b"k" * 32
    child = multiprocessing.get_context("spawn").Process(
        target=fill, args=(store, 1, key, 9, (4, 6))
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert unpacked(store.get(0, ""), key, check=True) is None
    image, labels = unpacked(store.get(1, ""), key, check=True)
    assert labels is None and np.array_equal(image, np.full((4, 6, 3), 9))


# --- changed and damaged files ---


@pytest.mark.parametrize("where", STORES)
@pytest.mark.parametrize("size", [(40, 56), (90, 56), (20, 20)])
def test_a_changed_file_is_decoded_again(root, where, size):
    dataset = kept(opened(root), where)
    old = [array.copy() for array in read(dataset, 0)]
    shown, _ = read(dataset, 0)
    write(root, 0, size, seed=1)
    for _ in range(2):
        assert same(read(dataset, 0), opened(root).read(0))
    assert np.array_equal(shown, old[0])  # arrays that are in use stay as they were


@pytest.mark.parametrize("where", STORES)
def test_a_changed_mask_is_noticed_by_its_time_alone(root, where):
    dataset = kept(opened(root), where)
    read(dataset, 0)
    path = root / "masks/train/p0.png"
    stored = np.array(Image.open(path))
    Image.fromarray(2 - stored).save(path)
    os.utime(path, ns=(1, 1))
    assert np.array_equal(read(dataset, 0)[1], 2 - stored)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100] + bytes(100),
        lambda data: data[:500],
        lambda data: b"",
        lambda data: data[:41] + b"\xff" * 20 + data[61:],
        lambda data: bytes(len(data)),
    ],
)
def test_a_damaged_file_is_written_again(root, disk, damage):
    plain = opened(root).read(1)
    read(kept(opened(root), "disk"), 1)
    path = only_file(disk)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert same(read(kept(opened(root), "disk"), 1), plain)
    assert path.read_bytes() == whole


def test_a_missing_image_has_the_error_that_it_has_without_a_store(root):
    dataset = kept(opened(root), "memory")
    (root / "images/train/p1.png").unlink()
    with pytest.raises(DataBroken, match="no such file"):
        read(dataset, 1)


def test_a_file_that_cannot_be_read_does_not_stop_the_start(root):
    (root / "images/train/p1.png").write_bytes(b"rubbish")
    dataset = opened(root)
    kept(dataset, "memory")
    with pytest.raises(DataBroken, match=r"p1\.png"):
        read(dataset, 1)
    assert same(read(dataset, 2), opened(root).read(2))
