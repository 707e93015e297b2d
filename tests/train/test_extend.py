"""``distill --extend``: a finished run goes on; it is the run of its recipe with train.extend."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cache_fakes import Notes
from console import console
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.schedules import run_length
from freqkd_cli.errors import CheckpointDamaged, FreqKDError, UsageError, WeightsMissing
from freqkd_cli.recipe.learning_rate import rate_factor
from freqkd_cli.recipe.sections import Train
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train import loop, run_folder
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data: {name: scenes, size: [32, 64], length: 8, held_out: 2, workers: 0}
student: {name: fast_scnn, width: 0.25, dropout: 0.2}
losses: [{name: cross_entropy, warmup: 0.2}]
train: {epochs: 2, batch_size: 4, lr: 1.0e-3, ema: 0.9, warmup: 0.1, previews: false}
"""
STEPS = 4


def load(*sets: str):
    return recipes.loads(RECIPE, "r.yaml", sets=sets)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "finished"
    distill(load(), out, Silent())
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files(out: Path) -> dict[Path, bytes]:
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def bits(out: Path) -> dict[str, object]:
    """Every byte of the result that the recipe and the seed decide."""
    names = ("model.safetensors", "last/model.safetensors", "metrics.jsonl", "recipe.yaml")
    summary = json.loads((out / "summary.json").read_text())
    keys = ("steps", "miou", "best_step", "last_miou", "extended")
    last = max((out / "state").glob("*.safetensors"))
    return (
        {name: (out / name).read_bytes() for name in names}
        | {key: summary[key] for key in keys}
        | {last.name: last.read_bytes()}
    )


def stopped_at(number: int, monkeypatch) -> None:
    """Let every run from now on end before step ``number``."""
    step = loop.Loop.step

    def stopping(self, batches):
        if self.training.step == number:
            raise KeyboardInterrupt
        step(self, batches)

    monkeypatch.setattr(loop.Loop, "step", stopping)


def test_stages_follow_the_schedule_of_their_own_length():
    length = run_length(8, Train(epochs=2, batch_size=4, extend=(6, 10)))
    assert length.stages == (4, 10, 20) and length.steps == 20
    assert [length.total(step) for step in (0, 3, 4, 9, 10, 19, 20)] == [4, 4, 10, 10, 20, 20, 20]


def test_an_extended_run_is_the_run_of_its_recipe_from_the_start(run, tmp_path):
    notes = Notes()
    summary = distill(load(), run, notes, extend=3)
    assert (summary["steps"], summary["extended"]) == (7, [4])
    assert recipes.load(run / "recipe.yaml").train.extend == (3,)
    rates = [
        1e-3 * rate_factor(step, total, kind="poly", warmup=0.1) for step, total in ((3, 4), (4, 7))
    ]
    (line,) = [text for text in notes.said if text.startswith("extending the run")]
    assert f"from step 4 to 7: learning rate {rates[0]:.2g} at step 4, {rates[1]:.2g} at" in line
    summary = distill(load(), run, Silent(), extend=2)
    assert (summary["steps"], summary["extended"]) == (9, [4, 7])
    distill(load("train.extend=[3, 2]"), tmp_path / "whole", Silent())
    assert bits(run) == bits(tmp_path / "whole")
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val" in row] == [4, 7, 9]


