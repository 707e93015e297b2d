"""The teacher's IoU at the start of a run: warnings, reuse by hash, and its part of the summary."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.datasets import scenes
from freqkd_cli.errors import UsageError
from freqkd_cli.images.dataset import spread
from freqkd_cli.models import segformer
from freqkd_cli.runtime import user_cache
from freqkd_cli.runtime.convolutions import require_right_in_bfloat16
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.eval_source import EvalOptions, evaluate
from freqkd_cli.score.predicted_labels import predicted
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.train import teacher_gate, teacher_score
from freqkd_cli.train.distillation import distill

RECIPE = """version: 1
data: {name: scenes, size: [64, 64], length: 8, held_out: 40, views: 1, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {id: kl, name: logit_kl}
train: {steps: 2, batch_size: 4, previews: false}
"""
POLE = 8
LARGE = "data.size=[160, 224]"
"""Images on which the embedded teacher has at least 60 IoU on every class."""


class Notes(Silent):
    """Keeps the notes about the teacher."""

    def __init__(self) -> None:
        self.teacher: list[str] = []

    def note(self, text: str) -> None:
        self.teacher += [text] if text.startswith("teacher on") else []


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("FREQKD_CACHE", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def scored(monkeypatch):
    """The number of images of every pass of a teacher."""
    passes, score = [], teacher_score.score

    def counting(model, dataset, compute, device, settings, **keywords):
        passes.append(len(settings.indices))
        return score(model, dataset, compute, device, settings, **keywords)

    monkeypatch.setattr(teacher_score, "score", counting)
    return passes


@pytest.fixture(scope="module")
def poleless(tmp_path_factory):
    """The embedded teacher, which never predicts the class pole any more."""
    model = segformer.build(classes=12, weights="embedded")
    with torch.no_grad():
        model.net.decode_head.classifier.bias[POLE] -= 1e4
    save_model(tmp_path_factory.mktemp("poleless"), model, "segformer")
    return tmp_path_factory.getbasetemp() / "poleless0"


def run(out: str, *sets: str, progress: Silent | None = None, **options) -> dict:
    return distill(recipes.load("r.yaml", sets), Path(out), progress or Silent(), **options)


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_dead_class_of_the_teacher_is_named(here, poleless, caplog):
    notes = Notes()
    summary = run("a", LARGE, f"teacher.weights={poleless}", progress=notes)
    (text,) = warnings(caplog)
    assert text.startswith("the teacher's IoU on 32 of 40 images of val is below 10 ")
    assert "(teacher.min_iou) for 1 class: pole 0.0." in text and "on all images: freqkd" in text
    assert f"--teacher --set '{LARGE}' --set teacher.weights={poleless}. Then" in text
    assert "--set losses.kl.only_where_right=true, or --set losses.kl.weight=0" in text
    (line,) = notes.teacher
    assert line.startswith("teacher on 32 of 40 images of val: ") and "; pole 0.0, " in line
    images = scenes.build(split="val", size=(160, 224), held_out=40)
    model, pairs = load_model(poleless), [images.read(i) for i in spread(40, 32)]
    predictions = [predicted(model, image, "x").ravel() for image, _ in pairs]
    labels = np.concatenate([labels.ravel() for _, labels in pairs])
    known = labels != 255
    each = jaccard_score(labels[known], np.concatenate(predictions)[known], average=None)
    assert len(each) == 12 and summary["teacher_miou"] == pytest.approx(each.mean(), abs=1e-9)
    assert summary["teacher_images"] == 32
    assert json.loads(Path("a/summary.json").read_text()) == summary


def test_no_score_of_all_images_is_advised_where_all_were_scored(here, poleless, caplog):
    run("a", LARGE, "data.held_out=8", f"teacher.weights={poleless}", dry_run=True)
    (text,) = warnings(caplog)
    assert text.startswith("the teacher's IoU on 8 images of val is below 10 ")
    assert "learns these errors too. Train a better teacher, or --set losses.kl." in text


def test_only_where_right_is_advised_only_to_lines_that_take_it():
    """Not for features, and not where teacher.class_map leaves classes out."""
    losses = (
        "losses=[{name: cross_entropy}, {id: kl, name: logit_kl},"
        " {id: map, name: cwd, student: decoder, teacher: decoder}]"
    )
    whole = ["--set losses.kl.only_where_right=true"]
    for more, known in (([], whole), (["teacher.class_map={road: road, sky: sky}"], [])):
        recipe = recipes.loads(RECIPE, "r.yaml", [LARGE, losses, *more])
        lines = assemble.build_lines(assemble.check(recipe))
        advice = teacher_gate._remedies(recipe, lines, ["kl", "map"])
        assert advice[:-2] == known


def test_the_advice_can_be_pasted_into_a_recipe_with_a_pool(here, poleless, caplog):
    """It keeps the labels, and the pool leaves with the last loss that reads the teacher."""
    sets = [LARGE, f"teacher.weights={poleless}", "data.pool={name: scenes, length: 4}"]
    both = "losses=[{name: cross_entropy%s}, {id: kl, name: logit_kl}%s]"
    feature = ", {name: feature, student: decoder, teacher: decoder}"
    alone = "--set losses.kl.weight=0 --set data.pool=null, or"
    for number, (more, remedy) in enumerate(
        (
            ([], alone),
            ([both % (", attention: high", "")], alone),
            ([both % ("", feature)], "--set losses.kl.weight=0, or"),
        )
    ):
        caplog.clear()
        run(f"a{number}", *sets, *more)
        (text,) = warnings(caplog)
        assert remedy in text and "cross_entropy.weight" not in text
        changes = [word.rstrip(",") for word in remedy.split() if "=" in word]
        assemble.check(recipes.load("r.yaml", [*sets, *more, *changes]))


def test_a_loss_of_labels_copies_no_errors_of_the_teacher(here, poleless, caplog):
    attention = "losses=[{name: cross_entropy, attention: high}]"
    summary = run("a", LARGE, f"teacher.weights={poleless}", attention)
    assert not warnings(caplog) and summary["teacher_images"] == 32


def test_zero_switches_the_check_off(here, poleless, scored, caplog):
    notes = Notes()
    weights = f"teacher.weights={poleless}"
    off = run("off", weights, "teacher.min_iou=0", progress=notes)
    assert not warnings(caplog) and not notes.teacher and not scored
    assert not any(key.startswith("teacher") for key in off) and not Path("kept").exists()
    run("on", weights)
    one, other = (load_file(f"{name}/last/model.safetensors") for name in ("off", "on"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert Path("off/metrics.jsonl").read_bytes() == Path("on/metrics.jsonl").read_bytes()
    run("on", weights, "teacher.min_iou=0", "train.previews=true", resume=True)


def test_a_loss_without_class_scores_needs_no_score(here, scored):
    feature = "{name: feature, student: decoder, teacher: decoder}"
    Path("r.yaml").write_text(RECIPE.replace("{id: kl, name: logit_kl}", feature))
    assert "teacher_miou" not in run("a") and not scored


def test_the_next_run_does_not_run_the_teacher_again(here, scored, monkeypatch):
    notes = Notes()
    first = run("a", "train.seed=1", progress=notes)
    assert scored == [32]
    second = run("b", "train.seed=2", progress=notes)
    assert second["teacher_miou"] == first["teacher_miou"] and scored == [32]
    before, after = (line.partition(": ") for line in notes.teacher)
    assert before[0] == "teacher on 32 of 40 images of val" and before[2] == after[2]
    assert after[0] == f"{before[0]}, score kept from an earlier run"
    (file,) = Path("kept/teacher-scores").iterdir()
    file.write_text(file.read_text()[:-9])
    assert run("c")["teacher_miou"] == first["teacher_miou"] and scored == [32, 32]
    run("d", "data.seed=5")  # other images
    assert scored == [32] * 3
    monkeypatch.setattr("freqkd_cli.__version__", "9.9")
    run("e")
    assert scored == [32] * 4


def test_a_damaged_or_unwritable_folder_is_no_error(here, scored, monkeypatch):
    monkeypatch.setenv("FREQKD_CACHE", str(here / "r.yaml"))
    assert run("a")["teacher_images"] == 32
    assert user_cache.kept("x", "y") is None
    monkeypatch.delenv("FREQKD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "xdg"))
    user_cache.keep("x", "y", {"a": 1})
    assert (here / "xdg/freqkd/x/y.json").is_file() and user_cache.kept("x", "y") == {"a": 1}


def test_a_dry_run_shows_the_score_and_keeps_nothing(here, scored, poleless, caplog):
    result = run("a", f"teacher.weights={poleless}", dry_run=True)
    assert result["teacher_images"] == 32 and len(warnings(caplog)) == 1
    assert not Path("kept").exists() and not Path("a").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cached_and_live_agree(here, scored, monkeypatch, dtype):
    if dtype == "bfloat16":
        try:
            teacher = segformer.build(classes=12, weights="embedded")
            require_right_in_bfloat16(teacher, "teacher.dtype")
        except UsageError as error:  # float16 is run everywhere
            pytest.skip(str(error))
    sets = (f"teacher.dtype={dtype}",)
    dump_recipe(recipes.load("r.yaml", sets), Path("cache"), Silent(), DumpOptions())
    cached = run("cached", *sets, cache=Path("cache"))
    assert scored == [32]
    monkeypatch.setattr(teacher_score, "ready_teacher", None)  # the score is known
    again = run("again", *sets, cache=Path("cache"))
    assert again["teacher_miou"] == cached["teacher_miou"] and scored == [32]
    monkeypatch.setenv("FREQKD_CACHE", str(here / "other"))
    assert run("live", *sets)["teacher_miou"] == cached["teacher_miou"] and scored == [32, 32]


def test_a_cached_run_has_the_bits_of_one_without_the_check(here):
    dump_recipe(recipes.load("r.yaml"), Path("cache"), Silent(), DumpOptions())
    for name, least in (("on", 10), ("off", 0)):
        run(name, f"teacher.min_iou={least}", cache=Path("cache"))
    one, other = (load_file(f"{name}/last/model.safetensors") for name in ("off", "on"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_live_run_reads_the_score_of_a_cached_one(here, scored):
    dump_recipe(recipes.load("r.yaml"), Path("cache"), Silent(), DumpOptions())
    run("cached", cache=Path("cache"))
    run("live")
    assert scored == [32]


def test_a_class_without_labels_is_not_warned_of(here, poleless, caplog, monkeypatch):
    read = scenes.Scenes.read

    def without_poles(self, index):
        image, labels = read(self, index)
        return image, np.where(labels == POLE, 255, labels)

    monkeypatch.setattr(scenes.Scenes, "read", without_poles)
    run("a", LARGE, f"teacher.weights={poleless}")
    assert not warnings(caplog)


def test_uncovered_classes_are_named_once_and_count_as_in_eval(here, caplog):
    names = [name for name in scenes.CLASSES if name != "pole"]
    listed = ", ".join(f"{name}: {name}" for name in names)
    notes = Notes()
    sets = (LARGE, "data.held_out=8", f"teacher.class_map={{{listed}}}")
    summary = run("a", *sets, progress=notes)
    (line,) = notes.teacher
    assert line.endswith("; not covered by teacher.class_map: pole") and line.count("pole") == 1
    assert not warnings(caplog)
    # gap_closed compares it with the student's mIoU, which counts every class.
    document = evaluate("a", EvalOptions(teacher=True), Silent())
    assert summary["teacher_miou"] == pytest.approx(document["miou"], abs=1e-9)


def test_training_images_are_scored_where_no_others_have_labels(here, monkeypatch):
    monkeypatch.setattr("freqkd_cli.train.preparation._validation_split", lambda recipe: None)
    notes = Notes()
    summary = run("a", progress=notes)
    assert summary["teacher_scored_on"] == "8 images of train" and len(notes.teacher) == 1
    assert "labels_alone_miou" not in summary


@pytest.mark.parametrize(
    ("size", "device", "images"),
    [((64, 64), "cpu", 32), ((1024, 2048), "cpu", 8), ((1024, 2048), "cuda", 32)],
)
def test_large_images_make_a_small_sample_on_a_cpu(size, device, images):
    dataset = scenes.build(split="val", size=size)
    assert teacher_gate._sample_size(dataset, torch.device(device)) == images


def test_other_processes_score_nothing(here, scored):
    from freqkd_cli.runtime.processes import Processes
    from freqkd_cli.train.preparation import make_loop

    class Second(Processes):
        def share(self, value):
            assert value is None
            return {"teacher_miou": 0.5}

    recipe = recipes.load("r.yaml")
    loop = make_loop(recipe, Path("a"), Silent(), Second(torch.device("cpu"), index=1), None)
    assert teacher_gate.check(loop, recipe) == {"teacher_miou": 0.5} and not scored


def test_the_warning_names_the_held_out_part(here, poleless, caplog):
    """Its command scores the training split, since such a run does not read val."""
    sets = (LARGE, "data.length=20", "data.hold_out=0.5", f"teacher.weights={poleless}")
    run("a", *sets, dry_run=True)
    (text,) = warnings(caplog)
    assert text.startswith("the teacher's IoU on 10 images of the held-out part is below 10 ")
    assert "on all images of train: freqkd eval r.yaml --teacher --split train --set" in text


@pytest.mark.parametrize("least", ["200", "-1", "high"])
def test_min_iou_is_a_percentage(here, freqkd, least):
    code, out, err = freqkd("distill", "r.yaml", "--out", "a", "--set", f"teacher.min_iou={least}")
    assert code == 2 and not out and "teacher.min_iou" in err and "Traceback" not in err
    assert err.count("\n") <= 2
    with pytest.raises(UsageError):
        run("a", f"teacher.min_iou={least}")


def test_baseline_gives_the_gap_on_all_images(here, freqkd, scored):
    words = ("distill", "r.yaml", "--out", "a", "--baseline")
    code, out, err = freqkd(*words)
    assert code == 0, err
    assert scored == [40] and "teacher on 40 images of val" in err
    distilled = json.loads(Path("a/summary.json").read_text())
    alone = json.loads(Path("a-baseline/summary.json").read_text())
    assert distilled["labels_alone_miou"] == alone["miou"]
    gap = (distilled["miou"] - alone["miou"]) / (distilled["teacher_miou"] - alone["miou"])
    assert distilled["gap_closed"] == pytest.approx(gap)
    rows = [line.split() for line in out.splitlines()]
    assert rows[4][:2] == ["teacher", f"{100 * distilled['teacher_miou']:.2f}"]
    assert rows[5] == ["gap", "closed", f"{gap:.0%}"]
    code, out, _ = freqkd(*words, "--resume", "--json")
    document = json.loads(out)
    assert code == 0 and document.pop("baseline") == alone and document == distilled


def test_a_finished_run_on_labels_alone_is_known(here, scored):
    """It is the same recipe without its teacher, in a folder beside the run."""
    alone = RECIPE.replace("teacher: {name: segformer, weights: embedded}\n", "")
    Path("alone.yaml").write_text(alone.replace("  - {id: kl, name: logit_kl}\n", ""))
    others = {"seed": "train.seed=3", "longer": "train.steps=3", "views": "data.views=2"}
    for name, change in others.items():
        distill(recipes.load("alone.yaml", [change]), Path(f"runs/{name}"), Silent())
    assert "labels_alone_miou" not in run("runs/a") and scored == [32]
    alone = distill(recipes.load("alone.yaml"), Path("runs/z"), Silent())
    summary = run("runs/b")
    assert scored == [32, 40] and summary["labels_alone_run"] == "runs/z"
    assert summary["labels_alone_miou"] == alone["miou"] and "gap_closed" in summary
    Path("st/runs/ce").mkdir(parents=True)  # a study
    Path("runs/z").rename("st/runs/ce/seed-0")
    assert run("st/runs/kl/seed-0")["labels_alone_miou"] == alone["miou"]
    assert "labels_alone_miou" not in run("st/runs/kl/seed-1")
    off = run("runs/c", "losses.kl.weight=0")  # reads no teacher, so it is labels alone itself
    assert "teacher_miou" not in off and off["source"] == "none"


def test_a_teacher_below_labels_alone_is_warned_of(here, caplog):
    """The summary keeps both numbers and no share."""
    alone = run("alone", "losses.kl.weight=0")
    document = {**alone, "miou": 0.99}
    Path("alone/summary.json").write_text(json.dumps(document))
    summary = run("a")
    _, text = warnings(caplog)
    assert "labels alone reach 99.00 (alone)" in text and "train a better teacher" in text
    assert "gap_closed" not in summary and summary["labels_alone_miou"] == 0.99
