"""Recipes: YAML 1.2, every mistake at once and at its place, and a dump that reads back equal."""

from __future__ import annotations

import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build import assemble
from freqkd_cli.errors import RecipeError
from freqkd_cli.recipe import describe, shipped
from freqkd_cli.recipe.nodes import MAX_CHARACTERS, parse, scalar
from freqkd_cli.recipe.problems import Place
from freqkd_cli.recipe.resolved import flow

GOOD = """\
# What does a low band on the encoder teach?
version: 1
data:    {name: scenes, size: [192, 256]}
teacher: {name: segformer, weights: embedded}
student:
  name: fast_scnn
  width: 0.5
losses:
  - {name: cross_entropy}
  - {id: low,  name: band, student: encoder, teacher: stage4, band: low, cutoff: 0.5, weight: 1}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high}
train:   {epochs: 8, batch_size: 8, optimizer: adamw, lr: 1.0e-3}
"""


def problems(text: str, *sets: str, **keywords) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        recipes.loads(text, "r.yaml", sets, **keywords)
    return caught.value.problems


def values(text: str):
    node, mistakes = parse(text, lambda line, column: Place(0, line + 1, column + 1, "x"))
    assert not mistakes
    return node.plain()


def test_a_good_recipe_is_typed_and_complete():
    recipe = recipes.loads(GOOD)
    assert (
        recipe.data.size == (192, 256)
        and recipe.data.augment.flip is True
        and recipe.data.root is None
    )
    assert recipe.student.arguments["width"] == 0.5 and recipe.student.weights is None
    assert recipe.teacher.arguments["weights"] == "embedded"
    assert [line.id for line in recipe.losses] == ["cross_entropy", "low", "high"]
    assert recipe.losses[1].arguments["cutoff"] == 0.5 and isinstance(
        recipe.losses[1].weight, float
    )
    assert (recipe.train.epochs, recipe.train.steps, recipe.train.lr) == (8, None, 0.001)
    assert recipe.warnings == ()
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.lr = 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.0e+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1", -1),
        ("+12", 12),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-01-02", "2024-01-02"),
        ("0b1", "0b1"),
        ("1e", "1e"),
        (".", "."),
        ("e3", "e3"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    """Reference: the core schema of YAML 1.2.2, section 10.3.2. PyYAML reads 12 of these wrong."""
    assert scalar(text) == value and type(scalar(text)) is type(value)
    assert values(f"a: {text}") == {"a": value}
    assert values(f"a: '{text}'") == {"a": text}


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "1e999", "9" * 40])
def test_numbers_that_are_not_finite_are_refused(text):
    (line,) = problems(GOOD.replace("lr: 1.0e-3", f"lr: {text}"))
    assert line.startswith("r.yaml:12:59 train.lr: got ")


