"""A run's folder: absolute paths, recipes compared by meaning, and links that are not followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import UsageError
from freqkd_cli.export.card import card_path
from freqkd_cli.export.target import DEFAULT
from freqkd_cli.models import segformer
from freqkd_cli.recipe.resolved import as_yaml, resolved
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score import eval_source
from freqkd_cli.train import checkpoint, run_folder
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.recipe_identity import difference, digest, digests, kept_values
from tests.whole.test_bad_input import example_data

RECIPE = """
version: 1
data: {name: folder, root: data, size: [32, 32], workers: 0}
teacher: {name: segformer, weights: models/teacher}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.5}
train: {steps: 2, batch_size: 2, precision: float32}
"""
SCENES = RECIPE.replace("name: folder, root: data", "name: scenes, length: 4, held_out: 2")


def load(*sets: str, text: str = RECIPE):
    return recipes.loads(text, sets=sets)


def kept_recipe(recipe: recipes.Recipe) -> recipes.Recipe:
    """The recipe as a run has it in its folder."""
    return recipes.loads(as_yaml(kept_values(recipe)))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with images, masks and a teacher, under relative paths."""
    monkeypatch.chdir(tmp_path)
    root = example_data(Path("data"))
    names = len((root / "classes.txt").read_text().split())
    torch.manual_seed(3)
    save_model("models/teacher", segformer.build(classes=names, variant="mini"), "segformer")
    return tmp_path


def test_a_run_is_scored_from_another_working_folder(here, monkeypatch):
    summary = distill(load(), Path("run"), Silent())
    kept = recipes.load("run/recipe.yaml")
    assert kept.data.root == here / "data"
    assert kept.teacher.arguments["weights"] == str(here / "models/teacher")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    options = eval_source.EvalOptions(device="cpu")
    assert eval_source.evaluate("../run", options, Silent())["miou"] == summary["miou"]
    options = eval_source.EvalOptions(device="cpu", teacher=True)
    assert eval_source.evaluate("../run", options, Silent())["miou"] is not None


def test_weights_that_are_no_path_stay_as_they_are(here):
    for name in ("embedded", "nvidia/segformer-b0-finetuned-ade-512-512"):
        kept = kept_recipe(load(f"teacher.weights={name}"))
        assert kept.teacher.arguments["weights"] == name
    assert kept_recipe(load("student.weights=null")).student.weights is None


@pytest.mark.parametrize(
    "change",
    [
        "data.workers=2",
        "data.root=./models/../data",
        "data.root=link",
        "teacher.weights=./models/teacher",
        "train.save_every=10min",
        "train.previews=false",
    ],
)
def test_what_changes_no_result_may_differ(here, change):
    Path("link").symlink_to("data")
    kept = kept_recipe(load())
    assert difference(kept, load(change)) is None
    assert digest(kept) == digest(load(change)) == digest(load())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("data.root=models", "data.root"),
        ("teacher.weights=embedded", "teacher.weights"),
        ("train.lr=0.1", "train.lr"),
        ("losses.high.weight=0.5", "losses.1.weight"),
        ("data.augment.flip=false", "data.augment.flip"),
    ],
)
def test_what_changes_a_result_is_named(here, change, key):
    first = difference(kept_recipe(load()), load(change))
    assert first is not None and first.key == key


def test_files_of_losses_are_paths_too(tmp_path, monkeypatch):
    """FreeKD's prompts: absolute in the run, one file under any spelling, and named if another."""
    monkeypatch.chdir(tmp_path)
    for name in ("p.safetensors", "q.safetensors"):
        Path(name).touch()
    text = SCENES.replace("train:", "  - {name: freekd, student: decoder, teacher: decoder, "
                          "prompts: p.safetensors}\ntrain:")  # fmt: skip
    kept = kept_recipe(load(text=text))
    assert kept.losses[2].arguments["prompts"] == str(tmp_path / "p.safetensors")
    same = load("losses.freekd.prompts=./p.safetensors", text=text)
    assert difference(kept, same) is None and digest(kept) == digest(same)
    other = load("losses.freekd.prompts=q.safetensors", text=text)
    assert difference(kept, other).key == "losses.2.prompts"
    none = load("losses.freekd.prompts=null", text=text)
    assert difference(kept, none).key == "losses.2.prompts"
    # A checkpoint of an earlier version has the digest of the path as it was written.
    assert digest(load(text=text), files_of_losses=True) in digests(load(text=text))


def test_data_that_moved_are_a_warning(here, caplog):
    kept = kept_recipe(load())
    Path("data").rename("moved")
    assert difference(kept, load("data.root=moved")) is None
    assert "no longer exists" in caplog.text


def test_a_run_that_is_written_as_before_is_resumed(here):
    """Relative paths, keys that did not exist, and a checkpoint with a digest of the YAML text."""
    whole, old = Path("whole"), Path("old")
    distill(load("train.steps=4"), whole, Silent())
    shutil.copytree(whole, old)
    (old / "summary.json").unlink()
    text = recipes.dump(load("train.steps=4"))
    for key in ("save_every: 0", "previews: true"):
        assert f"  {key}\n" in text
        text = text.replace(f"  {key}\n", "")
    (old / "recipe.yaml").write_text(text)
    for path in (old / "state").glob("step-00000004.*"):
        path.unlink()
    (path,) = (old / "state").glob("*.json")
    facts = json.loads(path.read_text()) | {"format": 2, "recipe": "a digest of text"}
    del facts["sha256"]
    path.write_text(json.dumps({**facts, "sha256": checkpoint._seal(facts)}))
    assert distill(load("train.steps=4"), old, Silent(), resume=True)["steps"] == 4
    before, after = (load_file(run / "last/model.safetensors") for run in (whole, old))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_keys_that_losses_got_later_leave_the_digests_of_older_runs():
    """So a run that was interrupted before them can be resumed. The digest is that of eb7a0bf."""
    text = """version: 1
data: {name: scenes, size: [64, 64], length: 8, held_out: 4, views: 1, workers: 0}
teacher: {name: segformer, weights: embedded, min_iou: 0}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: cwd}
  - {name: dist}
  - {name: fam, student: decoder, teacher: decoder}
train: {steps: 2, batch_size: 4, previews: false}
"""
    before = "5350b5e19f14694b69511bbbaa99b088f5e70d05761722f36ec86d512c55b2e3"
    assert digest(load(text=text)) == before
    taps = [f"losses.cwd.{side}=decoder" for side in ("student", "teacher")]
    assert digest(load(*taps, text=text)) != before


