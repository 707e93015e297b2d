"""Beside CASS's released code (MICV-yonsei/CASS, clip/model.py at 228ecdd).

The numbers here are the results of its functions, in float64, on the keys of :func:`keys`. Where it
is wrong, this code is tested against the definition, and the released figure is shown to differ.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from freqkd_cli.losses.graph_lowrank import stretched
from freqkd_cli.spectral.assignment import match_heads, wasserstein
from freqkd_cli.spectral.graph import graph_rows, pairs
from freqkd_cli.spectral.graph_forms import Gram
from freqkd_cli.spectral.modes import Modes, gram_eigenpairs, low_rank, rebuilt, scaled, shares

HEADS, NODES, CHANNELS, K = 4, 48, 16, 20
EVERY = torch.ones(1, NODES, dtype=torch.bool)

SPECTRA = {  # compute_spectrum: teacher head 1, student head 3
    0.5: (
        [7.367642990, 5.362525725, 1.113313582, 0.224133880],
        [9.539011030, 5.499885566, 1.350658155, 0.351438911],
    ),
    1.0: (
        [8.754994928, 5.902790682, 4.516000353, 3.647731562],
        [12.715345901, 10.440973347, 10.439202295, 10.278072126],
    ),
}
GRAPH = {0.5: (-0.013160787, -0.442636894), 1.0: (-0.151532298, -0.153389649)}
DISTANCES = {  # rows: teacher heads
    0.5: [
        [0.107054319, 0.074696097, 0.121859407, 0.052791648],
        [0.160922627, 0.104337590, 0.184309855, 0.106659956],
        [0.082298977, 0.170361288, 0.044696047, 0.130825456],
        [0.049635785, 0.128098694, 0.026837943, 0.088562862],
    ],
    1.0: [
        [0.457642637, 0.704380114, 0.681744859, 0.411495384],
        [0.394306962, 0.600744979, 0.568343144, 0.369396936],
        [0.469756324, 0.671857330, 0.646359897, 0.473299799],
        [0.436327622, 0.651640606, 0.623163055, 0.437584101],
    ],
}
PAIRS = {0.5: ([0, 2, 1, 3], [0, 2, 3, 1]), 1.0: ([2, 0, 3, 1],)}
"""The student's head of each teacher head.

