"""Plans: what they may say, where they are wrong, and the rows that they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from small_plan import write_plan

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.errors import RecipeError
from freqkd_cli.lab import plan as plans
from freqkd_cli.lab import plan_keys, plan_rows
from freqkd_cli.recipe import shipped

PLANS = shipped.plan_paths()


def problems(text: str, sets: tuple[str, ...] = ()) -> str:
    with pytest.raises(RecipeError) as refused:
        plans.loads(text, "p.yaml", sets)
    return str(refused.value)


def rows(folder, text: str) -> list:
    plan, _ = plan_rows.expand(plans.load(write_plan(folder, text)))
    return list(plan.recipes)


def refusal(folder, text: str) -> str:
    with pytest.raises(RecipeError) as refused:
        rows(folder, text)
    return str(refused.value).replace(f"{folder}/", "")


def test_defaults_of_a_plan():
    plan = plans.loads("version: 1\nrecipes: [a]\n")
    assert plan.keys.seeds == (0, 1, 2) and plan.keys.fair == "steps"
    assert plan.keys.cache == "taps" and plan.recipes[0].row_name == "a"


def test_all_mistakes_are_reported_at_once_with_their_places():
    text = problems("version: 1\nrecipes: [a, b]\nsedds: [1]\nfair: stps\nseeds: [0, x]\nset: 3\n")
    assert text.splitlines() == [
        "4 problems in p.yaml",
        "  p.yaml:3:1 sedds: unknown key, did you mean 'seeds'?",
        "  p.yaml:4:7 fair: got 'stps', need 'steps', 'seconds' or 'none', did you mean 'steps'?",
        "  p.yaml:5:12 seeds.1: got 'x', need a whole number",
        "  p.yaml:6:6 set: got 3, need keys with values",
    ]


def test_a_recipe_in_place_of_a_plan_and_the_reverse_are_one_sentence():
    """Before, each of their keys was unknown."""
    assert problems("version: 1\ndata: {}\nlosses: []\n").startswith(
        "p.yaml is a recipe, not a plan"
    )
    with pytest.raises(
        RecipeError, match="plan of a study, not a recipe(?s:.*)freqkd sweep p.yaml"
    ):
        recipes.loads("version: 1\nrecipes: [fastscnn_ce]\n", "p.yaml")


def test_a_plan_of_a_later_version_is_refused():
    assert "p.yaml:1:10 version: got 2, this freqkd reads version 1" in problems(
        "version: 2\nrecipes: [a]\n"
    )


def test_two_rows_with_the_same_name_are_refused():
    text = problems("version: 1\nrecipes: [a, b, x/a.yaml]\n")
    assert "p.yaml:2:17 recipes.2: recipes.0 is called 'a' too" in text
    assert "name: a_2" in text


def test_names_of_rows_are_names_of_folders():
    assert "need letters, digits" in problems("version: 1\nrecipes: [{recipe: a, name: a/b}]\n")
    assert "need letters, digits" in problems("version: 1\nrecipes: [{recipe: a, name: ..}]\n")
    long = f"version: 1\nrecipes: [{{recipe: a, name: {'a' * 200}}}]\n"
    assert "..., need at most 120 characters" in problems(long)
    text = problems("version: 1\nrecipes: ['my recipe.yaml']\n")
    assert "recipes.0: got 'my recipe', need letters, digits" in text and "give a name" in text


def test_a_seed_may_not_occur_twice():
    assert "p.yaml:3:1 seeds: 1 is there twice" in problems(
        "version: 1\nrecipes: [a]\nseeds: [1, 1]\n"
    )


def test_a_key_is_set_or_an_axis():
    text = problems("version: 1\nrecipes: [a]\nset: {train.lr: 1}\naxes: {train.lr: [1, 2]}\n")
    assert "axes.train.lr: it is also in set" in text


def test_set_options_join_the_plan():
    plan = plans.loads("version: 1\nrecipes: [a]\nset: {x.y: 1}\n", sets=["x.y=[2, 3]", "a.b=c"])
    assert plan.keys.set == {"x.y": [2, 3], "a.b": "c"}
    assert "--set nonsense: need key.path=value" in problems(
        "version: 1\nrecipes: [a]\n", ("nonsense",)
    )


def test_a_set_option_and_the_own_set_of_a_recipe_are_refused():
    """Before, the option lost to the recipe's own value without a message."""
    text = "version: 1\nset: {a.b: 1}\nrecipes: [a, {recipe: b, set: {train.lr: 3e-3, a.b: 2}}]\n"
    assert problems(text, ("train.lr=1e-3", "data.root='x'")).splitlines() == [
        "1 problem in p.yaml",
        "  p.yaml:3:42 recipes.1.set.train.lr: got 0.003, and the command changes it to 0.001 in "
        "every recipe; need one of them",
    ]
    assert "recipes.1.set.a.b: got 2, and" in problems(text, ("a.b=3",))
    assert plans.loads(text, sets=("train.lr=0.003",)).keys.set == {"a.b": 1, "train.lr": 0.003}


