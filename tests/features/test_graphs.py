"""From taps to graphs: pooling, void nodes, labels of nodes, student graphs, refused taps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd_cli.errors import RecipeError, ShapeError
from freqkd_cli.features.graphs import GraphSide, node_grid, node_labels, node_validity
from freqkd_cli.features.pooling import pooled, to_nodes
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.graph import graph_rows
from freqkd_cli.spectral.graph_forms import Dense, Gram
from freqkd_cli.views.batch import Batch


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def batch_of(labels: Tensor | None, valid: Tensor) -> Batch:
    size, height, width = valid.shape
    number = torch.arange(size)
    return Batch(torch.zeros(size, 3, height, width), labels, valid, number, number)


@pytest.mark.parametrize(
    ("size", "grid"), [((12, 8), (3, 4)), ((7, 10), (3, 4)), ((5, 5), (5, 2)), ((4, 4), (4, 4))]
)
def test_pooling_is_the_mean_by_area(size, grid):
    x = drawn(2, 3, *size)
    # Every cell is repeated as often as there are bins, so each bin is a whole number of cells.
    fine = x.repeat_interleave(grid[0], 2).repeat_interleave(grid[1], 3)
    want = fine.unflatten(3, (grid[1], size[1])).unflatten(2, (grid[0], size[0])).mean((3, 5))
    torch.testing.assert_close(pooled(x, grid), want)
    torch.testing.assert_close(pooled(x, grid).mean((2, 3)), x.mean((2, 3)))


def test_nodes_go_row_by_row_and_heads_are_groups_of_channels():
    x = drawn(2, 6, 2, 3)
    nodes = to_nodes(x, (2, 3), 2)
    assert nodes.shape == (2, 2, 6, 3)
    assert torch.equal(nodes[1, 1, 4], x[1, 3:, 1, 1])


def test_a_node_is_void_where_more_than_half_of_its_cell_is():
    valid = torch.ones(1, 8, 16, dtype=torch.bool)
    labels = torch.zeros(1, 8, 16, dtype=torch.int64)
    valid[:, :, 14:] = False  # half of the last of four columns
    labels[:, :5, :4] = 255  # node 0: whole; node 4: a quarter
    labels[:, 4:7, 4:8] = 255  # node 5: three quarters
    assert node_validity(batch_of(labels, valid), (2, 4)).tolist() == [
        [False, True, True, True, True, False, True, True]
    ]
    assert node_validity(batch_of(None, valid), (2, 4)).all()
    valid[:, 0, 13] = False
    assert not node_validity(batch_of(None, valid), (2, 4))[0, 3]


def test_labels_of_nodes_are_the_most_frequent():
    labels = torch.tensor([[[1, 1, 2, 255], [2, 1, 255, 255], [3, 3, 9, 9], [4, 4, 9, 0]]])
    valid = torch.ones_like(labels, dtype=torch.bool)
    valid[0, 3, :2] = False
    assert node_labels(batch_of(labels, valid), (2, 2), 10).tolist() == [[1, 2, 3, 9]]
    assert node_labels(batch_of(None, valid), (2, 2), 10) is None
    void = batch_of(torch.full_like(labels, 255), valid)
    assert node_labels(void, (2, 2), 10).tolist() == [[-1] * 4]
    large = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (2, 30, 21)))
    labelled = node_labels(batch_of(large, torch.ones_like(large, dtype=torch.bool)), (5, 3), 3)
    cells = large.reshape(2, 5, 6, 3, 7).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
    counts = F.one_hot(cells, 3).sum(2)
    assert (counts.gather(2, labelled[..., None])[..., 0] == counts.max(2).values).all()


def test_one_function_makes_the_graphs_of_both_sides():
    x, valid = drawn(2, 8, 4, 6), torch.ones(2, 6, dtype=torch.bool)
    of_map = GraphSide(Tap("encoder", 8, 8), heads=2)(x, (2, 3), valid)
    of_nodes = GraphSide(Tap("keys4", 32, 8, "nodes", heads=2))(
        to_nodes(x, (2, 3), 2), (2, 3), valid
    )
    assert isinstance(of_map, Gram) and of_map.heads == of_nodes.heads == 2
    torch.testing.assert_close(of_map.dense(), of_nodes.dense())
    raw = GraphSide(Tap("keys4", 32, 8, "nodes", heads=2), gram="raw")(
        to_nodes(x, (2, 3), 2), (2, 3), valid
    )
    keys = to_nodes(x, (2, 3), 2)
    torch.testing.assert_close(raw.dense(), keys @ keys.mT / 2.0)
    assert raw.constant_mode and not of_map.constant_mode


def test_query_key_is_one_shared_projection():
    side = GraphSide(Tap("encoder", 8, 8), "query_key", heads=3, width=5)
    assert [tuple(p.shape) for p in side.parameters()] == [(15, 8)]
    x, valid = drawn(2, 8, 4, 6).requires_grad_(True), torch.ones(2, 6, dtype=torch.bool)
    graph = side(x, (2, 3), valid)
    wanted = (
        torch.einsum("oc,bcn->bno", side.project, pooled(x, (2, 3)).flatten(2))
        .unflatten(2, (3, 5))
        .transpose(1, 2)
    )
    torch.testing.assert_close(graph.dense(), Gram(graph_rows(wanted, valid), valid).dense())
    graph.eigenvalues(3).square().sum().backward()
    assert side.project.grad.abs().max() > 0 and x.grad.abs().max() > 0
    with torch.device("meta"):
        assert GraphSide(Tap("encoder", 8, 8), "query_key").project.is_meta


def test_a_graph_is_taken_as_it_is():
    weights = torch.softmax(drawn(2, 3, 6, 6), -1)
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 2] = False
    graph = GraphSide(Tap("affinity4", 32, 3, "graph", heads=3))(weights, (2, 3), valid)
    assert isinstance(graph, Dense) and graph.heads == 3
    assert graph.dense()[1, :, 2].abs().max() == 0
    torch.testing.assert_close(graph.dense()[0], (weights[0] + weights[0].mT) / 2)


def test_in_half_floats_and_under_autocast_graphs_are_float32():
    x, valid = drawn(2, 8, 5, 6).bfloat16(), torch.ones(2, 6, dtype=torch.bool)
    for side in (GraphSide(Tap("e", 8, 8)), GraphSide(Tap("e", 8, 8), "query_key")):
        plain = side(x, (2, 3), valid).dense()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (
                torch.equal(side(x, (2, 3), valid).dense(), plain) and plain.dtype == torch.float32
            )


def test_the_grid_of_the_nodes():
    features, keys = Tap("decoder", 8, 64), Tap("keys3", 32, 64, "nodes", heads=2)
    assert node_grid(features, (12, 16), keys, (3, 4)) == (3, 4)
    assert node_grid(features, (12, 16), Tap("stage4", 32, 64), (3, 5)) == (3, 5)
    with pytest.raises(RecipeError, match="cannot be pooled"):
        node_grid(features, (2, 4), keys, (3, 4))


def test_a_pixel_belongs_to_the_cell_of_its_centre():
    """Seven pixels on three cells: centres at 1.5, 4.5, ... 19.5 of 21, borders at 7 and 14."""
    labels = torch.arange(7).expand(1, 3, 7)
    batch = Batch(
        torch.zeros(1, 3, 3, 7),
        labels,
        torch.ones(1, 3, 7, dtype=torch.bool),
        torch.zeros(1),
        torch.zeros(1),
    )
    assert node_labels(batch, (3, 3), 7).view(3, 3)[0].tolist() == [0, 2, 5]


def test_labels_of_nodes_with_300_classes(monkeypatch):
    """Class 255 is one of them; counts up to the void label 65535 took 536 MiB."""
    bins, bincount = [], torch.bincount

    def counted(x: Tensor, minlength: int) -> Tensor:
        bins.append(minlength)
        return bincount(x, minlength=minlength)

    monkeypatch.setattr(torch, "bincount", counted)
    labels = torch.tensor(
        [[[255, 255, 299, 0], [65535, 255, 299, 65535], [65535] * 4, [65535] * 4]]
    )
    valid = torch.ones_like(labels, dtype=torch.bool)
    batch = dataclasses.replace(batch_of(labels, valid), ignore=65535)
    assert node_labels(batch, (2, 2), 300).tolist() == [[255, 299, -1, -1]]
    assert bins == [4 * 301]


@pytest.mark.parametrize(
    ("tap", "arguments", "message"),
    [
        (Tap("encoder", 8, 8), {"proxy": "state_affinity"}, "a tap of kind features"),
        (Tap("affinity4", 32, 1, "graph"), {"proxy": "similarity"}, "a tap of kind graph"),
        (Tap("keys4", 32, 8, "nodes"), {"proxy": "query_key"}, "a tap of kind nodes"),
        (Tap("encoder", 8, 8), {"heads": 3}, "do not fall into 3 heads"),
        (Tap("encoder", 8, 8), {"proxy": "query_key", "width": 64}, "satisfy any loss alone"),
    ],
)
def test_what_no_graph_can_be_made_of(tap, arguments, message):
    with pytest.raises(RecipeError, match=message):
        GraphSide(tap, **arguments)


def test_nodes_of_another_grid():
    with pytest.raises(ShapeError, match="other nodes"):
        GraphSide(Tap("keys4", 32, 8, "nodes"))(
            drawn(1, 1, 7, 8), (2, 3), torch.ones(1, 6, dtype=torch.bool)
        )
