"""``compare``: one table for runs with the same data, distinct names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import layouts
import numpy as np
import pytest
import torch

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import save_model
from freqkd_cli.models import fast_scnn
from freqkd_cli.recipe.data_section import held_out_data
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score import evaluate, side_by_side
from freqkd_cli.score.scored_split import ScoredSplit
from freqkd_cli.score.side_by_side import _names, compare
from freqkd_cli.score.supervision import supervision

NAMES = ("road", "car", "sky", "tree", "person")


@pytest.fixture
def run(tmp_path):
    """Makes a run on the folder data set in ``root``."""

    def made(name: str, root: str, classes: int = 3, images: int = 2) -> Path:
        if not (tmp_path / root).exists():
            masks = [layouts.labels(range(classes), n, (64, 64)) for n in range(images)]
            layouts.folder(tmp_path / root, masks, NAMES[:classes])
        torch.manual_seed(len(name))
        save_model(
            tmp_path / name,
            fast_scnn.build(classes=classes, width=0.25),
            id2label=dict(enumerate(NAMES[:classes])),
        )
        text = f"version: 1\ndata: {{name: folder, size: [64, 64], root: {tmp_path / root}}}\n"
        text += "student: {name: fast_scnn, width: 0.25}\nlosses: [{name: cross_entropy}]\n"
        text += "train: {steps: 1, batch_size: 16}\n"
        (tmp_path / name / "recipe.yaml").write_text(recipes.dump(recipes.loads(text)))
        return tmp_path / name

    return made


def test_runs_on_other_data_are_not_compared(run, freqkd, tmp_path):
    three, five = run("a", "d"), run("b", "d5", 5)
    code, out, err = freqkd("compare", three, five, "-q")
    assert (code, out) == (2, "") and "were trained on different data" in err
    assert f"got  data.root {tmp_path / 'd'} and {tmp_path / 'd5'}" in err and "--data-root" in err
    code, out, err = freqkd("compare", three, five, "--data-root", tmp_path / "d", "-q")
    assert (
        (code, out) == (2, "")
        and f"{five} and folder have different classes" in err
        and "got  5 and 3" in err
    )


def test_data_root_scores_runs_on_one_copy_of_the_data(run, freqkd, tmp_path):
    one, two = run("a", "d"), run("b", "copy")
    assert freqkd("compare", one, two, "-q")[0] == 2
    code, out, err = freqkd("compare", one, two, "--data-root", tmp_path / "copy", "--json", "-q")
    assert (code, err) == (0, "")
    rows = json.loads(out)["models"]
    assert [row["name"] for row in rows] == ["a", "b"] and all(
        row["images"] == 2 and row["miou"] is not None for row in rows
    )
    alone = json.loads(freqkd("eval", one, "--data-root", tmp_path / "copy", "--json", "-q")[1])
    assert {key: rows[0][key] for key in ("miou", "boundary_iou", "parameters")} == {
        key: alone[key] for key in ("miou", "boundary_iou", "parameters")
    }


def test_a_link_leads_to_the_same_data(run, freqkd, tmp_path):
    one = run("a", "d")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    assert freqkd("compare", one, run("b", "link"), "-q")[0] == 0


def test_labels_are_checked_as_in_eval(run, freqkd, tmp_path):
    one = run("a", "d")
    layouts.save(tmp_path / "d/masks/val/p1.png", layouts.labels((0, 1, 9), 1, (64, 64)))
    code, out, err = freqkd("compare", one, "-q")
    assert (
        (code, out) == (1, "")
        and err == freqkd("eval", one, "-q")[2]
        and "belong to no class" in err
    )


def test_runs_of_one_name_are_distinguished_by_their_folders(run, freqkd):
    code, out, _ = freqkd("compare", run("x/run", "d"), run("y/run", "d"), "--json", "-q")
    assert code == 0 and [row["name"] for row in json.loads(out)["models"]] == ["x/run", "y/run"]


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/a", "old/a", "runs/b/"], ["runs/a", "old/a", "runs/b"]),
        (["p/x/run", "q/x/run"], ["p/x/run", "q/x/run"]),
        (["runs/a", "./runs/a"], ["a", "a"]),
        (["runs/teacher"], ["runs/teacher"]),
    ],
)
def test_names_are_as_long_as_needed(runs, names):
    assert _names([Path(run) for run in runs]) == names


def test_images_are_spread_over_the_split_whatever_the_limit(run):
    """With --limit, neighbours were drawn: the images that were scored."""
    one = run("a", "d", images=8)
    result = compare([one], Silent(), limit=2, images=4)
    assert result.rows[0]["images"] == 2
    dataset = assemble.build_dataset(recipes.load(one / "recipe.yaml"), "val")
    expected = [dataset.read(number) for number in (0, 2, 5, 7)]
    assert len(result.panels) == 4
    for panel, (image, labels) in zip(result.panels, expected, strict=True):
        np.testing.assert_array_equal(panel["image"], image)
        np.testing.assert_array_equal(panel["ground truth"], labels)
        (prediction,) = (panel[key] for key in panel if key.startswith("a"))
        assert prediction.shape == (64, 64) and prediction.max() < 3


def test_the_table_is_in_percent_and_json_holds_fractions(run, freqkd, tmp_path):
    one = run("a", "d")
    out, err = freqkd("compare", one, "--image", tmp_path / "c.png")[1:]
    assert "Next: freqkd spectrum" in err and f"image: {tmp_path / 'c.png'}" in out
    heading, line = out.splitlines()[:2]
    cells = dict(zip(heading.split("\t"), line.split("\t"), strict=True))
    document = json.loads(freqkd("compare", one, "--json", "-q")[1])
    row = document["models"][0]
    assert document.keys() == {"split", "models", "picture"} and document["picture"] is None
    assert cells["mIoU"] == f"{100 * row['miou']:.2f}" and row["miou"] <= 1
    assert cells["boundary IoU"] == f"{100 * row['boundary_iou']:.2f}"
    assert {"name", "pixel_accuracy", "parameters", "latency_ms", "images"} <= row.keys()


def test_the_former_name_of_the_option_is_accepted(run, freqkd, tmp_path):
    one = run("a", "d")
    out = freqkd("compare", one, "--picture", tmp_path / "old.png", "--json", "-q")[1]
    assert json.loads(out)["picture"] == str(tmp_path / "old.png")
    assert (tmp_path / "old.png").is_file()
    code, _, err = freqkd("compare", one, "--image", tmp_path / "c.jpg", "-q")
    assert code == 2 and "--image" in err


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_batches_follow_the_size_of_the_images(run, freqkd, monkeypatch, command):
    """They had the size of train.batch_size, which exhausts the memory with large images."""
    one, sizes = run("a", "d", images=8), []
    forward = fast_scnn.FastSCNN.forward

    def recorded(self, images):
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(fast_scnn.FastSCNN, "forward", recorded)
    monkeypatch.setattr(evaluate, "PIXELS", 3 * 64 * 64)
    for options, largest in (((), 3), (("--batch-size", 1), 1), (("--batch-size", 2), 2)):
        sizes.clear()
        assert freqkd(command, one, *options, "-q")[0] == 0
        assert max(sizes) == largest, options


def test_the_default_batch_is_bounded_by_its_pixels():
    sizes = {(64, 64): 8, (384, 480): 8, (512, 1024): 8, (1024, 2048): 2, (2176, 4096): 1}
    assert {size: evaluate.batch_size_for(*size) for size in sizes} == sizes


def test_runs_get_the_names_that_are_given(run, freqkd, tmp_path):
    one, two = run("a", "d"), run("b", "d")
    code, out, _ = freqkd(
        "compare", one, two, "--name", "labels alone", "--name", "distilled", "--json", "-q"
    )
    assert code == 0 and [row["name"] for row in json.loads(out)["models"]] == [
        "labels alone",
        "distilled",
    ]
    code, out, err = freqkd("compare", one, two, "--name", "labels alone", "-q")
    assert (
        (code, out) == (2, "")
        and "--name is given once for each run" in err
        and "got  1" in err
        and "need 2" in err
    )


def test_the_table_says_what_each_run_was_trained_with(run, freqkd):
    one = run("a", "d")
    code, out, _ = freqkd("compare", one, "--json", "-q")
    assert code == 0
    assert json.loads(out)["models"][0]["trained_with"] == {
        "labelled_images": 2,
        "teacher_images": 0,
        "steps": 1,
    }
    head, row = (line.split("\t") for line in freqkd("compare", one, "-q")[1].splitlines())
    assert head[:4] == ["", "trained with", "steps", "mIoU"] and row[:3] == [
        "a",
        "2 labelled images",
        "1",
    ]


SCENES = """version: 1
data: {{name: scenes, size: [64, 64], length: 8{labelled}, views: 1}}
teacher: {{name: segformer, weights: embedded}}
student: {{name: fast_scnn, width: 0.25}}
losses:
  - {{name: cross_entropy, weight: {labels}}}
  - {{name: logit_kl, weight: {logits}}}
  - {{name: band, student: decoder, teacher: decoder, weight: {features}}}
