"""A sweep: what it refuses, and how its workers share runs. Runs are faked here."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter, namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_plan
from small_plan import SCORES, fake_child, write_plan

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.errors import Interrupted, UsageError
from freqkd_cli.lab import fairness, prepare_study, run_process, shared_caches, study_worker
from freqkd_cli.lab import plan as plans
from freqkd_cli.lab.plan_rows import CheckedRow, load_row
from freqkd_cli.recipe.resolved import dump
from freqkd_cli.runtime.progress import Silent

THREE = "version: 1\nrecipes: [labels.yaml, scores.yaml, features.yaml]\nseeds: [0, 1]\n"
SECONDS = f"{THREE}cache: live\nfair: seconds\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Every run is a process that only writes its folder."""
    monkeypatch.setattr(run_process, "child_command", fake_child)
    monkeypatch.setattr(run_process, "POLL", 0.02)
    monkeypatch.setattr(study_worker, "WAIT", 0.02)


@pytest.fixture
def measurements(monkeypatch) -> list[set[str]]:
    """Replace the measurement of steps; return the rows of each."""
    measured: list[set[str]] = []

    def step_ms(rows, device, progress, before_each):
        measured.append(set(rows))
        return {name: {"labels": 100.0, "scores": 200.0, "features": 50.0}[name] for name in rows}

    monkeypatch.setattr(prepare_study, "measured_step_ms", step_ms)
    return measured


def opened(tmp_path, text: str = f"{THREE}cache: live\n"):
    return opened_plan(write_plan(tmp_path, text))


def opened_plan(plan):
    return prepare_study.open_study(plans.load(plan), plan.with_name("study"))


def words_of(run) -> list[str]:
    return json.loads((run.folder / "summary.json").read_text())["words"]


def starts(study) -> Counter:
    """Return run -> how often it was started."""
    return Counter(
        {run.name: len((run.folder / "starts").read_text().split()) for run in study.runs()}
    )


class Notes(Silent):
    def __init__(self) -> None:
        self.lines, self.done = [], []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        self.total, self.done = total, [done]

    def advance(self, done: int, text: str = "") -> None:
        self.done.append(done)


# --- runs ---


def test_every_run_is_a_distill_command_of_its_own(tmp_path):
    study = opened(tmp_path, f"{THREE}cache: live\nset: {{train.lr: 1e-3}}\n")
    assert study_worker.sweep(study, Silent()).finished == 6
    words = words_of(study.study.runs()[1])
    assert words[:4] == ["distill", str(tmp_path / "scores.yaml"), "--set", "train.lr=0.001"]
    assert words[4:] == ["--seed", "0", "--out", str(study.study.runs()[1].folder), "--resume"]


def test_a_second_sweep_starts_what_is_missing_alone(tmp_path):
    study = opened(tmp_path)
    study_worker.sweep(study, Silent())
    (study.study.runs()[3].folder / "summary.json").unlink()
    outcome = study_worker.sweep(opened(tmp_path), Silent())
    assert outcome.finished == 6 and not outcome.failed
    assert [starts(study.study)[run.name] for run in study.study.runs()] == [1, 1, 1, 2, 1, 1]


def test_progress_counts_the_steps_of_all_runs(tmp_path):
    notes = Notes()
    study_worker.sweep(opened(tmp_path), notes)
    assert notes.total == 12 and notes.done[0] == 0 and notes.done[-1] == 12
    assert notes.done == sorted(notes.done)
    assert "run 1 of 6: labels/seed-0" in notes.lines and "labels/seed-0: 50.00 mIoU" in notes.lines


def test_a_failed_run_is_reported_and_the_others_go_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FAIL", "scores")
    monkeypatch.setenv("CRASH", "features")
    study = opened(tmp_path)
    outcome = study_worker.sweep(study, Silent())
    assert outcome.finished == 2 and outcome.failed == {
        "scores/seed-0": "exit code 1: the loss is not finite",
        "scores/seed-1": "exit code 1: the loss is not finite",
        "features/seed-0": "killed by SIGKILL, usually out of memory",
        "features/seed-1": "killed by SIGKILL, usually out of memory",
    }
    assert "4 of 6 runs failed" in str(study_worker.failure(outcome))
    assert study.study.runs()[1].state() == "failed" and "scores/seed-0 failed" in caplog.text
    monkeypatch.setenv("FAIL", "")
    monkeypatch.setenv("CRASH", "")
    assert study_worker.sweep(opened(tmp_path), Silent()).finished == 6


