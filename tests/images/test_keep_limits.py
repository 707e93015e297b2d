"""Decoded images that do not fit, and stores that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cache_fakes import Notes
from fill_store import fill
from kept_images import SIZES, kept, opened, read, same, write_all

from freqkd_cli.errors import UsageError
from freqkd_cli.images import keep
from freqkd_cli.images.decoded_slot import packed, slot_size, unpacked
from freqkd_cli.images.decoded_store import DiskStore, MemoryStore
from freqkd_cli.images.keep import FOLDER, keep_decoded
from freqkd_cli.runtime.progress import Silent


@pytest.fixture(autouse=True)
def disk(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def root(tmp_path) -> Path:
    return write_all(tmp_path / "data")


def test_the_size_comes_first_and_images_that_do_not_fit_are_refused(root, monkeypatch):
    notes = Notes()
    monkeypatch.setattr(keep, "free_memory", lambda: 2**31 + 10)
    with pytest.raises(UsageError) as error:
        keep_decoded([opened(root)], "memory", notes)
    assert error.value.key == "data.keep" and "data.keep=disk" in error.value.tip
    assert "3 decoded images take" in notes.said[0] and "2.0 GiB are free" in notes.said[0]
    monkeypatch.setattr(keep.shutil, "disk_usage", lambda folder: type("", (), {"free": 2**20}))
    with pytest.raises(UsageError, match="do not fit on the disk"):
        keep_decoded([opened(root)], "disk", notes)


def test_each_process_of_a_machine_counts_its_own_memory(root, monkeypatch):
    size = sum(slot_size(*size, 1) for size in SIZES)
    monkeypatch.setattr(keep, "free_memory", lambda: 2**31 + 3 * size)
    keep_decoded([opened(root)], "memory", Silent())
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="in each of 4 processes"):
        keep_decoded([opened(root)], "memory", Silent())


def test_a_folder_that_cannot_be_written_is_one_message(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "kept"))
    with pytest.raises(UsageError, match="cannot be written") as error:
        keep_decoded([opened(root)], "disk", Silent())
    assert FOLDER in error.value.tip


@pytest.mark.parametrize("where, store", [("memory", MemoryStore), ("disk", DiskStore)])
def test_a_full_disk_is_one_warning(root, where, store, monkeypatch, caplog):
    dataset = kept(opened(root), where)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "put", full)
    for index in range(3):
        assert same(read(dataset, index), opened(root).read(index))
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()


def test_nothing_unfinished_stays_in_the_folder(root, disk, monkeypatch):
    dataset = kept(opened(root), "disk")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    read(dataset, 0)
    assert not [path for path in disk.rglob("*") if path.is_file()]


def test_what_a_killed_process_left_is_removed_at_the_next_start(root, disk):
    (disk / "ab").mkdir(parents=True)
    old, new = disk / "ab/one.part", disk / "ab/two.part"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1, 1))
    kept(opened(root), "disk")
    assert not old.exists() and new.exists()


def test_a_slot_of_memory_is_never_replaced():
    store, key = MemoryStore([slot_size(4, 6, 0)]), b"k" * 32
    fill(store, 0, key, 1, (4, 6))
    fill(store, 0, b"n" * 32, 2, (4, 6))
    image, _ = unpacked(store.get(0, ""), key, check=True)
    assert (image == 1).all()
    assert packed((image, None), key).size == slot_size(4, 6, 0)
