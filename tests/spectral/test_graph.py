"""Graphs against closed forms, numpy, scipy and CASS's code; factored forms against dense ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
from torch import Tensor

from freqkd_cli.errors import RecipeError, TrainingFailed
from freqkd_cli.spectral.assignment import Heads, label_scores, match_heads, wasserstein
from freqkd_cli.spectral.graph import (
    affinity,
    graph_rows,
    kernel,
    laplacian,
    pairs,
    smoothness,
    symmetric,
)
from freqkd_cli.spectral.graph_correlation import correlation_distance
from freqkd_cli.spectral.graph_forms import Dense, Gram
from freqkd_cli.spectral.modes import (
    effective_rank,
    eigenpairs,
    eigenvalues,
    gram_eigenpairs,
    gram_eigenvalues,
    graph_fourier,
    heat_trace,
    kept,
    low_rank,
    rebuilt,
    scaled,
    shares,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def every(n: int, batch: int = 1) -> Tensor:
    return torch.ones(batch, n, dtype=torch.bool)


def some(n: int, batch: int = 2) -> Tensor:
    """A third of the nodes void, others in each sample."""
    return torch.arange(n)[None] % 3 != torch.arange(batch)[:, None] % 3


def compacted(x: Tensor, valid: Tensor, *axes: int) -> Tensor:
    """Sample ``x`` (one) without its void nodes along these axes."""
    for axis in axes:
        x = x.index_select(axis, valid[0].nonzero()[:, 0])
    return x


def ring(n: int) -> Tensor:
    step = torch.eye(n, dtype=torch.float64).roll(1, 0)
    return (step + step.T)[None, None]


def blobs(sizes: tuple[int, ...] = (5, 7)) -> Tensor:
    return torch.block_diag(
        *[torch.ones(n, n, dtype=torch.float64) - torch.eye(n, dtype=torch.float64) for n in sizes]
    )[None, None]


# Known answers


@pytest.mark.parametrize("n", [5, 8])
def test_the_laplacian_of_a_ring(n):
    want = torch.sort(
        2 - 2 * torch.cos(2 * math.pi * torch.arange(n, dtype=torch.float64) / n)
    ).values
    result = eigenvalues(laplacian(ring(n), "combinatorial"), every(n), n, end="smallest")[0, 0]
    torch.testing.assert_close(result, want, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        eigenvalues(laplacian(ring(n)), every(n), n, end="smallest")[0, 0],
        want / 2,
        atol=1e-12,
        rtol=0,
    )


def test_the_complete_graph():
    n = 9
    graph = blobs((n,))
    torch.testing.assert_close(
        eigenvalues(laplacian(graph, "combinatorial"), every(n), n)[0, 0],
        torch.tensor([float(n)] * (n - 1) + [0.0]).double(),
        atol=1e-12,
        rtol=0,
    )
    normal = eigenvalues(laplacian(graph), every(n), n, end="smallest")[0, 0]
    torch.testing.assert_close(
        normal, torch.tensor([0.0] + [n / (n - 1)] * (n - 1)).double(), atol=1e-12, rtol=0
    )


def test_two_blobs_have_two_zero_eigenvalues_whose_vectors_tell_them_apart():
    for kind in ("combinatorial", "normalized"):
        modes = eigenpairs(laplacian(blobs((5, 7)), kind), every(12), 3, end="smallest")
        assert modes.values[0, 0, :2].abs().max() < 1e-12 < 0.5 < modes.values[0, 0, 2]
        vectors = modes.vectors[0, 0, :, :2]
        for part in (vectors[:5], vectors[5:]):
            assert (part - part[:1]).abs().max() < 1e-12
        assert (vectors[0] - vectors[5]).norm() > 0.1


@pytest.mark.parametrize("kind", ["combinatorial", "normalized"])
def test_the_laplacian_is_scipys(kind):
    graph = kernel(affinity(graph_rows(drawn(1, 2, 10, 4), every(10))), every(10), "relu")
    graph[..., 3, :] = graph[..., :, 3] = 0.0  # an isolated node
    for head in range(2):
        want = scipy.sparse.csgraph.laplacian(graph[0, head].numpy(), normed=kind == "normalized")
        np.testing.assert_allclose(laplacian(graph, kind)[0, head].numpy(), want, atol=1e-12)


def test_a_planted_low_rank_graph_is_found_again():
    basis = torch.linalg.qr(drawn(30, 3))[0][None, None]
    values = torch.tensor([[[9.0, 4.0, 1.0]]], dtype=torch.float64)
    graph = rebuilt(values, basis)
    noise = 1e-3 * symmetric(drawn(1, 1, 30, 30, seed=1), every(30))
    result = low_rank(eigenpairs(graph + noise, every(30)), 20, energy=0.95)
    assert result.kept.sum() == 3 and result.values.shape == (1, 1, 20)
    torch.testing.assert_close(rebuilt(result.values, result.vectors), graph, atol=2e-2, rtol=0)
    exact = low_rank(gram_eigenpairs(basis * values.sqrt()[..., None, :]), 20, energy=1.0)
    torch.testing.assert_close(rebuilt(exact.values, exact.vectors), graph)
    assert exact.kept.sum() == 3


@pytest.mark.parametrize(
    ("energy", "want"), [(0.5, 1), (0.6, 2), (0.8, 2), (0.81, 3), (0.95, 4), (1.0, 4)]
)
def test_the_energy_rule_counts_magnitudes_of_the_whole_spectrum(energy, want):
    graph = torch.diag(torch.tensor([1.0, -3.0, 5.0, 1.0, 0.0], dtype=torch.float64))[None, None]
    result = low_rank(eigenpairs(graph, every(5)), 4, energy=energy)
    assert result.kept.sum() == want
    assert result.values[0, 0, :2].tolist() == [5.0, -3.0 if want > 1 else 0.0]
    assert low_rank(eigenpairs(graph, every(5)), 2, energy=1.0).kept.sum() == 2


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_a_normalised_laplacian_does_not_know_the_scale_of_edges(scale):
    edges = kernel(affinity(graph_rows(drawn(1, 2, 9, 4), every(9))), every(9), "exp")
    torch.testing.assert_close(laplacian(scale * edges), laplacian(edges))
    assert not laplacian(torch.zeros(1, 1, 3, 3)).any()


def test_a_small_tau_leaves_a_gradient():
    nodes = drawn(1, 1, 12, 6).requires_grad_()
    edges = kernel(affinity(graph_rows(nodes, every(12))), every(12), "exp", 0.03)
    eigenvalues(laplacian(edges), every(12), 6, end="smallest").sum().backward()
    assert float(nodes.grad.abs().max()) > 1e-3


def test_a_signed_graph_has_no_laplacian():
    with pytest.raises(RecipeError, match="kernel: exp") as caught:
        laplacian(affinity(graph_rows(drawn(1, 1, 9, 4), every(9))))
    assert "negative edges" in str(caught.value)


def test_effective_rank_and_heat_trace():
    spectra = torch.tensor([[[1.0, 1, 1, 1], [5, 0, 0, 0], [0, 0, 0, 0]]]).double()
    torch.testing.assert_close(
        effective_rank(spectra), torch.tensor([[4.0, 1.0, 0.0]]).double(), atol=1e-9, rtol=0
    )
    p = np.array([0.5, 0.3, 0.2])
    torch.testing.assert_close(
        effective_rank(torch.tensor(7 * p)[None, None]).item(),
        float(np.exp(-(p * np.log(p)).sum())),
    )
    n, times = 8, (0.1, 1.0, 10.0)
    result = heat_trace(
        eigenvalues(laplacian(ring(n), "combinatorial"), every(n), n, end="smallest"),
        kept(every(n), n),
        times,
    )
    want = [np.exp(-t * (2 - 2 * np.cos(2 * np.pi * np.arange(n) / n))).sum() for t in times]
    np.testing.assert_allclose(result[0, 0].numpy(), want, rtol=1e-12)


def test_smoothness_of_a_wave_on_a_ring_is_its_frequency():
    n = 12
    for wave in (1, 2, 5, 6):
        x = (
            torch.cos(2 * math.pi * wave * torch.arange(n, dtype=torch.float64) / n)[
                None, None, :, None
            ]
            + 3.0
        )
        want = 1 - math.cos(2 * math.pi * wave / n)
        assert (
            abs(smoothness(x, ring(n), every(n)).item() - want) < 2e-4
        )  # the floor against flat features takes a little
    assert smoothness(torch.ones(1, 1, n, 3), ring(n).float(), every(n)).abs().max() < 1e-6


def test_graph_fourier_keeps_energy_and_puts_a_wave_at_its_frequency():
    n, x = 12, drawn(2, 1, 12, 5)
    modes = eigenpairs(
        laplacian(ring(n), "combinatorial").expand(2, -1, -1, -1), every(n, 2), end="smallest"
    )
    torch.testing.assert_close(
        graph_fourier(x, modes.vectors).square().sum((-2, -1)), x.square().sum((-2, -1))
    )
    torch.testing.assert_close(modes.vectors @ graph_fourier(x, modes.vectors), x)
    wave = torch.cos(2 * math.pi * 3 * torch.arange(n, dtype=torch.float64) / n)[
        None, None, :, None
    ]
    energy = graph_fourier(wave, modes.vectors[:1]).square().sum(-1)[0, 0]
    assert energy[(modes.values[0, 0] - 2).abs() < 1e-9].sum() / energy.sum() > 1 - 1e-12


def test_a_permutation_of_nodes_leaves_the_spectrum_and_changes_the_low_rank_distance():
    rows = graph_rows(drawn(1, 1, 24, 3), every(24))
    moved = rows[:, :, torch.from_numpy(np.random.default_rng(1).permutation(24))]
    torch.testing.assert_close(gram_eigenvalues(rows, 5), gram_eigenvalues(moved, 5))
    modes = low_rank(gram_eigenpairs(rows), 20, energy=1.0)
    assert Gram(rows, every(24)).correlation_distance(modes.values, modes.vectors).item() < 1e-6
    assert Gram(moved, every(24)).correlation_distance(modes.values, modes.vectors).item() > 0.5


# Scaling


def test_the_amplification_is_real():
    modes = low_rank(gram_eigenpairs(graph_rows(drawn(2, 2, 40, 12), every(40, 2))), 8)
    for scaling in ("none", "cass", "power"):
        values = scaled(modes.values, modes.kept, scaling, power=1.5)
        result = eigenpairs(rebuilt(values, modes.vectors), every(40, 2), 8).values
        ratio, plain = result / result[..., :1], modes.values / modes.values[..., :1]
        high, low = (
            modes.values[..., :1],
            torch.where(modes.kept, modes.values, math.inf).amin(-1, keepdim=True),
        )
        cass = (
            ((modes.values - low) / (high - low) * (1.5 * high - 0.5 * low) + 0.5 * low)
            / (1.5 * high)
            * modes.kept
        )
        want = {"none": plain, "cass": cass, "power": plain**1.5}[scaling]
        torch.testing.assert_close(ratio, want, atol=1e-12, rtol=1e-10)


def test_scaling_takes_the_ends_where_it_says_and_leaves_equal_values():
    values = torch.tensor([[[8.0, 5.0, 2.0, 0.0]]])
    some_kept = values > 0
    assert scaled(values, some_kept, "cass").tolist() == [[[12.0, 6.5, 1.0, 0.0]]]
    assert scaled(values, some_kept, "cass", largest=2.0, smallest=1.0)[0, 0, 0] == 16.0
    assert scaled(values, some_kept, "power").tolist() == [[[8.0, 25 / 8, 4 / 8, 0.0]]]
    assert scaled(values, some_kept, "power", power=3.0).tolist() == [[[8.0, 125 / 64, 8 / 64, 0]]]
    large = scaled(1e20 * values, some_kept, "power", power=3.0)
    torch.testing.assert_close(large, 1e20 * scaled(values, some_kept, "power", power=3.0))
    signed = torch.tensor(
        [[[1.0, -0.5, 0.4, -0.2]]], dtype=torch.float64
    )  # of attention: the magnitudes are what is scaled
    result = scaled(signed, torch.ones(1, 1, 4, dtype=torch.bool), "cass")[0, 0]
    torch.testing.assert_close(result, torch.tensor([1.5, -0.625, 0.45, -0.1], dtype=torch.float64))
    equal = torch.full((1, 1, 3), 2.0)
    assert torch.equal(scaled(equal, torch.ones(1, 1, 3, dtype=torch.bool), "cass"), equal)


# Factored forms are the dense ones


@pytest.mark.parametrize("gram", ["centred", "raw"])
@pytest.mark.parametrize("shape", [(2, 3, 20, 7), (2, 1, 9, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factored_forms_equal_dense_ones(gram, shape, dtype):
    valid, nodes = some(shape[2]), (drawn(*shape) + 0.5).to(dtype)
    near = 1e-5 if dtype == torch.float32 else 1e-9
    gram_graph = Gram(graph_rows(nodes, valid, gram), valid, cosines=gram == "centred")
    dense = Dense(gram_graph.dense(), valid, perron=False)
    teacher = low_rank(gram_eigenpairs(graph_rows(drawn(*shape, seed=1).to(dtype), valid)), 6)
    pair = (teacher.values, teacher.vectors)
    torch.testing.assert_close(
        gram_graph.eigenvalues(30), dense.eigenvalues(30), atol=5 * near, rtol=near
    )
    # The floors differ: 1e-6 of cosines, and 1e-3 / N where rows should add up to 1.
    torch.testing.assert_close(
        gram_graph.in_basis(pair[1]), dense.in_basis(pair[1]), atol=near, rtol=max(near, 2e-6)
    )
    torch.testing.assert_close(
        gram_graph.correlation_distance(*pair),
        dense.correlation_distance(*pair),
        atol=max(near, 1e-6),
        rtol=near,
    )
    torch.testing.assert_close(
        gram_graph.mean().dense(), dense.mean().dense(), atol=near, rtol=near
    )
    of_student, of_teacher = gram_graph.modes(4), dense.modes(4)
    torch.testing.assert_close(of_student.values, of_teacher.values, atol=near, rtol=near)
    torch.testing.assert_close(
        rebuilt(of_student.values, of_student.vectors),
        rebuilt(of_teacher.values, of_teacher.vectors),
        atol=near,
        rtol=near,
    )


def test_correlation_distance_is_numpys():
    n, valid = 11, some(11)
    student, teacher = (symmetric(drawn(2, 2, n, n, seed=i), valid) for i in (0, 1))
    result = correlation_distance(student, teacher, valid)
    for b in range(2):
        off = pairs(valid)[b, 0].numpy()
        for h in range(2):
            want = 1 - np.corrcoef(student[b, h].numpy()[off], teacher[b, h].numpy()[off])[0, 1]
            assert abs(result[b, h].item() - want) < 1e-6


def test_one_head_of_the_teacher_serves_all_of_the_student():
    valid = every(15, 2)
    student = Gram(graph_rows(drawn(2, 3, 15, 4), valid), valid)
    modes = gram_eigenpairs(graph_rows(drawn(2, 1, 15, 4, seed=1), valid), 3)
    assert student.in_basis(modes.vectors).shape == (2, 3, 3, 3)
    result = student.correlation_distance(modes.values, modes.vectors)
    torch.testing.assert_close(
        result,
        Dense(student.dense(), valid).correlation_distance(modes.values, modes.vectors),
        atol=1e-6,
        rtol=0,
    )


# Void nodes


@pytest.mark.parametrize("gram", ["centred", "raw"])
def test_with_void_nodes_everything_equals_the_compacted_graph(gram):
    n, k = 21, 8
    valid = some(n, 2)[1:]
    nodes = drawn(1, 2, n, 30) + 1.0
    nodes[:, :, ~valid[0]] *= 1e3
    small, all_valid = compacted(nodes, valid, 2), every(int(valid.sum()))
    a, b = (
        Gram(graph_rows(x, v, gram), v, cosines=gram == "centred")
        for x, v in ((nodes, valid), (small, all_valid))
    )
    torch.testing.assert_close(compacted(a.dense(), valid, 2, 3), b.dense())
    torch.testing.assert_close(a.eigenvalues(k), b.eigenvalues(k))
    torch.testing.assert_close(a.eigenvalues(n + 3), b.eigenvalues(n + 3))
    torch.testing.assert_close(a.trace(), b.trace())
    modes, same = low_rank(a.modes(), k), low_rank(b.modes(), k)
    torch.testing.assert_close(modes.values, same.values)
    full = rebuilt(modes.values, modes.vectors)
    torch.testing.assert_close(compacted(full, valid, 2, 3), rebuilt(same.values, same.vectors))
    assert full[:, :, ~valid[0]].abs().max() == 0
    other = graph_rows(drawn(1, 2, n, 30, seed=3), valid)
    c, d = Gram(other, valid), Gram(compacted(other, valid, 2), all_valid)
    torch.testing.assert_close(
        c.correlation_distance(modes.values, modes.vectors),
        d.correlation_distance(same.values, same.vectors),
    )


@pytest.mark.parametrize("kind", ["combinatorial", "normalized"])
@pytest.mark.parametrize("kernel_kind", ["exp", "relu"])
def test_void_nodes_are_at_no_end_of_a_laplacian_spectrum(kind, kernel_kind):
    n = 17
    valid = some(n, 2)[:1]
    m = int(valid.sum())
    nodes = drawn(1, 2, n, 3)
    sides = ((nodes, valid), (compacted(nodes, valid, 2), every(m)))
    edges = [kernel(affinity(graph_rows(x, v)), v, kernel_kind) for x, v in sides]
    a, b = (laplacian(weights, kind) for weights in edges)
    for end in ("smallest", "largest"):
        for k in (4, m, n + 2):
            torch.testing.assert_close(
                eigenvalues(a, valid, k, end=end),
                eigenvalues(b, every(m), k, end=end),
                atol=1e-10,
                rtol=0,
            )
    torch.testing.assert_close(
        eigenpairs(a, valid, 5, end="smallest").values,
        eigenpairs(b, every(m), 5, end="smallest").values,
        atol=1e-10,
        rtol=0,
    )
    result, want = (smoothness(x, weights, v) for (x, v), weights in zip(sides, edges, strict=True))
    torch.testing.assert_close(result, want)


def test_void_nodes_of_an_indefinite_graph():
    """Zero rows would put zeros among negative eigenvalues."""
    n = 10
    valid = some(n, 2)[:1]
    graph = symmetric(torch.softmax(3 * drawn(1, 1, n, n), -1) - 0.2, valid)
    m = int(valid.sum())
    a, b = Dense(graph, valid), Dense(compacted(graph, valid, 2, 3), every(m))
    torch.testing.assert_close(a.eigenvalues(n), b.eigenvalues(n), atol=1e-12, rtol=0)
    assert (b.eigenvalues(n) < 0).any()
    torch.testing.assert_close(
        low_rank(a.modes(), 4).values, low_rank(b.modes(), 4).values, atol=1e-12, rtol=0
    )


def test_a_dense_graph_leaves_its_perron_mode_out():
    n = 8
    attention = torch.softmax(drawn(1, 1, n, n), -1)
    attention = (attention + attention.mT) / 2
    want = np.linalg.eigvalsh(attention[0, 0].numpy())[::-1]
    np.testing.assert_allclose(
        Dense(attention, every(n)).eigenvalues(4)[0, 0], want[1:5], atol=1e-12
    )
    np.testing.assert_allclose(
        Dense(attention, every(n)).modes(4).values[0, 0], want[1:5], atol=1e-12
    )


# Gradients


def losses(nodes: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Everything that a student is compared by."""
    graph = Gram(graph_rows(nodes, valid), valid)
    modes = low_rank(
        gram_eigenpairs(graph_rows(drawn(*nodes.shape, seed=7).to(nodes.dtype), valid)), 4
    )
    edges = graph.edges("exp", 0.5)
    small = eigenvalues(laplacian(edges), valid, 4, end="smallest")
    return {
        "spectrum": shares(graph.eigenvalues(4)).square().sum(),
        "correlation": graph.correlation_distance(modes.values, modes.vectors).sum(),
        "basis": graph.in_basis(modes.vectors).square().sum(),
        "laplacian": small.square().sum(),
        "heat": heat_trace(small, kept(valid, 4)).sum(),
        "rank": effective_rank(graph.eigenvalues(4)).sum(),
        "smoothness": smoothness(
            nodes,
            kernel(
                affinity(graph_rows(drawn(*nodes.shape, seed=8).to(nodes.dtype), valid)),
                valid,
                "exp",
            ),
            valid,
        ).sum(),
        "dense": Dense(symmetric(edges, valid), valid)
        .correlation_distance(modes.values, modes.vectors)
        .sum(),
    }