def test_a_recipe_that_is_edited_during_a_sweep_is_not_run(tmp_path):
    """Before, later seeds trained another recipe, and ``compare`` refused them all."""
    study, recipe = opened(tmp_path), tmp_path / "scores.yaml"

    class Editor(Notes):
        def note(self, text: str) -> None:
            if text == "scores/seed-0: 50.00 mIoU":
                recipe.write_text(SCORES.replace("steps: 2", "steps: 2, lr: 0.3"))
                (tmp_path / "labels.yaml").write_text(f"# the same\n{small_plan.LABELS}")
                (tmp_path / "features.yaml").unlink()

    outcome = study_worker.sweep(study, Editor())
    assert outcome.finished == 3 and set(outcome.failed) == {
        "scores/seed-1",
        "features/seed-0",
        "features/seed-1",
    }
    text = f"{recipe} was changed since this sweep began: train.lr 0.3 instead of 0.001"
    assert outcome.failed["scores/seed-1"] == text == study.study.runs()[4].failure()
    assert "features.yaml was changed since this sweep began: " in outcome.failed["features/seed-1"]
    assert study_worker.sweep(opened(tmp_path), Silent()).finished == 6


def test_two_workers_share_the_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW", "0.2")
    plan, outcomes = write_plan(tmp_path, f"{THREE}cache: live\n"), []

    def work() -> None:
        outcomes.append(study_worker.sweep(opened_plan(plan), Silent()))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [outcome.finished for outcome in outcomes] == [6, 6]
    assert set(starts(opened(tmp_path).study).values()) == {1}


def test_a_plan_that_another_worker_is_writing_is_no_foreign_file(tmp_path):
    (tmp_path / "study").mkdir()
    for name in (".lock", "plan.yaml.part"):
        (tmp_path / "study" / name).write_text("vers")
    assert study_worker.sweep(opened(tmp_path), Silent()).finished == 6


def test_a_worker_does_not_repeat_the_failure_of_another(tmp_path, monkeypatch):
    study = opened(tmp_path)
    run = study.study.runs()[1]
    worker = study_worker._Worker(study, study.study.runs(), None, Silent(), [])
    run.folder.parent.mkdir(parents=True)
    run.log.write_text("failed: exit code 1: the loss is not finite\n")
    assert worker.work() == {run.name: "exit code 1: the loss is not finite"}
    assert not (run.folder / "starts").exists()


def test_a_failed_run_whose_second_worker_was_killed_is_run_again(tmp_path):
    study = opened(tmp_path)
    run = study.study.runs()[1]
    run.folder.parent.mkdir(parents=True)
    run.log.write_text("failed: exit code 1: the loss is not finite\n")
    worker = study_worker._Worker(study, study.study.runs(), None, Silent(), [])
    run.log.write_text("")  # as a worker that starts the run leaves it
    assert worker.work() == {} and run.state() == "finished"


def test_a_signal_stops_the_run_and_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW", "60")
    study = opened(tmp_path)

    def stop_soon() -> None:
        while not (study.study.runs()[0].folder / "starts").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_soon).start()
    with pytest.raises(Interrupted, match="everything is saved"):
        study_worker.sweep(study, Silent())
    assert study.study.runs()[0].state() in ("missing", "started")  # not failed
    monkeypatch.setenv("SLOW", "0")
    assert study_worker.sweep(opened(tmp_path), Silent()).finished == 6


def test_only_the_named_runs(tmp_path):
    study = opened(tmp_path)
    assert study_worker.sweep(study, Silent(), only=["scores/seed-1"]).runs == 1
    assert [run.state() for run in study.study.runs()].count("finished") == 1
    with pytest.raises(UsageError, match=r"no run 'score/seed-1', did you mean 'scores/seed-1'"):
        study_worker.sweep(study, Silent(), only=["score/seed-1"])