def test_a_resolved_plan_is_read_back(tmp_path):
    text = "# Is it better?\n# A note.\nversion: 1\nrecipes: [labels.yaml, scores.yaml]\n"
    plan, _ = plan_rows.expand(
        plans.load(write_plan(tmp_path, f"{text}axes: {{losses.kl.weight: [0.5, 1.0]}}\n"))
    )
    again = plans.loads(plans.dump(plan))
    assert again.keys == plan.keys and again.note == "Is it better?\nA note."


def test_an_axis_multiplies_the_recipes_that_have_its_key(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, scores.yaml]\n"
    made = rows(tmp_path, f"{text}axes: {{losses.kl.weight: [0.5, 1], train.lr: [1e-3, 2e-3]}}\n")
    assert [row.row_name for row in made] == [
        "labels,lr=0.001",
        "labels,lr=0.002",
        "scores,weight=0.5,lr=0.001",
        "scores,weight=0.5,lr=0.002",
        "scores,weight=1,lr=0.001",
        "scores,weight=1,lr=0.002",
    ]
    assert made[2].set == {"losses.kl.weight": 0.5, "train.lr": 0.001}


def test_a_row_keeps_its_own_value_of_an_axis(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, {recipe: scores.yaml, set: {train.lr: 3e-3}}]\n"
    made = rows(tmp_path, f"{text}axes: {{train.lr: [1e-3, 2e-3]}}\n")
    assert [row.row_name for row in made] == ["labels,lr=0.001", "labels,lr=0.002", "scores"]


def test_an_axis_has_as_many_words_as_tell_it_apart(tmp_path):
    text = "version: 1\nrecipes: [scores.yaml]\n"
    keys = "losses.kl.weight: [2], losses.cross_entropy.weight: [1], data.size: [[64, 96]]"
    (row,) = rows(tmp_path, f"{text}axes: {{{keys}}}\n")
    assert row.row_name == "scores,kl.weight=2,cross_entropy.weight=1,size=64_96"


def test_a_row_of_axes_whose_name_is_too_long_is_refused(tmp_path):
    """Before, its study was trained and could not be read again."""
    text = "version: 1\nrecipes: [labels.yaml, {recipe: scores.yaml, name: NAME}]\n"
    axes = "axes: {losses.kl.weight: [1, 10]}\n"
    long = "x" * 111
    assert refusal(tmp_path, text.replace("NAME", long) + axes).splitlines() == [
        "1 problem in plan.yaml",
        f"  plan.yaml:2:24 recipes.1: the row {long},weight=10 has a name of 121 characters, "
        "need at most 120; list these recipes one by one, each with a name",
    ]
    assert len(rows(tmp_path, text.replace("NAME", long[1:]) + axes)) == 3


def test_a_misspelt_axis_is_refused(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, scores.yaml]\naxes: {losses.kl.wieght: [1, 2]}\n"
    assert refusal(tmp_path, text).splitlines() == [
        "1 problem in plan.yaml",
        "  plan.yaml:3:8 axes.losses.kl.wieght: no recipe of the plan has this key, "
        "did you mean 'losses.kl.weight'?",
    ]


