"""How far a graph reaches: known answers, and scipy's distances."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import cdist

from freqkd_cli.errors import ShapeError
from freqkd_cli.spectral.attention_distance import attention_distance


def test_a_patch_that_sees_itself_alone_reaches_nowhere() -> None:
    assert torch.equal(
        attention_distance(torch.eye(12).expand(2, 3, 12, 12), (3, 4), 32), torch.zeros(2, 3)
    )


@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_uniform_attention_on_a_line_has_the_closed_form(length: int) -> None:
    """The mean of |i - j| over all pairs of n places is (n^2 - 1) / (3 n)."""
    graph = torch.full((1, 1, length, length), 1 / length, dtype=torch.float64)
    known = pytest.approx(16 * (length**2 - 1) / (3 * length))
    assert float(attention_distance(graph, (1, length), 16)) == known
    assert float(attention_distance(graph, (length, 1), 16)) == known


def test_one_step_down_is_one_stride_and_a_diagonal_step_is_root_two() -> None:
    rows, columns = 4, 3
    for step, known in (((1, 0), 32.0), ((0, 1), 32.0), ((1, 1), 32 * 2**0.5)):
        graph = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
        for i in range(rows - step[0]):
            for j in range(columns - step[1]):
                graph[0, 0, i * columns + j, (i + step[0]) * columns + j + step[1]] = (
                    0.25  # rows need not sum to 1
                )
        assert float(attention_distance(graph, (rows, columns), 32)) == pytest.approx(
            known
        )  # queries without weight do not count


def test_random_graphs_beside_scipy() -> None:
    graph = torch.rand(
        2, 3, 15, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).softmax(-1)
    places = [(i, j) for i in range(3) for j in range(5)]
    known = (graph.numpy() * cdist(places, places)).sum(-1).mean(-1) * 8
    torch.testing.assert_close(attention_distance(graph, (3, 5), 8), torch.from_numpy(known))
    torch.testing.assert_close(attention_distance(7 * graph, (3, 5), 8), torch.from_numpy(known))


def test_what_it_cannot_measure_is_refused() -> None:
    with pytest.raises(ShapeError, match="12, 12"):
        attention_distance(torch.zeros(1, 1, 9, 9), (3, 4), 32)
    with pytest.raises(ShapeError, match="under 0"):
        attention_distance(-torch.eye(4)[None, None], (2, 2), 32)
