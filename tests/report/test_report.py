"""Tables, comparison images, overlays and figures, as a person sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import freqkd_cli
from freqkd_cli.report.comparison_image import VOID, colored, comparison
from freqkd_cli.report.matplotlib_figure import prepare_matplotlib
from freqkd_cli.report.overlay_image import overlay
from freqkd_cli.report.plots import INK, spectrum_figure
from freqkd_cli.report.tables import Column, render

PALETTE = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def test_a_piped_table_is_tab_separated():
    text = render(
        ["class", Column("IoU", ".1f")],
        [["road", 91.26], ["a\tb", None]],
        title="not shown",
        terminal=False,
    )
    assert text == "class\tIoU\nroad\t91.3\na b\t"


def test_a_table_on_a_terminal_is_aligned_and_takes_names_as_they_are():
    text = render(
        ["class", Column("IoU", ".1f")],
        [["[bold]road[/bold]", 91.26], ["sky", 5.0]],
        title="Scores",
        terminal=True,
    )
    plain = _without_color(text).splitlines()
    assert plain[0].strip() == "Scores" and "[bold]road[/bold]" in plain[2]
    assert plain[2].rstrip().endswith("91.3") and plain[3].rstrip().endswith("5.0")
    assert len(plain[2].rstrip()) == len(plain[3].rstrip())


def _without_color(text: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_row_of_another_length_is_an_error():
    with pytest.raises(ValueError):
        render(["a", "b"], [[1]], terminal=False)


def test_colors_are_those_of_the_palette_and_void_has_its_own():
    labels = np.array([[0, 1, 2], [255, 7, 0]])
    rgb = colored(labels, PALETTE)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb[0], PALETTE)
    np.testing.assert_array_equal(rgb[1], [VOID, VOID, PALETTE[0]])


def test_comparison_places_panels_and_keeps_their_colors(tmp_path):
    image = np.full((60, 80, 3), (90, 120, 150), np.uint8)
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 40:] = 2
    student = np.full((15, 20), 1)
    student[0, 0] = 255
    rows = [{"image": image, "labels": labels, "student\n40.0 mIoU": student}] * 2
    comparison(rows, ("a", "b", "c"), PALETTE, tmp_path / "deep" / "p.png", width=160)
    sheet = np.asarray(Image.open(tmp_path / "deep" / "p.png").convert("RGB")).astype(int)
    counts = {
        tuple(c): int((sheet == c).all(-1).sum())
        for c in ([90, 120, 150], *PALETTE.tolist(), list(VOID))
    }
    panel = 160 * 120
    assert counts[90, 120, 150] == 2 * panel
    swatch = 19 * 19
    assert panel - 2 * 160 <= counts[200, 30, 30] - 0 <= panel + swatch
    assert panel <= counts[30, 30, 200] <= panel + swatch
    assert 2 * (panel - 8 * 8) <= counts[30, 200, 30] <= 2 * (panel - 8 * 8) + swatch
    assert 2 * 8 * 8 <= counts[VOID] <= 2 * 8 * 8 + swatch
    left = np.argwhere((sheet == [90, 120, 150]).all(-1))[:, 1].max()
    right = np.argwhere((sheet == [30, 200, 30]).all(-1))
    assert (
        left
        < np.argwhere((sheet == [30, 30, 200]).all(-1))[: 120 * 80, 1].min()
        < right[: 120 * 160, 1].min()
    )


def test_a_row_without_labels_has_an_empty_place(tmp_path):
    image, labels = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32), np.uint8)
    whole = {"image": image, "truth": labels, "student": labels}
    rows = [{"image": image, "student": labels}, whole]
    comparison(rows, ("a",), PALETTE[:1], tmp_path / "p.png", width=32)
    sheet = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    second_column = sheet[:, 16 + 32 + 8 : 16 + 32 + 8 + 32]
    assert (second_column == PALETTE[0]).all(-1).sum(0).max() == 32  # of 64 rows of pixels
    assert (sheet[:, -48:-16] == PALETTE[0]).all(-1).sum(0).max() == 64


def test_the_legend_holds_only_classes_that_occur(tmp_path):
    one = np.zeros((32, 32), np.uint8)
    names = ("a", "b", "c")
    comparison([{"labels": one}], names, PALETTE, tmp_path / "one.png", width=64)
    comparison([{"labels": one}], names[:1], PALETTE[:1], tmp_path / "same.png", width=64)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "same.png").read_bytes()


def test_an_image_much_wider_than_high_is_one_pixel_high(tmp_path):
    sheets = []
    for height in (1, 10):
        image = np.full((height, 2560, 3), 90, np.uint8)
        comparison([{"image": image}], ("a",), PALETTE[:1], tmp_path / "p.png", width=256)
        with Image.open(tmp_path / "p.png") as sheet:
            sheets.append(sheet.size)
    assert sheets[0] == sheets[1]


def test_a_long_legend_breaks_into_lines_inside_the_sheet(tmp_path):
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    palette = np.stack(
        [np.arange(24) * 10, 255 - np.arange(24) * 10, np.full(24, 77)], axis=1
    ).astype(np.uint8)
    comparison(
        [{"labels": labels}],
        [f"a rather long name {n}" for n in range(24)],
        palette,
        tmp_path / "p.png",
        width=300,
    )
    sheet = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    assert sheet.shape[1] == 300 + 32
    for rgb in palette:
        places = np.argwhere((sheet == rgb).all(-1))
        assert (
            len(places) > 50 * 50 and places[:, 0].max() > 16 + 22 + 200
        )  # in the panel, and below it


def document(teacher: bool = True, tap: str = "stage3") -> dict:
    rho = [0.1, 0.4, 0.7, 1.0, 1.3]

    def numbers(model: str, height: float) -> dict:
        return {
            "model": model,
            "stride": 16,
            "rho": rho,
            "power": [height / r for r in rho],
            "relative_log_amplitude": [-r for r in rho],
            "low_energy": 0.25,
            "high_energy": 0.75,
        }

    made = {
        "source": "runs/a",
        "of": "student",
        "images": 1,
        "cutoff": 0.25,
        "stages": {tap: numbers("fast_scnn", 1.0)},
    }
    return made | ({"teacher": {tap: numbers("segformer", 3.0)}} if teacher else {})


@pytest.mark.parametrize("teacher", [True, False])
def test_a_spectrum_figure_has_a_line_for_each_model(tmp_path, teacher):
    spectrum_figure(json.loads(json.dumps(document(teacher))), tmp_path / "s.png")
    sheet = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    inked = {role: (np.abs(sheet - _rgb(ink)).max(-1) < 12).sum() for role, ink in INK.items()}
    assert inked["student"] > 300
    assert (inked["teacher"] > 300) == teacher


def _rgb(ink: str) -> np.ndarray:
    return np.array([int(ink[i : i + 2], 16) for i in (1, 3, 5)])


def test_a_flat_map_is_still_drawn(tmp_path):
    flat = document(False)
    flat["stages"]["stage3"] |= {
        "power": [0.0] * 5,
        "relative_log_amplitude": [0.0] * 5,
        "low_energy": None,
        "high_energy": None,
    }
    spectrum_figure(flat, tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[0] > 400


LEGEND = [{"name": name, "color": rgb} for name, rgb in zip("abc", PALETTE.tolist(), strict=True)]


def test_an_overlay_lists_the_classes_that_occur_below_the_image():
    image = np.full((60, 200, 3), 100, np.uint8)
    labels = np.zeros((60, 200), np.int64)
    labels[:, 100:] = 2
    sheet = np.asarray(overlay(image, labels, LEGEND, alpha=0.25))
    mixed = np.round(0.75 * image + 0.25 * PALETTE[labels])
    assert sheet.shape[1] == 200 and np.abs(sheet[:60] - mixed).max() <= 1
    drawn = [int((sheet[60:] == rgb).all(-1).sum()) for rgb in PALETTE]
    assert drawn[0] > 100 and drawn[1] == 0 and drawn[2] > 100
    every = np.asarray(overlay(image, labels, LEGEND, every=True))
    assert all((every[60:] == rgb).all(-1).sum() > 100 for rgb in PALETTE)
    assert overlay(image, labels, LEGEND, strip=False).size == (200, 60)
    assert overlay(image[:, :64], labels[:, :64], LEGEND).size == (64, 60)


def test_a_legend_grows_with_the_image():
    small, large = (
        overlay(np.zeros((8, width, 3), np.uint8), np.zeros((8, width), int), LEGEND).height - 8
        for width in (400, 4000)
    )
    assert large > 4 * small


CHECK = """
import json, sys
sys.path.insert(0, {path!r})
from freqkd_cli.report.plots import spectrum_figure
from pathlib import Path
spectrum_figure(json.loads({document!r}), Path({out!r}))
"""


@pytest.mark.parametrize("home", ["a file", "no variable", "/proc/nowhere"])
def test_figures_are_drawn_in_silence_without_a_home_folder(tmp_path, home):
    """A home folder that cannot be written to made matplotlib print warnings."""
    (tmp_path / "a file").write_text("")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "XDG_"))}
    folder = tmp_path / "a file" if home == "a file" else home
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": "/proc/nowhere"}
    if home == "no variable":
        del environment["HOME"]
    path, out = str(Path(freqkd_cli.__file__).parents[1]), str(tmp_path / "s.png")
    code = CHECK.format(path=path, document=json.dumps(document()), out=out)
    words = [sys.executable, "-W", "default", "-c", code]
    run = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert Path(out).stat().st_size > 10_000


def test_a_home_folder_that_can_be_written_is_used(monkeypatch, tmp_path):
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare_matplotlib()
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    prepare_matplotlib()
    assert Path(os.environ["MPLCONFIGDIR"]).is_dir()
    monkeypatch.setenv("MPLCONFIGDIR", "chosen by the user")
    prepare_matplotlib()
    assert os.environ["MPLCONFIGDIR"] == "chosen by the user"


def test_a_heading_too_wide_for_its_column_is_set_smaller_and_stays_inside(tmp_path):
    panel = np.zeros((60, 80, 3), np.uint8)
    comparison(
        [{"a rather long name of a run  57.3 mIoU\n16 labelled images": panel}],
        (),
        PALETTE,
        tmp_path / "p.png",
        width=200,
    )
    sheet = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    above = sheet[: sheet.shape[0] - 150 - 30]
    assert (above < 128).any() and above.shape[1] == 200 + 32
    assert (above[:, :14] > 200).all() and (above[:, -14:] > 200).all()