train: {{epochs: 3, batch_size: 4}}
"""


@pytest.mark.parametrize(
    ("labelled", "weights", "numbers", "words"),
    [
        ("", (1, 0, 0), (8, 0), "8 labelled images"),
        (", labelled: 2", (1, 3, 0), (2, 8), "2 labelled + teacher on 8"),
        (", labelled: 2", (1, 0, 1), (2, 8), "2 labelled + teacher on 8"),
        (", labelled: 2", (0, 1, 0), (0, 8), "teacher on 8 unlabelled images"),
    ],
)
def test_supervision_counts_what_the_losses_read(labelled, weights, numbers, words):
    names = dict(zip(("labels", "logits", "features"), weights, strict=True))
    found = supervision(recipes.loads(SCENES.format(labelled=labelled, **names)))
    assert (found.labelled_images, found.teacher_images, found.steps) == (*numbers, 6)
    assert found.in_words() == words


def test_supervision_counts_the_teacher_of_labels_weighted_by_attention():
    text = SCENES.format(labelled="", labels="1, attention: high", logits=0, features=0)
    assert supervision(recipes.loads(text)).in_words() == "8 labelled + teacher on 8"
    text = SCENES.format(
        labelled=", labelled: 2", labels="1, attention: high", logits=0, features=0
    )
    assert supervision(recipes.loads(text)).in_words() == "2 labelled + teacher on 2"


def test_supervision_is_unknown_where_the_training_images_are_not(run, tmp_path):
    recipe = recipes.load(run("a", "d") / "recipe.yaml")
    assert supervision(recipe, tmp_path / "nowhere") is None
    assert supervision(recipe) is not None
    (tmp_path / "d/masks/train/p0.png").unlink()
    assert supervision(recipe) is None


@pytest.fixture
def seeds(run):
    """Two seeds of one recipe and one of another, with the summary of a finished run."""
    folders = []
    for name, seed, rate in (("a_s0", 0, 0.001), ("a_s1", 1, 0.001), ("b_s0", 0, 0.002)):
        folder = run(name, "d")
        text = (folder / "recipe.yaml").read_text()
        assert "\n  seed: 0" in text and "lr: 0.001" in text
        text = text.replace("\n  seed: 0", f"\n  seed: {seed}").replace("lr: 0.001", f"lr: {rate}")
        (folder / "recipe.yaml").write_text(text)
        summary = {"steps": 1, "miou": 0.5, "val_images": 2, "best_step": 1}
        (folder / "summary.json").write_text(json.dumps(summary))
        folders.append(folder)
    return folders


def test_seeds_of_a_recipe_are_a_second_table_from_the_scores(seeds, freqkd):
    document = json.loads(freqkd("compare", *seeds, "--json", "-q")[1])
    assert [row["name"] for row in document["models"]] == ["a_s0", "a_s1", "b_s0"]
    a, b = document["rows"]
    scores = [row["miou"] for row in document["models"]]
    assert a["miou"]["values"] == scores[:2] and b["miou"]["values"] == scores[2:]
    assert (a["seeds"], b["seeds"], a["verdict"]) == ([0, 1], [0], "baseline")
    assert b["verdict"] == "one seed: no interval"
    text = freqkd("compare", *seeds, "-q")[1]
    assert "\n\n\tseeds\tmIoU\tsd\t" in text and text.startswith("\ttrained with\tsteps\tmIoU")


def test_a_number_that_only_scoring_has_is_compared(seeds, freqkd):
    options = ("--metric", "boundary_iou", "--json", "-q")
    code, _, err = freqkd("compare", *seeds, *options)
    assert code == 2 and "no run has a number called 'boundary_iou'" in err
    document = json.loads(freqkd("compare", *seeds, "--score", *options)[1])
    boundary = [row["boundary_iou"] for row in document["models"]]
    assert document["rows"][0]["boundary_iou"]["values"] == boundary[:2]


def test_the_iou_of_a_class_is_compared_after_scoring(seeds, freqkd):
    for folder in seeds:
        line = {"step": 1, "val": {"miou": 0.5}, "per_class": {"iou": {"car": 0.5}}}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    for name in ("iou.car", "car"):
        options = ("--score", "--metric", name, "--json", "-q")
        document = json.loads(freqkd("compare", *seeds, *options)[1])
        scores = [row["iou"]["car"] for row in document["models"]]
        assert document["rows"][0]["iou.car"]["values"] == scores[:2]


def test_a_number_that_scoring_does_not_measure_is_refused_first(seeds, freqkd, monkeypatch):
    monkeypatch.setattr("freqkd_cli.score.side_by_side.compare", None)
    code, _, err = freqkd("compare", *seeds, "--score", "--metric", "iou.cat", "-q")
    assert code == 2 and "scoring the models measures no 'iou.cat'" in err and "boundary_iou" in err


def test_a_teacher_with_other_class_names_is_a_warning(monkeypatch, caplog):
    teacher = SimpleNamespace(classes=2, id2label={0: "car", 1: "road"})
    monkeypatch.setattr(side_by_side, "build_scored_teacher", lambda recipe, classes: teacher)
    recipe = recipes.load("fastscnn_feature")
    scored = ScoredSplit(recipe, "val", SimpleNamespace(classes=("road", "car")))
    assert [row.model for row in side_by_side._teacher([recipe], scored)] == [teacher]
    assert "the teacher and scenes name their classes differently" in caplog.text


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_a_small_split_is_drawn_whole(run, images):
    result = compare([run("a", "d", images=images)], Silent(), images=images + 1)
    assert len(result.panels) == images


def test_the_size_of_views_decides_no_images_but_drawn_ones():
    sizes = [(96, 128), (192, 256)]
    scenes, hub = (
        [held_out_data({**data, "size": size, "split": 0.5}, None) for size in sizes]
        for data in ({"name": "scenes"}, {"name": "hf", "repo": "owner/name"})
    )
    assert scenes[0] != scenes[1] and hub[0] == hub[1]


def test_one_seed_each_is_one_table_as_before(seeds, freqkd):
    document = json.loads(freqkd("compare", *seeds[1:], "--json", "-q")[1])
    assert document.keys() == {"split", "models", "picture"}