# --- studies that are there already ---


def test_a_study_of_another_plan_is_refused(tmp_path):
    study_worker.sweep(opened(tmp_path), Silent())
    for run in opened(tmp_path).study.runs():  # as distill leaves it
        text = (tmp_path / f"{run.row.row_name}.yaml").read_text()
        (run.folder / "recipe.yaml").write_text(
            text.replace("{steps", f"{{seed: {run.seed}, steps")
        )
    assert opened(tmp_path).complete
    with pytest.raises(UsageError) as refused:
        opened(tmp_path, f"{THREE}cache: live\nset: {{train.lr: 3e-3}}\n")
    text = str(refused.value)
    assert "was made with another plan" in text
    assert "labels/seed-0 has train.lr 0.001, the plan 0.003" in text
    with pytest.raises(UsageError, match="features/seed-0 is not in the plan"):
        opened(tmp_path, "version: 1\nrecipes: [labels.yaml, scores.yaml]\nseeds: [0, 1]\n")
    opened(tmp_path, THREE.replace("[0, 1]", "[0, 1, 2]"))  # more seeds are welcome


def test_a_study_of_another_version_is_refused(tmp_path):
    study = opened(tmp_path)
    study_worker.sweep(study, Silent())
    file = study.study.folder / "plan.yaml"
    file.write_text(file.read_text().replace('freqkd: "', 'freqkd: "9.'))
    with pytest.raises(UsageError, match=r"made by another version(?s:.*)got  freqkd 9\."):
        opened(tmp_path)


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty and not a study"):
        opened(tmp_path)


# --- caches ---


def caches_of(tmp_path, text: str) -> list[tuple[set[str], str]]:
    return [(set(cache.rows), cache.form.content) for cache in opened(tmp_path, text).shared]


def test_rows_with_one_teacher_and_views_share_a_cache(tmp_path):
    more = "axes: {losses.kl.weight: [1, 2]}\n"
    rows = {"scores,weight=1", "scores,weight=2", "features"}
    assert caches_of(tmp_path, THREE + more) == [(rows, "taps")]
    (cache,) = opened(tmp_path, THREE + more).shared
    assert len(cache.recipes) == 2  # one for class scores, one for features


def test_other_views_need_a_cache_of_their_own(tmp_path):
    more = "axes: {data.view_seed: [0, 1]}\n"
    assert len(caches_of(tmp_path, THREE + more)) == 2


def test_endless_views_have_no_cache(tmp_path):
    assert caches_of(tmp_path, f"{THREE}set: {{data.views: 0}}\n") == []
    assert caches_of(tmp_path, f"{THREE}cache: live\n") == []


def test_targets_are_cached_for_each_set_of_losses(tmp_path):
    more = "cache: targets\naxes: {losses.kl.weight: [1, 2]}\n"
    assert caches_of(tmp_path, THREE + more) == [
        ({"scores,weight=1", "scores,weight=2"}, "targets"),
        ({"features"}, "targets"),
    ]


def test_one_cache_holds_the_taps_of_every_row_and_is_made_once(tmp_path):
    from freqkd_cli.cache.reader import CacheReader

    study, notes = opened(tmp_path, THREE), Notes()
    study_worker.sweep(study, notes)
    (cache,) = study.shared
    assert set(CacheReader(cache.folder).names) == {"decoder", "logits"}
    assert any("8 views" in line and "for 2 rows" in line for line in notes.lines)
    by_row = {run.row.row_name: words_of(run) for run in study.study.runs()}
    assert "--cache" not in by_row["labels"]
    assert all(str(cache.folder) in by_row[name] for name in ("scores", "features"))
    written = (cache.folder / "index.json").stat().st_mtime_ns
    (study.study.runs()[1].folder / "summary.json").unlink()
    study_worker.sweep(opened(tmp_path, THREE), Silent())
    assert (cache.folder / "index.json").stat().st_mtime_ns == written