@pytest.mark.parametrize("name", run_folder.FOLDERS)
def test_overwrite_removes_a_link_and_never_what_it_points_to(here, name):
    distill(load(text=SCENES), Path("run"), Silent())
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    (elsewhere / "folder").mkdir()
    shutil.rmtree(Path("run") / name, ignore_errors=True)
    (Path("run") / name).symlink_to(elsewhere.resolve())
    distill(load(text=SCENES), Path("run"), Silent(), overwrite=True)
    assert (elsewhere / "mine.txt").read_text() == "mine" and (elsewhere / "folder").is_dir()
    assert not (Path("run") / name).is_symlink()
    assert not list(elsewhere.glob("step-*")) and not list(elsewhere.glob("events*"))


def test_overwrite_removes_links_inside_its_folders(here):
    distill(load(text=SCENES), Path("run"), Silent())
    Path("elsewhere").mkdir()
    (Path("elsewhere") / "mine.txt").write_text("mine")
    (Path("run") / "export" / "x").mkdir(parents=True)
    for link in ("export/folder", "export/x/folder", "last/folder"):
        (Path("run") / link).symlink_to(Path("elsewhere").resolve())
    distill(load(text=SCENES), Path("run"), Silent(), overwrite=True)
    assert (Path("elsewhere") / "mine.txt").read_text() == "mine"
    assert not list((Path("run") / "export").iterdir())


def test_a_folder_of_others_is_refused(here):
    with pytest.raises(UsageError, match="what is in it is no run of freqkd"):
        distill(load(), Path("data"), Silent(), overwrite=True)


@pytest.mark.parametrize("option", ["resume", "overwrite", None])
def test_a_folder_with_a_recipe_of_ones_own_is_no_run(here, option):
    """The message advised both options, and they replaced the recipe and emptied the folders."""
    out = Path("exp")
    (out / "wandb").mkdir(parents=True)
    for name, text in (("recipe.yaml", SCENES), ("wandb/mine.txt", "mine"), ("notes.txt", "mine")):
        (out / name).write_text(text)
    for names in ("notes.txt, recipe.yaml, wandb", "recipe.yaml, wandb"):
        with pytest.raises(UsageError, match="what is in it is no run of freqkd") as caught:
            distill(load(text=SCENES), out, Silent(), **({option: True} if option else {}))
        assert f"got  {names}" in str(caught.value) and caught.value.tip == "give another --out"
        (out / "notes.txt").unlink(missing_ok=True)
    assert (out / "recipe.yaml").read_text() == SCENES and (out / "wandb/mine.txt").exists()


@pytest.mark.parametrize("lost", ["state", "environment.json"])
def test_a_run_that_lost_a_part_is_one_still(here, lost):
    """Runs of early versions have no environment.json, and copies of runs may have no state."""
    summary = distill(load(text=SCENES), Path("run"), Silent())
    path = Path("run") / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    Path("run/notes.txt").write_text("mine")
    again = distill(load(text=SCENES), Path("run"), Silent(), resume=True)
    assert again["miou"] == summary["miou"]
    assert distill(load(text=SCENES), Path("run"), Silent(), overwrite=True)["steps"] == 2


@pytest.mark.parametrize(
    "command",
    [
        ["distill", "r.yaml", "--out", "a"],
        ["distill", "r.yaml", "--out", "a", "--dry-run"],
        ["teacher-dump", "r.yaml", "--out", "c", "--set", "data.views=1"],
        ["eval", "r.yaml", "--teacher"],
        ["data", "r.yaml"],
        ["bench", "r.yaml"],
        ["spectrum", "r.yaml", "--teacher"],
    ],
    ids=lambda words: " ".join(words[:1] + words[2:]),
)
def test_a_folder_for_data_without_one_is_refused(here, freqkd, command):
    Path("r.yaml").write_text(SCENES)
    code, _, err = freqkd(*command, "--data-root", "data")
    assert code == 2 and "the data set scenes is made on the fly and reads no folder" in err, err
    assert not Path("a").exists() and not Path("c").exists()


def test_a_recipe_that_names_a_folder_in_vain_still_runs(here):
    """Runs of earlier versions may have one."""
    text = SCENES.replace("name: scenes,", "name: scenes, root: nowhere,")
    assert resolved(load(text=text))["data"]["root"] == "nowhere"
    assert distill(load(text=text), Path("run"), Silent())["steps"] == 2


def test_no_export_of_a_replaced_run_stays_beside_the_new_one(tmp_path):
    names = {name for name in DEFAULT.values() if name not in run_folder.FOLDERS}
    names |= {card_path(Path(name)).name for name in names}
    assert names <= {*run_folder.FILES}
    for name in names:
        (tmp_path / name).write_text("old")
    run_folder.clear(tmp_path)
    assert not any(tmp_path.iterdir())
