"""``cwd`` and ``dist`` on feature taps; class scores stay their default."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rival_tensors import CHANNELS, batch_of, fill, started, tensors, value

from freqkd_cli import registry
from freqkd_cli.errors import RecipeError
from freqkd_cli.features.taps import Tap


@pytest.mark.parametrize(
    ("temperature", "adapted", "same"),
    [
        (4.0, 0.7097821625150957, 0.9127188195035872),
        (1.0, 0.665313598403289, 0.8517124571153738),
    ],
)
def test_cwd_of_features_equals_cirkd_s_code(temperature, adapted, same):
    """winycg/CIRKD, losses/cwd.py, commit dab64db, with a 1x1 convolution and without.

    After its convolution it still divides by the channels that the student had before.
    """
    student, teacher, _ = tensors()
    loss = started("cwd", student, teacher, temperature=temperature)
    fill(loss.adapter.weight)
    result = value(loss, student, teacher, batch_of(None)).item()
    assert result == pytest.approx(adapted * CHANNELS[0] / CHANNELS[1], rel=1e-12)
    few = teacher[:, : CHANNELS[0]]
    loss = started("cwd", student, few, temperature=temperature)
    assert loss.adapter is None
    assert float(value(loss, student, few, batch_of(None))) == pytest.approx(same, rel=1e-12)


def test_dist_of_features_is_one_minus_numpy_s_correlations():
    student, teacher, _ = tensors()
    student = torch.cat([student, student[:, :2] ** 2], 1)
    a, b = student.numpy(), teacher.numpy()
    cells = [np.corrcoef(a[i, :, y, x], b[i, :, y, x])[0, 1] for i, y, x in np.ndindex(2, 5, 6)]
    channels = [np.corrcoef(a[:, c].ravel(), b[:, c].ravel())[0, 1] for c in range(6)]
    known = (1 - np.mean(cells)) + (1 - np.mean(channels))
    result = float(value(started("dist", student, teacher), student, teacher, batch_of(None)))
    assert result == pytest.approx(known, rel=1e-7)


def test_the_second_term_of_dist_on_features_is_that_of_pkd():
    """Half the mean square of both sides standardized per channel over the batch."""
    student, teacher, _ = tensors()
    student = torch.cat([student, student[:, :2] ** 2], 1)
    standardized = [
        (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)
        for x in (student, teacher)
    ]
    known = float(torch.nn.functional.mse_loss(*standardized)) / 2
    loss = started("dist", student, teacher, beta=0.0)
    result = float(value(loss, student, teacher, batch_of(None)))
    assert result == pytest.approx(known, rel=1e-6)


@pytest.mark.parametrize("name", ["cwd", "dist"])
def test_grids_are_matched_as_those_of_class_scores(name):
    """``grid: teacher`` resizes the student, ``grid: student`` the teacher."""
    student, teacher = torch.randn(2, 4, 5, 6).double(), torch.randn(2, 4, 10, 12).double()

    def resized(x, size):
        return torch.nn.functional.interpolate(x, size=size, mode="bilinear")

    for grid, pair in (
        ("teacher", (resized(student, (10, 12)), teacher)),
        ("student", (student, resized(teacher, (5, 6)))),
    ):
        loss = registry.find("losses", name).build(student="s", teacher="t", grid=grid)
        loss.start({"s": Tap("s", 2, 4)}, {"t": Tap("t", 1, 4)}, 3)
        result = value(loss, student, teacher, batch_of(None, (10, 12)))
        known = value(started(name, *pair), *pair, batch_of(None, tuple(pair[0].shape[-2:])))
        torch.testing.assert_close(result, known)


@pytest.mark.parametrize("name", ["cwd", "dist"])
def test_old_recipes_and_caches_mean_the_same(name):
    build = registry.find("losses", name).build
    for loss in (build(), build(student="logits", teacher="logits")):
        assert loss.reads_logits and loss.target_arguments == ("grid",)
        assert loss.target_version == 2
        taps = {"logits": Tap("logits", 1, 3, "logits")}
        loss.start(taps, taps, 3)
        assert not list(loss.parameters())
        target = loss.target(
            {"logits": torch.randn(1, 3, 2, 2)}, batch_of(None, (2, 2), 1), {"logits": (2, 2)}
        )
        assert set(target) == {"logits"}
    loss = build(student="s", teacher="t")
    assert not loss.reads_logits and loss.target_arguments == ("teacher", "grid")


@pytest.mark.parametrize("name", ["cwd", "dist"])
@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        ({"student": "decoder"}, "teacher", "teacher logits beside 'decoder'"),
        ({"teacher": "decoder"}, "student", "student logits beside 'decoder'"),
        (
            {"student": "decoder", "teacher": "decoder", "attention": "high"},
            "attention",
            "leave attention out",
        ),
        (
            {"student": "decoder", "teacher": "decoder", "only_where_right": True},
            "only_where_right",
            "leave only_where_right out",
        ),
    ],
)
def test_keys_that_do_not_fit_features_are_refused(name, arguments, key, message):
    with pytest.raises(RecipeError) as caught:
        registry.find("losses", name).build(**arguments)
    assert caught.value.key == key and message in str(caught.value)


def test_dist_of_features_has_no_temperature_and_graphs_are_no_maps():
    with pytest.raises(RecipeError, match="leave temperature out"):
        registry.find("losses", "dist").build(student="s", teacher="t", temperature=2.0)
    loss = registry.find("losses", "cwd").build(student="s", teacher="t")
    with pytest.raises(RecipeError, match="is a graph and no map"):
        loss.start({"s": Tap("s", 8, 4)}, {"t": Tap("t", 8, 4, "nodes")}, 3)