def test_a_misspelt_change_has_its_place_in_the_plan(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, scores.yaml]\nset: {train.lrr: 1, train.lr: -1}\n"
    assert refusal(tmp_path, text).splitlines() == [
        "2 problems in plan.yaml",
        "  plan.yaml:3:18 set.train.lrr: unknown key, did you mean 'lr'?",
        "  plan.yaml:3:31 set.train.lr: got -1, need more than 0.0",
    ]


def test_problems_of_some_recipes_name_them(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, scores.yaml, scors]\nset: {losses.kl.weight: 2}\n"
    assert refusal(tmp_path, text).splitlines()[1:] == [
        "  plan.yaml:3:25 set.losses.kl.weight: no loss has the id 'kl', need one of cross_entropy "
        "(in labels)",
        "  plan.yaml:2:37 recipes.2: there is no recipe 'scors'; need the name of a shipped "
        "recipe, a recipe file, or - for standard input; try freqkd recipe list",
    ]


def test_a_recipe_that_fails_its_whole_check_is_refused(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, features.yaml]\n"
    changed = f"{text}set: {{data.size: [64, 72]}}\n"
    assert "both sides must be multiples of 32" in refusal(tmp_path, changed)
    row = "{recipe: features.yaml, name: bad, set: {losses.feature.teacher: stage9}}"
    text = f"version: 1\nrecipes: [labels.yaml, {row}]\n"
    assert "recipes.1.set.losses.feature.teacher" in refusal(tmp_path, text)
    assert "has no tap 'stage9'" in refusal(tmp_path, text)


def test_the_baseline_is_a_row(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, scores.yaml]\n"
    assert "did you mean 'labels'?, need one of labels, scores" in refusal(
        tmp_path, f"{text}baseline: label\n"
    )
    axes = "axes: {train.lr: [1, 2]}\n"
    assert "need one of labels,lr=1, labels,lr=2" in refusal(
        tmp_path, f"{text}{axes}baseline: labels\n"
    )
    plan, _ = plan_rows.expand(plans.load(write_plan(tmp_path, text)))
    assert plan.keys.baseline == "labels"


def test_the_fairness_rule_decides_the_length(tmp_path):
    text = "version: 1\nrecipes: [labels.yaml, {recipe: scores.yaml, set: {train.steps: 9}}]\n"
    assert "recipes.1.set.train.steps: fair: steps decides the steps of every row" in refusal(
        tmp_path, text
    )
    assert len(rows(tmp_path, f"{text}fair: none\n")) == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("recipes: [labels.yaml]\nset: {train.seed: 7}", "3:19 set.train.seed"),
        ("recipes: [labels.yaml]\naxes: {train.seed: [7, 8]}", "3:8 axes.train.seed"),
        ("recipes: [{recipe: labels.yaml, set: {train.seed: 7}}]", "2:51 recipes.0.set.train.seed"),
    ],
)
def test_the_seeds_of_a_plan_decide_the_seed(tmp_path, text, place):
    """Rows called seed=7 and seed=8 were runs of the seeds 0, 1 and 2."""
    line = "seeds decides the seed of every run; leave this out, and list it in seeds"
    assert f"plan.yaml:{place}: {line}" in refusal(tmp_path, f"version: 1\n{text}\nfair: none\n")


def test_recipes_of_other_data_are_refused(tmp_path):
    from freqkd_cli.lab.prepare_study import open_study

    row = "{recipe: scores.yaml, set: {data.size: [32, 64]}}"
    plan = write_plan(tmp_path, f"version: 1\nrecipes: [labels.yaml, {row}]\n")
    with pytest.raises(RecipeError) as refused:
        open_study(plans.load(plan), tmp_path / "study")
    assert "recipes.1: labels and scores have different data: data.size [64, 64] and [32, 64]" in (
        str(refused.value)
    )
    assert not (tmp_path / "study").exists()


