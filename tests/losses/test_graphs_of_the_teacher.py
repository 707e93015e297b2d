"""Graph losses on features of the embedded teacher: scaling, ties of heads, order of nodes."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor

from freqkd_cli import registry
from freqkd_cli.datasets import scenes
from freqkd_cli.features.graphs import GraphSide
from freqkd_cli.features.taps import Tap
from freqkd_cli.models import segformer
from freqkd_cli.spectral.assignment import wasserstein
from freqkd_cli.spectral.graph_forms import Gram
from freqkd_cli.spectral.modes import low_rank, shares
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import whole_batches

IMAGES, SIZE, GRID = 8, (192, 256), (6, 8)
PAIRS = [("stage4", "keys4"), ("decoder", "keys3"), ("stage4", "attention4")]
WITHOUT_LABELS = torch.ones(IMAGES, GRID[0] * GRID[1], dtype=torch.bool)


@lru_cache
def features() -> tuple[Batch, dict[str, Tap], dict[str, Tensor]]:
    """The first images of val, and the taps of the embedded teacher."""
    dataset = scenes.build(split="val", size=SIZE)
    batch = next(iter(whole_batches(dataset, IMAGES, 0, indices=range(IMAGES))))
    batch = Batch(batch.images, None, batch.valid, batch.indices, batch.views)
    model = segformer.build(classes=12, weights="embedded").eval().float()
    names = [*dict.fromkeys(name for pair in PAIRS for name in pair)]
    with torch.no_grad():
        tensors = model(batch.images, taps=names)
    taps = {tap.name: tap for tap in segformer.taps(classes=12, weights="embedded")}
    coarse = torch.nn.functional.adaptive_avg_pool2d(tensors["decoder"], GRID)
    return batch, taps, {name: tensors[name] for name in names} | {"decoder": coarse}


def reordered(x: Tensor, kind: str, order: Tensor) -> Tensor:
    """A tap with its nodes in another order."""
    if kind == "graph":
        return x[:, :, order][:, :, :, order]
    if kind == "nodes":
        return x[:, :, order]
    return x.flatten(2)[:, :, order].view_as(x)


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
@pytest.mark.parametrize("matching", ["closest", "complementary"])
def test_the_order_of_the_nodes_does_not_change_the_loss(student, teacher, matching):
    """By sorted spectra, the loss of these eight images changed by 0.1 to 1.6 %."""
    batch, taps, tensors = features()
    build = registry.find("losses", "graph_match").build
    loss = build(student=student, teacher=teacher, matching=matching, groups=4)
    of_student, of_teacher = taps[student], taps[teacher]
    if student == "decoder":  # pooled to the nodes above
        of_student = Tap("decoder", 32, of_student.channels)
    loss.start({student: of_student}, {teacher: of_teacher}, 12)

    def value(order: Tensor) -> float:
        given = reordered(tensors[teacher], of_teacher.kind, order)
        target = loss.target({teacher: given}, batch, {})
        return float(
            loss({student: reordered(tensors[student], "features", order)}, target, batch, 0)
        )

    plain = value(torch.arange(GRID[0] * GRID[1]))
    for seed in range(3):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(GRID[0] * GRID[1]))
        assert value(order) == pytest.approx(plain, abs=1e-6)


def ties(table: np.ndarray, sign: int) -> bool:
    """Whether the two best ways to pair the heads ``[Ht, Hs]`` differ by less than 1e-6."""
    ways = itertools.permutations(range(table.shape[0]), table.shape[1])
    sums = sorted(sign * sum(table[way, range(len(way))]) for way in ways)
    return sums[1] - sums[0] < 1e-6 * abs(sums[0])


def test_ties_are_rare():
    """And common among distances of sorted spectra, which are sums of one number per head."""
    _, taps, tensors = features()
    student, teacher = (
        GraphSide(taps[name], heads=4)(tensors[name], GRID, WITHOUT_LABELS)
        for name in ("stage4", "keys4")
    )
    assert isinstance(student, Gram) and (student.heads, teacher.heads) == (4, 5)
    p, q = (shares(graph.eigenvalues(20)) for graph in (student, teacher))
    spectra = wasserstein(p[:, None], q[:, :, None]).double().numpy()
    modes = low_rank(teacher.modes(), 20)
    graphs = [
        student.correlation_distance(modes.values[:, i : i + 1], modes.vectors[:, i : i + 1])
        for i in range(teacher.heads)
    ]
    graphs = torch.stack(graphs, 1).double().numpy()
    for sign in (1, -1):
        assert sum(ties(table, sign) for table in spectra) >= IMAGES // 2
        assert not any(ties(table, sign) for table in graphs)


def test_a_power_turns_the_gradient_and_the_stretch_of_cass_does_not():
    batch, taps, tensors = features()

    def gradient(**scaling: object) -> Tensor:
        build = registry.find("losses", "graph_lowrank").build
        loss = build(student="stage4", teacher="keys4", **scaling)
        loss.start(taps, taps, 12)
        target = loss.target(tensors, batch, {})
        student = tensors["stage4"].clone().requires_grad_(True)
        return torch.autograd.grad(loss({"stage4": student}, target, batch, 0), student)[0]

    plain = gradient(scaling="none").flatten(1)
    cass, square, cube = (
        float(torch.cosine_similarity(gradient(**scaling).flatten(1), plain).mean())
        for scaling in (
            {"scaling": "cass"},
            {"scaling": "power"},
            {"scaling": "power", "power": 3.0},
        )
    )
    assert cass > 0.999 > 0.985 > square > cube > 0.9