def test_a_cache_that_does_not_fit_is_not_made(tmp_path, monkeypatch, caplog):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shared_caches.shutil, "disk_usage", lambda _: usage(0, 0, 2**29))
    study = opened(tmp_path, THREE)
    assert study_worker.sweep(study, Silent()).finished == 6
    assert "does not fit on the disk" in caplog.text and "512.0 MiB are free" in caplog.text
    assert "--cache" not in words_of(study.study.runs()[1])
    assert not study.shared[0].folder.exists()


# --- fairness ---


def test_held_out_images_are_not_counted_as_training_images(tmp_path):
    """Before, no plan could be opened: the pool's share was searched in another file."""
    text = small_plan.LABELS.replace("views: 1", "views: 1, hold_out: 0.5")
    recipe = recipes.loads(text.replace("steps: 2", "epochs: 3"))
    assert fairness.own_steps(assemble.check(recipe)) == 3  # 4 of 8 images, 4 a batch


def test_equal_steps_are_those_of_the_baseline(tmp_path):
    longer = small_plan.SCORES.replace("steps: 2", "steps: 7")
    plan = write_plan(tmp_path, "version: 1\nrecipes: [labels.yaml, longer.yaml]\ncache: live\n")
    (tmp_path / "longer.yaml").write_text(longer)
    study = prepare_study.open_study(plans.load(plan), tmp_path / "study")
    notes = Notes()
    study_worker.sweep(study, notes)
    assert study.steps == {"labels": 2, "longer": 2}
    assert "longer: 2 steps instead of 7, as the baseline (fair: steps)" in notes.lines
    words = words_of(study.study.runs()[1])
    assert "train.steps=2" in words


def test_a_run_that_was_extended_has_the_steps_of_the_baseline_too(tmp_path):
    """Its further steps came on top: 5 steps beside the 2 of the baseline."""
    plan = write_plan(tmp_path, "version: 1\nrecipes: [labels.yaml, longer.yaml]\n")
    text = small_plan.LABELS.replace("steps: 2", "steps: 2, extend: [3]")
    (tmp_path / "longer.yaml").write_text(text)
    study = opened_plan(plan)
    assert study.own_steps == {"labels": 2, "longer": 5} and study.steps["longer"] == 2
    train = load_row(study.study.plan, study.study.rows[1], 0).train
    assert (train.steps, train.extend) == (2, None)


def test_steps_of_equal_time():
    times = {"a": 100.0, "b": 150.0, "c": 80.0, "d": 1e9}
    assert fairness.steps_of_equal_time(times, "a", 300) == {"a": 300, "b": 200, "c": 375, "d": 1}


def test_step_times_do_not_depend_on_the_load_of_the_machine():
    def result(step: float, ce: float, load: float) -> dict:
        ratios = {"ce_step_ms": {"median": ce * load}, "over_ce": {"median": step / ce}}
        return {"step_ms": {"median": step * load}, "ratios": ratios}

    results = {
        "labels": {"step_ms": {"median": 370.0}, "ratios": {}},
        "kl": result(110, 100, 1),
        "graph": result(150, 100, 3),
        "feature": result(120, 100, 1.1),
        "other student": result(300, 250, 2),
    }
    groups = dict.fromkeys(results, "fast") | {"other student": "vmamba"}
    times = fairness.relative_to_cross_entropy(results, groups)
    assert times == pytest.approx(
        {"labels": 110, "kl": 121, "graph": 165, "feature": 132, "other student": 600}
    )


def test_steps_of_other_arithmetic_are_not_mixed(monkeypatch):
    """The slow step of labels alone in simulated int8 made that of the other rows slower."""
    rows = {name: [f"train.quantize={name}"] for name in ("null", "int8")}
    loaded = {name: (recipes.load("quickstart", sets), None) for name, sets in rows.items()}
    loaded = {"labels": loaded["null"], "kl": loaded["null"], "int8": loaded["int8"]}
    measured = iter([(100.0, {}), (110.0, 100.0), (360.0, 300.0)])

    def bench(*_: object) -> dict:
        step, ce = next(measured)
        ratios = {"ce_step_ms": {"median": ce}, "over_ce": {"median": step / ce}} if ce else {}
        return {"step_ms": {"median": step}, "ratios": ratios}

    monkeypatch.setattr(fairness, "bench", bench)
    times = fairness.measured_step_ms(loaded, "cpu", Notes())
    assert times == {"labels": 100.0, "kl": 110.0, "int8": 360.0}