def test_rows_scored_on_another_number_of_images_are_refused(tmp_path):
    """``compare`` refused them after all runs."""
    from freqkd_cli.lab.prepare_study import open_study

    row = "{recipe: scores.yaml, set: {train.eval_limit: 3}}"
    text = f"version: 1\nrecipes: [labels.yaml, {row}]\n"
    with pytest.raises(RecipeError) as refused:
        open_study(plans.load(write_plan(tmp_path, text)), tmp_path / "study")
    line = "labels and scores are scored on different images: train.eval_limit 0 (all) and 3"
    assert f"recipes.1: {line}" in str(refused.value)
    assert not (tmp_path / "study").exists()
    plan = plans.load(write_plan(tmp_path, f"{text}set: {{train.eval_limit: 3}}\n"))
    assert len(open_study(plan, tmp_path / "study").rows) == 2


def test_rows_that_hold_out_other_images_are_refused(tmp_path):
    """``compare`` refused them after all runs, too: the held-out images have labels."""
    from freqkd_cli.lab.prepare_study import open_study

    text = "version: 1\nrecipes: [labels.yaml]\naxes: {data.labelled: [4, 8]}\n"
    held_out = f"{text}set: {{data.hold_out: 0.25}}\n"
    with pytest.raises(RecipeError) as refused:
        open_study(plans.load(write_plan(tmp_path, held_out)), tmp_path / "study")
    line = "labels,labelled=4 and labels,labelled=8 are scored on different images"
    assert f"{line}: labelled images for data.hold_out 4 and 8" in str(refused.value)
    assert len(open_study(plans.load(write_plan(tmp_path, text)), tmp_path / "study").rows) == 2
    same = held_out.replace("data.labelled: [4, 8]", "data.labelled: [8, 99, null]")  # of 8
    assert len(open_study(plans.load(write_plan(tmp_path, same)), tmp_path / "study").rows) == 3


def test_the_schema_file_is_current():
    path = shipped.folder() / "plans" / "plan.schema.json"
    assert json.loads(path.read_text()) == plan_keys.schema(), (
        "run freqkd recipe schema --plan > recipes/plans/plan.schema.json"
    )


@pytest.mark.parametrize("name", PLANS)
def test_a_shipped_plan_passes_its_schema_and_its_note_has_a_question(name):
    import jsonschema

    text = PLANS[name].read_text()
    lines = text.splitlines()
    jsonschema.validate(yaml.safe_load(text), plan_keys.schema())
    assert len(lines) <= 60 and lines[0].endswith("$schema=plan.schema.json")
    assert plans.load(name).note.splitlines()[0].endswith("?")
    assert f"freqkd sweep {name} --out studies/{name}" in text


def test_every_loss_and_recipe_of_bands_and_graphs_on_scenes_is_in_a_plan():
    """``graph_basis`` and the final loss of VMamba, ``vmamba_kl_basic``, were in none."""
    ideas = {name for name in registry.names("losses") if name.startswith(("band", "graph"))}
    own = [name for name in shipped.paths() if name.startswith(("fastscnn_", "vmamba_"))]
    losses = {name: {line.name for line in recipes.load(name).losses} & ideas for name in own}
    planned = {row.recipe for name in PLANS for row in plans.load(name).recipes}
    assert {name for name in own if losses[name]} <= planned
    assert set().union(*losses.values()) == ideas


@pytest.mark.parametrize("name", PLANS)
def test_a_shipped_plan_passes_the_check_of_all_its_recipes(name, caplog):
    plan, checked = plan_rows.expand(plans.load(name))
    assert len(checked) == len(plan.recipes) > 5 and caplog.text == ""


def test_the_plan_in_the_docs_passes_the_check_of_all_its_recipes():
    text = Path(__file__).parents[2].joinpath("docs/cluster.md").read_text().split("```yaml\n")[1]
    _, checked = plan_rows.expand(plans.loads(text.partition("```")[0]))
    assert [row.planned.row_name for row in checked][:2] == ["fastscnn_ce", "fastscnn_kl,weight=1"]