At 0.5 two ways have the same sum to the last digit; the released code takes the first.
"""
SCALED = [
    13.312258487,
    8.410075818,
    1.694516198,
    0.341016049,
    0.069978991,
    0.014063407,
    0.002783621,
    0.000578185,
    0.000155312,
    0.000000122,
]
LOW_RANK = {(3, 7): 0.392194551, (40, 11): -0.471356117, (5, 5): 0.662714269}


def keys(seed: float, decay: float) -> Tensor:
    """``[1, heads, N, d]`` float64: waves that weaken with the channel, on a slow common one."""
    n = torch.arange(NODES, dtype=torch.float64)[None, :, None]
    c = torch.arange(CHANNELS, dtype=torch.float64)
    h = torch.arange(HEADS, dtype=torch.float64)[:, None, None]
    waves = torch.sin(1 + seed + 0.37 * (n + 1) * (c + 1) + 1.7 * h * (c + 1) + 0.05 * n * h)
    return (waves * decay**c + 0.3 * torch.cos(0.1 * n + h))[None]


def graphs(decay: float) -> tuple[Gram, Gram]:
    """Student, teacher."""
    made = (graph_rows(x, EVERY, "raw") for x in (keys(0.0, decay), keys(2.0, 0.9 * decay)))
    student, teacher = (Gram(rows, EVERY, cosines=False) for rows in made)
    return student, teacher


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_graphs_spectra_distances_and_matching_are_theirs(decay):
    student, teacher = graphs(decay)
    assert student.dense()[0, 1, 3, 7].item() == pytest.approx(GRAPH[decay][0], abs=1e-8)
    assert teacher.dense()[0, 2, 40, 11].item() == pytest.approx(GRAPH[decay][1], abs=1e-8)
    of_student, of_teacher = student.eigenvalues(K), teacher.eigenvalues(K)
    np.testing.assert_allclose(of_teacher[0, 1, :4], SPECTRA[decay][0], atol=1e-8)
    np.testing.assert_allclose(of_student[0, 3, :4], SPECTRA[decay][1], atol=1e-8)
    distance = wasserstein(shares(of_student)[:, None], shares(of_teacher)[:, :, None])
    np.testing.assert_allclose(distance[0], DISTANCES[decay], atol=1e-8)
    student_heads, teacher_heads, weights = match_heads(distance, "complementary")
    assert teacher_heads.tolist() == [[0, 1, 2, 3]] and student_heads[0].tolist() in PAIRS[decay]
    np.testing.assert_allclose(
        weights[0], np.array(DISTANCES[decay])[range(4), student_heads[0]], atol=1e-8
    )


def test_the_low_rank_graph_and_its_scaling_are_theirs_where_ten_modes_are_all_there_is():
    _, teacher = graphs(0.5)
    modes = low_rank(teacher.modes(), rank="cass_fixed_10")
    values = scaled(modes.values, modes.kept, "cass")
    np.testing.assert_allclose(values[0, 0], SCALED, atol=1e-8)
    graph = rebuilt(values, modes.vectors)[0, 0]
    for (i, j), want in LOW_RANK.items():
        assert graph[i, j].item() == pytest.approx(want, abs=1e-8)
    assert graph.norm().item() == pytest.approx(15.841034730, abs=1e-7)


def test_their_pairs_are_used_the_other_way_round():
    """The released code takes columns for teacher heads of a cost whose rows are the teacher's.

    The weight is that of the right pair.
    """
    distance = np.array(DISTANCES[1.0])
    right, swapped = distance[range(4), PAIRS[1.0][0]], distance[PAIRS[1.0][0], range(4)]
    assert right.sum() > swapped.sum() and np.abs(right - swapped).max() > 0.2
    student_heads, teacher_heads, weights = match_heads(
        torch.from_numpy(distance)[None], "complementary"
    )
    np.testing.assert_allclose(weights[0], distance[teacher_heads[0], student_heads[0]], atol=1e-8)


def test_their_energy_rule_never_ends_later_than_ten():
    """Its share is of the ten computed singular values, not of all: the method has rank 10."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 196, 64)))
    modes = gram_eigenpairs(rows)
    eigenvalues = np.linalg.eigvalsh((rows @ rows.mT)[0, 0].numpy())[::-1]
    need = int((eigenvalues.cumsum() / eigenvalues.sum() < 0.95).sum()) + 1
    assert need > 50 and eigenvalues[:10].sum() / eigenvalues.sum() < 0.4
    computed = eigenvalues[:10]
    assert (
        computed.cumsum()[-1] / computed.sum() >= 0.95
    )  # what the released test asks, whatever the graph is
    assert int(low_rank(modes, 196).kept.sum()) == need
    assert int(low_rank(modes, 20).kept.sum()) == 20  # min(k, energy rule)
    assert int(low_rank(modes, 20, rank="cass_fixed_10").kept.sum()) == 10


def test_equal_singular_values_are_nan_by_their_formula_and_stay_in_ours():
    """The stretch, and the later map to [0, 1], divide by the largest less the smallest."""

    def published(x: np.ndarray) -> np.ndarray:
        low, high = x.min(), x.max()
        return (x - low) / (high - low) * (1.5 * high - 0.5 * low) + 0.5 * low

    modes = Modes(
        torch.ones(1, 1, 3), torch.eye(3)[None, None], torch.ones(1, 1, 3, dtype=torch.bool)
    )
    with np.errstate(invalid="ignore"):
        assert np.isnan(published(modes.values[0, 0].numpy())).all()
    assert torch.equal(scaled(modes.values, modes.kept, "cass"), modes.values)
    unequal = torch.tensor([[[4.0, 2.0, 1.0]]])
    np.testing.assert_allclose(
        scaled(unequal, modes.kept, "cass")[0, 0], published(unequal[0, 0].numpy()), rtol=1e-6
    )
    off = pairs(EVERY)
    assert not stretched(torch.full((1, 1, NODES, NODES), 0.3), off, torch.full((1, 1), 1e-6)).any()
