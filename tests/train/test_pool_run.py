"""Runs with a pool of images without labels: cache, resume, processes, summary, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_fakes import Notes
from PIL import Image
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli.bench.measure import bench
from freqkd_cli.bench.measured_loop import BenchOptions
from freqkd_cli.build import assemble
from freqkd_cli.build.training_images import training_images
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import CacheMismatch, DataBroken, DataMissing, RecipeError, UsageError
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.supervision import supervision
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.labels_alone import labels_alone
from freqkd_cli.train.loop import Loop

RECIPE = """
version: 1
data: {name: scenes, size: [32, 64], length: 8, held_out: 2, views: 2, workers: 0,
  augment: {color: 0.2}, pool: {name: scenes, length: 7, seed: 3, share: 0.5}}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, dropout: 0.0}
losses:
  - {name: cross_entropy, class_weights: auto}
  - {name: logit_kl, attention: high}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {epochs: 3, batch_size: 4, lr: 0.02, optimizer: sgd, ema: 0.9, freeze_norm: true,
  precision: float32}
"""
FOLDER = """
version: 1
data: {name: folder, root: mine, size: [32, 64], classes: [road, car], workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {steps: 2, batch_size: 4}
"""
ROOT = Path(__file__).parents[2]


def load(*sets: str) -> recipes.Recipe:
    return recipes.loads(RECIPE, sets=sets)


def images(folder: Path, number: int, masks: int = 0, size: tuple[int, int] = (40, 70)) -> None:
    rng = np.random.default_rng(0)
    for k in range(number):
        for split in ("train", "val"):
            path = folder / f"images/{split}/p{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path)
            if k < masks:
                mask = folder / f"masks/{split}/p{k}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 2, size, np.uint8)).save(mask)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last/model.safetensors")


def equal(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A cache of taps and a whole run from it."""
    folder = tmp_path_factory.mktemp("pool")
    dump_recipe(load(), folder / "cache", Silent(), DumpOptions(Form(dtype="fp32"), verify=4))
    distill(load(), folder / "run", Silent(), cache=folder / "cache")
    return folder


def test_the_cache_holds_both_kinds_and_the_summary_counts_them(made, freqkd):
    reader = CacheReader(made / "cache")
    assert {index for index, _ in reader.items} == set(range(15)) and len(reader) == 30
    fields = reader.fingerprint.fields
    assert fields["pool"]["number"] == 7 and fields["images"] == 15
    assert fields["data"]["number"] == 8
    assert "15, of which 7 of the pool\n" in freqkd("cache", "info", made / "cache")[1]
    for name in ("summary.json", "environment.json"):
        facts = json.loads((made / "run" / name).read_text())
        assert (facts["images"], facts["pool_images"]) == (8, 7)
    summary = json.loads((made / "run/summary.json").read_text())
    assert summary["steps"] == 12, "an epoch is one pass over the labelled images: 2 of each batch"
    assert summary["val_images"] == 2


def test_cached_equals_live(made, tmp_path):
    distill(load(), tmp_path / "live", Silent())
    first, second = weights(made / "run"), weights(tmp_path / "live")
    assert max((first[name].double() - second[name].double()).abs().max() for name in first) < 1e-5


def test_the_pool_changes_the_student_and_its_labels_do_not_count(made, tmp_path):
    distill(
        load("data.pool=null", "train.batch_size=2", "train.steps=12"), tmp_path / "a", Silent()
    )
    assert not equal(made / "run", tmp_path / "a")
    environment = json.loads((made / "run/environment.json").read_text())
    alone = json.loads((tmp_path / "a/environment.json").read_text())
    assert environment["class_weights"] == alone["class_weights"]


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_killed_run_resumes_to_the_same_bits(made, tmp_path, step):
    """Killed in the middle of an epoch and of a pass over the pool."""
    recipe, out = load("train.save_every=1"), tmp_path / "cut"
    child = os.fork()
    if child == 0:
        taken = Loop.step

        def dying(self, *arguments):
            taken(self, *arguments)
            if self.training.step == step + 1:
                os.kill(os.getpid(), signal.SIGKILL)

        Loop.step = dying
        distill(recipe, out, Silent(), cache=made / "cache")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    notes = Notes()
    distill(recipe, out, notes, cache=made / "cache", resume=True)
    assert any(f"resuming at step {step} of 12" in text for text in notes.said)
    assert equal(out, made / "run")
    name = "state/step-00000012.safetensors"
    assert (out / name).read_bytes() == (made / "run" / name).read_bytes()


def test_two_processes_equal_one(made, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["distill", "recipe.yaml", "--cache", str(made / "cache"), "--out", "two"]
    subprocess.run(
        [*start, "-m", "freqkd_cli", *command],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    one, two = weights(made / "run"), weights(tmp_path / "two")
    assert max((one[name].double() - two[name].double()).abs().max() for name in one) < 1e-5


def test_a_cache_with_a_pool_serves_a_recipe_without_one_and_not_the_reverse(made, tmp_path):
    plain = load("data.pool=null", "train.steps=1")
    distill(plain, tmp_path / "plain", Silent(), cache=made / "cache")
    dump_recipe(plain, tmp_path / "cache", Silent(), DumpOptions())
    with pytest.raises(CacheMismatch, match="pool.name: cached nothing, wanted .*scenes"):
        distill(load(), tmp_path / "run", Silent(), cache=tmp_path / "cache")
    with pytest.raises(CacheMismatch, match="pool.arguments.seed: cached 3, wanted 4"):
        distill(load("data.pool.seed=4"), tmp_path / "run", Silent(), cache=made / "cache")
    assert not (tmp_path / "run").exists()


def test_a_dump_can_be_resumed(made, tmp_path):
    from freqkd_cli.errors import Interrupted
    from freqkd_cli.teacher.dump import _TeacherPass

    options = DumpOptions(Form(dtype="fp32"), shard_bytes=100_000)
    dump_recipe(load(), tmp_path / "whole", Silent(), options)
    with pytest.MonkeyPatch.context() as patch:
        report = _TeacherPass._report
        patch.setattr(
            _TeacherPass,
            "_report",
            lambda self, number: [report(self, number), self.done >= 12 and self.stop.append(15)],
        )
        with pytest.raises(Interrupted):
            dump_recipe(load(), tmp_path / "cut", Silent(), options)
    resume = DumpOptions(Form(dtype="fp32"), shard_bytes=100_000, mode="resume")
    with pytest.raises(CacheMismatch, match="pool"):
        dump_recipe(load("data.pool=null"), tmp_path / "cut", Silent(), resume)
    dump_recipe(load(), tmp_path / "cut", Silent(), resume)
    shards = sorted((tmp_path / "whole").glob("shard-*"))
    assert len(shards) > 1
    assert all((tmp_path / "cut" / s.name).read_bytes() == s.read_bytes() for s in shards)


def test_the_baseline_has_the_steps_of_the_run_and_no_pool():
    plain = labels_alone(load())
    assert plain.data.pool is None and plain.teacher is None
    assert plain.train.steps == 12 and plain.train.epochs is None
    extended = labels_alone(load("train.extend=[6]")).train
    assert (extended.steps, extended.extend) == (12, (6,))


def test_the_baseline_has_as_many_scores_as_the_run():
    """An epoch without the pool is shorter, and the best score is taken."""
    assert labels_alone(load("train.eval_every=1")).train.eval_every == 2
    assert labels_alone(load("train.eval_every=0")).train.eval_every == 0


def test_a_baseline_without_a_batch_of_labelled_images_is_refused_first():
    with pytest.raises(UsageError, match="fewer than one batch\n  got  3 images and train.batch"):
        labels_alone(load("data.length=3"))


def test_a_step_is_measured_where_the_pool_fills_its_batch():
    result = bench(load("data.length=3"), BenchOptions(None, 2, device="cpu"), Silent())
    assert result["step_ms"]["median"] > 0 and result["ratios"] == {}


def test_supervision_leaves_out_held_out_images_of_the_pool():
    same = "data.pool={name: scenes, length: 8, share: 0.5}"
    recipe = load("data.hold_out=0.25", same)
    assert supervision(recipe).in_words() == "6 labelled + teacher on 12"


def test_supervision_counts_labels_and_teacher():
    assert supervision(load()).in_words() == "8 labelled + teacher on 15"
    assert supervision(load()).steps == 12


def test_the_dry_run_counts_the_pool(tmp_path, freqkd):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = ("distill", tmp_path / "recipe.yaml", "--out", tmp_path / "run", "--dry-run", "--json")
    code, out, _ = freqkd(*words)
    facts = json.loads(out)
    assert code == 0 and (facts["images"], facts["pool_images"]) == (8, 7)
    assert facts["views_seen"] == 48


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        (["data.pool.share=0"], "got 0, need more than 0"),
        (["data.pool.share=1"], "got 1, need less than 1"),
        (["data.pool.share=0.2"], "0.2 of train.batch_size 4 is 0.8 images"),
        (["train.batch_size=1"], "try --set 'train.batch_size=2'"),
        (["data.pool.length=0"], "got 0, need more than 0"),
        (["data.pool.nam=x"], "unknown key, did you mean 'name'"),
        (["data.pool.name=scene"], "no data set is called 'scene', did you mean 'scenes'"),
        (["data.pool={share: 0.5}"], "missing, need a data set, or data.unlabelled: pool"),
        (["data.pool=4"], "got 4, need a section of keys"),
        (["losses=[{name: cross_entropy}]"], "no loss compares with a teacher"),
        (["losses.1.weight=0", "losses.2.weight=0"], "no loss compares with a teacher"),
        (["losses=[{name: cross_entropy, attention: high}]"], "no loss compares with a teacher"),
        (["losses=[{name: band, student: decoder, teacher: stage9}]"], "has no tap 'stage9'"),
        (["data.pool.root=x"], "scenes is made on the fly and reads no folder"),
    ],
)
def test_a_bad_key_is_one_message(sets, text):
    with pytest.raises(RecipeError) as caught:
        assemble.check(load(*sets))
    assert text in str(caught.value) and "1 problem" in str(caught.value)


@pytest.mark.parametrize(("minibatch", "learns"), [(1, True), (0, False)])
def test_the_relations_of_a_batch_learn_from_a_pool(minibatch, learns):
    line = f"{{name: cirkd, student: encoder16, teacher: stage3, minibatch: {minibatch}}}"
    recipe = load(f"losses=[{{name: cross_entropy}}, {line}]")
    if learns:
        assemble.check(recipe)
        assert supervision(recipe).in_words() == "8 labelled + teacher on 15"
    else:
        with pytest.raises(RecipeError, match="no loss compares with a teacher on images without"):
            assemble.check(recipe)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "mine", 6, masks=6)
    return tmp_path


