"""``data.workers: auto`` follows the device's need, cores and memory, and changes no bit."""

from __future__ import annotations

import logging
import os
import time

import numpy as np
import pytest
import torch

from freqkd_cli.datasets import scenes
from freqkd_cli.runtime import threads
from freqkd_cli.runtime.memory import free_memory
from freqkd_cli.views import worker_count
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.steps import WHOLE
from freqkd_cli.views.view import ViewSpec
from freqkd_cli.views.worker_count import chosen

LARGE = {"pixels": 512 * 1024, "batch_size": 8, "free": 2**36}


@pytest.mark.parametrize(
    "case, expected",
    [
        ({"seconds": 0.01, "cores": 16, "gpu": True}, 3),  # 286 views in a second
        ({"seconds": 0.03, "cores": 16, "gpu": True}, 9),
        ({"seconds": 0.3, "cores": 16, "gpu": True}, 15),  # one core is left for the main process
        ({"seconds": 0.3, "cores": 1, "gpu": True}, 1),
        ({"seconds": 0.03, "cores": 2, "gpu": False}, 1),
        ({"seconds": 0.3, "cores": 16, "gpu": False}, 8),  # half of the cores train
        ({"seconds": 0.0, "cores": 16, "gpu": True}, 1),
        ({"seconds": 0.3, "cores": 16, "gpu": True, "free": 4 * 2**30}, 2),
        ({"seconds": 0.3, "cores": 16, "gpu": True, "free": 2**30}, 0),
    ],
)
def test_the_rule(case, expected):
    assert chosen(**LARGE | case) == expected


def views() -> ViewDataset:
    return ViewDataset(scenes.build(split="train", size=(64, 64), length=4), ViewSpec((32, 32)))


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(worker_count, "_chosen", {})


def test_auto_gives_the_same_batches_and_prints_its_choice_once(caplog):
    steps = [[(0, 0), (1, 0)], [(2, 0), (3, 0)]]
    with caplog.at_level(logging.INFO):
        batches = [list(Loader(views(), steps, "auto")) for _ in range(2)]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["data.workers auto"]
    for loaded in batches:
        for batch, plain in zip(loaded, Loader(views(), steps), strict=True):
            assert torch.equal(batch.images, plain.images)


def test_cores_and_memory_are_shared_by_the_processes_of_a_machine(monkeypatch):
    given = {}
    monkeypatch.setattr(threads, "cores", lambda: 16)
    monkeypatch.setattr(worker_count, "free_memory", lambda: 2**34)
    monkeypatch.setattr(worker_count, "chosen", lambda *_, **keys: given.update(keys) or 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count.worker_count("auto", views(), [(0, 0)], gpu=False) == 1
    assert given["cores"] == 4 and given["free"] == 2**32


def test_an_integer_stays_as_it_is_and_no_batch_needs_no_worker():
    assert worker_count.worker_count(7, views(), [(0, 0)], gpu=False) == 7
    assert worker_count.worker_count("auto", views(), [], gpu=False) == 0


class Slow:
    """Images that take long to decode, and are kept."""

    labelled, name, kept = False, str, property(lambda self: self)

    def __init__(self) -> None:
        self.decoded: list[int] = []

    def image_size(self, index: int) -> tuple[int, int]:
        return 32, 32

    def read(self, _: object, index: int):
        if index not in self.decoded:
            self.decoded.append(index)
            time.sleep(0.5)
        return np.zeros((32, 32, 3), np.uint8), None


def test_a_kept_image_is_timed_without_its_decoding(monkeypatch):
    seconds = []
    monkeypatch.setattr(worker_count, "chosen", lambda time, *_, **__: seconds.append(time) or 1)
    views = ViewDataset(Slow(), ViewSpec((32, 32)))
    worker_count.worker_count("auto", views, [(0, 0), (1, 0)], gpu=False)
    assert seconds[0] < 0.25 and views.images.decoded == [0]


def test_a_later_loader_of_the_same_kind_makes_no_view_to_choose(monkeypatch):
    """Every evaluation made two."""
    made = []
    monkeypatch.setattr(worker_count, "_seconds", lambda *item: made.append(item) or 0.0)
    split, batch = scenes.build(split="val", size=(64, 64), length=4), [(0, WHOLE), (1, WHOLE)]
    for _ in range(3):
        Loader(ViewDataset(split, None), [batch], "auto")
    assert len(made) == 1
    Loader(views(), [[(0, 0), (1, 0)]], "auto")
    Loader(ViewDataset(split, None), [batch[:1]], "auto")
    assert len(made) == 3


def test_the_device_is_that_of_the_run_and_not_of_the_machine(monkeypatch):
    given = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(worker_count, "chosen", lambda *_, gpu, **__: given.append(gpu) or 0)
    Loader(views(), [[(0, 0)]], "auto", device=torch.device("cpu"))
    Loader(views(), [[(0, 0)]], "auto", device="mps")
    assert given == [False, True]


def test_free_memory_is_no_more_than_there_is():
    assert 0 < free_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
