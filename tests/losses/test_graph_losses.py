"""The graph losses: known answers, plain numpy per compacted sample, hard cases, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from freqkd_cli import registry
from freqkd_cli.cache.shards import Storage, rounded
from freqkd_cli.errors import RecipeError, ShapeError, TrainingFailed
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses.feature import build as feature
from freqkd_cli.views.batch import Batch

# Name and arguments of every form; k is small enough for the grids here.
FORMS: dict[str, tuple[str, dict]] = {
    "spectrum": ("graph_spectrum", {"k": 4}),
    "spectrum_mean_graph": ("graph_spectrum", {"k": 4, "heads": "mean_graph"}),
    "spectrum_object": ("graph_spectrum", {"k": 4, "heads": "object", "object_heads": 1}),
    "spectrum_mse": ("graph_spectrum", {"k": 4, "distance": "mse"}),
    "spectrum_laplacian": ("graph_spectrum", {"k": 4, "matrix": "laplacian", "tau": 0.5}),
    "lowrank": ("graph_lowrank", {"k": 4}),
    "lowrank_power": ("graph_lowrank", {"k": 4, "scaling": "power"}),
    "lowrank_minmax": ("graph_lowrank", {"k": 4, "distance": "minmax_mse", "scaling": "none"}),
    "lowrank_rows": ("graph_lowrank", {"k": 4, "distance": "row_kl", "tau": 0.5}),
    "lowrank_list": ("graph_lowrank", {"k": 4, "heads": [1, 0]}),
    "basis": ("graph_basis", {"k": 4}),
    "basis_cass": ("graph_basis", {"k": 4, "scaling": "cass"}),
    "match_closest": ("graph_match", {"k": 4, "groups": 2, "matching": "closest"}),
    "match_complementary": ("graph_match", {"k": 4, "groups": 2}),
    "laplacian": ("graph_laplacian", {"k": 4, "tau": 0.5}),
    "laplacian_relu": ("graph_laplacian", {"k": 4, "kernel": "relu"}),
    "laplacian_literal": (
        "graph_laplacian",
        {"k": 4, "tau": 0.5, "laplacian": "combinatorial"},
    ),
    "lowrank_separate": (
        "graph_lowrank",
        {"k": 4, "graph": "query_key", "projection": "separate", "groups": 2, "width": 4},
    ),
    "heat": ("graph_laplacian", {"compare": "heat_trace", "tau": 0.5}),
    "smoothness": ("graph_laplacian", {"compare": "smoothness", "tau": 0.5}),
    "band_low": ("graph_band", {"k": 3, "tau": 0.5}),
    "band_high": ("graph_band", {"k": 3, "tau": 0.5, "band": "high"}),
    "band_mix": ("graph_band", {"k": 3, "tau": 0.5, "band": "mix", "high_share": 0.3}),
}

STRIDE = 8
STUDENT = Tap("s", STRIDE, 6)
NODES = Tap("t", STRIDE, 8, "nodes", heads=2)
GRAPH = Tap("t", STRIDE, 2, "graph", heads=2)
MAP = Tap("t", STRIDE, 8)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def batch_of(number: int, grid=(3, 4), void=()) -> Batch:
    """Blocks of labels, one for each node; ``void`` names (sample, node) pairs."""
    cells = np.random.default_rng(3).integers(0, 3, (number, *grid))
    for sample, node in void:
        cells.reshape(number, -1)[sample, node] = 255
    labels = torch.from_numpy(cells).repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    images = torch.zeros(number, 3, *labels.shape[1:])
    return Batch(
        images,
        labels,
        torch.ones_like(labels, dtype=torch.bool),
        torch.arange(number),
        torch.zeros(number),
    )


def begun(form: str, student: Tap = STUDENT, teacher: Tap = MAP, **more):
    name, arguments = FORMS[form]
    torch.manual_seed(0)
    loss = registry.find("losses", name).build(student="s", teacher="t", **(arguments | more))
    loss.start({"s": student}, {"t": teacher}, 3)
    return loss


def value(loss, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    return loss({"s": student}, loss.target({"t": teacher}, batch, {}), batch, 0)


def teacher_of(tap: Tap, number: int, n: int, seed: int = 1) -> Tensor:
    if tap.kind == "nodes":
        return drawn(number, tap.heads, n, tap.channels // tap.heads, seed=seed)
    if tap.kind == "graph":
        return torch.softmax(2 * drawn(number, tap.heads, n, n, seed=seed), -1)
    return drawn(number, tap.channels, 3, 4, seed=seed) + 0.5


def clusters(*numbers: int) -> Tensor:
    """One-hot features of nodes in a row, ``[1, C, 1, N]``."""
    return torch.eye(max(numbers) + 1, dtype=torch.float64)[list(numbers)].T[None, :, None]


# Known answers


def plain(name: str, student: Tensor, teacher: Tensor, **arguments) -> float:
    loss = registry.find("losses", name).build(student="s", teacher="t", **arguments)
    loss.start(
        {"s": Tap("s", STRIDE, student.shape[1])}, {"t": Tap("t", STRIDE, teacher.shape[1])}, 3
    )
    return value(loss, student, teacher, batch_of(1, tuple(student.shape[-2:]))).item()


def test_spectra_of_two_and_of_three_clusters():
    """Centred, two equal clusters have one mode, three two equal ones: |1 - 1/2| + |0 - 1/2|."""
    two, three = clusters(0, 0, 0, 1, 1, 1), clusters(0, 0, 1, 1, 2, 2)
    assert plain("graph_spectrum", two, three, k=3) == pytest.approx(1.0, abs=1e-5)
    assert plain("graph_spectrum", two, three, k=3, distance="mse") == pytest.approx(
        0.5 / 3, abs=1e-5
    )
    assert plain("graph_spectrum", three, three, k=3) == pytest.approx(0.0, abs=1e-12)


def test_eigenvalues_are_blind_to_layout_and_low_rank_is_not():
    rows, columns = clusters(0, 0, 1, 1), clusters(0, 1, 0, 1)
    assert plain("graph_spectrum", rows, columns, k=3) == pytest.approx(0.0, abs=1e-9)
    assert plain("graph_laplacian", rows, columns, k=3) == pytest.approx(0.0, abs=1e-9)
    # Of six pairs, two are alike in either and none in both: correlation (-1/3 - 1/9) / (8/9).
    assert plain("graph_lowrank", rows, columns, k=3) == pytest.approx(1.5, abs=1e-5)
    assert plain("graph_lowrank", rows, columns, k=3, distance="minmax_mse") == pytest.approx(
        4 / 6, abs=1e-5
    )
    assert plain("graph_lowrank", rows, rows, k=3) == pytest.approx(0.0, abs=1e-5)
    assert plain("graph_basis", rows, columns, k=3) == pytest.approx(1.0, abs=1e-5)
    assert plain("graph_basis", rows, rows, k=3) == pytest.approx(0.0, abs=1e-9)


def test_basis_of_a_student_with_half_of_the_trace_in_each_of_two_modes():
    """The teacher has all of its trace in one of them: |1/2 - 1|^2."""
    assert plain("graph_basis", clusters(0, 1, 2, 3), clusters(0, 0, 1, 1), k=1) == pytest.approx(
        (1 / 3 - 1) ** 2, abs=1e-5
    )


def test_laplacian_of_cliques():
    """relu leaves cliques of 3 without links between: two zeros, the rest n / (n - 1) = 3/2."""
    two, three = clusters(0, 0, 0, 1, 1, 1), clusters(0, 0, 1, 1, 2, 2)
    # Without the first zero: 0, 3/2 x 4 beside 0, 0, 2 x 3.
    result = plain("graph_laplacian", two, three, k=5, kernel="relu")
    assert result == pytest.approx((1.5 + 3 * 0.5) / 5, abs=1e-5)
    heat = [
        abs((2 + 4 * np.exp(-1.5 * t)) - (3 + 3 * np.exp(-2 * t))) / 6 for t in (0.1, 1.0, 10.0)
    ]
    assert plain(
        "graph_laplacian", two, three, kernel="relu", compare="heat_trace", k=3
    ) == pytest.approx(np.mean(heat), abs=1e-5)


def test_smoothness_on_the_teachers_regions():
    two = clusters(0, 0, 0, 1, 1, 1)
    arguments = {"compare": "smoothness", "kernel": "relu", "k": 3}
    assert plain("graph_laplacian", two, two, **arguments) == pytest.approx(0.0, abs=1e-5)
    across = clusters(0, 1, 0, 1, 0, 1)  # in each clique of 3, two are linked to one that differs
    edges = np.kron(np.eye(2), np.ones((3, 3)) - np.eye(3))
    x = np.array([1.0, -1, 1, -1, 1, -1])
    want = (x @ (np.diag(edges.sum(1)) - edges) @ x) / (x @ np.diag(edges.sum(1)) @ x)
    assert plain("graph_laplacian", across, two, **arguments) == pytest.approx(want, abs=1e-5)


def test_bands_of_features_that_are_constant_over_regions():
    """On cliques without links between, the two low modes are constant over each."""
    regions = clusters(0, 0, 0, 1, 1, 1)
    inside = (
        torch.tensor([1.0, 0, -1, 1, 0, -1], dtype=torch.float64)[None, None, None]
        * torch.tensor([[1.0], [1.0]])[None, :, :, None]
    )
    teacher = torch.cat([regions, 0.1 * inside], 1)
    student = torch.cat([regions, 0.2 * inside.roll(1, -1)], 1)
    loss = registry.find("losses", "graph_band")

    def of(band: str, a: Tensor, b: Tensor) -> float:
        made = loss.build(
            student="s",
            teacher="t",
            basis="r",
            band=band,
            k=2,
            kernel="relu",
            adapter=False,
            normalize="none",
        )
        made.start(
            {"s": Tap("s", STRIDE, 4)}, {"t": Tap("t", STRIDE, 4), "r": Tap("r", STRIDE, 2)}, 3
        )
        batch = batch_of(1, (1, 6))
        return made({"s": a}, made.target({"t": b, "r": regions}, batch, {}), batch, 0).item()

    assert of("low", student, teacher) == pytest.approx(0.0, abs=1e-9)
    # High parts u = 0.2 (-1, 1, 0) and v = 0.1 (1, 0, -1) of each clique:
    # |u - v|^2 / |v|^2 = |(-3, 2, 1)|^2 / |(1, 0, -1)|^2.
    assert of("high", student, teacher) == pytest.approx(14 / 2, rel=1e-3)


# Against numpy, one sample and head at a time, on the compacted graph


def cosine_graph(x: np.ndarray) -> np.ndarray:
    """``[N, d]`` -> cosines of the centred rows."""
    x = x - x.mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def symmetric_normal(weights: np.ndarray) -> np.ndarray:
    root = 1 / np.sqrt(weights.sum(1))
    return np.eye(len(weights)) - root[:, None] * weights * root


class Reference:
    """One sample: graphs of the valid nodes by head, and the losses of them."""

    def __init__(self, student: list[np.ndarray], teacher: list[np.ndarray], perron: bool) -> None:
        self.student, self.teacher, self.perron = student, teacher, perron

    def top(self, graph: np.ndarray, k: int, perron: bool) -> np.ndarray:
        values = np.linalg.eigvalsh(graph)[::-1][int(perron) :][:k]
        return values / np.abs(values).sum()

    def strongest(
        self, k: int, scaling: str, graph: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values and vectors of the teacher's mean graph: the energy rule of 0.95 by magnitude."""
        values, vectors = np.linalg.eigh(np.mean(self.teacher, 0) if graph is None else graph)
        values, vectors = values[::-1][int(self.perron) :], vectors[:, ::-1][:, int(self.perron) :]
        order = np.argsort(-np.abs(values), kind="stable")
        values, vectors = values[order], vectors[:, order]
        held = np.cumsum(np.abs(values)) / np.abs(values).sum()
        keep = min(k, int(np.searchsorted(held, 0.95)) + 1)
        values, vectors = values[:keep], vectors[:, :keep]
        if scaling == "power":
            values = np.sign(values) * values**2
        if scaling == "cass":
            size = np.abs(values)
            low, high = size.min(), size.max()
            values = np.sign(values) * (
                (size - low) / (high - low) * (1.5 * high - 0.5 * low) + 0.5 * low
            )
        return values, vectors

    def spectrum(self, k: int, how: str = "w1") -> float:
        of_student = np.mean([self.top(g, k, False) for g in self.student], 0)
        of_teacher = np.mean([self.top(g, k, self.perron) for g in self.teacher], 0)
        return (
            np.abs(np.sort(of_student) - np.sort(of_teacher)).sum()
            if how == "w1"
            else ((of_student - of_teacher) ** 2).mean()
        )

    def lowrank(self, scaling: str, how: str) -> float:
        values, vectors = self.strongest(4, scaling)
        a, b, off = (
            np.mean(self.student, 0),
            (vectors * values) @ vectors.T,
            ~np.eye(len(vectors), dtype=bool),
        )
        if how == "correlation":
            return 1 - np.corrcoef(a[off], b[off])[0, 1]
        a, b = ((x - x[off].min()) / (x[off].max() - x[off].min()) for x in (a, b))
        if how == "minmax_mse":
            return ((a - b)[off] ** 2).mean()
        rows = []
        for i in range(len(a)):
            p, q = (np.exp(x[i, off[i]] / 0.5) / np.exp(x[i, off[i]] / 0.5).sum() for x in (b, a))
            rows.append((p * np.log(p / q)).sum())
        return float(np.mean(rows))

    def basis(self) -> float:
        values, vectors = self.strongest(4, "none")
        a = np.mean(self.student, 0)
        values = values / np.trace(np.mean(self.teacher, 0))
        error = vectors.T @ a @ vectors / np.trace(a) - np.diag(values)
        return (error**2).sum() / (values**2).sum()

    def match(self, sign: int) -> float:
        """Over all ways to pair two heads with two, by the distance that is the loss."""
        apart = np.empty((2, 2))
        for j in range(2):
            values, vectors = self.strongest(4, "cass", self.teacher[j])
            target, off = (vectors * values) @ vectors.T, ~np.eye(len(vectors), dtype=bool)
            for i in range(2):
                apart[i, j] = 1 - np.corrcoef(self.student[i][off], target[off])[0, 1]
        pairs = min(
            ([0, 1], [0, 1]), ([0, 1], [1, 0]), key=lambda way: sign * apart[tuple(way)].sum()
        )
        matched = apart[tuple(pairs)]
        return np.average(matched, weights=None if sign > 0 else matched)

    def edges(self, graphs: list[np.ndarray], how: str, given: bool) -> np.ndarray:
        graph = np.mean(graphs, 0)
        weights = (
            graph if given else np.exp((graph - 1) / 0.5) if how == "exp" else np.maximum(graph, 0)
        )
        return weights * (1 - np.eye(len(graph)))

    def laplacian(self, how: str, compare: str, literal: bool = False) -> float:
        of_student, of_teacher = (
            self.edges(self.student, how, False),
            self.edges(self.teacher, how, self.perron),
        )
        a, b = (
            np.linalg.eigvalsh(np.diag(w.sum(1)) - w if literal else symmetric_normal(w))
            for w in (of_student, of_teacher)
        )
        if compare == "eigenvalues":
            return np.abs(a[1:5] - b[1:5]).mean()
        if compare == "shares":
            return np.abs(a[1:5] / a[1:5].sum() - b[1:5] / b[1:5].sum()).sum()
        return np.mean(
            [abs(np.exp(-t * a).sum() - np.exp(-t * b).sum()) / len(a) for t in (0.1, 1.0, 10.0)]
        )