def test_an_error_ends_the_bar(monkeypatch):
    """On a terminal the bar went on, and the cursor stayed hidden."""

    def bench(*_: object) -> None:
        raise Interrupted("stopped")

    notes = Notes()
    notes.end = lambda: notes.note("ended")
    monkeypatch.setattr(fairness, "bench", bench)
    with pytest.raises(Interrupted):
        fairness.measured_step_ms({"a": (None, None)}, "cpu", notes)
    assert notes.lines == ["ended"]


def test_steps_are_measured_as_bench_does(tmp_path):
    study = opened(tmp_path)
    recipes = {row.planned.row_name: (row.recipe, None) for row in study.rows}
    notes = Notes()
    times = fairness.measured_step_ms(recipes, "cpu", notes, steps=2)
    assert set(times) == {"labels", "scores", "features"} and min(times.values()) > 0
    assert times["scores"] > times["labels"]  # a live teacher runs in each step
    assert notes.done == [0, 1, 2, 3]


def test_equal_seconds_are_measured_once_and_kept(tmp_path, measurements):
    study_worker.sweep(opened(tmp_path, SECONDS), Silent())
    again = opened(tmp_path, SECONDS)
    assert again.steps == {"labels": 2, "scores": 1, "features": 4} and again.complete
    study_worker.sweep(again, Silent())
    assert measurements == [{"labels", "scores", "features"}]
    assert "train.steps=4" in words_of(again.study.runs()[2])


def test_a_row_that_is_added_under_another_load_gets_equal_time(tmp_path, monkeypatch):
    loads = iter((1.0, 2.0))

    def step_ms(rows, device, progress, before_each):
        load = next(loads)
        return {name: load * (50.0 if name == "features" else 100.0) for name in rows}

    monkeypatch.setattr(prepare_study, "measured_step_ms", step_ms)
    text = f"{THREE}cache: live\nfair: seconds\n"
    fewer = text.replace(", features.yaml", "")
    study_worker.sweep(opened(tmp_path, fewer), Silent())
    study_worker.sweep(opened(tmp_path, text), Silent())
    assert opened(tmp_path, text).steps == {"labels": 2, "scores": 2, "features": 4}


def test_a_refused_plan_of_equal_time_changes_nothing(tmp_path, measurements):
    """Before, the steps of the missing row were lost, and then its own plan was refused too."""
    first = SECONDS.replace(", features.yaml", "")
    study_worker.sweep(opened(tmp_path, first), Silent())
    study = opened(tmp_path, first).study
    for run in study.runs():  # as distill leaves it
        text = dump(load_row(study.plan, run.row, run.seed))
        (run.folder / "recipe.yaml").write_text(text)
    before = (study.folder / "plan.yaml").read_text()
    with pytest.raises(UsageError, match="scores/seed-0 is not in the plan"):
        study_worker.sweep(opened(tmp_path, SECONDS.replace(" scores.yaml,", "")), Silent())
    assert (study.folder / "plan.yaml").read_text() == before
    assert measurements == [{"labels", "scores"}]
    assert opened(tmp_path, first).complete
    assert study_worker.sweep(opened(tmp_path, SECONDS), Silent()).finished == 6


@pytest.mark.parametrize("change", ["set: {train.steps: 4}", "baseline: scores"])
def test_steps_of_equal_time_are_those_of_one_baseline_and_length(tmp_path, measurements, change):
    """Before, the study kept its steps and said of itself that it had the new length."""
    study_worker.sweep(opened(tmp_path, SECONDS), Silent())
    with pytest.raises(UsageError) as refused:
        opened(tmp_path, f"{SECONDS}{change}\n")
    assert "was measured for another length or baseline" in str(refused.value)
    assert "need the baseline labels of 2 steps" in str(refused.value)
    (tmp_path / "study").rename(tmp_path / "other")
    assert not opened(tmp_path, f"{SECONDS}{change}\n").measured


