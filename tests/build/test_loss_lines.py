"""``recipe check`` of attention: bad values, empty bands, a teacher or logits that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build import assemble
from freqkd_cli.errors import RecipeError

TEACHER = "teacher: {name: segformer, weights: embedded}\n"
DISTILLED = """\
  - {name: logit_kl}
  - {name: feature, student: decoder, teacher: decoder}
  - {name: band, student: decoder, teacher: decoder}
"""
RECIPE = f"""\
version: 1
data: {{name: scenes, size: [64, 64], length: 4}}
{TEACHER}student: {{name: fast_scnn, width: 0.25}}
losses:
  - {{name: cross_entropy}}
{DISTILLED}train: {{epochs: 1, batch_size: 2}}
"""
LABELS_ONLY = RECIPE.replace(TEACHER, "").replace(DISTILLED, "")


@pytest.fixture
def check(freqkd, tmp_path, monkeypatch):
    """Return a function that checks a recipe: the lines after the first of its one error."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, *sets: str) -> str:
        Path("r.yaml").write_text(text, encoding="utf-8")
        code, out, err = freqkd(
            "recipe", "check", "r.yaml", *(w for s in sets for w in ("--set", s))
        )
        first, *rest = err.splitlines()
        assert (code, out, first) == (2, "", "error: 1 problem in r.yaml")
        assert len(rest) == 1
        return rest[0]

    return run


@pytest.mark.parametrize(
    ("grid", "cells", "most"), [("teacher", "16x16", 4), ("student", "8x8", 3)]
)
def test_octaves_end_at_one_cell(check, grid, cells, most):
    def line(levels: int) -> str:
        return f"losses.1={{name: octave_kl, grid: {grid}, levels: {levels}}}"

    assemble.check(recipes.loads(RECIPE, sets=[line(most)]))
    text = f"got levels {most + 1} on {cells} cells; need at most {most}"
    assert text in (problem := check(RECIPE, line(most + 1))) and "losses.1.levels" in problem


@pytest.mark.parametrize("name", ["cross_entropy", "logit_kl", "feature", "band"])
@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("strength", -1, "got -1, need at least 0"),
        ("high_share", 1.5, "got 1.5, need at most 1"),
        ("cutoff", 0.001, "the low band of "),
        ("cutoff", 90, "the high band of "),
    ],
)
def test_a_bad_value_of_attention_is_one_message_with_its_key(check, name, key, given, message):
    number = {"cross_entropy": 0, "logit_kl": 1, "feature": 2, "band": 3}[name]
    line = check(RECIPE, f"losses.{name}.attention=mix", f"losses.{name}.{key}={given}")
    assert f"losses.{number}.{key}: {message}" in line
    if key == "cutoff":
        maps = {
            "feature": "the teacher's 'decoder'",
            "band": "student 'decoder' and teacher 'decoder'",
        }
        map = maps.get(name, "the teacher's logits")
        assert f"{map} is empty" in line and "try a cutoff from 0." in line


@pytest.mark.parametrize("other", ["represent: attention", "distance: cosine"])
def test_band_refuses_attention_where_there_are_no_cells_to_weight(check, other):
    key, value = other.split(": ")
    line = check(RECIPE, "losses.band.attention=high", f"losses.band.{key}={value}")
    assert "losses.3.attention: band: attention weights the cells of a difference" in line
    assert f"got attention: high with {other}; need {key}: " in line


def test_few_cells_of_an_attention_band_are_a_warning(caplog):
    sets = ("losses.feature={name: feature, student: encoder, teacher: stage4, attention: low}",)
    assemble.check(recipes.loads(RECIPE, "r.yaml", (*sets, "losses.feature.cutoff=0.8")))
    text = caplog.text
    assert "losses.feature: the low band of the teacher's 'stage4' keeps" in text
    assert "effective cells of 3 (2x2), fewer than 4" in text


@pytest.mark.parametrize(
    ("line", "warned"),
    [
        ("{name: dist}", True),
        ("{name: dist, beta: 0}", False),
        ("{name: dist, weight: 0}", False),
        ("{name: dist, student: decoder, teacher: decoder}", False),
        ("{name: logit_kl}", False),
    ],
)
def test_dist_of_two_classes_warns_of_a_term_without_gradient(line, warned, caplog):
    for classes in ("{road: road, sky: sky}", "{road: road, sky: sky, car: car}"):
        sets = (f"teacher.class_map={classes}", f"losses=[{{name: cross_entropy}}, {line}]")
        caplog.clear()
        assemble.check(recipes.loads(RECIPE, "r.yaml", sets))
        text = "r.yaml: losses.dist: over 2 classes, the correlation of beta is 1 or -1"
        assert caplog.text.count(text) == (warned and "car" not in classes)
        assert ("--set losses.dist.beta=0" in caplog.text) == (text in caplog.text)


