"""The shown part of a zoomed image has the bits of a resize of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode

from freqkd_cli.views import zoom
from freqkd_cli.views.apply import GREY, apply_geometry
from freqkd_cli.views.view import View, zoomed

CASES = settings(max_examples=80, deadline=None, derandomize=True)


def whole_resize(view: View, image: np.ndarray, labels: np.ndarray, ignore: int) -> tuple:
    """Return image, labels and valid mask of a view from a resize of the whole image."""
    size = list(zoomed(labels.shape, view.scale))
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    pixels = F.resize(pixels, size, InterpolationMode.BILINEAR, antialias=True)
    ids = torch.from_numpy(labels if labels.dtype == np.uint8 else labels.astype(np.int32))[None]
    ids = F.resize(ids, size, InterpolationMode.NEAREST_EXACT).long()
    pad = [
        -view.left,
        -view.top,
        view.left + view.width - size[1],
        view.top + view.height - size[0],
    ]
    shown = F.pad(pixels.float() / 255, pad, fill=GREY)
    valid = F.pad(torch.ones(1, *size, dtype=torch.bool), pad)
    return shown, F.pad(ids, pad, fill=ignore)[0], valid[0]


def sides(smallest: int = 1, largest: int = 60) -> st.SearchStrategy[int]:
    return st.integers(smallest, largest)


@st.composite
def views_and_sizes(draw: st.DrawFn) -> tuple[View, tuple[int, int]]:
    size = draw(sides()), draw(sides())
    scale = draw(st.sampled_from([0.01, 0.5, 1.0, 2.0, 17.3]) | st.floats(0.05, 4))
    height, width = zoomed(size, scale)
    top, left = draw(st.integers(-9, height - 1)), draw(st.integers(-9, width - 1))
    shown = draw(sides(10, 70)), draw(sides(10, 70))
    return View(scale, top, left, *shown), size


@CASES
@given(views_and_sizes(), st.integers(0, 2**16))
def test_a_view_has_the_bits_of_a_resize_of_the_whole_image(case, seed):
    view, size = case
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for dtype, ignore in ((np.uint8, 255), (np.uint16, 65535)):
        labels = rng.integers(0, ignore, size, dtype=dtype)
        expected = whole_resize(view, image, labels, ignore)
        for made, oracle in zip(apply_geometry(view, image, labels, ignore), expected, strict=True):
            assert made.dtype == oracle.dtype
            assert torch.equal(made, oracle)


@CASES
@given(views_and_sizes(), st.integers(0, 2**16))
def test_where_torchvision_resizes_floats_the_bits_are_those_of_floats(case, seed):
    view, size = case
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    height, width = zoomed(size, view.scale)
    rows = slice(max(0, view.top), min(height, view.top + view.height))
    columns = slice(max(0, view.left), min(width, view.left + view.width))
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    expected = F.resize(pixels, [height, width], InterpolationMode.BILINEAR).round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoom, "_RESIZES_BYTES", False)
        part = zoom.zoomed_image(image, (height, width), rows, columns)
    assert torch.equal(part, expected[:, rows, columns].to(torch.uint8))


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.0, 1.31, 2.0])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.4, 0.8), (1.0, 1.0)])
def test_crops_of_a_large_image_have_the_bits_of_the_whole_resize(scale, corner):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (512, 1024, 3), dtype=np.uint8)
    labels = rng.integers(0, 19, (512, 1024), dtype=np.uint8)
    height, width = zoomed(labels.shape, scale)
    top, left = (
        round(part * (side - 200)) for part, side in zip(corner, (height, width), strict=True)
    )
    view = View(scale, top, left, 200, 200)
    expected = whole_resize(view, image, labels, 255)
    for made, oracle in zip(apply_geometry(view, image, labels), expected, strict=True):
        assert torch.equal(made, oracle)


def test_a_view_beside_the_image_is_void():
    image, labels = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    for top, left in ((-40, 0), (0, 20), (16, 0), (0, -32)):
        shown, targets, valid = apply_geometry(View(2.0, top, left, 32, 32), image, labels)
        assert (shown == GREY).any() and not valid.all()
        assert bool((shown[:, ~valid] == GREY).all()) and bool((targets[~valid] == 255).all())


def test_an_image_of_one_pixel_may_be_zoomed_to_any_size():
    image, labels = np.full((1, 1, 3), 51, np.uint8), np.full((1, 1), 3, np.uint8)
    shown, targets, valid = apply_geometry(View(1000.0, 300, 400, 64, 64), image, labels)
    assert valid.all() and (targets == 3).all()
    assert torch.equal(shown, torch.full_like(shown, 51) / 255)
