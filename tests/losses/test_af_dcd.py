"""Known answers of ``af_dcd``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rival_tensors import batch_of, fill, large_tensors, mask_draws, started, value

from freqkd_cli.errors import RecipeError
from freqkd_cli.losses import _convolution
from freqkd_cli.losses.af_dcd import Contrast, contrasted


def filled(**arguments):
    student, teacher = large_tensors()
    loss = started("af_dcd", student, teacher, groups=4, **arguments)
    layers = (loss.generation.align, loss.generation.first, loss.generation.last)
    fill(*(x for layer in layers for x in (layer.weight, layer.bias)))
    return loss


@pytest.mark.parametrize(
    ("pool", "mask_ratio", "feature", "contrast", "gradient"),
    [
        (4, 0.0, 106002.8454697079, 90.27100092105708, 6.039949120924161),
        (4, 0.75, 28709.868774132177, 74.06980596192183, 0.7932391421454148),
        (1, 0.0, 106002.8454697079, 148.1680622852446, 6.045854514410859),
        (1, 0.75, 28709.868774132177, 112.19154597246285, 0.8092193291242733),
    ],
)
def test_it_equals_the_authors_code(monkeypatch, pool, mask_ratio, feature, contrast, gradient):
    """OSVAI/Af-DCD, losses/ocmgd.py, commit 5b086a7, on the same mask: values and gradient."""
    student, teacher = large_tensors()
    # That code shows the cells of the smallest numbers, and this one those of the largest.
    draws = 1.0 - mask_draws(teacher).flatten(1)
    monkeypatch.setattr(_convolution, "keyed_uniform", lambda *_: draws)
    batch, known = batch_of(None, (32, 48)), {"pool": pool, "mask_ratio": mask_ratio}
    for weights, result in (
        ({"feature_weight": 1.0, "contrast_weight": 0.0}, feature),
        ({"feature_weight": 0.0, "contrast_weight": 1.0}, contrast),
    ):
        loss = filled(**known, **weights)
        assert float(value(loss, student, teacher, batch).detach()) == pytest.approx(
            result, rel=1e-10
        )
    student.requires_grad_(True)
    value(filled(**known), student, teacher, batch).backward()
    assert float(student.grad.abs().sum()) == pytest.approx(gradient, rel=1e-9)


def test_the_contrast_is_numpy_s_cross_entropy_sample_by_sample():
    """Two patches of 2x2 cells; a row and a column beside them do not count."""
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 1, 6, 3, 5))
    total = 0.0
    for left in (0, 2):
        places = [(row, left + column) for row in (0, 1) for column in (0, 1)]
        for row, column in places:
            for g in range(3):
                own = student[0, 2 * g : 2 * g + 2, row, column]

                def score(group, place, own=own):
                    other = teacher[0, 2 * group : 2 * group + 2, place[0], place[1]]
                    return -np.abs(own - other).sum() / 0.5

                positive = score(g, (row, column))
                others = [score(other, p) for p in places for other in range(3) if other != g]
                total += np.log(np.exp([positive, *others]).sum()) - positive
    contrast = Contrast(temperature=0.5, groups=3, pool=1, patch=2)
    result = contrasted(torch.from_numpy(student), torch.from_numpy(teacher), contrast)
    assert float(result) == pytest.approx(total / 8, rel=1e-12)


def test_its_gradient_is_right_with_a_mask():
    student, teacher = torch.randn(1, 2, 4, 4).double(), torch.randn(1, 4, 4, 4).double()
    arguments = {"groups": 2, "pool": 1, "patch": 2, "contrast_weight": 1.0, "temperature": 1.0}
    loss = started("af_dcd", student, teacher, **arguments)
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda x: value(loss, x, teacher, batch_of(None, (4, 4), 1)), student
    )


def test_the_mask_hides_its_share_and_depends_on_the_step():
    student, teacher = torch.ones(2, 4, 100, 100).double(), torch.zeros(2, 4, 100, 100).double()
    loss = started("af_dcd", student, teacher, groups=2)
    assert loss.generation.align is None  # equal channels need none
    # It passes the map on, since that is not negative.
    for layer in (loss.generation.first, loss.generation.last):
        torch.nn.init.dirac_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    batch = batch_of(None, (100, 100))
    shown = [loss.generated(student, batch, step).detach() for step in (0, 0, 1)]
    assert float(shown[0].mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])
    assert not torch.equal(shown[0][0], shown[0][1])
    assert torch.equal(shown[0][:, 0], shown[0][:, 3])


def test_channels_and_grids_that_do_not_fit_are_refused():
    x = torch.zeros(1, 24, 8, 8)
    with pytest.raises(RecipeError, match="16 groups of 24 channels") as caught:
        started("af_dcd", x, x)
    assert "try  groups: 12" in str(caught.value) and caught.value.key == "groups"
    with pytest.raises(RecipeError, match="at least 16x16"):
        started("af_dcd", x, x, groups=8).check_grids({"s": (8, 20)}, {"t": (20, 20)})
    started("af_dcd", x, x, groups=8, pool=2).check_grids({"s": (8, 20)}, {"t": (20, 20)})
    started("af_dcd", x, x, contrast_weight=0.0).check_grids({"s": (1, 1)}, {"t": (1, 1)})
