"""``freqkd tune``: the optimum of a toy, kills, workers, pruning, a trap in val, and bad input."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_fakes import Notes
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import (
    CacheMismatch,
    FreqKDError,
    Interrupted,
    RecipeError,
    TrainingFailed,
    UsageError,
)
from freqkd_cli.lab.tune_storage import open_study
from freqkd_cli.lab.tune_study import TuneStudy
from freqkd_cli.lab.tune_worker import TuneOptions
from freqkd_cli.lab.tuning import tune
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form

RECIPE = """
version: 1
data: {name: scenes, size: [32, 64], length: 10, views: 2, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, dropout: 0.0}
losses:
  - {name: cross_entropy}
  - {id: kl, name: logit_kl}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {epochs: 2, batch_size: 4, lr: 0.02, optimizer: sgd, precision: float32}
"""
WEIGHT = "losses.kl.weight=0.3..10:log"
BEST_WEIGHT = 2.0
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def load(*sets: str) -> recipes.Recipe:
    return recipes.loads(RECIPE, "toy.yaml", sets)


def toy_score(recipe: recipes.Recipe) -> float:
    """Return a score that is 1 at weight 2 with adamw, and lower elsewhere."""
    weight = next(line.weight for line in recipe.losses if line.id == "kl")
    distance = abs(math.log(weight / BEST_WEIGHT))
    return 1 - 0.2 * distance - 0.1 * (recipe.train.optimizer == "sgd")


def toy(
    recipe: recipes.Recipe,
    out: Path,
    progress: Any,
    *,
    on_score: Callable[[int, int, float], None],
    **others: Any,
) -> dict[str, Any]:
    """A training of four evaluations, whose score is that of the toy."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "starts").open("a") as file:
        file.write("start\n")
    score = toy_score(recipe)
    for step in (25, 50, 75, 100):
        on_score(step, 100, score * step / 100)
    return {"last_miou": score, "seconds": 1.0, "val_images": 2}


def options(*searches: str, **more: Any) -> TuneOptions:
    return TuneOptions(searches or (WEIGHT,), **more)


def starts(folder: Path) -> list[int]:
    files = sorted((folder / "trials").glob("*/starts"))
    return [len(path.read_text().splitlines()) for path in files]


def run(folder: Path, *searches: str, train=toy, recipe=None, **more: Any) -> dict[str, Any]:
    given = options(*searches, **more)
    return tune(recipe or load(), folder, given, Silent(), train=train)


def test_the_optimum_of_a_toy_is_found(tmp_path):
    result = run(tmp_path / "st", WEIGHT, "train.optimizer=adamw,sgd", trials=20)
    values = result["best"]["values"]
    assert values["train.optimizer"] == "adamw"
    assert abs(math.log(values["losses.kl.weight"] / BEST_WEIGHT)) < 0.1
    assert result["trials"] == 20 and result["complete"] + result["pruned"] == 20
    assert result["pruned"] > 3, "half of all trials are below the median"
    assert (result["images"], result["held_out_images"]) == (8, 2)
    scores = [row["miou"] for row in result["rows"] if row["state"] == "complete"]
    assert scores == sorted(scores, reverse=True) and scores[0] == result["best"]["miou"]
    # A search at random among as many values on a grid would be off by half a step.
    tried = [row["values"]["losses.kl.weight"] for row in result["rows"]]
    assert len(set(tried)) > 15 and all(0.3 <= value <= 10 for value in tried)


def test_the_best_recipe_trains_on_every_image_even_where_the_recipe_holds_out_some(tmp_path):
    result = run(tmp_path / "st", recipe=load("data.hold_out=0.4"), trials=1)
    assert (result["images"], result["held_out_images"]) == (6, 4)
    assert recipes.load(tmp_path / "st/best.yaml").data.hold_out is None


