"""Graph losses against numpy in float64, floors included, to 1e-6; what counts; what is refused."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor

from freqkd_cli import registry
from freqkd_cli.cache.shards import Storage, rounded
from freqkd_cli.errors import RecipeError
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses import _graph_arguments
from freqkd_cli.views.batch import Batch

STRIDE, GRID, NODES = 8, (3, 4), 12
FEATURES = Tap("s", STRIDE, 6)
KEYS = Tap("t", STRIDE, 8, "nodes", heads=4)
ATTENTION = Tap("t", STRIDE, 2, "graph", heads=2)
MAP = Tap("t", STRIDE, 8)
SEPARATE = {"graph": "query_key", "projection": "separate", "groups": 2, "width": 4}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def batch_of(number: int, void: tuple[int, ...] = ()) -> Batch:
    """Samples whose number is in ``void`` have no labelled pixel."""
    labels = torch.zeros(number, GRID[0] * STRIDE, GRID[1] * STRIDE, dtype=torch.int64)
    labels[list(void)] = 255
    images, every = torch.zeros(number, 3, *labels.shape[1:]), torch.ones_like(labels).bool()
    return Batch(images, labels, every, torch.arange(number), torch.zeros(number))


def started(name: str, student: Tap = FEATURES, teacher: Tap = MAP, **arguments):
    torch.manual_seed(0)
    loss = registry.find("losses", name).build(student="s", teacher="t", **arguments)
    loss.start({"s": student}, {"t": teacher}, 3)
    return loss


def value(loss, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:
    batch = batch or batch_of(len(student))
    return loss({"s": student}, loss.target({"t": teacher}, batch, {}), batch, 0)


# The definitions in numpy, one sample and head at a time


def numpy_rows(x: np.ndarray) -> np.ndarray:
    """``[N, d]`` -> centred rows of unit norm, with the floors of ``spectral/graph.py``."""
    centred, offset = x - x.mean(0), (x.mean(0) ** 2).sum()
    square = (centred**2).sum(1, keepdims=True)
    share = (square.mean() / (1e-8 * (square.mean() + offset) + 1e-12)) ** 2
    return share / (1 + share) * centred / np.sqrt(square + 1e-6 * square.mean())


def cosines(x: np.ndarray) -> np.ndarray:
    return numpy_rows(x) @ numpy_rows(x).T


def cells(x: Tensor) -> np.ndarray:
    """``[C, h, w]`` -> ``[N, C]``."""
    return x.flatten(1).mT.numpy()


def numpy_laplacian(weights: np.ndarray, kind: str) -> np.ndarray:
    weights = weights * (1 - np.eye(len(weights)))
    degrees = weights.sum(1)
    if kind == "combinatorial":
        return np.diag(degrees) - weights
    return np.eye(len(weights)) - weights / np.sqrt(np.outer(degrees, degrees))


def numpy_low_rank(graph: np.ndarray, k: int, power: float, perron: bool = False) -> np.ndarray:
    """The k strongest modes by magnitude, their eigenvalues to a power that keeps signs."""
    values, vectors = np.linalg.eigh(graph)
    if perron:
        values, vectors = values[:-1], vectors[:, :-1]
    strongest = np.argsort(-np.abs(values))[:k]
    values, vectors = values[strongest], vectors[:, strongest]
    return (vectors * np.sign(values) * np.abs(values) ** power) @ vectors.T


def apart(student: np.ndarray, teacher: np.ndarray) -> float:
    off = ~np.eye(len(student), dtype=bool)
    return 1 - np.corrcoef(student[off], teacher[off])[0, 1]


def attention(loss, x: Tensor) -> list[np.ndarray]:
    """The heads of the student's attention on one sample, symmetrised."""
    nodes = cells(x)
    nodes = nodes - nodes.mean(1, keepdims=True)
    nodes = nodes / np.sqrt((nodes**2).mean(1, keepdims=True) + 1e-6)
    queries, keys = (
        (nodes @ w.T).reshape(NODES, 2, 4) for w in loss.student_side.project.detach().numpy()
    )
    heads = [softmax(queries[:, h] @ keys[:, h].T / 2, axis=1) for h in range(2)]
    return [(head + head.T) / 2 for head in heads]


def symmetric_heads(graph: Tensor) -> list[np.ndarray]:
    return [((head + head.T) / 2).numpy() for head in graph]


