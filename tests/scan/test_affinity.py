"""State affinity: equal to the scan, in the order of the image, stochastic, in bounded memory."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from freqkd_cli.features.pooling import node_matrix
from freqkd_cli.scan import affinity
from freqkd_cli.scan.affinity import evenly_spaced, raw_affinity, scan_matrix, state_affinity
from freqkd_cli.scan.cross import cross_merge, cross_scan
from freqkd_cli.scan.selective import selective_scan, step_sizes


def layer(
    size, channels=3, states=2, batch=2, dtype=torch.float64, seed=0
) -> dict[str, torch.Tensor]:
    """The tensors of a cross-scan over an image.

    Steps are 0.01 to 1, so that some rows forget within an image and some do not.
    """
    rng = np.random.default_rng(seed)
    length = size[0] * size[1]
    made = {
        "delta": rng.standard_normal((batch, 4 * channels, length)),
        "A": -np.tile(np.arange(1.0, states + 1), (4 * channels, 1))
        * rng.uniform(0.5, 2, (4 * channels, 1)),
        "B": rng.standard_normal((batch, 4, states, length)),
        "C": rng.standard_normal((batch, 4, states, length)),
        "D": rng.standard_normal(4 * channels),
        "bias": rng.uniform(-4, 0, 4 * channels),
    }
    return {name: torch.from_numpy(value).to(dtype) for name, value in made.items()}


def matrices(given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return step_sizes(given["delta"], given["bias"]), given["A"], given["B"], given["C"]


def means(size: tuple[int, int], grid: tuple[int, int]) -> torch.Tensor:
    """The nodes of a grid as means of cells."""
    return node_matrix(size, grid, torch.ones(1, dtype=torch.float64))


SIZES = [(1, 1), (1, 6), (3, 5), (8, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("states", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_matrix_times_the_input_is_the_scan_in_every_direction(size, states, dtype, tolerance):
    given = layer(size, states=states, dtype=dtype)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, *size))).to(dtype)
    u = cross_scan(x).flatten(1, 2)
    y = selective_scan(
        u, given["delta"], given["A"], given["B"], given["C"], given["D"], given["bias"]
    ).unflatten(1, (4, 3))
    read = torch.einsum("bkcij,bcj->bkci", raw_affinity(*matrices(given), size), x.flatten(2))
    scanned = read + given["D"].view(4, 3, 1) * x.flatten(2).unsqueeze(1)
    for k in range(4):  # one direction at a time, brought to the image by the published merge
        alone = torch.zeros_like(y)
        alone[:, k] = y[:, k]
        assert (scanned[:, k] - cross_merge(alone, size)).abs().max() / y.abs().max() < tolerance, k


def test_long_sequences_do_not_underflow():
    """1024 steps that decay by e^-1000 in all, against numpy in float64.

    The quotient form is 88 % wrong here in float32.
    """
    rng = np.random.default_rng(0)
    step, B, C = rng.uniform(0.5, 1.5, 1024), rng.standard_normal(1024), rng.standard_normal(1024)
    sums = np.cumsum(step)
    true = np.tril(
        C[:, None] * np.exp(np.minimum(-(sums[:, None] - sums[None]), 0)) * (step * B)[None]
    )
    result = scan_matrix(
        *(torch.from_numpy(x).float() for x in (step, np.array([-1.0]), B[None], C[None]))
    )
    np.testing.assert_allclose(result.numpy(), true, rtol=2e-5, atol=1e-30)


def test_a_cell_reads_what_its_direction_has_seen():
    """Cell (1, 2) of 3 x 4, index 6: its row is what lies before it in the walk."""
    raw = raw_affinity(*matrices(layer((3, 4), batch=1)), (3, 4))[0, :, 0, 6] != 0
    columns = [j for j in range(12) if (j % 4, j // 4) <= (2, 1)]
    seen = [set(row.nonzero()[:, 0].tolist()) for row in raw]
    assert seen[0] == set(range(7)) and seen[1] == set(columns)
    assert seen[2] == set(range(6, 12)) and seen[3] == set(range(12)) - set(columns) | {6}


@pytest.mark.parametrize(("size", "grid"), [((4, 6), (2, 3)), ((5, 3), (5, 3)), ((6, 4), (1, 1))])
def test_nodes_are_blocks_of_cells(size, grid):
    """Against the definition with reshapes: rows averaged, columns summed, then stochastic."""
    given = matrices(layer(size))
    cells = raw_affinity(*given, size).abs().mean(2).sum(1).reshape(2, *size, *size)
    fy, fx = size[0] // grid[0], size[1] // grid[1]
    blocks = (
        cells.unflatten(1, (grid[0], fy))
        .unflatten(3, (grid[1], fx))
        .unflatten(5, (grid[0], fy))
        .unflatten(7, (grid[1], fx))
    )
    nodes = blocks.mean((2, 4)).sum((4, 6)).reshape(2, grid[0] * grid[1], -1)
    result = state_affinity(*given, size=size, pooling=means(size, grid))
    torch.testing.assert_close(result, nodes / nodes.sum(-1, keepdim=True))
    torch.testing.assert_close(result.sum(-1), torch.ones_like(result[..., 0]))


@pytest.mark.parametrize(("size", "grid"), [((4, 6), (2, 3)), ((5, 3), (5, 3)), ((5, 7), (2, 3))])
def test_scans_of_one_state_are_its_matrices(size, grid):
    """The two ways to the same graph, and their gradients."""
    ways = []
    for by in (affinity._by_scans, affinity._by_matrices):
        step, A, B, C = (
            x.detach().requires_grad_(True) for x in matrices(layer(size, channels=5, states=1))
        )
        of_scan = (
            means(size, grid)[:, affinity._places(size, torch.device("cpu")).argsort(-1)]
            .transpose(0, 1)
            .contiguous()
        )
        graph = by(
            step.unflatten(1, (4, -1)),
            A.unflatten(0, (4, -1)),
            B,
            C,
            of_scan,
            torch.arange(5).split(2),
        )
        graph.square().sum().backward()
        ways.append([graph.detach(), step.grad, A.grad, B.grad, C.grad])
    for scanned, other in zip(*ways, strict=True):
        torch.testing.assert_close(scanned, other)


def test_grids_that_do_not_divide_share_cells_by_area():
    shares = node_matrix((5, 7), (2, 3), torch.ones(1, dtype=torch.float64)) * 35 / 6
    torch.testing.assert_close(shares.sum(0), torch.ones(35, dtype=torch.float64))
    torch.testing.assert_close(shares.sum(1), torch.full((6,), 35 / 6, dtype=torch.float64))
    assert shares[0, 2 * 7 + 2].item() == pytest.approx(1 / 2 * 1 / 3)
    graph = state_affinity(*matrices(layer((5, 7))), size=(5, 7), pooling=means((5, 7), (2, 3)))
    torch.testing.assert_close(graph.sum(-1), torch.ones(2, 6, dtype=torch.float64))


def test_channels_are_sampled_evenly_and_the_same_every_time():
    assert evenly_spaced(96, 4).tolist() == [12, 36, 60, 84] and evenly_spaced(3, 8).tolist() == [
        0,
        1,
        2,
    ]
    given = matrices(layer((3, 5), channels=9))
    sampled = state_affinity(*given, size=(3, 5), pooling=means((3, 5), (3, 5)), channels=3)
    step, A, B, C = given
    kept = [9 * k + c for k in range(4) for c in (1, 4, 7)]
    assert torch.equal(
        sampled,
        state_affinity(step[:, kept], A[kept], B, C, size=(3, 5), pooling=means((3, 5), (3, 5))),
    )


def test_it_is_the_same_in_any_number_of_pieces(monkeypatch):
    given = matrices(layer((3, 5), channels=5, batch=3))
    whole = state_affinity(*given, size=(3, 5), pooling=means((3, 5), (2, 2)))
    for entries in (1, 2 * 15**2, 7 * 15**2):
        monkeypatch.setattr(affinity, "AT_ONCE", entries)
        torch.testing.assert_close(
            state_affinity(*given, size=(3, 5), pooling=means((3, 5), (2, 2))), whole
        )


def test_the_graph_can_be_learned():
    step, A, B, C = (x.requires_grad_(True) for x in matrices(layer((2, 3), channels=2, batch=1)))
    leaves = [x.detach().requires_grad_(True) for x in (step, A, B, C)]
    assert torch.autograd.gradcheck(
        lambda *x: state_affinity(*x, size=(2, 3), pooling=means((2, 3), (1, 3))), tuple(leaves)
    )


class Alive(TorchDispatchMode):
    """Counts the bytes of every tensor made inside, while it lives."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in (leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)):
            storage = x.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.known:
                self.known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.gone, key, size)
        return made

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("states", [1, 4])
def test_memory_is_within_the_stated_bound(states, monkeypatch):
    monkeypatch.setattr(affinity, "AT_ONCE", 2**15)
    for channels, batch in ((8, 1), (24, 1), (24, 3)):
        given = [
            x.requires_grad_(True)
            for x in matrices(
                layer((8, 10), channels=channels, states=states, batch=batch, dtype=torch.float32)
            )
        ]
        leaves = [x.detach().requires_grad_(True) for x in given]
        own = (
            2 * sum(x.nbytes for x in leaves) * (1 + affinity.AT_ONCE // 80**2)
        )  # slices of the arguments and their gradients
        with Alive() as learning:
            torch.autograd.grad(
                state_affinity(*leaves, size=(8, 10), pooling=means((8, 10), (4, 5)))
                .square()
                .sum(),
                leaves,
            )
        least = 10 * 2**15 if states > 1 else 0  # this size; the scans of one state need far less
        assert least < learning.peak < (50 + 8 * states) * 2**15 + own
        with Alive() as looking, torch.no_grad():
            state_affinity(*leaves, size=(8, 10), pooling=means((8, 10), (4, 5)))
        assert least < looking.peak < 20 * 2**15 + own