def folder(*sets: str) -> recipes.Recipe:
    return recipes.loads(FOLDER, sets=sets)


POOL = "data.pool={name: folder, root: frames}"


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda path: None, DataMissing, "the pool: there is no folder frames"),
        (lambda path: path.write_bytes(b"x"), DataMissing, "the pool: frames is not a folder"),
        (lambda path: path.mkdir(), DataMissing, "the pool: no images in frames"),
        (
            lambda path: [images(path, 2), (path / "images/train/p1.png").write_bytes(b"x")],
            DataBroken,
            "frames/images/train/p1.png",
        ),
    ],
)
def test_a_pool_that_cannot_be_read(mine, make, error, text):
    make(mine / "frames")
    with pytest.raises(error, match=text) as caught:
        distill(folder(POOL), mine / "run", Silent())
    assert not (mine / "run").exists()
    if error is DataMissing:
        assert caught.value.key == "data.pool.root" and "masks" not in str(caught.value.need)
        assert "--data-root" not in str(caught.value.tip)


def test_images_of_other_sizes_are_padded(mine):
    images(mine / "frames", 3, size=(20, 30))
    result = distill(folder(POOL), mine / "run", Silent())
    assert (result["images"], result["pool_images"]) == (6, 3)
    moved = mine / "moved"
    (mine / "frames").rename(moved)
    recipe = (mine / "run/recipe.yaml").read_text()
    assert str(mine / "frames") in recipe, "the run keeps the absolute path"
    again = folder(f"data.pool={{name: folder, root: {moved}}}")
    assert distill(again, mine / "run", Silent(), resume=True)["steps"] == 2