REFERENCES = {
    "spectrum": lambda r: r.spectrum(4),
    "spectrum_mse": lambda r: r.spectrum(4, "mse"),
    "spectrum_laplacian": lambda r: r.laplacian("exp", "shares"),
    "lowrank": lambda r: r.lowrank("cass", "correlation"),
    "lowrank_power": lambda r: r.lowrank("power", "correlation"),
    "lowrank_minmax": lambda r: r.lowrank("none", "minmax_mse"),
    "lowrank_rows": lambda r: r.lowrank("cass", "row_kl"),
    "lowrank_list": lambda r: r.lowrank("cass", "correlation"),
    "basis": lambda r: r.basis(),
    "match_closest": lambda r: r.match(1),
    "match_complementary": lambda r: r.match(-1),
    "laplacian": lambda r: r.laplacian("exp", "eigenvalues"),
    "laplacian_relu": lambda r: r.laplacian("relu", "eigenvalues"),
    "laplacian_literal": lambda r: r.laplacian("exp", "eigenvalues", literal=True),
    "heat": lambda r: r.laplacian("exp", "heat"),
}
VOID = ((0, 2), (0, 7), (1, 0), (1, 5), (1, 11))


def reference(
    form: str, groups: int, student: Tensor, teacher: Tensor, tap: Tap, batch: Batch
) -> float:
    valid = (batch.labels[:, ::STRIDE, ::STRIDE].flatten(1) != 255).numpy()
    result = []
    for sample in range(len(batch)):
        keep = valid[sample]
        of_student = [
            cosine_graph(x.numpy().T[keep]) for x in student[sample].flatten(1).chunk(groups)
        ]
        if tap.kind == "graph":
            of_teacher = [
                (w[keep][:, keep] + w[keep][:, keep].T) / 2 for w in teacher[sample].numpy()
            ]
        elif tap.kind == "nodes":
            of_teacher = [cosine_graph(x[keep]) for x in teacher[sample].numpy()]
        else:
            of_teacher = [cosine_graph(teacher[sample].flatten(1).numpy().T[keep])]
        result.append(REFERENCES[form](Reference(of_student, of_teacher, tap.kind == "graph")))
    return float(np.mean(result))