def test_all_problems_at_once_in_file_order_at_their_places():
    bad = """\
version: 1
data:    {name: scenez, size: [192, on]}
student: {name: fast_scnn, wdth: 0.5, auxiliary: "yes", dropout: 1}
losses:
  - {name: cross_entropy, weight: -1}
  - {name: band, student: encoder, band: lo}
  - {name: band, student: 3, teacher: stage4}
train:
  batch_size: 8.0
  lrr: 1e-3
trian: {}
"""
    lines = problems(bad)
    places = [tuple(map(int, line.split(" ", 1)[0].split(":")[1:])) for line in lines]
    assert places == sorted(places)
    message = "\n".join(lines)
    for text in [
        "r.yaml:2:17 data.name: no data set is called 'scenez', did you mean 'scenes'?",
        "r.yaml:2:37 data.size.1: got 'on', need a whole number",
        "r.yaml:3:28 student.wdth: unknown key, did you mean 'width'?",
        "r.yaml:3:50 student.auxiliary: got 'yes', need true or false",
        "r.yaml:3:66 student.dropout: got 1, need less than 1",
        "r.yaml:5:35 losses.0.weight: got -1, need at least 0",
        "r.yaml:6:5 losses.1.teacher: missing",
        "r.yaml:6:42 losses.1.band: got 'lo', need 'low', 'high' or 'mix'",
        "r.yaml:7:12 losses.2.name: losses.1 is called 'band' too, add an id",
        "r.yaml:7:27 losses.2.student: got 3, need a word",
        "r.yaml:8:1 train.epochs: missing, need epochs or steps",
        "r.yaml:9:15 train.batch_size: got 8.0, need a whole number",
        "r.yaml:10:3 train.lrr: unknown key, did you mean 'lr'?",
        "r.yaml:11:1 trian: unknown section, did you mean 'train'?",
    ]:
        assert text in message, message
    assert len(lines) == 14


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("version: 1\n", ""), "version: missing, need version: 1"),
        (("version: 1", "version: 2"), "r.yaml:2:10 version: got 2, this freqkd reads version 1"),
        (("version: 1", "version: true"), "r.yaml:2:10 version: got true"),
        (("student:\n  name: fast_scnn\n  width: 0.5\n", ""), "student: missing section"),
        (
            ("  name: fast_scnn\n", "  name: fast_scnn\n  name: smp\n"),
            "'name' is written twice, first on line 6",
        ),
        (("lr: 1.0e-3", "lr: !!float 1"), "r.yaml:12:59 train.lr: a tag"),
        (("lr: 1.0e-3", "lr: &x 1"), "r.yaml:12:59 train.lr: an anchor (&x)"),
        (("lr: 1.0e-3", "lr: *x"), "r.yaml:12:59 train.lr: an alias (*x)"),
        (("  name: fast_scnn", "\tname: fast_scnn"), "r.yaml:6:1: a tab; YAML indents with spaces"),
        (("lr: 1.0e-3}", "lr: 1.0e-3"), "r.yaml:13:1: not YAML: while parsing a flow mapping"),
        (
            ("epochs: 8", "epochs: 8, steps: 9"),
            "r.yaml:12:22 train.steps: epochs and steps are both given",
        ),
        (("epochs: 8", "epochs: 0"), "r.yaml:12:19 train.epochs: got 0, need at least 1"),
        (("size: [192, 256]", "size: [192]"), "data.size.1: missing"),
        (("size: [192, 256]", "size: 192"), "r.yaml:3:31 data.size: got 192, need a list"),
        (
            ("size: [192, 256]", "size: [192, 256], augment: {flp: true}"),
            "data.augment.flp: unknown key, did you mean 'flip'?",
        ),
        (
            ("size: [192, 256]", "size: [192, 256], augment: {scale: [2, 1]}"),
            "data.augment.scale: got [2, 1], need the smaller",
        ),
        (("id: high", "id: low"), "r.yaml:11:10 losses.2.id: losses.1 is called 'low' too"),
        (("id: high", "id: 7"), "r.yaml:11:10 losses.2.id: got 7, need a word"),
        (("id: high", "id: a.b"), "losses.2.id: got 'a.b', need letters, digits"),
        (
            ("name: segformer", "name: [segformer]"),
            'r.yaml:4:11 teacher.name: got ["segformer"], need a word',
        ),
        (("weights: embedded", "weights: 3"), "r.yaml:4:37 teacher.weights: got 3, need a word"),
        (("train:   {", "---\ntrain:   {"), "r.yaml:12:1: a second document"),
        (("lr: 1.0e-3", '"lr\\ud800": 1'), "half of a surrogate pair"),
        (("lr: 1.0e-3", "? [a] : 1"), "a key must be a word"),
        (("lr: 1.0e-3", "lr: \x07"), "r.yaml:12:59: a character that YAML does not allow (code 7)"),
        (("lr: 1.0e-3", "lr: " + "[" * 30), "nested more than 20 deep"),
        (("lr: 1.0e-3", "<<: {lr: 1}"), "r.yaml:12:55 train.<<: unknown key"),
    ],
)
def test_each_mistake_is_reported_at_its_place(change, expected):
    assert change[0] in GOOD
    assert expected in "\n".join(problems(GOOD.replace(*change, 1)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "null",
        "- a\n- b",
        "word",
        "[]",
        "losses: []",
        "{}",
        "\ufeff",
        "--- \n...",
    ],
)
def test_a_text_that_is_not_a_recipe_is_an_error(text):
    assert problems(text)


