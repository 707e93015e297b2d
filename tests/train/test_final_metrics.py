"""``train.metrics``: requested numbers of the best weights in ``summary.json``."""

from __future__ import annotations

import json

import pytest

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import RecipeError
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.recipe_identity import digest

RECIPE = """
version: 1
data: {name: scenes, size: [64, 64], length: 8, held_out: 4, workers: 0}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {epochs: 3, batch_size: 4, lr: 0.02, eval_every: 1, eval_limit: 3}
"""
METRICS = "train.metrics=[boundary_f,calibration]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, distill(recipes.loads(RECIPE, sets=(METRICS,)), out, Silent())


def test_the_summary_has_the_numbers_of_the_best_weights(run, freqkd):
    out, summary = run
    numbers = summary["metrics"]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert numbers["miou"] == summary["miou"] and "boundary_iou" not in numbers
    words = ("--metrics", "boundary_f,calibration", "--limit", "3", "--json", "-q")
    document = json.loads(freqkd("eval", out, *words)[1])
    assert numbers == pytest.approx({name: document[name] for name in numbers})
    assert {"boundary_f", "boundary_recall", "ece"} <= numbers.keys()
    for row in document["per_class"]:
        assert summary["metrics_per_class"]["boundary_f"][row["name"]] == pytest.approx(
            row["boundary_f"]
        )


def test_the_log_of_the_run_has_the_cheap_numbers_alone(run):
    rows = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    scores = [row["val"] for row in rows if "val" in row]
    assert len(scores) == 3 and not any("boundary_f" in row for row in scores)


def test_requested_metrics_do_not_change_the_run(run, tmp_path):
    plain = recipes.loads(RECIPE)
    summary = distill(plain, tmp_path / "plain", Silent())
    assert not [key for key in summary if key.startswith("metrics")]
    assert summary["miou"] == run[1]["miou"]
    assert digest(plain) == digest(recipes.loads(RECIPE, sets=(METRICS,)))


def test_the_table_of_distill_has_their_headings(tmp_path, freqkd):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: 1"))
    words = ("--set", "train.metrics=[edge_band]", "-q")
    code, out, err = freqkd("distill", tmp_path / "r.yaml", "--out", tmp_path / "run", *words)
    assert code == 0, err
    assert "mIoU within 2 px of edges" in out and "metrics_per_class" not in out


def test_an_unknown_metric_is_a_mistake_of_the_recipe():
    with pytest.raises(RecipeError, match="train.metrics.0: got 'boundry_f'.*mean 'boundary_f'"):
        recipes.loads(RECIPE, sets=("train.metrics=[boundry_f]",))
