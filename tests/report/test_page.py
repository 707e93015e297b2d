"""The page of ``freqkd report``: what it shows, for whom it is readable, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import fake_runs
import numpy as np
import pytest
from page_reader import PageReader

from freqkd_cli.report.page_charts import Series, line_chart
from freqkd_cli.report.page_panels import (
    BOTH,
    FIRST,
    IGNORED,
    NEITHER,
    SECOND,
    WIDEST,
    error_map,
    photo,
)
from freqkd_cli.report.page_scales import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks_between

TEMPLATES = Path(__file__).parents[2] / "freqkd_cli" / "report" / "templates"
SECTIONS = ["Result", "Cost against quality", "Learning curves", "Scores per class", "Images"]
SECTIONS += ["Spectra", "Recipes", "Runs and their environment"]


@pytest.fixture
def study(tmp_path) -> Path:
    rows = {"ce": {0: 0.50, 1: 0.52, 2: 0.51}, "kl": {0: 0.55, 1: 0.56, 2: 0.56}}
    rows |= {"weak": {0: 0.40, 1: 0.47, 2: 0.41}}
    folder = fake_runs.study(tmp_path / "study", rows)
    plan = (folder / "plan.yaml").read_text()
    (folder / "plan.yaml").write_text(
        f"# Is <KL> worth it?\n# A note & more.\n# Expected: not yet measured\n{plan}"
    )
    return folder


@pytest.fixture
def page(study, freqkd, tmp_path) -> PageReader:
    code, _, err = freqkd("report", study, "--out", tmp_path / "p.html", "--images", "0")
    assert code == 0, err
    return PageReader((tmp_path / "p.html").read_text())


def test_a_page_has_every_section_in_order(page):
    assert page.wrong == []
    assert [text for level, text in page.headings if level == 2] == SECTIONS
    assert page.headings[0] == (1, "Is <KL> worth it?") and "A note & more." in page.text
    assert "not yet measured" not in page.text, "a plan's line; the page has the results"
    levels = [level for level, _ in page.headings]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_result_is_that_of_compare(page, study, freqkd):
    code, out, _ = freqkd("compare", study, "--json")
    row = next(row for row in json.loads(out)["rows"] if row["name"] == "kl")
    assert code == 0 and row["verdict"] == "better"
    for number in (row["difference"], row["low"], row["high"]):
        assert f"{100 * number:+.2f}" in page.text
    assert "kl: mIoU 55.67 ± 0.58 % over 3 seeds." in page.text
    assert "Of 2 recipes: 1 better, 1 worse." in page.text


@pytest.mark.parametrize(("score", "closes"), [(0.65, True), (0.45, False)])
def test_a_recipe_that_is_worse_closes_no_gap(tmp_path, freqkd, score, closes):
    fake_runs.seeds(tmp_path, "ce", {0: 0.5, 1: 0.5})
    teacher = {"teacher_miou": 0.8, "teacher_images": 200}
    fake_runs.seeds(tmp_path, "kl", {0: score, 1: score}, kl=1.0, summary=teacher)
    code, text, _ = freqkd("report", tmp_path, "--markdown")
    assert code == 0 and ("It closes 50% of the gap to the teacher." in text) is closes
    assert ("It closes" in text) is closes


def test_a_single_seed_has_no_deviation(tmp_path, freqkd):
    folder = fake_runs.study(tmp_path / "study", {"ce": {0: 0.5}, "kl": {0: 0.55}})
    assert freqkd("report", folder, "--out", tmp_path / "p.html", "--images", "0")[0] == 0
    text = (tmp_path / "p.html").read_text()
    assert "kl: 55.00, step" in text and "± 0.00" not in text


def test_images_that_were_held_out_are_not_called_validation_images(tmp_path, freqkd):
    runs = fake_runs.seeds(tmp_path, "ce", {0: 0.5}, summary={"held_out_images": 200})
    text = freqkd("report", *runs, "--markdown")[1]
    assert "- held-out images: 200\n" in text and "validation images" not in text


def test_a_page_needs_no_network_and_runs_no_script(page):
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form"}
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (name, value)
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    style = (TEMPLATES / "page.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_a_page_can_be_read_without_eyes(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
        assert (attributes.get("href") or f"#{ids[0]}")[1:] in ids
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or svg.get("aria-labelledby")
    regions = [a for a in page.all("div") if a.get("class") == "scroll"] + page.all("pre")
    assert all(a["tabindex"] == "0" and a["role"] == "region" for a in regions)
    assert len({a["aria-label"] for a in regions}) == len(regions) == 6
    assert ":focus-visible { outline: 3px" in (TEMPLATES / "page.css").read_text()
    assert page.all("html") == [{"lang": "en"}] and page.all("main") and page.all("nav")


def test_marked_lines_of_a_recipe_are_those_that_differ(page):
    assert len(page.all("mark")) == 2 * (4 + 4)  # the teacher and a loss, in two rows
    assert page.text.count("(8 lines differ)") == 2


# --- contrast -----------------------------------------------------------------------------------


def colors(scheme: str) -> dict[str, tuple[int, int, int]]:
    style = (TEMPLATES / "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.S)
    found = re.findall(r"--([\w]+): #([0-9a-f]{6});", light if scheme == "light" else dark)
    return {name: tuple(bytes.fromhex(value)) for name, value in found}


def contrast(one, other) -> float:
    """The ratio of WCAG 2."""

    def luminance(color):
        shares = [c / 255 for c in color]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_stand_out(scheme):
    palette = colors(scheme)
    assert set(palette) == set(colors("light"))
    for paper in ("paper", "panel"):
        for text in ("ink", "quiet", "better", "worse", "teacher"):
            assert contrast(palette[text], palette[paper]) >= 4.5, (text, paper)
    for paper in ("up", "down", "mark"):  # the strongest cells, and marked lines of recipes
        assert contrast(palette["ink"], palette[paper]) >= 4.5, paper
    for line in ("baseline", "best", "teacher", "other", "s0", "s1", "s2", "s3", "s4", "s5"):
        assert contrast(palette[line], palette["paper"]) >= 3, line


def test_contrast_of_black_and_white_is_21():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


# --- charts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (74.1, 77.2, [75, 76, 77]),
        (0, 1024, [0, 500, 1000]),
        (-0.013, 0.021, [-0.01, 0, 0.01, 0.02]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert ticks_between(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("heights", "logarithmic", "labels"),
    [
        ([0.3, 0.9], True, ["0.5"]),  # was 0
        ([0.61, 0.61], True, ["0.61"]),  # was 1, twice
        ([57.42, 57.42], False, ["57.42"]),  # was 57
        ([0.04, 4.0], True, ["0.1", "0.3", "1.0", "3.0"]),
        ([2e-5, 9e-5], False, ["2e-05", "4e-05", "6e-05", "8e-05"]),
    ],
)
def test_a_tick_says_its_value(heights, logarithmic, labels):
    series = [Series("a", "best", [1, 2], heights)]
    chart = line_chart("t", "a", series, x_label="x", y_label="y", logarithmic=logarithmic)
    assert [tick.text for tick in chart.y_ticks] == labels


@pytest.mark.parametrize("logarithmic", [False, True])
def test_lines_lie_inside_their_chart(logarithmic):
    x = list(range(1, 1001))
    y = [1001.0 - step if step != 7 else float("nan") for step in x]
    series = [Series("a", "best", x, y), Series("point", "other", [1], [2])]
    words = {"x_label": "x", "y_label": "y", "rule": ("teacher", 500.0)}
    chart = line_chart("t", "a", series, logarithmic=logarithmic, **words)
    assert [path.name for path in chart.paths] == ["a"]
    points = np.array([p.split(",") for p in chart.paths[0].points.split()], float)
    assert len(points) == 100
    assert points[:, 0].min() >= LEFT and points[:, 0].max() <= WIDTH - RIGHT
    assert points[:, 1].min() >= TOP and points[:, 1].max() <= HEIGHT - BOTTOM
    assert (np.diff(points[:, 1]) > 0).all()  # falling values go down the page
    assert chart.legend == [("best", "a"), ("rule", "teacher")]


def test_a_chart_without_a_line_is_left_out():
    assert line_chart("t", "a", [Series("a", "best", [1], [1])], x_label="", y_label="") is None


def test_class_255_of_300_is_a_class_in_an_error_map():
    truth, labels = np.array([255, 255, 65535, 7]), np.array([255, 3, 2, 7])
    assert error_map([labels], truth, 300).tolist() == [BOTH, NEITHER, IGNORED, BOTH]


def test_an_image_much_wider_than_high_is_one_pixel_high():
    panel = photo(np.zeros((1, 2560, 3), np.uint8), "wide")
    assert (panel.width, panel.height) == (WIDEST, 1)


def test_an_error_map_has_four_kinds():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    first, second = np.array([[0, 0, 0, 0, 0]]), np.array([[0, 1, 1, 0, 0]])
    assert error_map([first, second], truth, 9).tolist() == [
        [BOTH, FIRST, SECOND, NEITHER, IGNORED]
    ]
    assert error_map([first], truth, 9).tolist() == [[BOTH, BOTH, NEITHER, NEITHER, IGNORED]]


# --- predictions and spectra ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """Two runs with models and small images, the second with a teacher."""
    import torch

    from freqkd_cli.build.saved import save_model
    from freqkd_cli.datasets.scenes import CLASSES
    from freqkd_cli.models import fast_scnn

    torch.manual_seed(0)
    model = fast_scnn.build(classes=len(CLASSES), width=0.25).eval()
    folder = tmp_path_factory.mktemp("pair")
    runs = fake_runs.run(folder / "ce", 0.5), fake_runs.run(folder / "kl", 0.6, kl=1.0)
    for run in runs:
        text = (run / "recipe.yaml").read_text()
        text = text.replace("[192, 256]", "[96, 128]").replace("width: 0.5", "width: 0.25")
        (run / "recipe.yaml").write_text(text)
        save_model(run, model, "fast_scnn", dict(enumerate(CLASSES)))
    return runs


def test_a_page_shows_predictions_and_spectra(pair, freqkd, tmp_path):
    out = tmp_path / "p.html"
    code, printed, err = freqkd("report", *pair, "--out", out, "--images", "1", "--json")
    assert code == 0, err
    document, page = json.loads(printed), PageReader(out.read_text())
    assert document["images"] == 1 and document["left_out"] is None
    assert document["bytes"] == out.stat().st_size
    images = page.all("img")
    alts = [image["alt"] for image in images]
    assert len(images) == 6 and all(image["src"].startswith("data:image/") for image in images)
    assert alts[0].startswith("Image val_") and "ground truth: " in alts[1]
    assert all("of pixels are right" in alt for alt in alts[2:5])
    assert "both right" in alts[5] and "only ce seed 0 right" in alts[5]
    assert all(image["width"] == "128" and image["height"] == "96" for image in images)
    titles = [text for _, text in page.headings]
    assert "Radial spectrum, stage1" in titles and "Graph spectrum, stage3" in titles
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_large_images_have_a_graph_of_stage_3(pair, freqkd, tmp_path):
    """46 x 46 cells, pooled to 23 x 23 nodes. They were left out."""
    run = tmp_path / "large"
    shutil.copytree(pair[0], run)
    text = (run / "recipe.yaml").read_text().replace("[96, 128]", "[736, 736]")
    (run / "recipe.yaml").write_text(text)
    code, printed, err = freqkd("report", run, "--images", "1", "--json")
    assert code == 0, err
    assert json.loads(printed)["left_out"] == ["These recipes have no teacher."]
    titles = [text for _, text in PageReader((run / "report.html").read_text()).headings]
    assert "Graph spectrum, stage3" in titles and "Graph spectrum, stage4" in titles


def test_predictions_of_runs_that_held_images_out_are_of_those_images(pair, freqkd, tmp_path):
    for run in pair:
        shutil.copytree(run, tmp_path / run.name)
        text = (run / "recipe.yaml").read_text()
        text = re.sub(r"(?m)^data:\n", "data:\n  hold_out: 0.5\n", text)
        (tmp_path / run.name / "recipe.yaml").write_text(text)
    runs = [tmp_path / run.name for run in pair]
    code, _, err = freqkd("report", *runs, "--out", tmp_path / "p.html", "--images", "2")
    assert code == 0, err
    images = PageReader((tmp_path / "p.html").read_text()).all("img")
    alts = [image["alt"] for image in images if image["alt"].startswith("Image ")]
    assert len(alts) == 2 and all(alt.startswith("Image train_") for alt in alts)


def test_the_page_of_a_run_is_written_into_it(pair, freqkd):
    code, out, err = freqkd("report", pair[0], "--images", "0")
    page = PageReader((pair[0] / "report.html").read_text())
    assert code == 0 and "report.html" in out, err
    assert page.headings[0][1] == "What did ce learn on scenes?"
    assert "difference" not in page.text and page.wrong == []
    code, _, err = freqkd("report", pair[0], "--images", "0")
    assert code == 2 and "report.html exists" in err and "--overwrite" in err
    assert freqkd("report", pair[0], "--images", "0", "--overwrite")[0] == 0


def test_runs_that_are_not_finished_are_named_once(study, freqkd, tmp_path):
    (study / "runs" / "kl" / "seed-2" / "summary.json").unlink()
    code, _, err = freqkd("report", study, "--out", tmp_path / "p.html", "--images", "0")
    page = PageReader((tmp_path / "p.html").read_text())
    assert code == 0 and page.text.count("kl/seed-2") == 1, err
    assert "kl: mIoU 55.50 ± 0.71 % over 2 seeds." in page.text


def test_what_is_missing_is_listed_and_the_page_is_written(study, freqkd, tmp_path):
    code, out, err = freqkd("report", study, "--out", tmp_path / "p.html", "--json")
    assert code == 0, err
    left_out = json.loads(out)["left_out"]
    assert left_out[0].startswith("No predictions are shown: ") and len(left_out) > 1
    page = PageReader((tmp_path / "p.html").read_text())
    assert left_out[0].split(";")[0] in page.text and not page.all("img")


def test_scores_per_class_that_are_missing_can_be_added(freqkd, tmp_path):
    run = fake_runs.run(tmp_path / "a", 0.5, per_class={})
    assert freqkd("report", run, "--images", "0")[0] == 0
    assert "These runs have no scores per class." in (run / "report.html").read_text()


def test_markdown_has_the_same_tables(study, freqkd):
    code, out, err = freqkd("report", study, "--markdown")
    assert code == 0, err
    assert out.startswith("# Is <KL> worth it?\n\nA note & more.\n\nkl: mIoU 55.67 ± 0.58 %")
    rows = [line for line in out.splitlines() if line.startswith("| kl |")]
    assert len(rows) == 4 and rows[0].startswith("| kl | 3 | 55.67 | 0.58 | +4.67 |")
    assert [line for line in out.splitlines() if line.startswith("| road |")]
    widths = {
        line.count(" | ") for line in out.splitlines() if line.startswith(("| ce |", "| kl "))
    }
    assert len(widths) == 2 and "\n\n\n\n" not in out


# --- refusals -------------------------------------------------------------------------------------


def test_bad_input_is_one_message(study, freqkd, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.html").write_text("mine")
    started = fake_runs.run(tmp_path / "started" / "a", 0.5, finished=False)
    out = ("--out", tmp_path / "p.html")
    for words, code, text in (
        ((study,), 2, "--out is missing"),
        ((study, "--out", tmp_path / "there.html"), 2, "there.html exists"),
        ((study, "--out", tmp_path / "p.txt"), 2, "need a file ending in .html"),
        ((study, "--markdown", *out), 2, "need a file ending in .md"),
        ((study, "--baseline", "kk", *out), 2, "no row is called 'kk'"),
        ((tmp_path / "empty", *out), 4, "contains none"),
        ((tmp_path / "nowhere", *out), 4, "does not exist"),
        ((started, *out), 4, "no run is finished"),
    ):
        got, printed, err = freqkd("report", *words, "--images", "0")
        assert (got, printed) == (code, ""), err
        assert text in err and err.count("error:") == 1 and "Traceback" not in err
    assert (tmp_path / "there.html").read_text() == "mine"
    assert not (tmp_path / "p.html").exists()


def test_a_page_is_whole_or_absent(study, freqkd, tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    code, _, err = freqkd("report", study, "--out", tmp_path / "p.html", "--images", "0")
    assert code == 1 and "full" in err
    assert not list(tmp_path.glob("p.html*"))


def test_a_failure_of_the_page_does_not_fail_a_finished_run(tmp_path, freqkd, monkeypatch, caplog):
    from small_recipe import SMALL

    from freqkd_cli.report import page

    (tmp_path / "r.yaml").write_text(SMALL)
    words = ("distill", tmp_path / "r.yaml", "--out", tmp_path / "run", "--report")
    monkeypatch.setattr(page, "page_of", lambda *_, **__: 1 / 0)
    code, _, err = freqkd(*words)
    assert code == 0 and "report.html is not written" in err + caplog.text
    monkeypatch.undo()
    code, _, err = freqkd(*words, "--resume")
    assert code == 0, err
    page = PageReader((tmp_path / "run" / "report.html").read_text())
    assert len(page.all("img")) == 4 * 5  # image, ground truth, the run, its teacher, errors
    assert "Losses and scores at several steps are missing." in page.text
    assert (tmp_path / "run" / "curves.png").is_file()


# --- size -----------------------------------------------------------------------------------------


def test_200_runs_are_a_small_page_made_quickly(freqkd, tmp_path):
    rng = np.random.default_rng(0)
    for row in range(67):
        name, weight = f"kl_{row:02d}", row / 10 or None
        for seed in range(3):
            score = 0.5 + 0.001 * row + 0.01 * rng.standard_normal()
            table = dict.fromkeys((f"class_{k}" for k in range(19)), score)
            folder = tmp_path / "runs" / f"{name}_s{seed}"
            fake_runs.run(folder, score, seed=seed, kl=weight, ms=100 + row, per_class=table)
            raw = {"cross_entropy": 0.5}
            loss = {"step": 1, "total": 1.0, "raw": raw, "weighted": raw}
            lines = [json.dumps({**loss, "step": step}) for step in range(1, 101)]
            text = (folder / "metrics.jsonl").read_text()
            (folder / "metrics.jsonl").write_text("\n".join([*lines, text]))
    started = time.process_time()
    out = tmp_path / "p.html"
    code, _, err = freqkd("report", tmp_path / "runs", "--out", out, "--images", "0")
    assert code == 0, err
    assert time.process_time() - started < 20
    assert out.stat().st_size < 20e6
    assert PageReader(out.read_text()).wrong == []