def test_huge_deep_and_binary_files_are_refused_quickly(tmp_path):
    assert "at most" in problems("a: 1\n" * MAX_CHARACTERS)[0]
    assert "nested more than" in "\n".join(problems("[" * 50_000))
    assert "nested more than" in "\n".join(problems("".join(f"{' ' * n}a:\n" for n in range(300))))
    odd = tmp_path / "odd.yaml"
    odd.write_bytes(b"version: 1\nx: \xff\n")
    with pytest.raises(RecipeError, match=r"odd.yaml:2:4: not UTF-8"):
        recipes.load(odd)
    odd.write_bytes(b"\xff" * 3_000_000)
    with pytest.raises(RecipeError):
        recipes.load(odd)


def test_many_problems_are_counted_and_cut():
    keys = "".join(f"k{i}: 1, " for i in range(500))
    lines = problems(GOOD.replace("train:   {", f"train:   {{{keys}"))
    assert len(lines) == 41 and lines[-1] == "and 460 more"


def test_set_changes_by_key_by_number_by_id_and_by_name():
    recipe = recipes.loads(
        GOOD,
        sets=[
            "train.lr=2e-3",
            "losses.1.weight=0.25",
            "losses.high.weight=0.5",
            "losses.cross_entropy.weight=3",
            "data.augment.flip=false",
            "data.size=[64, 96]",
            "data.size.1=128",
            "train.channels_last=true",
            "student.width=1",
            "teacher.dtype=bfloat16",
        ],
    )
    assert recipe.train.lr == 2e-3 and recipe.train.channels_last is True
    assert [line.weight for line in recipe.losses] == [3, 0.25, 0.5]
    assert recipe.data.augment.flip is False and recipe.data.size == (64, 128)
    assert recipe.student.arguments["width"] == 1.0 and recipe.teacher.dtype == "bfloat16"


def test_a_set_or_option_in_the_other_unit_of_length_wins():
    assert recipes.loads(GOOD, sets=["train.steps=5"]).train.epochs is None
    assert recipes.loads(GOOD, overrides={"train.steps": 5}).train.steps == 5
    assert problems(GOOD, "train.steps=5", "train.epochs=5")


def test_precedence_is_recipe_then_set_then_option():
    assert recipes.loads(GOOD, sets=["train.seed=2"]).train.seed == 2
    assert (
        recipes.loads(
            GOOD, sets=["train.seed=2"], overrides=[("train.seed", 3), ("data.root", None)]
        ).train.seed
        == 3
    )
    assert recipes.loads(GOOD, overrides={"data.root": Path("/d")}).data.root == Path("/d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.lrr=1", "--set train.lrr=1: unknown key, did you mean 'lr'?"),
        ("trian.lr=1", "--set trian.lr=1 trian: unknown section, did you mean 'train'?"),
        (
            "losses.hihg.weight=1",
            "--set losses.hihg.weight=1: no loss has the id 'hihg', did you mean 'high'?",
        ),
        ("losses.band.weight=1", "2 losses are called 'band'"),
        ("data.size.height=64", "'height' is not the number of an item, only 0 to 1"),
        ("losses.9.weight=1", "there is no item 9, only 0 to 2"),
        ("losses.low.cutof=1", "losses.1.cutof: unknown key, did you mean 'cutoff'?"),
        ("train.lr.x=1", "train.lr is a value, not a section"),
        ("train.lr", "need key.path=value"),
        ("train.lr=", "need key.path=value"),
        ("=1", "need key.path=value"),
        ("train.lr=# x", "no value after the ="),
        ("train.lr=yes", "--set train.lr=yes: got 'yes', need a number"),
        ("train.lr=[1", "not YAML"),
        ("data.mask={stem}_m.png", "a text needs quotes: --set 'data.mask=\"{stem}_m.png\"'"),
        ("train.lr=!!python/name:os.system", "a tag"),
        ("train..lr=1", "an empty word"),
        ("version=2", "--set version=2: got 2"),
        ("losses=null", "need a list of losses"),
        ("losses.1=3", "--set losses.1=3: got 3, need a section of keys"),
        ("train=[]", "--set train=[]: got [], need a section of keys"),
    ],
)
def test_a_mistake_in_set_names_the_set(text, expected):
    lines = problems(GOOD, text)
    assert expected in "\n".join(lines), lines
    assert lines[0].startswith("--set")