@pytest.mark.parametrize("power", [2.0, 3.0])
def test_a_low_rank_graph_of_powers(power):
    loss = started("graph_lowrank", k=4, scaling="power", power=power, energy=1.0)
    student, teacher = drawn(1, 6, *GRID), drawn(1, 8, *GRID, seed=1)
    target = numpy_low_rank(cosines(cells(teacher[0])), 4, power)
    want = apart(cosines(cells(student[0])), target)
    assert value(loss, student, teacher).item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(("matching", "sign"), [("closest", 1), ("complementary", -1)])
@pytest.mark.parametrize("groups", [2, 3, 6])
def test_heads_are_matched_by_their_distance(matching, sign, groups):
    """Over all ways to pair the heads, also with fewer or more than the teacher's four."""
    wide = Tap("s", STRIDE, 12)
    loss = started("graph_match", wide, KEYS, k=4, energy=1.0, groups=groups, matching=matching)
    student, teacher = drawn(2, 12, *GRID), drawn(2, 4, NODES, 2, seed=1)
    losses = []
    for sample in range(2):
        of_teacher = [
            numpy_low_rank(cosines(keys), 2, 1.0) for keys in teacher[sample].numpy()
        ]  # of two channels, both modes; equal to those of cass up to the stretch below
        stretched = []
        for keys, plain in zip(teacher[sample].numpy(), of_teacher, strict=True):
            values, vectors = np.linalg.eigh(cosines(keys))
            low, high = values[-2:]
            vectors = vectors[:, -2:]
            stretched.append((vectors * [0.5 * low, 1.5 * high]) @ vectors.T)
            assert apart(stretched[-1], plain) < 0.2
        table = np.array(
            [
                [apart(cosines(cells(part)), graph) for graph in stretched]
                for part in student[sample].chunk(groups)
            ]
        )
        table = table if groups <= 4 else table.T
        ways = itertools.permutations(range(table.shape[1]), table.shape[0])
        pairs = min(ways, key=lambda way: sign * sum(table[range(len(way)), way]))
        matched = table[range(len(pairs)), pairs]
        losses.append(np.average(matched, weights=None if sign > 0 else matched))
    assert value(loss, student, teacher).item() == pytest.approx(np.mean(losses), abs=1e-6)


@pytest.mark.parametrize("kind", ["normalized", "combinatorial"])
def test_both_laplacians(kind):
    student, teacher = drawn(1, 6, *GRID), drawn(1, 8, *GRID, seed=1)
    weights = [np.exp((cosines(cells(x[0])) - 1) / 0.5) for x in (student, teacher)]
    a, b = (np.linalg.eigvalsh(numpy_laplacian(w, kind)) for w in weights)
    p, q = a[1:5], b[1:5]
    heat = [abs(np.exp(-t * a).sum() - np.exp(-t * b).sum()) / NODES for t in (0.1, 1.0, 10.0)]
    rows = numpy_rows(cells(student[0]))
    rows = rows - rows.mean(0)
    weights[1] *= 1 - np.eye(NODES)
    degrees = weights[1].sum(1) if kind == "normalized" else np.ones(NODES)
    square = (rows**2).sum(1)
    across = np.trace(rows.T @ numpy_laplacian(weights[1], "combinatorial") @ rows)
    smooth = across / ((degrees * square).sum() + 1e-6 * square.mean() * degrees.sum())
    wanted = {
        ("graph_laplacian", "compare", "eigenvalues"): np.abs(p - q).mean(),
        ("graph_laplacian", "compare", "heat_trace"): np.mean(heat),
        ("graph_laplacian", "compare", "smoothness"): smooth,
        ("graph_spectrum", "matrix", "laplacian"): np.abs(p / p.sum() - q / q.sum()).sum(),
    }
    for (name, key, choice), want in wanted.items():
        loss = started(name, k=4, tau=0.5, laplacian=kind, **{key: choice})
        assert value(loss, student, teacher).item() == pytest.approx(want, abs=1e-6), choice


@pytest.mark.parametrize("tau", [0.03, 0.01])
def test_smoothness_does_not_depend_on_the_size_of_the_edges(tau):
    """Edges below 1e-12 gave 0, and those below 1e-7 in a cache of half floats."""
    student, teacher = drawn(1, 6, *GRID), drawn(1, 64, *GRID, seed=1)
    cosine = cosines(cells(teacher[0])) - 2 * np.eye(NODES)
    edges = np.exp((cosine - cosine.max()) / tau)
    rows = numpy_rows(cells(student[0]))
    rows, degrees = rows - rows.mean(0), edges.sum(1)
    square = (rows**2).sum(1)
    across = np.trace(rows.T @ (np.diag(degrees) - edges) @ rows)
    want = across / ((degrees * square).sum() + 1e-6 * square.mean() * degrees.sum())
    loss = started("graph_laplacian", teacher=Tap("t", 8, 64), compare="smoothness", tau=tau)
    target = loss.target({"t": teacher.float()}, batch_of(1), {})
    halves = {name: rounded(name, x, Storage("float16")) for name, x in target.items()}
    for stored in (target, halves):
        result = loss({"s": student.float()}, stored, batch_of(1), 0)
        assert result.item() == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize("kind", ["normalized", "combinatorial"])
