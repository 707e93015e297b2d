"""The leading eigenvectors of two graphs as maps, the student's matched to the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from freqkd_cli.features.loss import Grid
from freqkd_cli.spectral.modes import Modes, shares
from freqkd_cli.spectrum.graph_pairs import GraphPair
from freqkd_cli.spectrum.graph_result import EigenMaps

SHOWN = 4
"""Number of eigenvectors per graph."""


def eigen_maps(
    pair: GraphPair, modes: Mapping[str, Modes], valid: Tensor, grid: Grid
) -> list[EigenMaps]:
    """Return the teacher's leading eigenvectors and the student's that are most like them.

    With one role, its own leading eigenvectors are returned.
    """
    leading: Tensor | None = None
    rows = []
    for role in sorted(modes, reverse=True):  # the teacher first
        kept = int(modes[role].kept.sum())
        vectors, likeness = modes[role].vectors[0, 0, :, :kept], None
        if leading is None:
            numbers = list(range(min(SHOWN, kept)))
            vectors = vectors[:, numbers]
            leading = vectors = vectors * torch.where(vectors.pow(3).sum(0) < 0, -1.0, 1.0)
        else:
            cosines = leading.mT @ vectors[:, : 2 * SHOWN]
            numbers = _closest(cosines.abs())
            signed = cosines[range(len(numbers)), numbers]
            likeness = signed.abs().tolist()
            vectors = vectors[:, numbers] * torch.where(signed < 0, -1.0, 1.0)
        maps = vectors.masked_fill(~valid[0, :, None], torch.nan).mT.unflatten(1, grid).cpu()
        rows.append(
            EigenMaps(
                stage=pair.name,
                role=role,
                tap=pair.taps[role].name,
                numbers=[number + 1 for number in numbers],
                shares=shares(modes[role].values)[0, 0, numbers].tolist(),
                likeness=likeness,
                maps=maps,
            )
        )
    return rows


def _closest(likeness: Tensor) -> list[int]:
    """Return for each row, in turn, the largest column that is still free."""
    free, chosen = likeness.clone(), []
    for row in range(min(likeness.shape)):
        chosen.append(int(free[row].argmax()))
        free[:, chosen[-1]] = -1.0
    return chosen