def test_a_key_that_a_set_has_twice_is_on_no_line():
    """Before, "first on line 0"."""
    text = "student={a: 1, a: 2}"
    assert problems(GOOD, text) == [f"--set {text}: 'a' is written twice"]


def test_a_mistake_in_set_about_members_does_not_speak_of_losses():
    """Before: "no loss has the id 'b2'" and "2 losses are called 'segformer'; add ids"."""
    member = "{name: segformer, weights: embedded}"
    text = GOOD.replace(member, f"{{name: ensemble, members: [{member}, {member}]}}")
    (line,) = problems(text, "teacher.members.b2.weight=2")
    assert line.endswith("no item is called 'b2', need one of segformer")
    (line,) = problems(text, "teacher.members.segformer.weight=2")
    assert line.endswith("2 items are called 'segformer'; use their number")


def test_an_option_that_is_not_utf8_is_a_problem_of_that_option():
    """The bytes of a file name that is not UTF-8 have no place in a recipe."""
    with pytest.raises(RecipeError) as caught:
        recipes.loads(GOOD, overrides={"data.root": "caf\udce9", "train.seed": 1})
    assert caught.value.problems == [
        "the option for data.root: got caf\udce9, need a name in UTF-8"
    ]


def test_file_and_set_problems_come_together():
    lines = problems(GOOD.replace("lr:", "lrr:"), "train.seed=-1", "train.sed=1")
    assert [line.split(":")[0] for line in lines] == [
        "r.yaml",
        "--set train.seed=-1",
        "--set train.sed=1",
    ]


def test_dump_reads_back_as_an_equal_recipe():
    recipe = recipes.loads(
        GOOD,
        sets=["data.root='C: # \\ \"odd\" é\U0001f600\u0085'", "train.lr=1e-7", "student.width=3"],
    )
    text = recipes.dump(recipe)
    again = recipes.loads(text, "again.yaml")
    assert again == recipe and recipes.dump(again) == text
    assert recipes.dump(recipes.loads(GOOD)) != text
    assert recipes.dump(recipes.loads(GOOD + "# a comment\n")) == recipes.dump(recipes.loads(GOOD))


def test_a_dump_shows_names_in_any_script():
    recipe = recipes.loads(GOOD, sets=["data.root='Straße 道路\u00a0'"])
    assert '  root: "Straße 道路\\U000000a0"\n' in recipes.dump(recipe)


def test_any_value_survives_the_dump():
    rng = random.Random(0)
    alphabet = "aZ09 :#-?{}[],&*!|>'\"%@`\\\n\t\r~._=<é\u2028\ufeff\U0001f600\x00\x7f"
    pieces = ["1e-3", "on", "null", "0x1", ".inf", "true", "- a", "? x", "010", "", "---", "key: v"]
    for _ in range(400):
        text = (
            "".join(rng.choice(alphabet) for _ in range(rng.randrange(12)))
            if rng.random() < 0.8
            else rng.choice(pieces)
        )
        value = {
            "k" + text: [
                text,
                rng.uniform(-1, 1) * 10 ** rng.randrange(-300, 300),
                rng.randrange(-(10**9), 10**9),
                None,
                True,
            ]
        }
        assert values(f"x: {flow(value)}") == {"x": value}
        if "\x00" not in text:  # an independent reader agrees on the strings
            assert yaml.safe_load(f"x: {flow(['s ' + text])}") == {"x": ["s " + text]}


def test_without_cross_entropy_is_a_warning():
    recipe = recipes.loads(GOOD.replace("  - {name: cross_entropy}\n", ""))
    assert len(recipe.warnings) == 1 and "cross_entropy" in recipe.warnings[0]


def test_errors_point_at_the_recipe():
    recipe = recipes.loads(GOOD, "r.yaml", ["losses.high.cutoff=0.25"])
    keys = ("losses.1.student", "losses.2.order", "train.ema", "losses.2.cutoff")
    assert recipe.error([(key, "wrong") for key in keys]).problems == [
        "r.yaml:10:37 losses.1.student: wrong",
        "r.yaml:11:5 losses.2.order: wrong",
        "r.yaml:12:1 train.ema: wrong",
        "--set losses.high.cutoff=0.25 losses.2.cutoff: wrong",
    ]
    error = recipe.error([("losses.2.student", "no such tap"), ("losses.1.student", "empty band")])
    assert error.problems == [
        "r.yaml:10:37 losses.1.student: empty band",
        "r.yaml:11:37 losses.2.student: no such tap",
    ]
    assert error.exit_code == 2