def test_the_best_recipe_is_valid_and_has_a_lab_note(tmp_path, freqkd):
    given = {"trials": 6, "command": "freqkd tune toy.yaml --trials 6"}
    result = run(tmp_path / "st", WEIGHT, recipe=load("train.seed=3"), **given)
    path = tmp_path / "st/best.yaml"
    assert result["best_recipe"] == str(path)
    assert freqkd("recipe", "check", path)[0] == 0
    best, weight = recipes.load(path), result["best"]["values"]["losses.kl.weight"]
    assert best == load("train.seed=3", f"losses.kl.weight={weight!r}")
    assert best.data.hold_out is None and best.train.eval_every == 0
    note = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert note[0] == "# Which values of losses.kl.weight are best for toy.yaml?"
    text = "\n".join(note)
    for part in (
        "# Source: toy.yaml",
        "# Command: freqkd tune toy.yaml --trials 6",
        f"# Tuned: losses.kl.weight={weight} of 0.3..10:log",
        f"# Score: {100 * result['best']['miou']:.2f} mIoU on 2 held-out training images",
        "val was not read",
        f"# Measured: {time.strftime('%Y-%m')}",
        "seed 3",
        "# Expected: not yet measured",
    ):
        assert part in text, part


def test_finished_trials_are_never_redone_and_more_may_be_added(tmp_path):
    first = run(tmp_path / "st", trials=4)
    again = run(tmp_path / "st", trials=4)
    assert again == first and starts(tmp_path / "st") == [1] * 4
    more = run(tmp_path / "st", trials=9)
    assert more["trials"] == 9 and starts(tmp_path / "st") == [1] * 9
    whole = run(tmp_path / "whole", trials=9)
    assert facts(more) == facts(whole), "each trial draws its values from its own seed"


def test_a_renamed_folder_keeps_its_trials(tmp_path):
    first = run(tmp_path / "st", trials=4)
    renamed = (tmp_path / "st").rename(tmp_path / "moved")
    again = run(renamed, trials=4)
    assert facts(again) == facts(first) and starts(renamed) == [1] * 4