def test_bands_of_standardised_features_on_both_laplacians(kind):
    student, teacher = drawn(1, 8, *GRID), drawn(1, 8, *GRID, seed=1)
    teacher[:, 3] = 7.0 + 1e-5 * teacher[:, 3]  # a channel that is flat beside the others
    weights = np.exp((cosines(cells(teacher[0])) - 1) / 0.5)
    low = np.linalg.eigh(numpy_laplacian(weights, kind))[1][:, :3]

    def standardised(x: np.ndarray) -> np.ndarray:
        variance, spread, offset = x.var(0), x.var(0).mean(), (x.mean(0) ** 2).mean()
        share = (spread / (1e-8 * (spread + offset) + 1e-12)) ** 2
        return share / (1 + share) * (x - x.mean(0)) / np.sqrt(variance + 1e-6 * spread)

    a, b = (standardised(cells(x[0])) for x in (student, teacher))
    parts = [low @ low.T, np.eye(NODES) - low @ low.T]
    errors = [
        ((p @ (a - b)) ** 2).sum() / (((p @ b) ** 2).sum() + 1e-6 * (b**2).sum()) for p in parts
    ]
    for band, want in (("low", errors[0]), ("high", errors[1])):
        loss = started(
            "graph_band",
            Tap("s", STRIDE, 8),
            k=3,
            tau=0.5,
            band=band,
            laplacian=kind,
            adapter=False,
        )
        assert value(loss, student, teacher).item() == pytest.approx(want, abs=1e-6)


def test_attention_of_the_student_beside_the_teachers():
    student = drawn(1, 6, *GRID)
    given = torch.softmax(2 * drawn(1, 2, NODES, NODES, seed=1), -1)
    loss = started("graph_lowrank", teacher=ATTENTION, k=4, energy=1.0, scaling="none", **SEPARATE)
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {
        "student_side.project": (2, 8, 6)
    }
    own, other = attention(loss, student[0]), symmetric_heads(given[0])
    perron = np.linalg.eigh(np.mean(other, 0))[1][:, -1]
    project = np.eye(NODES) - np.outer(perron, perron)
    target = numpy_low_rank(np.mean(other, 0), 4, 1.0, perron=True)
    want = apart(project @ np.mean(own, 0) @ project, target)
    assert value(loss, student, given).item() == pytest.approx(want, abs=1e-6)
    for kind in ("normalized", "combinatorial"):
        loss = started("graph_laplacian", teacher=ATTENTION, k=4, laplacian=kind, **SEPARATE)
        a, b = (
            np.linalg.eigvalsh(numpy_laplacian(np.mean(heads, 0), kind))[1:5]
            for heads in (attention(loss, student[0]), other)
        )
        want = np.abs(a - b).mean()
        assert value(loss, student, given).item() == pytest.approx(want, abs=1e-6)
        result = value(loss, student.requires_grad_(True), given)
        result.backward()
        assert student.grad.abs().max() > 0 and loss.student_side.project.grad.abs().max() > 0
        student = student.detach()


# What does not count


@pytest.mark.parametrize("name", ["graph_lowrank", "graph_basis", "graph_laplacian", "graph_band"])
def test_an_offset_of_the_features_changes_nothing(name):
    """Before, rows were divided by a share of the offset as well."""
    loss = started(name, k=3)
    student, teacher = drawn(1, 6, *GRID), drawn(1, 8, *GRID, seed=1)
    plain = value(loss, student, teacher).item()
    offset = torch.zeros(1, 6, 1, 1)
    offset[:, 2] = 300.0
    assert value(loss, student + offset, teacher).item() == pytest.approx(plain, rel=1e-4)
    if loss.__class__.__name__ != "GraphBand":  # there, the adapter spreads the offset
        shifted = value(loss, student, teacher + 300.0).item()
        assert shifted == pytest.approx(plain, rel=1e-4)