def test_no_part_has_an_argument_that_its_section_takes():
    """Only ``weights`` may be both: a model that reads weights itself gets them as an argument."""
    from freqkd_cli.recipe.sections import DRAWER, INNER, SECTIONS

    seen = 0
    for section, drawer in DRAWER.items():
        for name in registry.names(drawer):
            seen += 1
            both = set(registry.arguments(drawer, name).model_fields) & set(
                (SECTIONS | INNER)[section].model_fields
            )
            assert both <= {"weights"}, f"{drawer}/{name}: {both}"
    assert seen > 8


def test_weights_belong_to_the_model_that_reads_them():
    section = recipes.loads(GOOD.replace("width: 0.5", "weights: runs/a")).student
    assert section.weights == "runs/a" and "weights" not in section.arguments
    own = recipes.loads(
        GOOD.replace("name: fast_scnn\n  width: 0.5", "name: segformer\n  weights: embedded")
    )
    assert own.student.weights is None and own.student.arguments["weights"] == "embedded"


def test_reading_from_standard_input_a_path_and_a_name(tmp_path, monkeypatch):
    class Stdin:
        buffer = io.BytesIO(GOOD.encode())

    monkeypatch.setattr(sys, "stdin", Stdin)
    expected = recipes.loads(GOOD)
    assert recipes.load("-") == expected
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert recipes.load(file) == expected == recipes.load(str(file))
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)
    assert recipes.load("mine") == expected
    assert shipped.question(file) == "What does a low band on the encoder teach?"
    with pytest.raises(RecipeError, match="did you mean 'mine'"):
        recipes.load("mien")
    with pytest.raises(RecipeError, match="is a folder"):
        recipes.load(tmp_path)


def test_sections_alone_are_read_without_torch(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(GOOD, encoding="utf-8")
    code = f"import sys; from freqkd_cli.recipe import load; load({str(file)!r}, parts=False); "
    code += "print('torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "False"
    assert recipes.load(file, parts=False).losses[1].arguments == {
        "student": "encoder",
        "teacher": "stage4",
        "band": "low",
        "cutoff": 0.5,
    }


def test_the_schema_is_valid_and_agrees_with_the_reader():
    schema = describe.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    good = values(GOOD)
    assert not list(check.iter_errors(good))
    assert not list(check.iter_errors(values(recipes.dump(recipes.loads(GOOD)))))
    for path, value in [
        (("train", "lrr"), 1),
        (("train", "lr"), "1"),
        (("train", "steps"), 3),
        (("student", "wdth"), 1),
        (("student", "name"), "fast"),
        (("losses", 1, "band"), "lo"),
        (("losses", 0, "weight"), -1),
        (("version",), 2),
        (("extra",), {}),
        (("data", "size"), [1]),
    ]:
        bad = values(GOOD)
        target = bad
        for part in path[:-1]:
            target = target[part]
        target[path[-1]] = value
        assert list(check.iter_errors(bad)), path
    widths = [
        one for one in schema["properties"]["student"]["oneOf"] if one["title"] == "fast_scnn"
    ]
    assert "factor" in widths[0]["properties"]["width"]["description"]


def test_the_shipped_schema_is_up_to_date():
    path = shipped.folder() / "recipe.schema.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(describe.schema())), (
        "run freqkd recipe schema > recipes/recipe.schema.json"
    )


def test_every_whole_number_of_a_loss_has_an_upper_bound():
    """Before, ``groups: 99999999999999999999`` was a traceback of torch."""

    def unbounded(node: Any, place: str) -> Iterator[str]:
        if isinstance(node, dict):
            if node.get("type") == "integer" and not {"maximum", "exclusiveMaximum"} & node.keys():
                yield place
            for key, value in node.items():
                yield from unbounded(value, f"{place}/{key}")
        elif isinstance(node, list):
            for number, value in enumerate(node):
                yield from unbounded(value, f"{place}/{number}")

    losses = describe.schema()["properties"]["losses"]
    assert list(unbounded(losses, "")) == []