NAMES = ("spectrum", "correlation", "basis", "laplacian", "heat", "rank", "smoothness", "dense")


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    nodes = drawn(2, 1, 7, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: losses(x, some(7))[name], (nodes,), atol=1e-5)


def hard_cases() -> dict[str, tuple[Tensor, Tensor]]:
    n, d = 12, 5
    alike = torch.eye(3)[torch.arange(n) % 3].expand(1, 1, n, 3) @ torch.eye(
        3, d
    )  # centred: one pair of equal eigenvalues
    return {
        "equal eigenvalues": (alike.clone(), every(n)),
        "orthogonal": (torch.eye(n)[None, None], every(n)),
        "constant": (torch.full((1, 1, n, d), 0.7) * torch.arange(1, d + 1), every(n)),
        "zero": (torch.zeros(1, 1, n, d), every(n)),
        "one node": (drawn(1, 1, 1, d).float(), every(1)),
        "one valid node": (drawn(1, 1, n, d).float(), torch.arange(n)[None] == 4),
        "all void": (drawn(1, 1, n, d).float(), ~every(n)),
        "huge": (1e6 * drawn(1, 1, n, d).float(), every(n)),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", sorted(hard_cases()))
def test_gradients_stay_finite_and_bounded(name, case):
    nodes, valid = hard_cases()[case]
    nodes.requires_grad_(True)
    value = losses(nodes, valid)[name]
    gradient = torch.autograd.grad(value, nodes)[0]
    assert torch.isfinite(value) and torch.isfinite(gradient).all()
    assert gradient.abs().max() < 1e4
    assert (gradient[:, :, ~valid[0]] == 0).all()


def test_a_flat_map_gives_no_graph():
    flat = (torch.full((1, 1, 500, 64), 0.7) * torch.arange(1, 65)).float()
    assert graph_rows(flat, every(500)).norm(dim=-1).max() < 1e-3


def test_autocast_and_half_floats_change_nothing():
    nodes, valid = drawn(1, 2, 20, 8).bfloat16(), every(20)
    modes = gram_eigenpairs(graph_rows(drawn(1, 2, 20, 8, seed=1).float(), valid), 4)

    def figures() -> list[Tensor]:
        graph = Gram(graph_rows(nodes, valid), valid)
        edges = graph.edges("relu")
        return [
            graph.eigenvalues(4),
            graph.in_basis(modes.vectors),
            graph.correlation_distance(modes.values, modes.vectors),
            edges,
        ]

    plain = figures()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = figures()
    for a, b in zip(plain, inside, strict=True):
        assert a.dtype == b.dtype == torch.float32 and torch.equal(a, b)


def test_a_graph_that_is_not_finite_is_one_message():
    nodes = drawn(1, 1, 6, 3)
    nodes[0, 0, 2, 1] = math.nan
    with pytest.raises(TrainingFailed, match="not finite"):
        Gram(graph_rows(nodes, every(6)), every(6)).eigenvalues(3)


# Heads


def test_matching_of_heads_by_hand_and_permuted():
    spectra = shares(drawn(2, 4, 6).abs())
    order = torch.tensor([2, 0, 3, 1])
    table = wasserstein(spectra[:, order][:, None], spectra[:, :, None])
    of_student, of_teacher, distance = match_heads(table)
    assert of_teacher.tolist() == [[0, 1, 2, 3]] * 2 and of_student.tolist() == [[1, 3, 0, 2]] * 2
    assert distance.abs().max() < 1e-12
    far = match_heads(table, "complementary")[2].sum(1)
    import itertools

    best = [
        max(sum(t[i, p[i]] for i in range(4)) for p in itertools.permutations(range(4)))
        for t in table
    ]
    torch.testing.assert_close(far, torch.stack(best))
    of_student, of_teacher, _ = match_heads(table[:, :, :2])
    assert of_student.shape == (2, 2) and of_teacher[0].tolist() == [0, 2]  # of order


def test_heads_that_see_objects():
    n, labels = 16, (torch.arange(16) // 8)[None]
    objects = torch.nn.functional.one_hot(labels[0]).double()[None] + 0.1 * drawn(1, n, 2)
    nodes = torch.stack([drawn(1, n, 2), 7 * objects, drawn(1, n, 2, seed=4)], 1)
    graph = Gram(graph_rows(nodes, every(n), "raw"), every(n), cosines=False)
    scores, defined = label_scores(graph.dense(), labels, every(n))
    assert defined.all() and scores.argmax() == 1
    scaled_scores, _ = label_scores(graph.dense() * 50, labels, every(n))
    torch.testing.assert_close(scores, scaled_scores)
    dense = graph.dense()
    for heads, want in (
        (Heads("object", 1), dense[:, 1:2]),
        (Heads((2, 0)), dense[:, [2, 0]]),
        (Heads("mean_spectrum"), dense),
    ):
        torch.testing.assert_close(heads.of(graph, labels).dense(), want)
    torch.testing.assert_close(Heads("mean_graph").of(graph).dense(), dense.mean(1, keepdim=True))
    assert not label_scores(dense, torch.full_like(labels, -1), every(n))[1].any()
    far = torch.where(labels > 0, 255, labels)  # a class as any other, where there are 300
    torch.testing.assert_close(label_scores(dense, far, every(n)), (scores, defined))


def test_heads_by_spectrum_prefer_few_modes():
    n = 20
    few, many = drawn(1, 1, n, 2), drawn(1, 1, n, 2, seed=2)
    nodes = torch.cat(
        [drawn(1, 1, n, 12, seed=1), torch.cat([few, many * 0.0, torch.zeros(1, 1, n, 8)], -1)], 1
    )
    graph = Gram(graph_rows(nodes, every(n)), every(n))
    for by in ("rank", "energy", "labels"):  # no labels: effective rank
        torch.testing.assert_close(
            Heads("object", 1, by).of(graph, None, k=4).dense(), graph.dense()[:, 1:]
        )