# Of the pairs of form and tap, those whose reference is written for one head, or for two.
OF_ONE, OF_TWO = {"spectrum_laplacian"}, {"lowrank_list", "match_closest", "match_complementary"}
# Forms that refuse a teacher's attention beside features of the student.
OF_KERNELS = {
    "spectrum_laplacian",
    "laplacian",
    "laplacian_relu",
    "laplacian_literal",
    "heat",
}
CASES = [
    pytest.param(form, tap, id=f"{form}-{tap.kind}")
    for form in sorted(REFERENCES)
    for tap in (NODES, GRAPH, MAP)
    if not (form in OF_ONE and tap.heads > 1)
    and not (form in OF_TWO and tap.heads == 1)
    and not (form in OF_KERNELS and tap.kind == "graph")
]


@pytest.mark.parametrize(("form", "tap"), CASES)
def test_every_form_equals_numpy_on_the_compacted_graph(form, tap):
    groups = FORMS[form][1].get("groups", 1)
    student, teacher, batch = drawn(2, 6, 3, 4), teacher_of(tap, 2, 12), batch_of(2, void=VOID)
    result = value(begun(form, teacher=tap), student, teacher, batch).item()
    assert result == pytest.approx(reference(form, groups, student, teacher, tap, batch), abs=1e-5)