def test_the_extension_starts_from_the_weights_of_the_finished_run(run, finished, monkeypatch):
    stopped_at(STEPS, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        distill(load(), run, Silent(), extend=3)
    state = "state/step-00000004.safetensors"
    before, after = load_file(finished / state), load_file(run / state)
    assert all(before[name].equal(after[name]) for name in before)
    assert (run / "model.safetensors").read_bytes() == (
        (finished / "model.safetensors").read_bytes()
    )


@pytest.mark.parametrize("stop", [4, 5, 6])
@pytest.mark.parametrize("extend", [None, 3])
def test_an_interrupted_extension_resumes_to_the_same_bits(
    run, finished, tmp_path, monkeypatch, stop, extend
):
    with monkeypatch.context() as patched:
        stopped_at(stop, patched)
        with pytest.raises(KeyboardInterrupt):
            distill(load("train.save_every=1"), run, Silent(), extend=3)
    assert not (run / "summary.json").exists()
    with pytest.raises(UsageError, match="not finished, so it cannot be extended"):
        distill(load(), run, Silent(), extend=3)
    distill(load(), run, Silent(), extend=extend, resume=True)
    whole = Path(shutil.copytree(finished, tmp_path / "whole"))
    distill(load(), whole, Silent(), extend=3)
    after, expected = bits(run), bits(whole)
    assert after.pop("recipe.yaml") and expected.pop("recipe.yaml") and after == expected


def test_a_damaged_checkpoint_after_the_start_costs_steps_and_no_bit(run, tmp_path, monkeypatch):
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    distill(load(), whole, Silent(), extend=3)
    with monkeypatch.context() as patched:
        stopped_at(STEPS, patched)
        with pytest.raises(KeyboardInterrupt):
            distill(load(), run, Silent(), extend=3)
    (run / "state" / "step-00000004.safetensors").write_bytes(b"damaged")
    distill(load(), run, Silent(), resume=True)
    assert bits(run) == bits(whole)


def test_resume_of_an_extended_run_that_is_finished_changes_nothing(run):
    distill(load(), run, Silent(), extend=3)
    before = files(run)
    for extend in (None, 3):
        assert distill(load(), run, Silent(), extend=extend, resume=True)["steps"] == 7
        assert files(run) == before
    recipe = recipes.load(run / "recipe.yaml")
    assert distill(recipe, run, Silent(), resume=True)["steps"] == 7


def test_a_run_that_cannot_be_extended_is_left_as_it_was(run, tmp_path, monkeypatch):
    before = files(run)

    def refused(error, match, recipe=None, **options):
        with pytest.raises(error, match=match):
            distill(recipe or load(), run, Silent(), extend=3, **options)
        assert files(run) == before

    refused(UsageError, r"(?s)another recipe.*train\.lr", load("train.lr=0.01"))
    refused(UsageError, r"(?s)another recipe.*train\.epochs", load("train.epochs=9"))

    def missing(*_):
        raise WeightsMissing("no weights")

    with monkeypatch.context() as patched:
        patched.setattr(assemble, "build_student", missing)
        refused(WeightsMissing, "no weights")
    facts = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(facts | {"steps": 3}))
    before = files(run)
    refused(UsageError, "depends on the number of training images")
    for path in (run / "state").glob("*.json"):
        path.write_text("{}")
    before = files(run)
    refused(CheckpointDamaged, "no checkpoint")
    shutil.rmtree(run / "state")
    before = files(run)
    refused(UsageError, "has no checkpoint to continue from")


def test_a_kill_at_the_start_of_an_extension_loses_nothing(run, finished, monkeypatch):
    """The summary goes first, then the recipe changes; in between the run is the finished one."""
    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "as_yaml", lambda _: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            distill(load(), run, Silent(), extend=3)
    assert distill(load(), run, Silent(), resume=True)["steps"] == STEPS
    old, new = (json.loads((out / "summary.json").read_text()) for out in (finished, run))
    assert all(old[key] == new[key] for key in ("miou", "best_step", "last_miou"))


def test_a_dry_run_costs_the_added_steps_and_changes_nothing(run):
    before = files(run)
    assert distill(load(), run, Silent(), extend=3, dry_run=True)["steps"] == 3
    assert files(run) == before


def test_the_command_refuses_what_cannot_go_together(run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    freqkd = console(monkeypatch, capfd)
    Path("r.yaml").write_text(RECIPE.lstrip())
    words = ("distill", "r.yaml", "--extend", "2", "--out")
    result = freqkd(*words, "new")
    assert result.code == 2 and "--out new contains none" in result.err and not Path("new").exists()
    for option in ("--overwrite", "--baseline"):
        result = freqkd(*words, "run", option)
        assert result.code == 2 and "--extend continues the finished run" in result.err
    assert freqkd(*words[:-2], "0", "--out", "run").code == 2
    result = freqkd(*words, "run", "--json")
    assert result.code == 0 and json.loads(result.out)["steps"] == STEPS + 2
    assert "not that of 6 steps without a break" in result.err


def test_extensions_are_a_list_of_positive_numbers():
    for value in ("0", "[]", "[0]", "3"):
        with pytest.raises(FreqKDError, match="train.extend"):
            load(f"train.extend={value}")
