"""Images of a pool: no loss of labels counts them, and every other loss does."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.features.graphs import node_labels, node_validity
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

CLASSES, CHANNELS, STRIDE = 5, 3, 8

LABELS = {
    "cross_entropy": [{}, {"ohem": 0.3}, {"class_weights": [1, 2, 0.5, 3, 1]}],
    "focal": [{}, {"class_weights": [1, 2, 0.5, 3, 1]}],
    "dice": [{}, {"per_image": True}, {"classes": "all"}],
    "lovasz": [{}, {"per_image": True}, {"classes": "all"}],
}
CLASSES_OF_LABELS = ("ifvd",)
"""Losses of features that read the classes of labels: images of a pool do not count."""
OTHERS = sorted(set(registry.names("losses")) - set(LABELS) - set(CLASSES_OF_LABELS))
# These maps have few channels; the memories of cirkd read labels.
SMALL = {
    "graph_match": {"groups": 1},
    "af_dcd": {"groups": 3, "pool": 1, "patch": 2},
    "cirkd": {"pixel": 0.0, "region": 0.0},
}
GRID = (6, 8)


def started(name: str, **arguments):
    """The loss on the taps ``s``, ``t`` and ``logits``, and the names of those it reads."""
    takes = registry.takes("losses", name)
    small = SMALL.get(name, {})
    sides = {key: key[0] for key in ("student", "teacher") if key in takes}
    torch.manual_seed(0)
    loss = registry.find("losses", name).build(**small, **sides, **arguments)
    logits = Tap("logits", STRIDE, CLASSES, "logits")
    student, teacher = (
        {side: Tap(side, STRIDE, CHANNELS, "features"), "logits": logits} for side in "st"
    )
    reads = loss.student_taps(student), loss.teacher_taps(teacher)
    loss.start({n: student[n] for n in reads[0]}, {n: teacher[n] for n in reads[1]}, CLASSES)
    return loss, reads


def batch_of(number: int, void: float = 0.2) -> Batch:
    generator = torch.Generator().manual_seed(5)
    size = (number, GRID[0] * STRIDE, GRID[1] * STRIDE)
    labels = torch.randint(CLASSES, size, generator=generator)
    labels[torch.rand(size, generator=generator) < void] = 255
    images = torch.rand(number, 3, *size[1:], generator=generator)
    numbers = torch.arange(number)
    return Batch(images, labels, torch.ones(size, dtype=torch.bool), numbers, numbers * 0)


def taps_of(names, number: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = {"logits": CLASSES}
    return {
        name: torch.randn(
            number, channels.get(name, CHANNELS), *GRID, generator=generator, dtype=torch.float64
        )
        for name in names
    }


def with_pool(batch: Batch, rows: list[bool]) -> Batch:
    """The batch with these rows as images of a pool."""
    from_pool = torch.tensor(rows)
    labels = batch.labels.masked_fill(from_pool[:, None, None], batch.ignore)
    return dataclasses.replace(batch, labels=labels, from_pool=from_pool)


def value(loss, reads, batch: Batch, taps, teacher) -> torch.Tensor:
    target = loss.target(teacher, batch, dict.fromkeys(taps, GRID)) if reads[1] else {}
    return loss(taps, target, batch, 0)


def test_every_loss_is_here():
    for name in (*LABELS, *CLASSES_OF_LABELS):
        assert started(name)[0].needs_labels
    assert not any(started(name)[0].needs_labels for name in OTHERS)


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, each) for name, rows in LABELS.items() for each in rows]
)
def test_losses_of_labels_equal_those_of_the_labelled_images_alone(name, arguments):
    loss, reads = started(name, **arguments)
    batch = with_pool(batch_of(4), [False, True, False, True])
    taps = taps_of(reads[0], 4)
    taps["logits"].requires_grad_(True)
    mixed = loss(taps, {}, batch, 0)
    mixed.backward()
    gradient = taps["logits"].grad
    alone = {key: x.detach()[[0, 2]].requires_grad_(True) for key, x in taps.items()}
    labelled = batch_of(4)
    labelled = dataclasses.replace(
        labelled,
        **{
            key: getattr(labelled, key)[[0, 2]]
            for key in ("images", "labels", "valid", "indices", "views")
        },
    )
    expected = loss(alone, {}, labelled, 0)
    expected.backward()
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(gradient[[0, 2]], alone["logits"].grad, atol=1e-12)
    assert not gradient[[1, 3]].any()
    assert loss.count(batch, dict.fromkeys(taps, GRID)) == loss.count(
        labelled, dict.fromkeys(alone, GRID)
    )


@pytest.mark.parametrize("name", CLASSES_OF_LABELS)
def test_losses_of_features_and_labels_equal_those_of_the_labelled_images(name):
    loss, reads = started(name)
    batch = batch_of(3)
    taps, teacher = taps_of(reads[0], 3), taps_of(reads[1], 3, seed=1)
    for tap in taps.values():
        tap.requires_grad_(True)
    mixed = value(loss, reads, with_pool(batch, [False, True, False]), taps, teacher)
    mixed.backward()
    kept = torch.tensor([0, 2])
    alone = dataclasses.replace(
        batch,
        **{
            key: getattr(batch, key)[kept]
            for key in ("images", "labels", "valid", "indices", "views")
        },
    )
    some = [{key: x.detach()[kept] for key, x in side.items()} for side in (taps, teacher)]
    assert mixed.item() == pytest.approx(value(loss, reads, alone, *some).item(), rel=1e-9)
    for tap in taps.values():
        assert tap.grad.flatten(1).any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("name", OTHERS)
def test_other_losses_see_the_pool_as_images_without_labels(name):
    loss, reads = started(name)
    batch = batch_of(3, void=0.6)
    taps, teacher = taps_of(reads[0], 3), taps_of(reads[1], 3, seed=1)
    pool = with_pool(batch, [True, True, True])
    unlabelled = dataclasses.replace(batch, labels=None)
    first = value(loss, reads, pool, taps, teacher)
    assert first.item() == pytest.approx(value(loss, reads, unlabelled, taps, teacher).item())
    assert first.item() > 0
    counts = [loss.count(each, dict.fromkeys(taps, GRID)) for each in (pool, unlabelled)]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", OTHERS)
def test_other_losses_learn_from_the_rows_of_the_pool(name):
    loss, reads = started(name)
    batch = with_pool(batch_of(3), [False, True, True])
    taps, teacher = taps_of(reads[0], 3), taps_of(reads[1], 3, seed=1)
    for tap in taps.values():
        tap.requires_grad_(True)
    value(loss, reads, batch, taps, teacher).backward()
    for tap in taps.values():
        assert tap.grad.flatten(1).any(1).all(), "a row without a gradient"


def test_nodes_of_the_pool_count_and_have_no_label():
    batch = batch_of(2, void=0.0)
    void = torch.full_like(batch.labels, batch.ignore)
    mixed = dataclasses.replace(batch, labels=void, from_pool=torch.tensor([False, True]))
    valid = node_validity(mixed, GRID)
    assert not valid[0].any() and valid[1].all()
    assert (node_labels(mixed, GRID, 5) == -1).all()
