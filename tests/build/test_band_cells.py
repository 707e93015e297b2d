"""Effective cells of the bands of a recipe: the plan lists them and warns of few."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.recipe import shipped
from freqkd_cli.spectral.masks import kept_cells, measured_band

RECIPE = """
version: 1
data: {{name: scenes, size: [192, 256], length: 16}}
teacher: {{name: segformer, weights: embedded}}
student: {{name: fast_scnn, width: 0.25}}
losses:
  - {{name: cross_entropy}}
  - {{id: deep, name: band, student: encoder, teacher: stage4, {line}}}
train: {{epochs: 1, batch_size: 4}}
"""


def known_cells(grid, cutoff) -> float:
    """Energy of white noise after a gaussian low-pass, DC apart."""
    rho = np.hypot(np.fft.fftfreq(grid[0])[:, None], np.fft.fftfreq(grid[1])) / 0.5
    return float((np.exp(-(rho**2) / (2 * cutoff**2)) ** 2).sum() - 1.0)


@pytest.mark.parametrize("grid", [(6, 8), (9, 11), (24, 32)])
def test_effective_cells_are_the_energy_of_white_noise(grid):
    for cutoff in (0.25, 0.5):
        known = known_cells(grid, cutoff)
        assert kept_cells(grid, "gaussian", cutoff, 2, "low") == pytest.approx(known, rel=1e-12)
    low, high = (kept_cells(grid, "ideal", 0.6, 2, band) for band in ("low", "high"))
    assert low + high == grid[0] * grid[1] - 1


@pytest.mark.parametrize("kind", ["gaussian", "ideal", "butterworth"])
@pytest.mark.parametrize("unit", [1.0, 1 / 64])
def test_the_offered_cutoff_keeps_enough_cells(kind, unit):
    for band, cutoff in (("low", 0.2), ("high", 1.3 if kind == "ideal" else 3.0)):
        few = measured_band((6, 8), kind, cutoff, 2, band, "a tap", key="key", unit=unit)
        assert few.few
        offered = float(few.setting.removeprefix("key="))
        assert kept_cells((6, 8), kind, offered / unit, 2, band) >= 4
        closer = offered / unit + (cutoff - offered / unit) / 2
        assert kept_cells((6, 8), kind, closer, 2, band) < 8
    assert measured_band((2, 2), kind, 0.5, 2, "low", "a tap").setting is None


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ("band: low, cutoff: 0.25", "low band .* keeps 1.4"),
        ("band: mix, cutoff_cycles: 0.004", "low band .* keeps 1.5"),
        ("band: high, mask: ideal, cutoff: 1.25", "high band .* keeps 1.0"),
        ("band: high, cutoff: 0.25, attention: low", "low band .* keeps 1.4"),
    ],
)
def test_a_band_of_few_cells_is_one_warning_with_a_tip_that_helps(freqkd, tmp_path, line, cells):
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE.format(line=line))
    _, _, err = freqkd("recipe", "check", file)
    (warning,) = [text for text in err.splitlines() if text.startswith("warning: ")]
    assert re.search(
        rf"losses.deep: the {cells} effective cells of 47 \(6x8\), fewer than 4", warning
    )
    setting = re.search(r"--set '(\S+)'$", warning)[1]
    code, _, err = freqkd("recipe", "check", file, "--set", setting)
    assert code == 0 and "warning" not in err


def test_check_and_dry_run_list_the_cells_of_each_band(freqkd, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE.format(line="band: mix, cutoff: 0.5"))
    (row,) = json.loads(freqkd("recipe", "check", file, "--json")[1])
    low = row["bands"][0]
    assert low == {
        "id": "deep",
        "band": "low",
        "grid": [6, 8],
        "effective_cells": pytest.approx(known_cells((6, 8), 0.5), abs=0.005),
        "cells": 47,
    }
    assert row["bands"][1]["band"] == "high"
    assert "deep low 8.3 of 47 cells (6x8), deep high" in freqkd("recipe", "check", file)[2]
    file.write_text(
        RECIPE.format(line="band: low, cutoff: 0.5")
        .replace("192, 256", "64, 96")
        .replace("student: encoder, teacher: stage4", "student: encoder16, teacher: stage3")
    )
    words = ("distill", file, "--out", tmp_path / "a", "--dry-run", "--json")
    assert json.loads(freqkd(*words)[1])["bands"] == ["deep low 3.6 of 23 cells (4x6)"]


@pytest.mark.parametrize("name", [name for name in shipped.paths() if name != "starter"])
def test_bands_of_shipped_recipes_have_enough_cells(name):
    plan = assemble.check(recipes.load(name), data=False)
    assert not [band for cells in plan.bands.values() for band in cells if band.few]


def test_a_line_of_weight_zero_has_no_warning(freqkd, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE.format(line="band: low, cutoff: 0.25, weight: 0"))
    assert "warning" not in freqkd("recipe", "check", file)[2]