def test_the_study_of_a_study_is_measured_anew(tmp_path, measurements):
    """Before, the steps of another machine and length went along."""
    study_worker.sweep(opened(tmp_path, SECONDS), Silent())
    plan = plans.load(tmp_path / "study" / "plan.yaml", ["train.steps=8"])
    study = prepare_study.open_study(plan, tmp_path / "new")
    assert not study.measured and set(study.own_steps.values()) == {8}
    study_worker.sweep(study, Silent())
    again = prepare_study.open_study(plans.load(tmp_path / "new" / "plan.yaml"), tmp_path / "new")
    assert again.complete and again.steps == {"labels": 8, "scores": 4, "features": 16}


def identity(path, line: str, content: str) -> str:
    path.write_text(SCORES.replace("{id: kl, name: logit_kl}", line))
    return shared_caches._identity(recipes.load(str(path)), content)


def test_rows_share_targets_where_their_targets_are_the_same(tmp_path):
    """A cache made from a row of weight 0 lacked the targets of the others."""
    plain, stronger, faded, absent = (
        identity(tmp_path / "r.yaml", f"{{name: dist, {rest}}}", "targets")
        for rest in ("weight: 1", "weight: 3, warmup: 1", "decay: 1", "weight: 0")
    )
    assert plain == stronger == faded != absent
    taps = {
        identity(tmp_path / "r.yaml", f"{{name: dist, weight: {weight}}}", "taps")
        for weight in (0, 1)
    }
    assert len(taps) == 1


POOLED = """version: 1
data: {name: folder, root: gone, size: [64, 64], classes: [road, car], views: 1, unlabelled: pool}
teacher: {name: segformer, weights: embedded, class_map: {road: road, vehicle: car}}
student: {name: fast_scnn, width: 0.25}
losses: [LOSSES]
train: {steps: 4, batch_size: 2}
"""


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_row_that_uses_the_pool_makes_the_cache(tmp_path, order):
    """Else the cache had no images of the pool, and the row could not read it."""
    lines = ("{name: cross_entropy, attention: low}", "{name: cross_entropy}, {name: logit_kl}")
    plans_of_rows = [
        assemble.check(recipes.loads(POOLED.replace("LOSSES", lines[number]))) for number in order
    ]
    rows = [
        CheckedRow(SimpleNamespace(row_name=str(n)), "", p) for n, p in enumerate(plans_of_rows)
    ]
    (cache,) = shared_caches.shared_caches(tmp_path, rows, "taps")
    assert [line.name for line in cache.recipes[0].losses] == ["cross_entropy", "logit_kl"]
    assert cache.rows == ("0", "1")


# --- the command ---


def test_commands_are_one_line_for_each_missing_run(tmp_path, freqkd):
    plan = write_plan(tmp_path)
    study = prepare_study.open_study(plans.load(plan), tmp_path / "s")
    (study.study.runs()[0].folder).mkdir(parents=True)
    (study.study.folder / "plan.yaml").write_text(plans.dump(study.study.plan))
    (study.study.runs()[0].folder / "summary.json").write_text('{"miou": 0.5}')
    words = ["--set", "train.lr=2e-3", "--device", "cpu"]
    code, out, _ = freqkd("sweep", plan, "--out", tmp_path / "s", "--commands", *words)
    assert code == 0 and out.splitlines() == [
        f"freqkd sweep {plan} --out {tmp_path}/s --set train.lr=2e-3 --device cpu --only {name}"
        for name in ("scores/seed-0", "labels/seed-1", "scores/seed-1")
    ]