def test_a_pool_may_be_the_folder_of_the_labelled_images(mine, caplog):
    caplog.set_level("INFO")
    recipe = folder("data.pool={name: folder, root: mine}")
    plan = assemble.check(recipe)
    training_images(plan, assemble.build_dataset(recipe, "train"))
    assert "6 of 6 images of the pool are labelled images too" in caplog.text


def test_a_folder_with_some_masks(mine, caplog):
    images(mine / "mine", 10)
    with pytest.raises(DataBroken, match="4 of 10 images .* have no mask") as caught:
        distill(folder(), mine / "run", Silent())
    assert "--set 'data.unlabelled=pool'" in caught.value.tip
    result = distill(folder("data.unlabelled=pool"), mine / "run", Silent())
    assert (result["images"], result["pool_images"], result["val_images"]) == (6, 4, 6)
    caplog.set_level("INFO")
    sets = ["data.unlabelled=pool", "losses=[{name: cross_entropy}]"]
    for name, share in (("alone", []), ("share", ["data.pool={share: 0.75}"])):
        caplog.clear()
        result = distill(folder(*sets, *share), mine / name, Silent())
        assert result["images"] == 6 and "pool_images" not in result
        assert "4 images without masks are not used: no loss compares with a teacher" in caplog.text
    share = folder("data.unlabelled=pool", "data.pool={share: 0.75}")
    plan = assemble.check(share)
    assert plan.recipe.data.pool.share == 0.75
    with pytest.raises(RecipeError, match="names another pool"):
        assemble.check(folder("data.unlabelled=pool", POOL))
    with pytest.raises(RecipeError, match="at least one labelled image"):
        distill(folder("data.unlabelled=pool", "train.batch_size=1"), mine / "b", Silent())


