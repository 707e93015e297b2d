"""Records of run folders: names without seeds, older versions, damaged and unfinished runs."""

from __future__ import annotations

import json
from pathlib import Path

import fake_runs
import pytest

from freqkd_cli import registry
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.lab import recipe_values
from freqkd_cli.lab.run_record import read_run, read_runs, run_folders, run_name
from freqkd_cli.recipe.nodes import parse, plain_values
from freqkd_cli.recipe.problems import Place
from freqkd_cli.recipe.sections import DRAWER


def test_a_record_has_what_the_folder_holds(tmp_path):
    record = read_run(fake_runs.run(tmp_path / "kl_s3", 0.75, seed=3, kl=1.0, ms=250))
    assert (record.name, record.seed, record.steps, record.finished) == ("kl", 3, 100, True)
    assert record.seconds_per_step == pytest.approx(0.25)
    assert record.seconds == pytest.approx(25)
    assert record.scores == {"miou": 0.75, "last_miou": 0.75, "pixel_accuracy": 0.85}
    assert record.per_class == {"iou": {"road": 0.75, "pole": 0.75}}
    assert record.numbers["iou.pole"] == 0.75
    assert record.recipe["losses"][1] == {"name": "logit_kl", "id": "kl", "weight": 1.0} | {
        "warmup": 0.0
    }
    assert [row["step"] for row in record.rows] == [50, 50, 100]


def test_the_scores_are_those_of_the_best_step(tmp_path):
    folder = fake_runs.run(tmp_path / "a", 0.5, summary={"best_step": 50, "miou": 0.6})
    assert read_run(folder).scores["pixel_accuracy"] == 0.2
    assert read_run(folder).scores["miou"] == 0.6


def test_a_run_of_an_older_version_is_read(tmp_path):
    folder = fake_runs.run(tmp_path / "a", 0.5)
    (folder / "environment.json").unlink()
    (folder / "summary.json").write_text('{"steps": 100, "miou": 0.5, "seconds": 20}')
    (folder / "metrics.jsonl").write_text('{"step": 100, "val": {"miou": 0.5}}\n{"step": 1')
    record = read_run(folder)
    assert (record.environment, record.per_class, record.seconds_per_step) == ({}, {}, None)
    assert (record.seconds, record.scores, len(record.rows)) == (20, {"miou": 0.5}, 1)


def test_numbers_of_eval_are_added_where_the_images_are_the_same(tmp_path):
    folder = fake_runs.run(tmp_path / "a", 0.5)
    rows = [{"name": "road", "iou": 0.9, "boundary_f": 0.8}]
    result = {"miou": 0.5, "boundary_iou": 0.3, "images": 200, "device": "cpu", "per_class": rows}
    result |= {"parameters": 1_000, "latency_ms": 5.0, "threads": 2}
    (folder / "eval.json").write_text(json.dumps(result))
    record = read_run(folder)
    assert record.scores["boundary_iou"] == 0.3
    assert not {"images", "parameters", "latency_ms", "threads"} & record.numbers.keys()
    assert record.numbers["boundary_f.road"] == 0.8 and record.numbers["iou.road"] == 0.5
    others = ({"images": 20}, {"split": "test"}, {"miou": 0.4}, {"test_time": {"flip": True}})
    for other in others:  # other images, another split, other weights, another way of scoring
        (folder / "eval.json").write_text(json.dumps({**result, **other}))
        assert "boundary_iou" not in read_run(folder).scores


@pytest.mark.parametrize("rows", [["road"], [{"iou": 0.5}], "road", None])
def test_damaged_rows_per_class_of_eval_are_left_out(tmp_path, rows):
    folder = fake_runs.run(tmp_path / "a", 0.5)
    result = {"miou": 0.5, "images": 200, "boundary_iou": 0.3, "per_class": rows}
    (folder / "eval.json").write_text(json.dumps(result))
    record = read_run(folder)
    assert record.numbers["boundary_iou"] == 0.3 and set(record.per_class["iou"]) == {
        "road",
        "pole",
    }


def test_numbers_that_the_recipe_asked_for_are_in_the_summary(tmp_path):
    summary = {"metrics": {"ece": 0.02}, "metrics_per_class": {"boundary_f": {"road": 0.6}}}
    record = read_run(fake_runs.run(tmp_path / "a", 0.5, summary=summary))
    assert record.numbers["ece"] == 0.02 and record.numbers["boundary_f.road"] == 0.6


def test_an_unfinished_run_has_no_scores(tmp_path):
    record = read_run(fake_runs.run(tmp_path / "a", 0.5, finished=False))
    assert (record.finished, record.steps, record.scores) == (False, 50, {})


@pytest.mark.parametrize(
    ("folder", "seed", "name"),
    [
        ("runs/kl_s1", 1, "kl"),
        ("runs/kl/seed-1", 1, "kl"),
        ("runs/kl-seed-12", 12, "kl"),
        ("runs/kl.seed12", 12, "kl"),
        ("runs/stage_s4", 0, "stage_s4"),
        ("runs/classes", 0, "classes"),
        ("runs/kl/s0", 0, "kl"),
    ],
)
def test_a_row_is_called_like_its_folder_without_the_seed(folder, seed, name):
    assert run_name(Path(folder), seed) == name


def test_runs_are_searched_below_folders_and_counted_once(tmp_path):
    study = fake_runs.study(tmp_path / "st", {"ce": {0: 0.5, 1: 0.5}, "kl": {0: 0.6}})
    folders = run_folders(study)
    assert folders == [study / "runs" / name for name in ("ce/seed-0", "ce/seed-1", "kl/seed-0")]
    (tmp_path / "link").symlink_to(folders[0])
    assert len(read_runs([study, folders[0], tmp_path / "link"])) == 3


def test_what_is_no_run_is_one_message(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="is not a run and contains none"):
        run_folders(tmp_path / "empty")
    folder = fake_runs.run(tmp_path / "a", 0.5)
    (folder / "recipe.yaml").write_text("a: [")
    with pytest.raises(WeightsMissing, match="is not a run"):
        read_run(folder)


@pytest.mark.parametrize("text", [fake_runs.recipe(kl=1e-5), "a: 1e-3\nb: on\nc: '1'\nd: [~, .5]"])
def test_the_fast_reader_of_recipes_equals_the_other(text):
    root, problems = parse(text, lambda line, column: Place(0, line, column, ""))
    assert plain_values(text) == root.plain() and not problems


def test_defaults_of_the_schema_are_those_of_the_signatures():
    for (section, name), defaults in recipe_values._schema().items():
        if section not in DRAWER:
            continue
        for key, field in registry.arguments(DRAWER[section], name).model_fields.items():
            if not field.is_required():
                assert defaults[key] == recipe_values.to_jsonable_python(field.default)
