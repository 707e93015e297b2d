"""``train.trackers``: trackers get the numbers of metrics.jsonl, and continue with the run."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import pytest
from small_recipe import SMALL

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import FreqKDError
from freqkd_cli.train.recipe_identity import difference, digest
from freqkd_cli.train.run_log import RunLog

pytest.importorskip("accelerate", reason="trackers are those of accelerate")


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb, behind accelerate's own tracker, that keeps what it gets."""
    module = types.ModuleType("wandb")
    module.runs, module.rows, module.settings = [], [], {}

    class Run:
        finished = 0

        def log(self, values, step=None):
            if getattr(module, "broken", False):
                raise OSError("the server is gone")
            module.rows.append((step, values))

        def finish(self):
            Run.finished += 1

    def init(**keywords):
        if keywords["mode"] != "offline":
            raise RuntimeError("no api key configured")
        print("wandb says hello on standard output")
        module.runs.append(keywords)
        return Run()

    module.init, module.Run = init, Run
    module.config = types.SimpleNamespace(update=lambda values, **_: module.settings.update(values))
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return module


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(SMALL)
    return lambda names: recipes.load(tmp_path / "recipe.yaml", [f"train.trackers={names}"])


ROWS = [
    {"step": 10, "lr": 0.1, "total": 3.0, "raw": {"ce": 2.0}, "weighted": {"ce": 3.0}},
    {"step": 10, "val": {"miou": 0.5, "ece": None}, "per_class": {"miou": [0.5]}},
]
NUMBERS = [
    (10, {"lr": 0.1, "total": 3.0, "raw/ce": 2.0, "weighted/ce": 3.0}),
    (10, {"val/miou": 0.5}),
]


def write_rows(out, recipe):
    log = RunLog(out, 0, 0, recipe)
    log.trained(ROWS[0], 5.0)
    log.scored(ROWS[1])
    log.close()


def test_the_numbers_are_those_of_the_log_and_a_resumed_run_is_the_same(
    recipe, tmp_path, wandb, capsys
):
    write_rows(tmp_path, recipe("[tensorboard, wandb]"))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS and wandb.rows == NUMBERS
    first = wandb.runs[0]
    assert (first["project"], first["name"], first["resume"]) == ("freqkd", tmp_path.name, "allow")
    assert wandb.settings["train.lr"] == "0.001" and wandb.settings["losses.0.name"]
    assert wandb.Run.finished == 1 and list((tmp_path / "tensorboard").iterdir())
    write_rows(tmp_path, recipe("[wandb]"))
    assert wandb.runs[1]["id"] == first["id"] and capsys.readouterr().out == ""


def test_only_other_trackers(recipe, tmp_path, wandb):
    write_rows(tmp_path, recipe("[wandb]"))
    assert wandb.rows and not (tmp_path / "tensorboard").exists()


def test_a_tracker_that_fails_later_is_left_out(recipe, tmp_path, wandb, caplog):
    wandb.broken = True
    write_rows(tmp_path, recipe("[wandb]"))
    (message,) = caplog.messages
    assert message == "logging to wandb stopped: the server is gone"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_tracker_that_cannot_start_is_one_message(recipe, tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(FreqKDError, match="wandb cannot be started(.|\n)*no api key configured"):
        RunLog(tmp_path, 0, 0, recipe("[wandb]"))


def test_a_tracker_that_cannot_start_leaves_no_other_one_open(recipe, tmp_path, wandb, monkeypatch):
    tracking = importlib.import_module("accelerate.tracking")
    monkeypatch.delitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", raising=False)
    with pytest.raises(FreqKDError, match="trackio cannot be started"):
        RunLog(tmp_path, 0, 0, recipe("[wandb, trackio]"))
    assert len(wandb.runs) == wandb.Run.finished == 1


def test_a_tracker_that_is_not_installed_is_one_message_before_any_work(
    freqkd, tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "wandb" else find(n))
    sets = ("--set", "train.trackers=[wandb]")
    code, out, err = freqkd("distill", "quickstart", "--out", tmp_path / "run", *sets)
    assert (code, out) == (2, "") and "pip install wandb" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists() and err.count("error: ") == 1


def test_a_resumed_run_may_have_other_trackers(recipe):
    assert difference(recipe("[tensorboard]"), recipe("[wandb]")) is None
    assert digest(recipe("[tensorboard]")) == digest(recipe("[wandb]"))


@pytest.mark.filterwarnings("ignore")  # of mlflow's own libraries
def test_mlflow_writes_into_the_run_folder(recipe, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow's local store needs it")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_rows(tmp_path, recipe("[mlflow]"))
    write_rows(tmp_path, recipe("[mlflow]"))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("freqkd")
    (run,) = client.search_runs([experiment.experiment_id])
    totals = client.get_metric_history(run.info.run_id, "total")
    assert [(row.step, row.value) for row in totals] == [(10, 3.0)] * 2
    assert run.data.params["train.lr"] == "0.001"


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_itself_writes_offline_into_the_run_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    write_rows(tmp_path, recipe("[wandb]"))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb")) and folder.name.endswith(
        json.loads((tmp_path / "trackers.json").read_text())["id"]
    )