def test_smoothness_and_bands_equal_numpy_on_the_compacted_graph():
    batch = batch_of(1, void=((0, 2), (0, 7)))
    student, teacher = drawn(1, 6, 3, 4), teacher_of(MAP, 1, 12)
    keep = (batch.labels[0, ::STRIDE, ::STRIDE].flatten() != 255).numpy()
    x, y = (z[0].flatten(1).numpy().T[keep] for z in (student, teacher))
    weights = np.exp((cosine_graph(y) - 1) / 0.5) * (1 - np.eye(len(y)))
    rows = x - x.mean(0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows - rows.mean(0)
    degree = np.diag(weights.sum(1))
    smooth = np.trace(rows.T @ (degree - weights) @ rows) / np.trace(rows.T @ degree @ rows)
    assert value(begun("smoothness"), student, teacher, batch).item() == pytest.approx(
        smooth, abs=1e-5
    )
    low = np.linalg.eigh(symmetric_normal(weights))[1][:, :3]
    low = low @ low.T
    for form, high in (("band_low", 0.0), ("band_high", 1.0), ("band_mix", 0.3)):
        loss = begun(form)
        a = x @ loss.adapter.weight.detach().double().numpy().T
        a, b = ((z - z.mean(0)) / z.std(0) for z in (a, y))
        parts = [
            ((p @ (a - b)) ** 2).sum() / ((p @ b) ** 2).sum() for p in (low, np.eye(len(y)) - low)
        ]
        want = (1 - high) * parts[0] + high * parts[1]
        assert value(loss, student, teacher, batch).item() == pytest.approx(want, rel=2e-5)


# Invariances


def test_the_basis_form_does_not_change_when_equal_modes_are_rotated():
    loss = begun("basis", k=3)
    batch, student = batch_of(1), drawn(1, 6, 3, 4)
    target = loss.target({"t": drawn(1, 8, 3, 4, seed=1)}, batch, {})
    target["values"] = torch.tensor([[[0.4, 0.2, 0.2]]], dtype=torch.float64)
    turn = torch.block_diag(-torch.eye(1), torch.linalg.qr(drawn(2, 2))[0]).double()
    turned = target | {"vectors": target["vectors"] @ turn}
    torch.testing.assert_close(
        loss({"s": student}, target, batch, 0), loss({"s": student}, turned, batch, 0)
    )
    lowrank = begun("lowrank", k=3)
    torch.testing.assert_close(
        lowrank({"s": student}, target, batch, 0), lowrank({"s": student}, turned, batch, 0)
    )


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"lowrank_list"}))
def test_void_nodes_change_nothing(form):
    loss, batch = begun(form), batch_of(2, void=VOID)
    student, teacher = drawn(2, 6, 3, 4), teacher_of(MAP, 2, 12)
    other = [x.clone() for x in (student, teacher)]
    for sample, node in VOID:
        for x in other:
            x[sample, :, node // 4, node % 4] = 1e4
    torch.testing.assert_close(value(loss, *other, batch), value(loss, student, teacher, batch))


def test_heads_are_matched_whatever_their_order():
    student = drawn(1, 6, 3, 4)
    nodes = student.flatten(2).unflatten(1, (2, 3)).mT.flip(1)
    loss = begun(
        "match_closest", teacher=Tap("t", STRIDE, 6, "nodes", heads=2), scaling="none", energy=1.0
    )
    assert value(loss, student, nodes, batch_of(1)).item() == pytest.approx(0.0, abs=1e-6)


def test_a_student_as_graph_and_one_with_a_projection():
    batch, teacher = batch_of(2), teacher_of(NODES, 2, 12)
    affinity = torch.softmax(drawn(2, 1, 12, 12), -1).requires_grad_(True)
    graph = begun("lowrank", Tap("s", STRIDE, 1, "graph"), NODES)
    value(graph, affinity, teacher, batch).backward()
    assert affinity.grad.abs().max() > 0
    loss = begun("lowrank", teacher=NODES, graph="query_key", groups=2, width=4)
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {
        "student_side.project": (8, 6)
    }
    value(loss, drawn(2, 6, 3, 4), teacher, batch).backward()
    assert loss.student_side.project.grad.abs().max() > 0


def test_finer_maps_are_pooled_onto_the_nodes():
    loss, batch, teacher = (
        begun("lowrank", Tap("s", STRIDE // 2, 6), NODES),
        batch_of(2),
        teacher_of(NODES, 2, 12),
    )
    student = drawn(2, 6, 6, 8)
    means = student.unflatten(2, (3, 2)).unflatten(4, (4, 2)).mean((3, 5))
    torch.testing.assert_close(
        value(loss, student, teacher, batch),
        value(begun("lowrank", teacher=NODES), means, teacher, batch),
    )


# Graphs of the model's own: attention and state affinity


def perron_free(graph: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and vectors without the largest mode, by magnitude, and the vector of that mode."""
    values, vectors = np.linalg.eigh(graph)
    order = np.argsort(-np.abs(values[:-1]), kind="stable")
    return values[order], vectors[:, order], vectors[:, -1]


@pytest.mark.parametrize("form", ["lowrank", "lowrank_minmax", "lowrank_rows", "match_closest"])
def test_equal_graphs_have_no_distance(form):
    """With attention to a few patches and all of its modes, both sides lose the same mode."""
    hubs = torch.softmax(drawn(2, 2, 12, 12) + 3 * drawn(2, 1, 1, 12, seed=2), -1)
    loss = begun(
        form, Tap("s", STRIDE, 2, "graph", heads=2), GRAPH, k=11, energy=1.0, scaling="none"
    )
    assert value(loss, hubs, hubs, batch_of(2)).item() == pytest.approx(0.0, abs=2e-5)


def test_a_graph_beside_attention_and_beside_features_equals_numpy():
    batch, keep = batch_of(1, void=((0, 2), (0, 7))), [n for n in range(12) if n not in (2, 7)]
    student, attention = (torch.softmax(2 * drawn(1, 2, 12, 12, seed=seed), -1) for seed in (0, 4))
    features, off = teacher_of(MAP, 1, 12), ~np.eye(len(keep), dtype=bool)
    of_student, of_teacher = (
        ((w + w.mT) / 2)[0].mean(0).numpy()[np.ix_(keep, keep)] for w in (student, attention)
    )
    cosines = cosine_graph(features[0].flatten(1).numpy().T[keep])
    values, vectors, perron = perron_free(of_teacher)
    of_features = np.linalg.eigh(cosines)
    order = np.argsort(-np.abs(of_features[0]), kind="stable")
    beside = {"attention": (GRAPH, attention, values, vectors, perron)}
    beside["features"] = (
        MAP,
        features,
        of_features[0][order],
        of_features[1][:, order],
        np.full(len(keep), len(keep) ** -0.5),
    )
    for tap, given, strengths, modes, lost in beside.values():
        loss = begun(
            "lowrank", Tap("s", STRIDE, 2, "graph", heads=2), tap, energy=1.0, scaling="none"
        )
        target = (modes[:, :4] * strengths[:4]) @ modes[:, :4].T
        project = np.eye(len(keep)) - np.outer(lost, lost)
        want = 1 - np.corrcoef((project @ of_student @ project)[off], target[off])[0, 1]
        assert value(loss, student, given, batch).item() == pytest.approx(want, abs=2e-5)


EVEN = torch.full((1, 2, 12, 12), 1 / 12)
BLOCKS = torch.block_diag(torch.full((6, 6), 1 / 6), torch.full((6, 6), 1 / 6)).expand(1, 2, 12, 12)
GRAPHS = {
    "even": EVEN,
    "nearly even": torch.softmax(1e-4 * drawn(1, 2, 12, 12).float(), -1),
    "alone": torch.eye(12).expand(1, 2, 12, 12),
}
OF_GRAPHS = sorted(
    form
    for form in FORMS
    if not form.startswith("band") and form not in ("lowrank_list", "smoothness")
)
OF_PROJECTIONS = sorted(set(OF_GRAPHS) - {"lowrank_separate"})
SEPARATE = {"graph": "query_key", "projection": "separate", "width": 4}


def bounded(loss, student: Tensor, teacher: Tensor, batch: Batch) -> float:
    """The loss, whose gradients are finite and not large."""
    student = student.clone().requires_grad_(True)
    result = value(loss, student, teacher, batch)
    gradients = torch.autograd.grad(result, [student, *loss.parameters()])
    assert torch.isfinite(result) and all(
        torch.isfinite(g).all() and g.abs().max() < 1e4 for g in gradients
    )
    return result.item()


@pytest.mark.parametrize("form", OF_GRAPHS)
@pytest.mark.parametrize("graph", [*GRAPHS, "blocks"])
def test_graphs_without_relations_leave_every_loss_bounded(form, graph):
    """The other side is what the form takes beside a graph: features, or attention."""
    weights, kernels = (GRAPHS | {"blocks": BLOCKS})[graph], form in OF_KERNELS
    teacher = GRAPH if kernels else MAP
    some = teacher_of(teacher, 1, 12).float()
    for void in ((), [(0, n) for n in range(9)], [(0, n) for n in range(12)]):
        batch = batch_of(1, void=void)
        if form != "lowrank_separate":
            loss = begun(form, Tap("s", STRIDE, 2, "graph", heads=2), teacher)
            assert bounded(loss, weights, some, batch) < 200
        loss = begun(form, teacher=GRAPH, **(SEPARATE if kernels else {}))
        assert bounded(loss, drawn(1, 6, 3, 4).float(), weights, batch) < 200


@pytest.mark.parametrize("form", OF_PROJECTIONS)
@pytest.mark.parametrize(
    "case",
    ["constant student", "zero student", "huge", "one node", "all void", "equal eigenvalues"],
)
def test_projections_stay_bounded(form, case):
    student, teacher, batch = hard_cases()[case]
    assert bounded(begun(form, graph="query_key", width=4), student, teacher, batch) < 200
    attention = torch.softmax(2 * drawn(1, 2, len(teacher[0, 0].flatten()), 1).float(), -2).mT
    attention = attention.expand(-1, -1, attention.shape[-1], -1)
    assert bounded(begun(form, teacher=GRAPH, **SEPARATE), student, attention, batch) < 200


# Hard cases


def hard_cases() -> dict[str, tuple[Tensor, Tensor, Batch]]:
    grid, some = (3, 4), drawn(1, 8, 3, 4, seed=1).float()
    alike = torch.eye(6)[torch.arange(12) % 3].T.reshape(1, 6, *grid)
    return {
        "equal eigenvalues": (alike, some, batch_of(1)),
        "equal eigenvalues on both sides": (
            alike,
            torch.cat([alike, alike[:, :2]], 1),
            batch_of(1),
        ),
        "constant student": (
            0.7 * torch.arange(1.0, 7)[None, :, None, None].expand(1, 6, *grid),
            some,
            batch_of(1),
        ),
        "zero student": (torch.zeros(1, 6, *grid), some, batch_of(1)),
        "constant teacher": (
            drawn(1, 6, *grid).float(),
            torch.full((1, 8, *grid), 0.7),
            batch_of(1),
        ),
        "huge": (1e6 * drawn(1, 6, *grid).float(), some, batch_of(1)),
        "one node": (drawn(1, 6, 1, 1).float(), some[..., :1, :1], batch_of(1, (1, 1))),
        "one valid node": (
            drawn(1, 6, *grid).float(),
            some,
            batch_of(1, void=[(0, i) for i in range(11)]),
        ),
        "three valid nodes": (
            drawn(1, 6, *grid).float(),
            some,
            batch_of(1, void=[(0, i) for i in range(9)]),
        ),
        "all void": (
            drawn(1, 6, *grid).float(),
            some,
            batch_of(1, void=[(0, i) for i in range(12)]),
        ),
    }


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"lowrank_list"}))
@pytest.mark.parametrize("case", sorted(hard_cases()))
def test_gradients_stay_finite_and_bounded(form, case):
    student, teacher, batch = hard_cases()[case]
    student = student.clone().requires_grad_(True)
    result = value(begun(form), student, teacher, batch)
    gradient = torch.autograd.grad(result, student)[0]
    assert torch.isfinite(result) and torch.isfinite(gradient).all()
    assert gradient.abs().max() < 1e4
    if case in ("one node", "one valid node", "all void"):
        assert result.item() == 0.0 and not gradient.any()


@pytest.mark.parametrize(
    "form", sorted(set(FORMS) - {"lowrank_list", "match_complementary", "spectrum_object"})
)
def test_gradcheck(form):
    loss, batch = begun(form), batch_of(2, void=VOID)
    target = loss.target({"t": teacher_of(MAP, 2, 12)}, batch, {})
    student = drawn(2, 6, 3, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss({"s": x}, target, batch, 0), (student,))


@pytest.mark.parametrize("tap", [NODES, GRAPH, MAP], ids=lambda tap: tap.kind)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_cache_of_half_floats_changes_no_loss(tap, scale):
    """And the shapes of what it holds do not depend on what is void."""
    student, batch = drawn(2, 6, 3, 4).float(), batch_of(2, void=VOID)
    for form in FORMS:
        if tap is not MAP or form != "lowrank_list":
            if tap.kind == "graph" and (form.startswith("band") or form in OF_KERNELS):
                continue
            loss = begun(form, teacher=tap)
            teacher = teacher_of(tap, 2, 12).float() * (1.0 if tap.kind == "graph" else scale)
            target = loss.target({"t": teacher}, batch, {})
            halves = {name: rounded(name, x, Storage("float16")) for name, x in target.items()}
            a, b = (loss({"s": student}, t, batch, 0).item() for t in (target, halves))
            assert abs(a - b) < 1e-3 * max(1.0, abs(a)), form
            full = loss.target({"t": teacher}, batch_of(2), {})
            assert {n: x.shape for n, x in full.items()} == {n: x.shape for n, x in target.items()}


def test_a_step_decomposes_no_teacher_graph(monkeypatch):
    """A step decomposes only the student's graph, whose eigenvalues carry the gradient."""
    batch, teacher, student = batch_of(1), teacher_of(NODES, 1, 12), drawn(1, 6, 3, 4)
    made = {
        form: begun(form, teacher=NODES)
        for form in ("lowrank", "basis", "match_closest", "smoothness", "band_mix")
    }
    targets = {form: loss.target({"t": teacher}, batch, {}) for form, loss in made.items()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("eigenvectors in a step")

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    for form, loss in made.items():
        assert torch.isfinite(loss({"s": student}, targets[form], batch, 0))


def test_labels_choose_the_heads_and_no_labels_fall_back_on_rank():
    batch = batch_of(1)
    labels = batch.labels[0, ::STRIDE, ::STRIDE].flatten()
    seen = torch.nn.functional.one_hot(labels, 4).double()[None] + 0.05 * drawn(1, 12, 4)
    nodes = torch.stack([drawn(1, 12, 4, seed=5), seen], 1)
    loss, alone = (
        begun("spectrum_object", teacher=NODES),
        begun("spectrum", teacher=NODES, heads=[1]),
    )
    torch.testing.assert_close(
        loss.target({"t": nodes}, batch, {})["spectrum"],
        alone.target({"t": nodes}, batch, {})["spectrum"],
    )
    blind = Batch(batch.images, None, batch.valid, batch.indices, batch.views)
    by_rank = begun("spectrum_object", teacher=NODES, object_by="rank")
    torch.testing.assert_close(
        loss.target({"t": nodes}, blind, {})["spectrum"],
        by_rank.target({"t": nodes}, batch, {})["spectrum"],
    )


# What is refused


def test_messages():
    with pytest.raises(RecipeError, match="the student has no tap 's2'"):
        registry.find("losses", "graph_lowrank").build(student="s2", teacher="t").student_taps(
            {"s": STUDENT}
        )
    with pytest.raises(
        RecipeError, match="too small for k(.|\n)*3 x 4 = 12 nodes and k 20(.|\n)*k of at most 12"
    ):
        begun("lowrank", k=20).check_grids({"s": (3, 4)}, {"t": (3, 4)})
    with pytest.raises(RecipeError, match="k of at most 11"):
        begun("band_low", k=12).check_grids({"s": (3, 4)}, {"t": (3, 4)})
    # The tip was a smaller k, which has no effect there.
    for form in ("lowrank", "basis", "match_closest"):
        with pytest.raises(
            RecipeError, match="k 10 of rank: cass_fixed_10(.|\n)*rank: energy"
        ) as e:
            begun(form, k=3, rank="cass_fixed_10").check_grids({"s": (2, 4)}, {"t": (2, 4)})
        assert e.value.key == "rank"
        begun(form, k=20, rank="cass_fixed_10").check_grids({"s": (3, 4)}, {"t": (3, 4)})
    for form in ("lowrank", "band_low"):
        tap, more = (GRAPH, {}) if form == "lowrank" else (NODES, {})
        with pytest.raises(RecipeError, match="different nodes(.|\n)*cannot be pooled"):
            begun(form, teacher=tap, **more).check_grids({"s": (3, 4)}, {"t": (6, 8)})
    with pytest.raises(RecipeError, match="other heads(.|\n)*numbers from 0 to 1"):
        begun("lowrank", teacher=NODES, heads=[2])
    with pytest.raises(RecipeError, match="do not fall into 4 heads"):
        begun("match_closest", groups=4)
    with pytest.raises(RecipeError, match="no query_key graph can be made of the tap 's'"):
        begun("lowrank", Tap("s", STRIDE, 1, "graph"), graph="query_key")
    for form in ("laplacian", "smoothness", "spectrum_laplacian", "band_low"):
        with pytest.raises(RecipeError, match="kernel: exp is for cosines(.|\n)*kernel: relu"):
            begun(form, gram="raw")
        begun(form, gram="raw", kernel="relu")
    begun("laplacian", Tap("s", STRIDE, 1, "graph"), GRAPH, gram="raw")  # nothing is a Gram graph
    with pytest.raises(RecipeError, match="smoothness of the student's 's'"):
        begun("smoothness", Tap("s", STRIDE, 1, "graph"))
    with pytest.raises(RecipeError, match="holds no features"):
        begun("band_low", teacher=GRAPH)
    with pytest.raises(RecipeError, match="holds no features") as error:
        begun("band_low", Tap("s", STRIDE, 1, "graph"))
    # It was graph, a key that graph_band does not have.
    assert (error.value.key, error.value.need) == ("student", "features or logits")
    for tap in (GRAPH, NODES):
        with pytest.raises(RecipeError, match="is a graph and no map"):
            feature(student="s", teacher="t").start({"s": STUDENT}, {"t": tap}, 3)


def test_graphs_that_are_not_finite_and_targets_of_another_grid():
    batch, teacher = batch_of(1), teacher_of(NODES, 1, 12)
    teacher[0, 0, 3, 1] = torch.nan
    for form in ("lowrank", "spectrum", "band_low"):
        with pytest.raises(TrainingFailed, match="the teacher's tap 't' is not finite"):
            begun(form, teacher=NODES).target({"t": teacher}, batch, {})
    student = drawn(1, 6, 3, 4)
    student[0, 0, 1, 1] = torch.inf
    text = r"a graph is not finite(.|\n)*--set train\.precision=float32"
    with pytest.raises(TrainingFailed, match=text):
        value(begun("spectrum"), student, teacher_of(MAP, 1, 12), batch)
    loss = begun("lowrank")
    with pytest.raises(ShapeError, match="make the cache again"):
        loss(
            {"s": drawn(1, 6, 4, 4)},
            loss.target({"t": teacher_of(MAP, 1, 12)}, batch, {}),
            batch_of(1, (4, 4)),
            0,
        )


@pytest.mark.parametrize(
    ("form", "tap", "most"),
    [
        ("spectrum", MAP, 12),
        ("spectrum", GRAPH, 11),
        ("lowrank", GRAPH, 11),
        ("laplacian", MAP, 11),
        ("spectrum_laplacian", MAP, 11),
        ("band_low", MAP, 11),
    ],
)
def test_the_largest_k_is_the_number_of_modes_that_there_are(form, tap, most):
    """12 nodes: attention loses one mode, a Laplacian its zero, and a band leaves a rest."""
    grids = ({"s": (3, 4)}, {"t": (3, 4)})
    begun(form, teacher=tap, k=most).check_grids(*grids)
    with pytest.raises(RecipeError, match=f"12 nodes and k {most + 1}(.|\n)*k of at most {most}"):
        begun(form, teacher=tap, k=most + 1).check_grids(*grids)


def test_forms_without_k_ask_for_no_nodes():
    for form, arguments in (
        ("heat", {}),
        ("smoothness", {}),
        ("lowrank", {"rank": "cass_fixed_10"}),
    ):
        begun(form, k=500, **arguments).check_grids({"s": (3, 4)}, {"t": (3, 4)})