@pytest.mark.skipif(not shutil.which("xargs"), reason="needs xargs")
@pytest.mark.parametrize("start", ["tr ", 'exec sh -c "exec'])
def test_the_docs_run_lines_of_commands_as_they_are(tmp_path, start):
    """xargs, and an array job of Slurm: quotes, blanks and dollar signs of values stay."""
    names = ["a b", "it's", 'x"y', "$HOME", "c\\d"]
    (tmp_path / "commands.txt").write_text("".join(f"{shlex.join(['touch', n])}\n" for n in names))
    docs = Path(__file__).parents[2].joinpath("docs/cluster.md").read_text().splitlines()
    (line,) = [text for text in docs if text.startswith(start)]
    for number in range(1, 2 if start == "tr " else 1 + len(names)):
        env = os.environ | {"SLURM_ARRAY_TASK_ID": str(number)}
        subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "commands.txt"}


@pytest.mark.parametrize("name", ["a #b", "x: y", "plain"])
def test_the_data_root_is_any_folder(tmp_path, freqkd, name):
    """YAML read "a #b" as "a"."""
    plan, root = tmp_path / "p.yaml", tmp_path / name
    root.mkdir()
    plan.write_text("version: 1\nrecipes: [r.yaml]\nseeds: [0]\n")
    data = "data: {name: camvid, size: [64, 64]}"
    (tmp_path / "r.yaml").write_text(small_plan.LABELS.replace(small_plan.DATA, data))
    words = ("--out", tmp_path / "s", "--data-root", root, "--dry-run")
    code, _, err = freqkd("sweep", plan, *words)
    assert code == 4 and f" in {root}\n" in err, err


def test_dry_run_prints_runs_bytes_and_hours_and_writes_nothing(tmp_path, freqkd):
    plan, out = write_plan(tmp_path), tmp_path / "study"
    code, text, _ = freqkd("sweep", plan, "--out", out, "--dry-run", "--json")
    result = json.loads(text)
    assert code == 0 and not out.exists()
    assert (result["runs"], result["finished"], result["baseline"]) == (4, 0, "labels")
    assert [row["name"] for row in result["rows"]] == ["labels", "scores"]
    assert [row["teacher"] for row in result["rows"]] == ["none", "cached"]
    assert result["caches"][0]["rows"] == ["scores"] and result["caches"][0]["fits"]
    assert result["bytes"]["caches"] == result["caches"][0]["bytes"] > 0
    assert result["bytes"]["runs"] > 0 and result["hours"] > 0


def test_a_sweep_ends_with_1_where_runs_failed(tmp_path, freqkd, monkeypatch):
    monkeypatch.setenv("FAIL", "scores")
    plan = write_plan(tmp_path, f"{THREE}cache: live\n")
    code, out, err = freqkd("sweep", plan, "--out", tmp_path / "s", "--json")
    result = json.loads(out)
    assert code == 1 and result["finished"] == 4
    assert [row["run"] for row in result["failed"]] == ["scores/seed-0", "scores/seed-1"]
    assert "2 of 6 runs failed" in err and "Traceback" not in err


def test_a_sweep_prints_the_plan_that_does_not_exist(freqkd):
    code, _, err = freqkd("sweep", "rivls", "--out", "x")
    assert code == 2 and "there is no plan 'rivls', did you mean 'rivals'?" in err


def test_lines_cannot_read_a_plan_from_standard_input(freqkd):
    """Each of them failed: the plan was empty."""
    code, out, err = freqkd("sweep", "-", "--out", "s", "--commands")
    assert (code, out) == (2, "") and "--commands prints lines that read the plan again" in err


def test_a_launcher_is_refused(tmp_path, monkeypatch):
    from freqkd_cli.commands.sweep import run

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="does not run under a launcher"):
        run(str(write_plan(tmp_path)), tmp_path / "s")


def test_the_log_of_a_sweep_names_the_next_command(tmp_path, freqkd, caplog):
    caplog.set_level(logging.INFO)
    plan = write_plan(tmp_path, f"{THREE}cache: live\n")
    assert freqkd("sweep", plan, "--out", tmp_path / "s")[0] == 0
    assert f"Next: freqkd compare {tmp_path}/s" in caplog.text
