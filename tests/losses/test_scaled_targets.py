"""The effect of scaling on eigenvalues of the real teacher, and on a correlation with its graph."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.features.graphs import GraphSide
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import Modes, low_rank, rebuilt, scaled

IMAGES = 8
SIZES = {"scenes": (192, 256), "camvid": (288, 384)}


@lru_cache
def teachers_graph(data: str, root: Path | None) -> Graph:
    """keys4 of the embedded teacher, mean over its heads, on the first images."""
    model = registry.find("models", "segformer").build(classes=12, weights="embedded").eval()
    where = {"root": root} if root else {}
    dataset = registry.find("datasets", data).build(split="val", size=SIZES[data], **where)
    images = torch.stack(
        [
            torch.from_numpy(dataset.read(i)[0].copy()).permute(2, 0, 1).float() / 255
            for i in range(IMAGES)
        ]
    )
    height, width = (side - side % 32 for side in images.shape[-2:])
    tap = next(
        tap for tap in registry.find("models", "segformer").taps(classes=12) if tap.name == "keys4"
    )
    with torch.no_grad():
        keys = model(images[..., :height, :width], taps=["keys4"])["keys4"]
    grid = (height // 32, width // 32)
    return GraphSide(tap)(
        keys, grid, torch.ones(IMAGES, grid[0] * grid[1], dtype=torch.bool)
    ).mean()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Over pairs of different nodes, mean over images."""
    off = ~torch.eye(a.shape[-1], dtype=torch.bool)
    return sum(
        float(torch.corrcoef(torch.stack([x[off], y[off]]))[0, 1])
        for x, y in zip(a[:, 0], b[:, 0], strict=True)
    ) / len(a)


def ends(values: torch.Tensor, modes: Modes) -> torch.Tensor:
    """Largest over smallest kept eigenvalue, per image."""
    magnitudes = values.abs().masked_fill(~modes.kept, 0.0)
    return (magnitudes.amax(-1) / magnitudes.masked_fill(~modes.kept, torch.inf).amin(-1)).flatten()


@pytest.mark.parametrize("data", SIZES)
def test_amplification_is_exact_before_and_mostly_gone_after_standardisation(data, request):
    root = request.getfixturevalue("camvid_root") if data == "camvid" else None
    graph = teachers_graph(data, root)
    modes = low_rank(graph.modes())
    plain, whole = rebuilt(modes.values, modes.vectors), graph.dense()
    ratio, seen = {}, {}
    for scaling in ("none", "cass", "power"):
        values = scaled(modes.values, modes.kept, scaling)
        target = rebuilt(values, modes.vectors)
        ratio[scaling], seen[scaling] = ends(values, modes), correlation(target, plain)
        print(
            f"{data} {scaling}: largest / smallest kept eigenvalue {ratio[scaling].mean():.1f}, ",
            end="correlation with the plain ",
        )
        print(f"target {seen[scaling]:.4f}, with the whole graph {correlation(target, whole):.4f}")
    torch.testing.assert_close(ratio["cass"], 3 * ratio["none"], rtol=1e-4, atol=0)
    torch.testing.assert_close(ratio["power"], ratio["none"] ** 2, rtol=1e-4, atol=0)
    assert seen["none"] == pytest.approx(1, abs=1e-5)
    assert 0.995 < seen["cass"] < 1 - 1e-5, "linear stretching: a correlation hardly sees it"
    assert 0.5 < seen["power"] < seen["cass"] - 0.005, "a power survives"
