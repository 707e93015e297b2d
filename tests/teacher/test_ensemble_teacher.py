"""An ensemble as the teacher of a recipe: checks, caches, scores, runs and their recipes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cache_fakes import Notes

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import save_model
from freqkd_cli.cache.shards import Storage
from freqkd_cli.errors import CacheMismatch, RecipeError
from freqkd_cli.export.teacher_weights import networks
from freqkd_cli.models import fast_scnn, segformer
from freqkd_cli.recipe.resolved import as_yaml, dump
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.recipe_identity import difference, digest, kept_values
from freqkd_cli.views.loader import Loader, ViewDataset

TINY = {"channels": [8, 8, 16, 16], "heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "decoder": 16}
RECIPE = """\
version: 1
data: {name: scenes, size: [64, 96], length: 4, held_out: 2, views: 1, workers: 0}
teacher:
  name: ensemble
  members:
    - {name: fast_scnn, width: 0.25, weights: FOLDER/a}
    - {name: segformer, weights: FOLDER/b, weight: 2.0, class_map: MAP}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: logit_kl, temperature: 2.0}
  - {name: dist}
train: {steps: 2, batch_size: 2}
"""
MAP = "{street: road, side-walk: pavement, sky: sky, wall: building}"
NAMES = {0: "street", 1: "side-walk", 2: "sky", 3: "wall", 4: "thing"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("members")
    torch.manual_seed(0)
    scenes = recipes.loads(RECIPE.replace("FOLDER", "x").replace("MAP", MAP))
    classes = assemble.build_dataset(scenes, "train").classes
    first = fast_scnn.build(classes=12, width=0.25)
    save_model(folder / "a", first, id2label=dict(enumerate(classes)))
    save_model(folder / "b", segformer.build(classes=5, **TINY), id2label=NAMES)
    return folder


@pytest.fixture
def text(folder: Path) -> str:
    return RECIPE.replace("FOLDER", str(folder)).replace("MAP", MAP)


def test_the_plan_has_the_finest_grid_and_all_classes(text: str) -> None:
    plan = assemble.check(recipes.loads(text))
    assert list(plan.teacher_taps) == ["logits"] and plan.compared is None
    assert (plan.teacher_taps["logits"].stride, plan.teacher_taps["logits"].channels) == (4, 12)


def test_classes_that_no_member_covers_are_not_compared(text: str, folder: Path) -> None:
    first = f"weights: {folder}/a}}"
    mapped = text.replace(first, first[:-1] + ", class_map: {road: road, car: car}}")
    plan = assemble.check(recipes.loads(mapped))
    assert plan.compared == (0, 1, 2, 4, 6) and plan.teacher_taps["logits"].channels == 5
    source = open_source(
        plan,
        assemble.build_lines(plan),
        None,
        assemble.build_dataset(plan.recipe, "train"),
        "cpu",
    )
    assert source.class_map.covered == plan.compared


@pytest.mark.parametrize("content", ["taps", "targets"])
def test_cached_equals_live_and_the_fingerprint_has_all_weights(
    text: str, folder: Path, tmp_path: Path, content: str, freqkd
) -> None:
    plan = assemble.check(recipes.loads(text))
    dump_recipe(plan.recipe, tmp_path / "c", Notes(), DumpOptions(Form(content=content)))
    rows = [line.split() for line in freqkd("cache", "info", tmp_path / "c")[1].splitlines()]
    assert ["teacher.members.1.weight", "2.0"] in rows
    dataset, lines = assemble.build_dataset(plan.recipe, "train"), assemble.build_lines(plan)
    cached = open_source(plan, lines, tmp_path / "c", dataset, "cpu")
    live = open_source(plan, lines, None, dataset, "cpu")
    losses = {line.id: line.loss for line in lines}
    rounded = LiveTeacher(
        live.model, losses, plan.teacher_taps, round_to=Storage("float16"), content=content
    )
    batch = next(iter(Loader(ViewDataset(dataset, plan.view_spec, views=1), [[(0, 0), (3, 0)]])))
    expected = rounded.targets(batch, plan.grids)
    for id, target in cached.targets(batch, plan.grids).items():
        for name, tensor in target.items():
            torch.testing.assert_close(tensor, expected[id][name], atol=1e-6, rtol=1e-6)
    for change, field in (
        ("teacher.members.1.weight=3", "weight: cached 2.0, wanted 3.0"),
        ("teacher.members.1.class_map.sky=water", 'class_map.2: cached "sky", wanted "water"'),
    ):
        other = assemble.check(recipes.loads(text, "r.yaml", [change]))
        with pytest.raises(CacheMismatch, match=rf"\.members\.1\.{field}"):
            open_source(other, assemble.build_lines(other), tmp_path / "c", dataset, "cpu")
    shutil.copytree(folder / "b", tmp_path / "b")
    model = segformer.build(classes=5, **TINY)
    save_model(tmp_path / "b", model, id2label=NAMES)
    moved = recipes.loads(text, "r.yaml", [f"teacher.members.1.weights={tmp_path}/b"])
    other = assemble.check(moved)
    with pytest.raises(CacheMismatch, match="teacher.weights_sha256"):
        open_source(other, assemble.build_lines(other), tmp_path / "c", dataset, "cpu")


def test_distill_and_eval_know_it(text: str, tmp_path: Path, freqkd) -> None:
    result = distill(recipes.loads(text), tmp_path / "run", Silent())
    assert result["steps"] == 2
    again = recipes.load(tmp_path / "run" / "recipe.yaml")
    assert again == recipes.loads(dump(again)), "the run's recipe is read back"
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    rows = []
    for source in (tmp_path / "r.yaml", tmp_path / "run"):
        code, out, _ = freqkd("eval", source, "--teacher", "--json", "--device", "cpu")
        assert code == 0
        rows.append(json.loads(out)["per_class"])
    assert rows[0] == rows[1]


def test_a_run_has_absolute_paths_and_its_weights_may_move(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    relative = RECIPE.replace("FOLDER/", "./").replace("MAP", MAP)
    run = recipes.loads(as_yaml(kept_values(recipes.loads(relative))))
    assert [weights for _, weights in networks(run)] == [f"{folder}/a", f"{folder}/b"]
    assert difference(run, recipes.loads(relative)) is None
    assert digest(run) == digest(recipes.loads(relative)) == digest(recipes.loads(dump(run)))
    other = recipes.loads(relative, "r.yaml", ["teacher.members.0.weights=./b"])
    assert digest(other) == digest(run)
    assert difference(run, other).key == "teacher.members.0.weights"
    assert digest(recipes.loads(relative, "r.yaml", ["teacher.members.0.weight=2"])) != digest(run)


PROBLEMS = {
    "[{name: fast_scnn}]": [r"teacher\.members: got .*, need at least 2 items"],
    "[]": [r"teacher\.members: got \[\], need at least 2 items"],
    "[{name: fast_scnn}, {name: ensemble}, {name: smpp}, {nam: smp}, 3]": [
        r"teacher\.members\.1\.name: got 'ensemble', need a single model",
        r"teacher\.members\.2\.name: got 'smpp', need one of .*did you mean 'smp'",
        r"teacher\.members\.3\.name: missing",
        r"teacher\.members\.4: got 3, need keys with values",
    ],
    "[{name: fast_scnn, weight: 0}, {name: smp, weight: -1}]": [
        r"teacher\.members\.0\.weight: got 0, need more than 0",
        r"teacher\.members\.1\.weight: got -1, need more than 0",
    ],
    "[{name: fast_scnn, widht: 1}, {name: smp, encoder: 3}, {name: segformer, head: new}]": [
        r"teacher\.members\.0\.widht: unknown key, did you mean 'width'",
        r"teacher\.members\.1\.encoder: got 3, need a word",
        r"teacher\.members\.2\.head: got 'new', need keep",
    ],
    "[{name: fast_scnn}, {name: smp, arch: unett}]": [r"members\.1\.arch: .*did you mean 'unet'"],
    "[{name: fast_scnn}, {name: fast_scnn, class_map: {0: sky, 1: skyy}}]": [
        r"teacher\.members\.1\.class_map\.1: the data has no class 'skyy', did you mean 'sky'"
    ],
    "[{name: fast_scnn}, {name: fast_scnn, classes: 3}]": [
        r"teacher\.members\.1\.class_map: the members have other classes, and no class_map"
    ],
}


@pytest.mark.parametrize("members", PROBLEMS)
def test_recipe_check_finds_wrong_members(members: str, tmp_path: Path, freqkd) -> None:
    start, end = RECIPE.index("  members:"), RECIPE.index("student:")
    path = tmp_path / "r.yaml"
    path.write_text(f"{RECIPE[:start]}  members: {members}\n{RECIPE[end:]}", encoding="utf-8")
    code, _, errors = freqkd("recipe", "check", path)
    assert code == 2
    for pattern in PROBLEMS[members]:
        with pytest.raises(RecipeError, match=pattern):
            raise RecipeError(errors)
    assert "Traceback" not in errors


def test_it_is_no_student_and_has_one_kind_of_class_map(text: str) -> None:
    student = text.replace("student: {name: fast_scnn, width: 0.25}", "student: {name: ensemble}")
    with pytest.raises(RecipeError) as caught:
        recipes.loads(student)
    assert len(caught.value.problems) == 1
    assert "student.name: ensemble cannot be a student, only a teacher" in str(caught.value)
    both = text.replace("  members:", "  class_map: {road: road, sky: sky}\n  members:")
    with pytest.raises(RecipeError, match=r"teacher\.class_map: members have a class_map"):
        assemble.check(recipes.loads(both))


def test_a_class_map_of_the_whole_ensemble(text: str, folder: Path) -> None:
    start = text.index("    - {name: segformer")
    twice = text[:start] + text[start:].replace(
        f"segformer, weights: {folder}/b, weight: 2.0, class_map: {MAP}",
        f"fast_scnn, width: 0.25, weights: {folder}/a",
    )
    mapped = twice.replace(
        "  members:", "  class_map: {road: road, car: sky, sky: sky}\n  members:"
    )
    plan = assemble.check(recipes.loads(mapped))
    assert plan.compared == (0, 2)
    lines, dataset = assemble.build_lines(plan), assemble.build_dataset(plan.recipe, "train")
    assert open_source(plan, lines, None, dataset, "cpu").class_map.groups == ((0,), (2, 6))


def test_zoo_shows_it_without_taps_or_counts(freqkd) -> None:
    code, out, _ = freqkd("zoo", "ensemble")
    assert code == 0 and "members" in out and "class_names" not in out
    code, out, _ = freqkd("zoo", "ensemble", "--counts", "--json")
    assert code == 0 and json.loads(out)[0]["taps"] == []


def test_recipe_check_reports_an_encoder_file_that_is_not_here(tmp_path: Path, freqkd) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "version: 1\n"
        "data: {name: scenes, size: [64, 96], length: 8}\n"
        "student: {name: smp, encoder: resnet18, encoder_weights: no/r.pth}\n"
        "losses: [{name: cross_entropy}]\n"
        "train: {steps: 2}\n",
        encoding="utf-8",
    )
    code, out, errors = freqkd("recipe", "check", path)
    assert code == 0 and "ok" in out
    assert "student.encoder_weights: no/r.pth does not exist here" in errors
    code, _, errors = freqkd("distill", path, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 4 and "no/r.pth does not exist" in errors and "Traceback" not in errors