def test_a_band_is_only_checked_where_attention_uses_it():
    assemble.check(recipes.loads(RECIPE, "r.yaml", ("losses.logit_kl.cutoff=0.001",)))


def test_cross_entropy_with_attention_needs_a_teacher(check):
    assemble.check(recipes.loads(LABELS_ONLY))
    line = check(LABELS_ONLY, "losses.cross_entropy.attention=high")
    assert line.endswith(
        "losses.0.attention: cross_entropy with attention high reads a teacher, and the recipe has "
        "none; try --set 'losses.cross_entropy.attention=none', or add a `teacher:` section"
    )


@pytest.mark.parametrize(("name", "number"), [("cross_entropy", 0), ("logit_kl", 1)])
def test_attention_of_class_scores_needs_a_teacher_with_logits(check, monkeypatch, name, number):
    """A teacher file of another release may have no tap ``logits``."""
    module = registry.find("models", "segformer")
    taps = module.taps

    def without_logits(**arguments):
        return tuple(tap for tap in taps(**arguments) if tap.name != "logits")

    monkeypatch.setattr(module, "taps", without_logits)
    other = "  - {name: logit_kl}\n" if name == "cross_entropy" else ""
    line = check(RECIPE.replace(other, "") if other else RECIPE, f"losses.{name}.attention=high")
    assert f"losses.{number}: the teacher 'segformer' has no tap 'logits'" in line


def test_a_teacher_has_no_auxiliary_logits(check):
    """It never is in training mode; before, the check passed and training ended in a traceback."""
    model = "{name: fast_scnn, width: 0.25, auxiliary: true}"
    text = RECIPE.replace(TEACHER, f"teacher: {model}\n")
    text = text.replace("{name: fast_scnn, width: 0.25}", model)
    assemble.check(recipes.loads(text, "r.yaml", ("losses.feature.student=aux1",)))
    line = check(text, "losses.feature.student=aux1", "losses.feature.teacher=aux1")
    assert "losses.2.teacher: the teacher 'fast_scnn' has no tap 'aux1'" in line


def test_cross_entropy_with_attention_needs_the_teacher_s_scores_of_every_class():
    classes = registry.find("datasets", "scenes").classes()
    some = ", ".join(f"{name}: {name}" for name in classes[:3])
    sets = (f"teacher.class_map={{{some}}}", "losses.logit_kl.weight=0")
    assemble.check(recipes.loads(RECIPE, "r.yaml", sets))
    with pytest.raises(RecipeError, match="does not cover") as caught:
        assemble.check(
            recipes.loads(RECIPE, "r.yaml", (*sets, "losses.cross_entropy.attention=low"))
        )
    assert "losses.0.attention" in str(caught.value)
    assert "--set 'losses.cross_entropy.attention=none'" in str(caught.value)


@pytest.mark.parametrize("name", ["logit_kl", "octave_kl", "dist", "cwd"])
def test_only_where_right_needs_the_teacher_s_scores_of_every_class(name):
    """The teacher's channels are renumbered, so no cell of a covered class was right."""
    classes = registry.find("datasets", "scenes").classes()
    line = f"losses=[{{name: cross_entropy}}, {{name: {name}, only_where_right: true}}]"
    for number in (len(classes), 3):
        listed = ", ".join(f"{name}: {name}" for name in classes[:number])
        recipe = recipes.loads(RECIPE, "r.yaml", (f"teacher.class_map={{{listed}}}", line))
        if number == len(classes):
            assemble.check(recipe)
            continue
        with pytest.raises(RecipeError, match="does not cover") as caught:
            assemble.check(recipe)
        assert "losses.1.only_where_right" in str(caught.value)
        assert f"--set 'losses.{name}.only_where_right=false'" in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "places"),
    [
        ("{name: segformer}", ["teacher"]),
        ("{name: segformer, weights: embedded}", []),
        (
            "{name: ensemble, members: [{name: segformer, weights: embedded}, {name: segformer}]}",
            ["teacher.members.1"],
        ),
    ],
)
def test_a_teacher_without_weights_is_a_warning(teacher, places, caplog):
    text = RECIPE.replace(TEACHER, f"teacher: {teacher}\n").replace(DISTILLED, "  - {name: dist}\n")
    assemble.check(recipes.loads(text))
    random = [m.split(": ")[1] for m in caplog.messages if "class scores are random" in m]
    assert random == places


def test_weights_beside_members_are_refused(check):
    members = "[{name: segformer, weights: embedded}, {name: segformer, weights: embedded}]"
    teacher = f"teacher: {{name: ensemble, weights: runs/a, members: {members}}}\n"
    problem = check(RECIPE.replace(TEACHER, teacher).replace(DISTILLED, "  - {name: dist}\n"))
    assert "teacher.weights" in problem and "members" in problem