def test_only_where_right_needs_labels(mine):
    images(mine / "plain", 4)
    sets = (
        "losses=[{name: logit_kl, only_where_right: true}]",
        "teacher.class_map={road: road, car: car}",
        "teacher.min_iou=0",
    )
    with pytest.raises(RecipeError, match=r"only_where_right: reads labels") as caught:
        distill(folder("data.root=plain", *sets), mine / "run", Silent())
    assert "--set 'losses.logit_kl.only_where_right=false'" in str(caught.value)
    distill(folder(*sets, POOL.replace("frames", "plain")), mine / "run", Silent())


def test_data_counts_the_pool_and_finds_unreadable_files(mine, freqkd):
    images(mine / "frames", 3)
    images(mine / "frames", 1, size=(90, 100))
    (mine / "recipe.yaml").write_text(FOLDER)
    words = ("data", "recipe.yaml", "--set", POOL, "--json")
    code, out, _ = freqkd(*words)
    pool = {row["split"]: row for row in json.loads(out)["splits"]}["pool"]
    assert code == 0 and pool["images"] == 3 and not pool["labelled"]
    assert pool["sizes"] == ["40x70", "90x100"] and pool["findings"] == []
    (mine / "frames/images/train/p2.png").write_bytes(b"x")
    code, out, _ = freqkd(*words)
    rows = {row["split"]: row for row in json.loads(out)["splits"]}
    assert code == 3 and "p2.png" in rows["pool"]["findings"][0]["what"]
    code, out, _ = freqkd("data", "recipe.yaml", "--set", POOL, "--split", "val")
    assert code == 0 and "pool" not in out