@pytest.mark.parametrize("name", list(shipped.paths()))
def test_every_shipped_recipe_is_valid_and_has_a_lab_note(name):
    text = shipped.find(name).read_text(encoding="utf-8")
    assemble.check(recipes.load(name), data=False)
    note = [line for line in text.splitlines() if line.startswith("#")]
    assert len(text.splitlines()) <= 60 and note[0].endswith("$schema=recipe.schema.json")
    assert not note[1].startswith(("# Source", "# Command", "# Expected")), "where is the question?"
    assert any(line.startswith("# Command: ") for line in note)
    assert any(line.startswith("# Source: ") for line in note)
    expected = next(i for i, line in enumerate(note) if line.startswith("# Expected: "))
    measured = any(re.search(r"Measured:? 20\d\d-\d\d-\d\d", line) for line in note[expected:])
    assert measured or "not yet measured" in note[expected], "when was it measured?"


@pytest.mark.parametrize("name", list(shipped.paths()))
def test_a_copied_recipe_has_no_results_of_the_shipped_one(name, tmp_path):
    source, target = shipped.find(name), tmp_path / "my copy.yaml"
    text = shipped.copy_text(source, target)
    note = [line for line in text.splitlines() if line.startswith("#")]
    (expected,) = [line for line in note if line.startswith("# Expected")]
    assert expected.startswith("# Expected: not yet measured")
    assert not any("mIoU on val after" in line or "Measured" in line for line in note), note
    (command,) = [line for line in note if line.startswith("# Command: ")]
    assert f"distill '{target}'" in command or f"distill {name}" not in source.read_text()
    assert note[1] == f"# {shipped.question(source)}"
    target.write_text(text, encoding="utf-8")
    assert recipes.load(target, parts=False) == recipes.load(name, parts=False)


@pytest.mark.parametrize("name", list(shipped.plan_paths()))
def test_a_shipped_plan_can_be_copied(name, tmp_path, freqkd):
    """Before, no command wrote a shipped plan to a file."""
    code, out, _ = freqkd("recipe", "copy", name, tmp_path / "my.yaml")
    text = (tmp_path / "my.yaml").read_text()
    assert code == 0 and out.strip() == str(tmp_path / "my.yaml")
    assert f"$schema={shipped.plan_paths()[name].with_name('plan.schema.json')}\n" in text
    assert f"# Command: freqkd sweep {tmp_path / 'my.yaml'} --out studies/my" in text
    plan = shipped.plan_paths()[name].read_text()
    assert text.split("version: 1")[1] == plan.split("version: 1")[1]


def test_one_file_defines_the_learning_rate_schedules(monkeypatch):
    """A recipe takes the names that recipe/learning_rate.py has, and the schema lists them."""
    from typing import get_args, get_type_hints

    from freqkd_cli.recipe.learning_rate import SCHEDULES, rate_factor
    from freqkd_cli.recipe.sections import Train

    assert get_args(get_type_hints(Train)["schedule"]) == tuple(SCHEDULES)
    assert describe.schema()["properties"]["train"]["properties"]["schedule"]["enum"] == [
        *SCHEDULES
    ]
    for kind in SCHEDULES:
        rates = [rate_factor(step, 40, kind=kind, warmup=0.1) for step in range(40)]
        assert all(0 < rate <= 1 for rate in rates) and rates[0] < max(rates)


def test_arguments_are_described_from_signature_and_docstring():
    rows = {row["name"]: row for row in describe.arguments("models", "fast_scnn")}
    assert rows["width"] == {
        "name": "width",
        "type": "float > 0 <= 4",
        "required": False,
        "default": 1.0,
        "about": rows["width"]["about"],
    }
    assert "multiples of 8" in rows["width"]["about"] and "classes" not in rows
    band = {row["name"]: row for row in describe.arguments("losses", "band")}
    assert band["student"]["required"] and "default" not in band["student"]
    assert band["filter_side"]["type"] == "both | teacher | student"
    basis = {row["name"]: row["about"] for row in describe.arguments("losses", "graph_basis")}
    assert basis["rank"] == "number of modes, by their energy or always 10."  # of a dataclass
