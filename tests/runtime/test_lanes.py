"""Lanes give the result of the whole batch, and leave the process unchanged."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from freqkd_cli.models import segformer
from freqkd_cli.runtime.lanes import Lanes

pytestmark = pytest.mark.usefixtures("three_threads")


@pytest.mark.parametrize(
    ("number", "starts"),
    [(1, [0]), (2, [0]), (3, [0, 2]), (7, [0, 3, 6]), (8, [0, 3, 6]), (16, [0, 4, 8, 12])],
)
def test_parts_come_back_in_order(number, starts):
    model, x = nn.Linear(4, 5), torch.randn(number, 4)
    seen = Lanes(model).each(
        number, lambda lane, part: (part.start, threading.get_ident(), lane(x[part]))
    )
    assert [start for start, *_ in seen] == starts
    assert len(seen) == 1 or threading.get_ident() not in {thread for _, thread, _ in seen}
    torch.testing.assert_close(torch.cat([y for *_, y in seen]), model(x))
    assert not any(y.requires_grad for *_, y in seen)


def test_weights_that_change_in_place_are_seen():
    model, x = nn.Linear(4, 5).eval(), torch.randn(8, 4)
    lanes = Lanes(model)
    lanes.each(8, lambda lane, part: lane(x[part]))
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(3.0)
    assert all((y == 3.0).all() for y in lanes.each(8, lambda lane, part: lane(x[part])))


@pytest.mark.parametrize("size", [(64, 96), (40, 72)])
def test_hooks_of_other_lanes_do_not_fire(size):
    """Graphs of a SegFormer are read by hooks on its blocks, the hardest case for lanes."""
    torch.manual_seed(0)
    model = segformer.build(classes=4, variant="mini").eval()
    images, taps = torch.rand(8, 3, *size), ["stage2", "context3", "attention2", "keys3", "keys4"]
    with torch.inference_mode():
        whole = model(images, taps=taps)
        lanes = Lanes(model)
        for _ in range(5):
            parts = lanes.each(8, lambda lane, part: lane(images[part], taps=taps))
            for name in ("logits", *taps):
                torch.testing.assert_close(
                    torch.cat([part[name] for part in parts]), whole[name], rtol=1e-4, atol=1e-5
                )
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failure_reaches_the_caller_and_nothing_stays_changed():
    lanes = Lanes(nn.Linear(1, 1))

    def work(lane, part):
        if part.start == 3:
            raise ValueError("part 3")
        return part.start

    with pytest.raises(ValueError, match="part 3"):
        lanes.each(8, work)
    assert lanes.each(4, work) == [0, 2]


def test_inference_mode_reaches_the_lanes():
    model, x = nn.Linear(4, 5), torch.randn(8, 4)
    with torch.inference_mode():
        assert all(y.is_inference() for y in Lanes(model).each(8, lambda lane, part: lane(x[part])))
    assert not any(y.is_inference() for y in Lanes(model).each(8, lambda lane, part: lane(x[part])))
