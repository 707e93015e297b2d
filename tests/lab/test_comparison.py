"""Rows over seeds: grouping, pairs, intervals, verdicts in words, and what is unequal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fake_runs
import numpy as np
import pytest
from scipy import stats

from freqkd_cli.errors import UsageError, WeightsMissing
from freqkd_cli.lab.comparison import Comparison, compare_records
from freqkd_cli.lab.run_collection import collect

CE = {0: 0.744, 1: 0.740, 2: 0.738}
KL = {0: 0.760, 1: 0.754, 2: 0.755}


def compare(*paths: Path, **options) -> Comparison:
    runs = collect(paths)
    options.setdefault("baseline", runs.baseline)
    return compare_records(runs.records, left_out=runs.left_out, **options)


def row(comparison: Comparison, name: str):
    (found,) = (row for row in comparison.rows if row.name == name)
    return found


@pytest.fixture
def two(tmp_path):
    """Three seeds of labels alone and of KL."""
    return [
        *fake_runs.seeds(tmp_path, "ce", CE),
        *fake_runs.seeds(tmp_path, "kl", KL, kl=1.0, ms=120),
    ]


def test_rows_are_recipes_and_differences_are_over_pairs_of_seeds(two):
    result = compare(*two)
    assert (result.baseline, [r.name for r in result.rows]) == ("ce", ["ce", "kl"])
    kl, differences = row(result, "kl"), np.array([*KL.values()]) - np.array([*CE.values()])
    reference = stats.ttest_rel([*KL.values()], [*CE.values()])
    assert kl.difference == pytest.approx(differences.mean())
    assert (kl.low, kl.high) == pytest.approx(tuple(reference.confidence_interval()))
    assert kl.p_value == pytest.approx(reference.pvalue)
    assert kl.sd == pytest.approx(np.std([*KL.values()], ddof=1))
    assert (kl.wins, kl.pairs, kl.paired, kl.seeds) == (3, (0, 1, 2), True, (0, 1, 2))
    assert kl.bootstrap_low == pytest.approx(differences.min())
    assert (kl.cost, kl.seconds_per_step) == pytest.approx((1.2, 0.12))
    assert (kl.verdict.kind, kl.verdict.words) == ("better", "better")
    assert row(result, "ce").difference is None and row(result, "ce").verdict.words == "baseline"


def test_the_baseline_may_be_any_row(two):
    result = compare(*two, baseline="kl")
    assert row(result, "ce").verdict.kind == "worse" and row(result, "ce").wins == 0
    with pytest.raises(UsageError, match="no row is called 'kl2', did you mean 'kl'"):
        compare(*two, baseline="kl2")


def test_runs_of_a_study_are_paired_whatever_their_order(two):
    assert row(compare(*reversed(two)), "kl").low == row(compare(*two), "kl").low


def test_seeds_that_show_nothing_are_counted(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", {0: 0.740, 1: 0.744, 2: 0.738})
    paths += fake_runs.seeds(tmp_path, "kl", {0: 0.744, 1: 0.742, 2: 0.745}, kl=1.0)
    verdict = row(compare(*paths), "kl").verdict
    assert verdict.kind == "open"
    words = "no difference that these 3 seeds can show; about 21 would show one of this size"
    assert (verdict.words, verdict.seeds_needed) == (words, 21)


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", {0: 0.74})
    paths += fake_runs.seeds(tmp_path, "kl", {0: 0.76}, kl=1.0)
    kl = row(compare(*paths), "kl")
    assert (kl.difference, kl.low, kl.sd, kl.p_value) == (pytest.approx(0.02), None, None, None)
    assert kl.verdict.words == "one seed: no interval"


def test_equal_scores_are_called_equal(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths += fake_runs.seeds(tmp_path, "copy", CE, lr=0.001)
    assert row(compare(*paths, baseline="ce"), "copy").verdict.words == (
        "the same score for every seed"
    )


def test_other_seeds_are_compared_unpaired_and_that_is_stated(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths += fake_runs.seeds(tmp_path, "kl", {2: 0.760, 3: 0.754, 4: 0.755}, kl=1.0)
    result = compare(*paths)
    kl = row(result, "kl")
    reference = stats.ttest_ind([0.760, 0.754, 0.755], [*CE.values()], equal_var=False)
    assert (kl.low, kl.high) == pytest.approx(tuple(reference.confidence_interval()))
    assert (kl.paired, kl.wins) == (False, None)
    assert any(note.startswith("unpaired (Welch's t test)") for note in result.notes)


def test_a_seed_without_a_pair_is_named(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths += fake_runs.seeds(tmp_path, "kl", {0: 0.760, 1: 0.754, 5: 0.7}, kl=1.0)
    result = compare(*paths)
    assert row(result, "kl").pairs == (0, 1)
    assert row(result, "kl").difference == pytest.approx(0.015)
    for text in ("seed 5 of the row: kl", "seed 2 of the baseline: kl"):
        assert f"not paired, so not in the difference, {text}" in result.notes


def test_unfinished_failed_and_missing_runs_are_named(tmp_path):
    study = fake_runs.study(tmp_path / "st", {"ce": CE, "kl": {0: 0.76, 1: 0.754}})
    fake_runs.run(study / "runs/kl/seed-2", 0.7, seed=2, kl=1.0, finished=False)
    (study / "runs/kl/seed-2.log").write_text("failed: the loss kl is not finite\n")
    plan = json.loads((study / "plan.yaml").read_text())
    (study / "plan.yaml").write_text(json.dumps({**plan, "seeds": [0, 1, 2, 3]}))
    result = compare(study)
    assert result.left_out == {
        str(study / "runs/kl/seed-2"): "failed: the loss kl is not finite",
        str(study / "runs/ce/seed-3"): "not started",
        str(study / "runs/kl/seed-3"): "not started",
    }
    assert any(note.endswith("seed-2: failed: the loss kl is not finite") for note in result.notes)
    assert row(result, "kl").seeds == (0, 1)


def test_a_note_lists_a_few_of_many_runs_without_a_result(tmp_path):
    study = fake_runs.study(tmp_path / "st", {"ce": CE, "kl": KL})
    plan = json.loads((study / "plan.yaml").read_text())
    (study / "plan.yaml").write_text(json.dumps({**plan, "seeds": list(range(30))}))
    result = compare(study)
    assert len(result.left_out) == 54
    (note,) = [note for note in result.notes if note.startswith("left out: ")]
    assert note.endswith("/runs/kl/seed-6, and 46 more: not started")


def test_a_study_brings_its_baseline(tmp_path):
    study = fake_runs.study(tmp_path / "st", {"ce": CE, "kl": KL}, baseline="kl")
    assert compare(study).baseline == "kl" and compare(study, baseline="ce").baseline == "ce"


def test_rows_of_a_study_have_the_order_of_its_plan(tmp_path):
    study = fake_runs.study(tmp_path / "st", {"z": CE, "a": KL})
    assert [row.name for row in compare(study).rows] == ["z", "a"]


def test_nothing_finished_is_one_message(tmp_path):
    with pytest.raises(WeightsMissing, match=r"no run is finished\n.*step 50 of 100"):
        compare(*fake_runs.seeds(tmp_path, "ce", CE, finished=False))


@pytest.mark.parametrize(
    ("values", "what", "how"),
    [
        ({"steps": 200}, "steps", "200 instead of 100"),
        ({"ms": 150}, "time", "1.50 times as long"),
        ({"views": 0}, "views", "data.views 0 instead of 4"),
        ({"length": 16}, "data", "data.length 16 instead of 1024"),
        ({"lr": 0.001}, "training", "train.lr 0.001 instead of 0.002"),
        ({"environment": {"device": "cuda:0"}}, "device", "cuda, float32 instead of cpu, float32"),
    ],
)
def test_what_is_unequal_is_stated(tmp_path, values, what, how):
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths += fake_runs.seeds(tmp_path, "kl", KL, kl=1.0, **values)
    result = compare(*paths)
    assert row(result, "kl").unequal[what] == how
    assert f"unequal {what}: {how} (kl)" in result.notes
    equal = compare(*fake_runs.seeds(tmp_path / "b", "ce", CE), *paths[3:4], names=())
    assert what in row(equal, "kl").unequal


def test_images_without_labels_of_one_row_are_stated(tmp_path):
    """data.unlabelled: pool is no key of data.pool."""
    paths = fake_runs.seeds(tmp_path, "ce", CE, summary={"images": 2})
    pooled = {"images": 2, "pool_images": 16}
    paths += fake_runs.seeds(tmp_path, "kl", KL, kl=1.0, summary=pooled)
    result = row(compare(*paths), "kl").unequal
    assert result["data"] == "16 instead of 0 images without labels"


def test_equal_runs_are_unequal_in_nothing(two):
    assert row(compare(*two), "kl").unequal == {"time": "1.20 times as long"}


def test_other_teachers_are_stated(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", CE) + fake_runs.seeds(tmp_path, "kl", KL, kl=1.0)
    paths += fake_runs.seeds(tmp_path, "big", KL, kl=1.0, weights="big")
    result = compare(*paths)
    assert row(result, "big").unequal == {"teacher": "teacher.weights big instead of embedded"}
    assert row(result, "kl").unequal == {}


def test_a_score_of_the_first_teacher_is_not_that_of_another(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths += fake_runs.seeds(tmp_path, "kl", KL, kl=1.0)
    paths += fake_runs.seeds(tmp_path, "big", KL, kl=1.0, weights="big")
    result = compare(*paths, teacher=0.9)
    assert result.teachers == {"kl": 0.9} and row(result, "big").gap_closed is None


def test_the_first_teacher_is_that_of_the_first_finished_run(tmp_path):
    """It alone was scored. Before, an unfinished run of another teacher came first."""
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths.append(fake_runs.run(tmp_path / "kl_s0", None, kl=1.0, finished=False))
    paths += fake_runs.seeds(tmp_path, "big", KL, kl=1.0, weights="big")
    paths.append(fake_runs.run(tmp_path / "kl_s1", 0.754, kl=1.0, seed=1))
    result = compare(*paths, teacher=0.9)
    assert [row.name for row in result.rows] == ["ce", "kl", "big"]
    assert result.teachers == {"big": 0.9} and row(result, "kl").gap_closed is None


def test_scores_of_other_images_are_not_measured_against_a_teacher_on_val(tmp_path):
    scored = {"teacher_miou": 0.9, "teacher_images": 200}
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths += fake_runs.seeds(tmp_path, "kl", KL, kl=1.0, summary=scored)
    assert compare(*paths).teachers == {"kl": 0.9}
    records = [replace(run, scored={"miou": 0.5}) for run in collect(paths).records]
    result = compare_records(records)
    assert result.teachers == {} and row(result, "kl").gap_closed is None


def test_the_share_of_the_gap_needs_a_teacher_scored_on_all_images(tmp_path):
    scored = {"teacher_miou": 0.9, "teacher_images": 200}
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    paths += fake_runs.seeds(tmp_path, "kl", KL, kl=1.0, summary=scored)
    paths += fake_runs.seeds(tmp_path, "kl3", KL, kl=3.0)
    result = compare(*paths)
    base, lead = np.mean([*CE.values()]), np.mean([*KL.values()]) - np.mean([*CE.values()])
    for name in ("kl", "kl3"):  # one teacher
        assert row(result, name).gap_closed == pytest.approx(lead / (0.9 - base))
    assert "mIoU of the teacher: 90.00" in result.notes
    some = {"teacher_miou": 0.9, "teacher_images": 32}
    other = fake_runs.seeds(tmp_path / "b", "kl", KL, kl=1.0, summary=some)
    result = compare(*paths[:3], *other)
    assert row(result, "kl").gap_closed is None
    assert any("gap closed is unknown for kl" in note for note in result.notes)


def test_another_number_or_a_class_is_compared(two):
    accuracy = compare(*two, metric="pixel_accuracy")
    assert row(accuracy, "ce").mean == pytest.approx(0.1 + np.mean([*CE.values()]))
    assert compare(*two, metric="pole").number.name == "iou.pole"
    assert compare(*two, metric="iou.pole").number.title == "IoU of pole"
    with pytest.raises(UsageError, match=r"'pixel_acc', did you mean 'pixel_accuracy'"):
        compare(*two, metric="pixel_acc")


def test_a_smaller_error_is_better(tmp_path, monkeypatch):
    from freqkd_cli.metrics import accuracy
    from freqkd_cli.metrics._metric import Number

    numbers = {"ece": Number("calibration error", best=0.0), "hd": Number("distance", "px", 0.0)}
    monkeypatch.setattr(accuracy, "NUMBERS", numbers)
    paths = [
        fake_runs.run(tmp_path / f"{name}_s{seed}", 0.7, seed=seed, kl=weight, summary=summary)
        for name, weight, scores in (("ce", None, CE), ("kl", 1.0, KL))
        for seed, score in scores.items()
        for summary in ({"metrics": {"ece": score, "hd": score, "own": score}},)
    ]
    kl = row(compare(*paths, metric="ece"), "kl")
    assert (kl.verdict.kind, kl.wins, kl.gap_closed) == ("worse", 0, None) and kl.low > 0
    distance = compare(*paths, metric="hd").number
    assert (distance.title, distance.percent) == ("distance, px", False)
    assert compare(*paths, metric="own").number.percent is False


def test_a_signed_error_is_compared_by_its_size(tmp_path):
    paths = [
        fake_runs.run(tmp_path / f"{name}_s{seed}", 0.7, seed=seed, kl=weight, summary=summary)
        for name, weight, score in (("ce", None, 0.02), ("kl", 1.0, -0.2))
        for seed in range(3)
        for summary in ({"metrics": {"overconfidence": score + 0.001 * seed}},)
    ]
    result = compare(*paths, metric="overconfidence")
    assert result.number.title == "absolute overconfidence"
    kl = row(result, "kl")
    assert kl.verdict.kind == "worse" and kl.wins == 0
    assert kl.mean == pytest.approx(0.199) and kl.difference == pytest.approx(0.199 - 0.021)


def test_a_run_without_the_number_is_named(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", CE) + fake_runs.seeds(tmp_path, "kl", KL, kl=1.0)
    (paths[5] / "metrics.jsonl").unlink()
    result = compare(*paths, metric="iou.road")
    assert result.left_out == {str(paths[5]): "it has no IoU of road"}
    assert row(result, "kl").seeds == (0, 1)


def test_one_name_for_two_recipes_is_refused(tmp_path):
    fake_runs.run(tmp_path / "kl_s0", 0.7, kl=1.0)
    fake_runs.run(tmp_path / "kl_s1", 0.7, seed=1, kl=2.0)
    text = r"two recipes are called 'kl'\n  got .*losses.kl.weight 1.0, .*kl_s1 2.0"
    with pytest.raises(UsageError, match=text):
        compare(tmp_path)


def test_two_runs_of_one_seed_are_refused(tmp_path):
    fake_runs.run(tmp_path / "kl_s0", 0.7, kl=1.0)
    fake_runs.run(tmp_path / "kl-seed-0", 0.7, kl=1.0)
    with pytest.raises(UsageError, match="kl has two runs of seed 0"):
        compare(tmp_path)


def test_studies_with_the_same_rows_have_longer_names_or_join_their_seeds(tmp_path):
    rows = {"ce": CE, "kl": KL}
    one, two = (fake_runs.study(tmp_path / name, rows) for name in ("one", "two"))
    names = [row.name for row in compare(one, two, baseline="one/runs/ce").rows]
    assert names == ["one/runs/ce", "one/runs/kl", "two/runs/ce", "two/runs/kl"]
    later = {name: {seed + 3: x for seed, x in scores.items()} for name, scores in rows.items()}
    more = fake_runs.study(tmp_path / "more", later)
    result = compare(one, more)
    assert [row.seeds for row in result.rows] == [(0, 1, 2, 3, 4, 5)] * 2


def test_single_runs_of_one_recipe_are_one_row(tmp_path):
    runs = [fake_runs.run(tmp_path / f"try_{x}", 0.7, seed=s) for s, x in enumerate("abc")]
    runs.append(fake_runs.run(tmp_path / "kl", 0.8, kl=1.0))
    result = compare(*runs)
    assert [(r.name, r.seeds) for r in result.rows] == [("try_a", (0, 1, 2)), ("kl", (0,))]


def test_names_are_given_by_row_or_by_run(two):
    assert [r.name for r in compare(*two, names=["labels", "KL"]).rows] == ["labels", "KL"]
    assert [r.name for r in compare(*two, names=["a"] * 3 + ["b"] * 3).rows] == ["a", "b"]
    with pytest.raises(UsageError, match="two recipes are called 'a'"):
        compare(*two, names=["a"] * 6)
    with pytest.raises(UsageError, match="two rows are called 'a'"):
        compare(*two, names=["a", "a"])
    with pytest.raises(UsageError, match="--name is given once for each row or each run"):
        compare(*two, names=["a", "b", "c"])


def test_runs_on_other_data_are_refused(two, tmp_path):
    other = fake_runs.run(tmp_path / "cv", 0.6, data="camvid", root=tmp_path)
    with pytest.raises(UsageError, match=r"on different data\n  got  data.name scenes and camvid"):
        compare(*two, other)
    some = fake_runs.run(tmp_path / "some", 0.6, lr=0.1, summary={"val_images": 20})
    with pytest.raises(UsageError, match=r"got  200 images of val and 20 images of val"):
        compare(*two, some)
    held = {"val_images": 200, "held_out_images": 200}
    tuned = fake_runs.run(tmp_path / "tuned", 0.6, lr=0.2, summary=held)
    with pytest.raises(UsageError, match=r"got  200 images of val and 200 images of data.hold_out"):
        compare(*two, tuned)
    fewer = fake_runs.run(tmp_path / "fewer", 0.6, lr=0.2, length=512, summary=held)
    with pytest.raises(UsageError, match=r"of 1024 labelled images and .* of 512 labelled images"):
        compare(tuned, fewer)


def test_copies_of_one_folder_are_compared_with_data_root(tmp_path):
    places = [tmp_path / "a", tmp_path / "b"]
    runs = [
        fake_runs.run(tmp_path / f"r_s{n}", 0.6, seed=n, data="camvid", root=place)
        for n, place in enumerate(places)
    ]
    with pytest.raises(UsageError, match="--data-root DIR"):
        compare(*runs)
    assert compare(*runs, data_root=places[0]).rows[0].seeds == (0, 1)


def test_a_study_of_another_version_is_one_message(tmp_path):
    study = fake_runs.study(tmp_path / "st", {"ce": CE}, **{"version": 2})
    with pytest.raises(UsageError, match=r"another version of freqkd\n  got  version 2"):
        compare(study)
    assert row(compare(study / "runs"), "ce").seeds == (0, 1, 2)


def test_a_seed_of_an_older_version_is_of_the_same_row(tmp_path):
    """Its recipe lacks keys that were added since."""
    paths = fake_runs.seeds(tmp_path, "kl", KL, kl=1.0)
    for key in ("  labelled: null\n", "  teacher_sees: same\n", ", isolate: 0.0"):
        text = (paths[0] / "recipe.yaml").read_text()
        assert key in text
        (paths[0] / "recipe.yaml").write_text(text.replace(key, ""))
    (paths[0] / "environment.json").write_text('{"device": "cpu"}')
    result = compare(*paths)
    assert row(result, "kl").seeds == (0, 1, 2)
    assert "the runs were made with freqkd 0.1.0 and an older version" in result.notes


def test_chance_and_shared_views_are_stated(tmp_path):
    paths = fake_runs.seeds(tmp_path, "ce", CE)
    for number in range(6):
        paths += fake_runs.seeds(tmp_path, f"kl{number}", KL, kl=1.0 + number)
    notes = compare(*paths).notes
    assert any("6 rows are compared" in note and "0.3 of the intervals" in note for note in notes)
    assert "the seeds of a row share their augmented views (data.view_seed)" in notes


def test_times_that_are_not_steady_are_stated(tmp_path):
    paths = [fake_runs.run(tmp_path / f"ce_s{n}", 0.7, seed=n, ms=100 + 100 * n) for n in (0, 1)]
    assert any("the slowest seed of ce took 2.0 times" in note for note in compare(*paths).notes)


def test_json_has_the_keys_of_the_contract(two):
    document = compare(*two).to_json()
    assert {"metric", "baseline", "rows"} <= document.keys()
    keys = {"name", "runs", "seeds", "difference", "low", "high", "wins", "gap_closed", "verdict"}
    for entry in document["rows"]:
        assert keys <= entry.keys() and entry["miou"].keys() == {"mean", "sd", "values"}
    json.dumps(document, allow_nan=False)  # a ValueError for a number that JSON does not have


def test_a_study_that_has_not_started_is_one_message(tmp_path):
    (tmp_path / "st").mkdir()
    study = fake_runs.study(tmp_path / "st", {"ce": {}, "kl": {}}, seeds=[0, 1, 2])
    with pytest.raises(WeightsMissing, match=r"no run is finished\n  got  .*\(not started\)"):
        compare(study)


def test_one_row_alone_has_its_spread(tmp_path):
    result = compare(*fake_runs.seeds(tmp_path, "ce", CE))
    (ce,) = result.rows
    assert (result.baseline, ce.verdict.kind) == ("ce", "baseline")
    assert ce.sd == pytest.approx(np.std([*CE.values()], ddof=1))
