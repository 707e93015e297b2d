"""``distill --cache`` after files of the data set changed, found by stamps or hashes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cache_fakes import Notes
from cached_recipe import load, make_weights
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import CacheMismatch
from freqkd_cli.runtime import file_hashes
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.train.distillation import distill


@pytest.fixture(autouse=True)
def hashes(tmp_path, monkeypatch):
    """Keep hashes in a folder of the test, as a new process does."""
    monkeypatch.setenv("FREQKD_CACHE", str(tmp_path / "user-cache"))
    monkeypatch.setattr(file_hashes, "_known", {})
    monkeypatch.setattr(file_hashes, "_trusting", True)


def write_data(root: Path, number: int = 6) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(number):
            image = random.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{split}{i}.png")
            mask = random.integers(0, 3, (64, 96), dtype=np.uint8)
            Image.fromarray(mask).save(root / "masks" / split / f"{split}{i}.png")
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    return root


@pytest.fixture
def files(tmp_path, monkeypatch) -> tuple[recipes.Recipe, Path, Path]:
    """A recipe on files, its cache and the folder of the files, whose stamps are old."""
    root = write_data(tmp_path / "data")
    monkeypatch.setattr(file_hashes, "SETTLED", 0)
    weights = make_weights(tmp_path / "t", ("road", "car", "sky"))
    data = f"{{name: folder, root: {root}, size: [64, 96], views: 1, workers: 0}}"
    recipe = load(weights, "teacher.min_iou=0", data=data)
    dump_recipe(recipe, tmp_path / "c", Notes(), DumpOptions())
    return recipe, tmp_path / "c", root


def start(recipe: recipes.Recipe, cache: Path, out: Path, **options) -> dict:
    """Start a run as a new process does, without training."""
    file_hashes._known.clear()
    return distill(recipe, out, Notes(), cache=cache, dry_run=True, **options)


def count_hashes(monkeypatch) -> list[str]:
    read = []
    digest = file_hashes.hashlib.file_digest

    def counted(file, name):
        read.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(file_hashes.hashlib, "file_digest", counted)
    return read


def test_a_second_start_reads_no_file_for_its_hash(files, tmp_path, monkeypatch):
    recipe, cache, root = files
    read = count_hashes(monkeypatch)
    start(recipe, cache, tmp_path / "r")
    assert [name for name in read if str(root) in str(name)] == []
    start(recipe, cache, tmp_path / "r", verify=True)
    assert len([name for name in read if str(root) in str(name)]) == 12
    monkeypatch.setattr(file_hashes, "_trusting", True)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    read.clear()
    moved = load(tmp_path / "t", "teacher.min_iou=0", data=(
        f"{{name: folder, root: {copy}, size: [64, 96], views: 1, workers: 0}}"))  # fmt: skip
    start(moved, cache, tmp_path / "r")
    assert len([name for name in read if str(copy) in str(name)]) == 12


def test_a_change_of_equal_size_is_noticed_by_its_stamps(files, tmp_path):
    recipe, cache, root = files
    for name in ("train1.png", "train4.png"):
        path = root / "masks" / "train" / name
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    (root / "images" / "train" / "train2.png").unlink()
    (root / "masks" / "train" / "train2.png").unlink()
    with pytest.raises(CacheMismatch) as caught:
        start(recipe, cache, tmp_path / "r")
    message = str(caught.value)
    assert f"the data set changed since the cache {cache} was made" in message
    assert "train1 (label image), train2 (missing), train4 (label image)" in message
    assert f"freqkd teacher-dump test.yaml --out {cache}-new" in message


def test_a_change_that_keeps_the_stamps_is_found_with_verify(files, tmp_path, monkeypatch):
    recipe, cache, root = files
    monkeypatch.setattr(file_hashes, "_stamps", lambda status: [status.st_size])
    start(recipe, cache, tmp_path / "r", verify=True)  # keeps these stamps
    monkeypatch.setattr(file_hashes, "_trusting", True)
    path = root / "images" / "train" / "train0.png"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    start(recipe, cache, tmp_path / "r")
    with pytest.raises(CacheMismatch, match=r"train0 \(image\)"):
        start(recipe, cache, tmp_path / "r", verify=True)


def test_a_cache_without_a_listing_names_the_field(files, tmp_path):
    recipe, cache, root = files
    (cache / "files.json").unlink()
    (root / "masks" / "train" / "train1.png").write_bytes(b"x")
    with pytest.raises(CacheMismatch, match="data.sha256: cached"):
        start(recipe, cache, tmp_path / "r")


def test_a_file_that_just_changed_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(file_hashes, "SETTLED", 3_600_000_000_000)
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before = file_hashes.sha256_of(path, path.stat())
    path.write_bytes(b"two")
    assert file_hashes.sha256_of(path, path.stat()) != before
    file_hashes.keep_new()
    assert not (tmp_path / "user-cache").exists()


def test_damaged_memory_of_hashes_costs_only_time(files, tmp_path):
    recipe, cache, _ = files
    for path in (tmp_path / "user-cache" / "file-hashes").iterdir():
        path.write_text(json.dumps({"files": {"train1.png": "nonsense", "train2.png": [1, 2]}}))
    start(recipe, cache, tmp_path / "r")