def test_a_dead_channel_has_no_large_gradient_and_its_rounding_no_weight():
    """Of band features. Before, the floor was 1e-4, or a share of each channel's own mean."""
    loss = started("graph_band", Tap("s", STRIDE, 8), k=3, adapter=False, band="high")
    teacher, student = drawn(1, 8, *GRID, seed=1).float(), drawn(1, 8, *GRID).float()
    student[:, 2] = 1e-6 * student[:, 2]
    student.requires_grad_(True)
    result = value(loss, student, teacher)
    result.backward()
    largest = student.grad.abs().amax((0, 2, 3))
    others = torch.cat([largest[:2], largest[3:]])
    assert largest[2] < 400 * others.max()  # before, 1700
    small = value(loss, 1e-4 * student.detach(), 1e-4 * teacher).item()
    assert small == pytest.approx(result.item(), rel=1e-4)
    flat = teacher.clone()
    flat[:, 2] = 0.1 * torch.rand(1)  # its mean may round
    without = flat.clone()
    without[:, 2] = 0.0
    plain, rounded = (value(loss, student.detach(), x).item() for x in (without, flat))
    assert rounded == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [name for name in registry.names("losses") if name.startswith("graph_")],
)
def test_an_all_void_sample_leaves_the_mean(name):
    """Alone and in the parts of two processes. Before, it counted as 0."""
    arguments = {"k": 3} | ({"groups": 2} if name == "graph_match" else {})
    loss = started(name, teacher=Tap("t", STRIDE, 8, "nodes", heads=2), **arguments)
    student, teacher = drawn(4, 6, *GRID), drawn(4, 2, NODES, 4, seed=1)
    batch = batch_of(4, void=(1, 3))
    whole = value(loss, student, teacher, batch)
    alone = value(loss, student[[0, 2]], teacher[[0, 2]])
    assert whole.item() == pytest.approx(alone.item(), rel=1e-9) and loss.count(batch, {}) == 2
    total = 0.0
    for part in (slice(0, 2), slice(2, 3), slice(3, 4)):
        few = Batch(*(x[part] for x in (batch.images, batch.labels, batch.valid)), *[None] * 2)
        total += loss.count(few, {}) * value(loss, student[part], teacher[part], few).item()
    assert total / 2 == pytest.approx(whole.item(), rel=1e-9)
    nothing = value(loss, student[[1]].requires_grad_(True), teacher[[1]], batch_of(1, void=(0,)))
    assert nothing.item() == 0.0 and loss.count(batch_of(1, void=(0,)), {}) == 0


# What is refused, and what is warned of


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("graph_laplacian", {}),
        ("graph_laplacian", {"compare": "heat_trace"}),
        ("graph_spectrum", {"matrix": "laplacian"}),
    ],
)
def test_a_kernel_beside_attention_is_refused(name, arguments):
    with pytest.raises(RecipeError, match="different edges(.|\n)*projection: separate") as error:
        started(name, teacher=ATTENTION, k=3, **arguments)
    assert error.value.key == "teacher"
    with pytest.raises(RecipeError, match="attention of the teacher"):
        started(name, Tap("s", STRIDE, 1, "graph"), KEYS, k=3, **arguments)
    values = [  # edges of one rule, which need no kernel
        value(
            started(name, teacher=ATTENTION, k=3, tau=tau, **arguments, **SEPARATE),
            drawn(1, 6, *GRID),
            torch.softmax(drawn(1, 2, NODES, NODES, seed=1), -1),
        ).item()
        for tau in (0.1, 1.0)
    ]
    assert values[0] == values[1] > 0
    started("graph_laplacian", teacher=ATTENTION, k=3, compare="smoothness")


def test_what_two_projections_need():
    with pytest.raises(RecipeError, match="which only query_key has") as error:
        started("graph_lowrank", projection="separate")
    assert error.value.key == "projection"
    with pytest.raises(RecipeError, match="smoothness of the student's 's'") as error:
        started("graph_laplacian", compare="smoothness", **SEPARATE)
    assert (error.value.key, error.value.need) == ("projection", "projection: shared")
    loss = started("graph_spectrum", k=12, **SEPARATE)
    with pytest.raises(RecipeError, match="k of at most 11"):
        loss.check_grids({"s": GRID}, {"t": GRID})


def test_a_power_without_its_scaling_is_one_warning(caplog):
    _graph_arguments._warn_of_power.cache_clear()
    with caplog.at_level(logging.WARNING, logger="freqkd_cli"):
        for _ in range(2):
            started("graph_lowrank", k=4, power=3.0)
        started("graph_lowrank", k=4, power=3.0, scaling="power")
    assert [record.getMessage() for record in caplog.records] == [
        "power: 3 has no effect with scaling: cass; use scaling: power"
    ]
