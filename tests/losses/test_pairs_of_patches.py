"""Known answers of ``skd_pairwise`` and ``ifvd``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rival_tensors import CLASSES, batch_of, started, tensors, value

from freqkd_cli.errors import RecipeError, ShapeError


def gradient_sum(loss, student, teacher, batch) -> float:
    student = student.clone().requires_grad_(True)
    value(loss, student, teacher, batch).backward()
    return float(student.grad.abs().sum())


# skd_pairwise


def test_skd_pairwise_equals_the_authors_code():
    """irfanICMLL/structure_knowledge_distillation, utils/criterion.py, commit ce208e1.

    Its CriterionPairWiseforWholeFeatAfterPool with a scale of 0.5.
    """
    student, teacher, _ = tensors()
    loss = started("skd_pairwise", student, teacher)
    known = pytest.approx(0.04393747076392174, rel=1e-6)  # it computes in float32
    assert float(value(loss, student, teacher, batch_of(None))) == known


def test_skd_pairwise_with_windows_of_2_cells_equals_cirkd_s_port():
    """winycg/CIRKD, losses/skd.py, commit dab64db: value and gradient."""
    student, teacher, _ = tensors()
    loss = started("skd_pairwise", student, teacher, cells=2)
    result = float(value(loss, student, teacher, batch_of(None)))
    assert result == pytest.approx(0.11886421488621231, rel=1e-12)
    known = pytest.approx(0.3569969689874367, rel=1e-12)
    assert gradient_sum(loss, student, teacher, batch_of(None)) == known


def test_skd_pairwise_is_numpy_s_cosines_of_the_greatest_activations():
    """Two patches of a 2x4 map, and the gradient through the norms."""
    student, teacher = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 2, 4)
    cosines = []
    for x in (student, teacher):
        patches = np.stack([x[0, :, :, i : i + 2].amax((1, 2)).numpy() for i in (0, 2)], 1)
        patches = patches / np.linalg.norm(patches, axis=0)
        cosines.append(patches.T @ patches)
    loss = started("skd_pairwise", student, teacher, cells=2)
    result = float(value(loss, student, teacher, batch_of(None, (2, 4), 1)))
    assert result == pytest.approx(np.mean((cosines[0] - cosines[1]) ** 2), rel=1e-5)
    student = student.double().requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x: value(loss, x, teacher.double(), batch_of(None, (2, 4), 1)), student
    )


@pytest.mark.parametrize(
    ("grid", "arguments", "patches"),
    [((6, 8), {}, 4), ((5, 7), {}, 9), ((6, 8), {"pool": 0.25}, 24), ((5, 7), {"cells": 2}, 12)],
)
def test_the_patches_of_skd_pairwise(grid, arguments, patches):
    """``int(0.25 * 6)`` is a window of one row."""
    x = torch.randn(2, 3, *grid)
    loss = started("skd_pairwise", x, x, **arguments)
    target = loss.target({"t": x}, batch_of(None, grid), {"s": grid})
    assert target["patches"].shape == (2, 3, patches)


def test_a_single_patch_is_refused():
    x = torch.randn(1, 3, 4, 4)
    loss = started("skd_pairwise", x, x, cells=4)
    with pytest.raises(RecipeError, match="a grid of 4x4 cells") as caught:
        loss.check_grids({"s": (4, 4)}, {"t": (8, 8)})
    assert caught.value.key == "cells" and "at least 2 patches" in str(caught.value)


def test_a_target_of_another_grid_is_refused():
    student, teacher, _ = tensors()
    loss = started("skd_pairwise", student, teacher, cells=2)
    target = {"patches": torch.zeros(2, 6, 4)}
    with pytest.raises(ShapeError, match="make the cache again"):
        loss({"s": student}, target, batch_of(None), 0)


# ifvd


def test_ifvd_equals_the_authors_code():
    """YukangWang/IFVD, utils/criterion.py, commit 950a7a5; winycg/CIRKD at dab64db has the same."""
    student, teacher, labels = tensors()
    loss = started("ifvd", student, teacher, stride=4)
    result = float(value(loss, student, teacher, batch_of(labels)))
    assert result == pytest.approx(0.46736504932460116, rel=1e-7)  # it adds 1e-8 to norms
    known = pytest.approx(1.5959320620714954, rel=1e-6)
    assert gradient_sum(loss, student, teacher, batch_of(labels)) == known


def test_ifvd_is_numpy_s_cosine_with_the_mean_of_the_class():
    student, teacher, labels = tensors(1)
    labels = labels[:, ::4, ::4]
    errors = np.zeros((2, 30))
    for sign, x in ((1, student), (-1, teacher)):
        for i in range(2):
            rows, classes = x[i].flatten(1).numpy(), labels[i].flatten().numpy()
            for k in range(CLASSES):
                mean = rows[:, classes == k].mean(1)
                for cell in np.flatnonzero(classes == k):
                    v = rows[:, cell]
                    cosine = v @ mean / (np.linalg.norm(v) * np.linalg.norm(mean))
                    errors[i, cell] += sign * cosine
    loss = started("ifvd", student, teacher)
    result = float(value(loss, student, teacher, batch_of(labels)))
    assert result == pytest.approx(np.mean(errors**2), rel=1e-12)


def test_ifvd_needs_labels():
    student, teacher, labels = tensors()
    loss = started("ifvd", student, teacher)
    with pytest.raises(RecipeError, match="ifvd needs labels"):
        value(loss, student, teacher, batch_of(None))
    only_void = batch_of(torch.full_like(labels, 255))
    assert float(value(loss, student, teacher, only_void)) == 0.0