def facts(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What a kill must not change."""
    return [(row["trial"], row["state"], row["miou"], row["values"]) for row in result["rows"]]


def in_child(folder: Path, trials: int, pause: float) -> int:
    """Run a study in a forked process, with a pause before each evaluation; return its number."""

    def slow(recipe, out, progress, *, on_score, **others):
        def later(step: int, steps: int, miou: float) -> None:
            time.sleep(pause)
            on_score(step, steps, miou)

        return toy(recipe, out, progress, on_score=later)

    child = os.fork()
    if child == 0:
        try:
            run(folder, trials=trials, train=slow)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_equal_values_are_trained_once(tmp_path):
    """Before, 20 trials of two values were 20 runs with two different results."""
    result = run(tmp_path / "st", "train.optimizer=adamw,sgd", trials=8, prune=False)
    assert result["complete"] == 8 and starts(tmp_path / "st") == [1, 1]
    assert len({row["miou"] for row in result["rows"]}) == 2
    assert result["best"]["values"] == {"train.optimizer": "adamw"}


@forks
def test_a_killed_study_continues_to_the_same_result(tmp_path):
    folder = tmp_path / "st"
    child = in_child(folder, 6, 0.15)
    wait_for(lambda: len(starts(folder)) == 3)
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before = starts(folder)
    assert before == [1] * len(before) and 3 <= len(before) < 6
    result = run(folder, trials=6)
    after = starts(folder)
    assert after == [*([1] * (len(before) - 1)), 2, *([1] * (6 - len(before)))], (
        "only the killed one"
    )
    assert facts(result) == facts(run(tmp_path / "whole", trials=6))


@forks
def test_two_workers_share_the_trials_of_one_study(tmp_path):
    folder = tmp_path / "st"
    workers = [in_child(folder, 8, 0.1) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in workers] == [0, 0]
    assert starts(folder) == [1] * 8
    result = run(folder, trials=8)
    assert result["trials"] == 8 and result["running"] == 0 and starts(folder) == [1] * 8


def test_a_trial_that_another_process_finishes_meanwhile_is_not_continued(tmp_path, monkeypatch):
    def stopped(recipe, out, progress, **others):
        raise Interrupted("stopped at step 3 of 8")

    with pytest.raises(Interrupted):
        run(tmp_path / "st", trials=2, train=stopped)
    claim, finished = TuneStudy._claim, []

    def late(study: TuneStudy, number: int):
        if not finished:
            finished.append(number)
            study.study.tell(number, 0.25)
        return claim(study, number)

    monkeypatch.setattr(TuneStudy, "_claim", late)
    result = run(tmp_path / "st", trials=2)
    assert finished == [0] and result["rows"][-1]["miou"] == 0.25 and result["complete"] == 2


def test_an_interrupted_trial_is_continued_with_its_values(tmp_path):
    def stopped(recipe, out, progress, **others):
        raise Interrupted("stopped at step 3 of 8", tip="the same command with --resume")

    with pytest.raises(Interrupted, match="trial 0: stopped at step 3 of 8") as raised:
        run(tmp_path / "st", trials=2, train=stopped)
    assert raised.value.tip == "the same command continues the study"
    given = []

    def continued(recipe, out, progress, **others):
        given.append((recipe, out.name, others["resume"]))
        return toy(recipe, out, progress, **others)

    run(tmp_path / "st", trials=1, train=continued)
    assert [name for _, name, _ in given] == ["0000"] and given[0][2] is True
    assert facts(run(tmp_path / "st", trials=2)) == facts(run(tmp_path / "whole", trials=2))


def test_other_errors_stop_the_study_and_nothing_is_lost(tmp_path):
    def full(recipe, out, progress, **others):
        raise FreqKDError("the disk is full")

    with pytest.raises(FreqKDError, match="the disk is full"):
        run(tmp_path / "st", train=full, trials=3)
    assert run(tmp_path / "st", trials=3)["complete"] == 3


def test_a_loss_that_is_not_finite_ends_its_trial_alone(tmp_path):
    def breaking(recipe, out, progress, **others):
        if out.name == "0001":
            raise TrainingFailed("the loss kl is not finite")
        if out.name == "0002":
            raise UsageError("the data set is smaller than one batch")
        return toy(recipe, out, progress, **others)

    listener = Notes()
    result = tune(load(), tmp_path / "st", options(trials=4), listener, train=breaking)
    assert (result["complete"], result["failed"], result["running"]) == (2, 2, 0)
    errors = {row["trial"]: row["error"] for row in result["rows"] if row["error"]}
    assert "not finite" in errors[1] and "smaller than one batch" in errors[2]
    assert any("trial 1 failed: the loss kl is not finite" in line for line in listener.said)

    def broken(recipe, out, progress, **others):
        raise TrainingFailed("the loss kl is not finite")

    with pytest.raises(FreqKDError, match="no trial of .* was finished") as raised:
        run(tmp_path / "bad", trials=2, train=broken)
    assert "not finite" in str(raised.value)


def test_a_trial_without_memory_ends_alone(tmp_path):
    """It stayed unfinished, and each start took it up again."""

    def large(recipe, out, progress, **others):
        if out.name == "0001":
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return toy(recipe, out, progress, **others)

    result = run(tmp_path / "st", trials=3, train=large)
    assert (result["complete"], result["failed"], result["running"]) == (2, 1, 0)
    (error,) = (row["error"] for row in result["rows"] if row["error"])
    assert "not enough memory" in error


def test_a_missing_device_uses_up_no_trial(tmp_path):
    with pytest.raises(UsageError, match="no such device"):
        run(tmp_path / "st", trials=2, device="cuda:7")
    assert not (tmp_path / "st").exists()


def test_a_trial_is_pruned_against_several_others_alone(tmp_path):
    def lengths(recipe, out, progress, *, on_score, **others):
        steps = recipe.train.epochs
        noise = np.random.default_rng(steps).random(steps)
        for step in range(1, steps + 1):
            on_score(step, steps, noise[step - 1])
        return {"last_miou": 0.5, "seconds": 1.0, "val_images": 2}

    folder = tmp_path / "st"
    tune(load(), folder, options("train.epochs=10..40:int", trials=25), Silent(), train=lengths)
    trials = open_study(folder, None, 0).get_trials()
    whole = [set(trial.intermediate_values) for trial in trials if trial.state.name == "COMPLETE"]
    for trial in trials:
        if trial.state.name == "PRUNED":
            last = max(trial.intermediate_values)
            assert sum(last in places for places in whole) >= 5


def test_without_pruning_every_trial_is_complete(tmp_path):
    assert run(tmp_path / "st", trials=12, prune=False)["complete"] == 12


def test_a_database_serves_two_folders(tmp_path):
    url = f"sqlite:///{tmp_path}/trials.db"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first = run(tmp_path / "one/st", trials=3, storage=url)
    second = run(tmp_path / "two/st", trials=5, storage=url)
    assert second["trials"] == 5 and len(starts(tmp_path / "two/st")) == 2
    assert {row["trial"] for row in first["rows"]} == {0, 1, 2}
    with pytest.raises(UsageError, match="the study st in --storage was started with another"):
        run(tmp_path / "st", "train.lr=0.1,0.2", trials=3, storage=url)
    with pytest.raises(UsageError, match="keeps its trials in another storage"):
        run(tmp_path / "one/st", trials=3)
    with pytest.raises(UsageError, match="--storage cannot be opened"):
        run(tmp_path / "new", trials=3, storage="nosuchdatabase://x")


@pytest.mark.parametrize(
    ("search", "parts"),
    [
        (
            "losses.kl.wieght=0.3..10",
            ["--search losses.kl.wieght=0.3..10", "did you mean 'weight'"],
        ),
        ("losses.hihg.cutoff=0.3..0.5", ["no loss has the id 'hihg'", "did you mean 'high'"]),
        ("train.learning=1,2", ["--search train.learning=1,2: unknown key"]),
        ("train.batch_size=2..8", ["--search train.batch_size=2..8", "add :int behind the range"]),
        ("train.optimizer=adamw,sdg", ["--search train.optimizer=adamw,sdg", "sgd"]),
        ("train.lr=0..1", ["--search train.lr=0..1", "need more than 0"]),
        ("losses.high.cutoff=0.0001..0.5", ["--search losses.high.cutoff=0.0001..0.5"]),
        ("data.hold_out=0.1,0.2", ["changes how trials are scored"]),
        ("train.seed=0,1,2", ["--search train.seed=0,1,2 searches for a lucky seed", "--seed N"]),
        ("data.length=10,20", ["changes the images that are scored"]),
    ],
)
def test_searches_that_do_not_fit_the_recipe(search, parts, tmp_path):
    with pytest.raises(UsageError) as raised:
        run(tmp_path / "st", search)
    assert all(part in str(raised.value) for part in parts), str(raised.value)
    assert not (tmp_path / "st").exists(), "before anything runs"


def test_all_searches_are_checked_at_once(tmp_path):
    with pytest.raises(RecipeError, match="2 problems in --search"):
        run(tmp_path / "st", "losses.kl.wieght=1,2", "train.lrr=1,2")


def test_a_record_that_another_process_writes_meanwhile_is_no_foreign_file(tmp_path, monkeypatch):
    record, iterdir = run(tmp_path / "a", trials=1)["study"], Path.iterdir
    (tmp_path / "b").mkdir()

    def slow_iterdir(folder: Path):
        if folder.name == "b":
            shutil.copy(Path(record, "tune.json"), folder)
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", slow_iterdir)
    assert run(tmp_path / "b", trials=1)["complete"] == 1


def test_folders_and_studies_of_others(tmp_path):
    run(tmp_path / "st", trials=1)
    with pytest.raises(UsageError, match="was started with another search") as raised:
        run(tmp_path / "st", "train.lr=0.1,0.2", trials=1)
    assert "losses.kl.weight=0.3..10:log" in str(raised.value)
    with pytest.raises(UsageError, match="was started with another recipe") as raised:
        run(tmp_path / "st", trials=1, recipe=load("train.lr=0.5"))
    assert "train.lr 0.5" in str(raised.value) and "train.lr 0.02" in str(raised.value)
    with pytest.raises(UsageError, match="another recipe"):
        run(tmp_path / "st", trials=1, hold_out=0.4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.jpg").touch()
    with pytest.raises(UsageError, match="did not write") as raised:
        run(tmp_path / "mine", trials=1)
    assert "photo.jpg" in str(raised.value)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        run(tmp_path / "file", trials=1)
    record = json.loads((tmp_path / "st/tune.json").read_text())
    (tmp_path / "st/tune.json").write_text(json.dumps(record | {"version": 2}))
    with pytest.raises(UsageError, match="not made by this version"):
        run(tmp_path / "st", trials=1)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--trials", 0), "--trials"),
        (("--hold-out", 1.5), "--hold-out 1.5 is not a share"),
        (("--search", "train.lr=2..1"), "is empty"),
    ],
)
def test_options_are_checked_before_torch_is_imported(words, text, tmp_path, freqkd):
    given = ("--search", "train.lr=0.1,0.2", "--study", tmp_path / "st")
    code, out, error = freqkd("tune", "quickstart", *given, *words)
    assert code == 2 and text in error and not out and "Traceback" not in error


def test_other_commands_do_not_import_optuna():
    code = "import sys; from freqkd_cli.app import build_app; build_app(); "
    code += "import freqkd_cli.train.distillation; print('optuna' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_keys_that_change_what_a_cache_of_targets_stores(tmp_path):
    form = Form("targets")
    dump_recipe(load(), tmp_path / "cache", Silent(), DumpOptions(form))
    result = run(tmp_path / "st", trials=1, cache=tmp_path / "cache")
    assert result["complete"] == 1
    with pytest.raises(CacheMismatch, match="losses.high.cutoff=0.3..0.5 changes what") as raised:
        run(tmp_path / "no", "losses.high.cutoff=0.3..0.5", cache=tmp_path / "cache")
    assert "targets.high.arguments.cutoff: cached 0.4, wanted 0.3" in str(raised.value)
    assert "leave --cache out" in str(raised.value) and not (tmp_path / "no").exists()
    with pytest.raises(CacheMismatch, match="data.augment.flip=true,false changes what the cache"):
        run(tmp_path / "no", "data.augment.flip=true,false", cache=tmp_path / "cache")


def write(folder: Path, split: str, number: int) -> None:
    rng = np.random.default_rng(number)
    for kind in ("images", "masks"):
        for k in range(number):
            path = folder / kind / split / f"p{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape, most = ((40, 70, 3), 255) if kind == "images" else ((40, 70), 2)
            Image.fromarray(rng.integers(0, most, shape, np.uint8)).save(path)


def test_a_real_study_never_reads_val_and_its_best_recipe_trains(tmp_path, monkeypatch, freqkd):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", "train", 10)
    write(tmp_path / "mine", "val", 3)
    for path in (tmp_path / "mine").glob("*/val/*"):
        path.write_bytes(b"a trap: whoever reads this fails")
    Path("mine.yaml").write_text(
        "version: 1\n"
        "data: {name: folder, root: mine, size: [32, 64], classes: [road, car], workers: 0}\n"
        "student: {name: fast_scnn, width: 0.25}\n"
        "losses: [{name: cross_entropy}]\n"
        "train: {epochs: 2, batch_size: 4}\n"
    )
    words = ("tune", "mine.yaml", "--search", "train.lr=1e-3..1e-2:log", "--study", "st")
    code, out, error = freqkd(*words, "--trials", 2, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["trials"], plan["steps"], plan["images"]) == (0, 2, 4, 8), error
    assert plan["held_out_images"] == 2 and plan["hours"] >= 0 and plan["seconds_per_trial"] > 0
    assert not Path("st").exists()
    code, out, error = freqkd(*words, "--trials", 2)
    assert code == 0, error
    assert "2 trials: 2 complete. Scored on 2 held-out training images, trained on 8." in out
    assert "mIoU on the held-out part" in error
    code, out, error = freqkd(*words, "--trials", 2, "--json")
    assert json.loads(out)["complete"] == 2
    assert "trial 0 " not in error, "nothing is done again"
    assert freqkd("distill", "st/best.yaml", "--out", "run")[0] == 1, "the trap works"
    shutil.rmtree("mine/images/val")
    shutil.rmtree("mine/masks/val")
    write(tmp_path / "mine", "val", 3)
    assert freqkd("distill", "st/best.yaml", "--out", "run", "--overwrite")[0] == 0
    assert json.loads(Path("run/summary.json").read_text())["images"] == 10


def test_a_cache_tunes_without_the_weights_of_its_teacher(tmp_path):
    """The weights were needed for the taps and the classes."""
    torch.manual_seed(0)
    sizes = {"channels": [8, 16, 16, 16], "depths": [1] * 4, "heads": [1, 1, 2, 2], "decoder": 16}
    names = registry.find("datasets", "scenes").classes()
    model = registry.find("models", "segformer").build(classes=len(names), **sizes)
    model.id2label = dict(enumerate(names))
    save_model(tmp_path / "t", model)
    recipe = load(f"teacher.weights={tmp_path / 't'}", "data.hold_out=0.2")
    dump_recipe(recipe, tmp_path / "c", Notes(), DumpOptions())
    shutil.rmtree(tmp_path / "t")
    result = run(tmp_path / "st", recipe=recipe, trials=1, cache=tmp_path / "c")
    assert result["trials"] == 1
