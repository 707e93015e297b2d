"""Damaged recipes, caches, checkpoints and models: a FreqKDError or a whole object, never more."""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cache_fakes import Notes, bytes_of, make_job

from freqkd_cli import app
from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.cache import inspection
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import CheckpointDamaged, FreqKDError, RecipeError, WeightsMissing
from freqkd_cli.models import fast_scnn
from freqkd_cli.teacher.dump import dump
from freqkd_cli.train import checkpoint
from freqkd_cli.weights.state_dict import read_state

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
ODD = [
    "\x00",
    "\ufeff",
    "\u2028",
    "\x85",
    "é",
    "🙂",
    "\u202e",
    "\ud800",
    "\t",
    "'",
    '"',
    "*a",
    "&a ",
    "!!python/object:os.system ",
    "<<: ",
]
ODD += ["---\n", "...", "%YAML 9.9\n", "? ", "| \n", "- ", "[[", "}}", "\\", "#", ": ", ",", "\n\n"]
NUMBERS = [
    "-1",
    "0",
    "1e308",
    "1e-308",
    "-0.0",
    ".nan",
    ".inf",
    "1e999",
    "9" * 29,
    "9" * 400,
    "0x7fffffffffffffff",
    "18446744073709551616",
]
NUMBERS += ["2147483648", "1.5", "true", "null", "[]", "{}", "''", "on", "~", "1e-400", "００７"]
VALUE = re.compile(r"(?<=: )[^\s,{}\[\]]+|(?<=[\[ ])\d+(?=[,\]])")
WORD = re.compile(r"\w+")


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    """Fail if one case takes longer."""

    def late(*_: object) -> None:
        pytest.fail(f"a case took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- recipes ---


def mutated(rng: random.Random, text: str) -> str:
    """Return a recipe with a few random changes of text, values and lines."""
    for _ in range(rng.choice([1, 1, 1, 1, 2, 4])):
        at, length, kind = rng.randrange(len(text)), rng.randint(0, 12), rng.randrange(9)
        values, words, lines = (
            list(VALUE.finditer(text)),
            list(WORD.finditer(text)),
            text.splitlines(keepends=True),
        )
        if kind == 0:
            text = text[:at] + text[at + length :]
        elif kind == 1:
            text = text[:at] + rng.choice(ODD) + text[at:]
        elif kind == 2:
            other = rng.randrange(len(text))
            text = text[:at] + text[other : other + 3 * length] + text[at:]
        elif kind in (3, 4, 5) and values:
            value = rng.choice(values)
            text = text[: value.start()] + rng.choice(NUMBERS) + text[value.end() :]
        elif kind == 6 and words:
            text = text[:at] + rng.choice(words).group() + text[at:]
        elif kind == 7:
            one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
            text = "".join(lines)
        else:
            text = (
                text[:at]
                + "".join(
                    chr(rng.randrange(1, 0xD7FF) >> rng.choice([0, 8])) for _ in range(length)
                )
                + text[at:]
            )
        text = text or "-"
    return text


def noise(rng: random.Random) -> str:
    """Return random bytes as an editor would show them."""
    return rng.randbytes(rng.randrange(1, 400)).decode(
        rng.choice(["latin-1", "utf-8", "utf-16-le"]), errors="replace"
    )


def test_two_thousand_fuzzed_recipes():
    """Each is a recipe, or a RecipeError whose every line has a place.

    A recipe that is read can be dumped, read again and checked.
    """
    rng = random.Random(20240)
    bare = [re.sub(r"(?m)^#.*\n", "", path.read_text(encoding="utf-8")) for path in RECIPES]
    keys = [
        "train.lr",
        "losses.0.weight",
        "losses.0",
        "data.size.0",
        "x",
        "losses",
        "student",
        "..",
        "data.augment",
    ]
    outcomes: Counter[str] = Counter()
    before = megabytes()
    for number in range(2000):
        text = noise(rng) if number % 10 == 0 else mutated(rng, rng.choice(bare))
        sets = [f"{rng.choice(keys)}={rng.choice(text)}"] if rng.random() < 0.1 else []
        with in_time(60):
            try:
                recipe = recipes.loads(text, "r.yaml", sets)
            except RecipeError as error:
                outcomes["refused"] += 1
                assert error.problems and all(
                    line.startswith(("r.yaml:", "--set", "and ")) for line in error.problems
                ), text
                continue
            outcomes["read"] += 1
            if outcomes["read"] % 3 == 0:
                assert recipes.loads(recipes.dump(recipe)) == recipe
                # smp's taps need its library, which takes seconds to import
                outcomes["checked"] += recipe.student.name != "smp" and whole_plan(recipe)
    assert outcomes["read"] > 100 and outcomes["refused"] > 1000 and outcomes["checked"] > 20, (
        outcomes
    )
    assert megabytes() - before < 500


def whole_plan(recipe) -> bool:
    try:
        assemble.check(recipe, data=False)
    except FreqKDError:
        return False
    return True


BOMBS = {
    "aliases": "a: &a [x, x]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)
    ),
    "one that contains itself": "version: &v [*v]\n",
    "merge keys": "version: 1\ndata: &d {name: scenes}\nstudent: {<<: *d}\n",
    "deep lists": "[" * 50_000,
    "deep maps": "{a: " * 50_000,
    "deep indents": "".join(f"{' ' * i}a:\n" for i in range(500)),
    "dashes": "- " * 50_000,
    "a long word": "version: " + "9" * 200_000,
    "a long key": "x" * 200_000 + ": 1",
    "many keys": "".join(f"k{i}: 1\n" for i in range(20_000)),
    "too long": "#" * 10_000_000,
    "quotes": "'" * 100_001,
    "exponents": "version: 1e" + "9" * 5000,
    "escapes": 'version: "\\UFFFFFFFF"',
    "nothing": "",
    "zeros": "\x00" * 1000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_texts_made_to_exhaust_a_parser_are_refused_quickly(bomb):
    before = megabytes()
    with in_time(60), pytest.raises(RecipeError) as caught:
        recipes.loads(BOMBS[bomb], "r.yaml")
    assert len(str(caught.value)) < 10_000 and megabytes() - before < 200


HUGE = [
    "data.length",
    "data.view_seed",
    "train.seed",
    "train.epochs",
    "train.steps",
    "train.batch_size",
    "train.accumulate",
]
HUGE += ["teacher.channels.0", "teacher.depths.0", "teacher.decoder"]


@pytest.mark.parametrize("key", HUGE)
def test_numbers_too_large_for_any_machine_are_refused_at_their_place(key):
    taught = [
        "teacher.weights=null",
        "teacher.channels=[8, 8, 8, 8]",
        "teacher.depths=[1, 1, 1, 1]",
    ]
    recipes.load("quickstart", taught)
    with pytest.raises(RecipeError, match=f"{re.escape(key)}.*9223372036854775807, need at most"):
        recipes.load("quickstart", [*taught, f"{key}=9223372036854775807"])


# --- folders ---


def damage(rng: random.Random, folder: Path) -> str:
    """Damage one file of a folder, or two; return what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    path = rng.choice(files)
    data = path.read_bytes()
    kind = rng.choice(["truncated", "flipped", "edited", "swapped", "removed", "noise", "longer"])
    if kind == "truncated":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "flipped":
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
    elif kind == "edited":
        path.write_bytes(edited(rng, data))
    elif kind == "swapped":
        other = rng.choice(files)
        path.write_bytes(other.read_bytes()), other.write_bytes(data)
    elif kind == "removed":
        path.unlink()
    else:
        path.write_bytes((data if kind == "longer" else b"") + rng.randbytes(100))
    return f"{kind} {path.name}"


def edited(rng: random.Random, data: bytes) -> bytes:
    """Return data with a number or word of a text replaced, or eight bytes of anything else."""
    matches = list(re.finditer(rb'(?<=[:\[,] )-?\d+|(?<=[:\[,])-?\d+|(?<=")\w+(?=")', data[:5000]))
    if matches:
        one = rng.choice(matches)
        return (
            data[: one.start()]
            + rng.choice([b"-1", b"null", b"1e999", b"9" * 30, b"[]", b"{}", b"x", b'"x"'])
            + data[one.end() :]
        )
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(8) + data[at + 8 :]


def test_a_hundred_damaged_caches(tmp_path):
    """Each is refused, or every row is unchanged; --resume repairs it or refuses it."""
    dump(make_job(), tmp_path / "good", Notes(), shard_bytes=12_000)
    good = CacheReader(tmp_path / "good")
    items, rng, outcomes = sorted(good.items), random.Random(1), Counter()
    rows, stored = good.read(items, good.names), bytes_of(tmp_path / "good")
    for number in range(100):
        folder = Path(shutil.copytree(tmp_path / "good", tmp_path / str(number)))
        what = damage(rng, folder)
        try:
            reader = CacheReader(folder)
            read = reader.read(sorted(reader.items), reader.names)
            assert all(torch.equal(read[name], rows[name]) for name in rows), what
            outcomes["unharmed"] += 1
        except FreqKDError as error:
            outcomes[type(error).__name__] += 1
            assert len(str(error)) < 1000
        if (folder / "index.json").is_file():
            assert inspection.verify(folder)["ok"] == (bytes_of(folder) == stored), what
        try:
            dump(make_job(), folder, Notes(), mode="resume", shard_bytes=12_000)
            assert bytes_of(folder) == stored, what
            outcomes["repaired"] += 1
        except FreqKDError:
            outcomes["not repaired"] += 1
        shutil.rmtree(folder)
    assert outcomes["CacheDamaged"] > 50 and outcomes["repaired"] > 40, outcomes


def test_a_hundred_damaged_checkpoints(tmp_path, caplog):
    """The last one, the one before it with a warning, or CheckpointDamaged."""
    rng, outcomes = random.Random(2), Counter()
    for step in (1, 2):
        tensors = {
            "objective.x": torch.full((3, 5), float(step)),
            "optimizer.0.step": torch.tensor(float(step)),
        }
        checkpoint.save(
            tmp_path / "good",
            step,
            tensors,
            {"best": None, "last": {"miou": 0.5, "step": step}, "metrics_bytes": 70},
        )
    kept = {1: checkpoint._read(tmp_path / "good" / "step-00000001.safetensors", None)[1]}
    kept[2] = checkpoint.load(tmp_path / "good")[1]
    for number in range(100):
        folder = Path(shutil.copytree(tmp_path / "good", tmp_path / str(number)))
        what = [damage(rng, folder) for _ in range(rng.choice([1, 1, 2]))]
        caplog.clear()
        try:
            loaded = checkpoint.load(folder)
        except CheckpointDamaged:
            loaded = None
        if loaded is None:
            outcomes["refused"] += 1
            continue
        tensors, facts = loaded
        assert facts == kept[facts["step"]] and torch.equal(
            tensors["objective.x"], torch.full((3, 5), float(facts["step"]))
        ), what
        outcomes[facts["step"]] += 1
        assert (
            facts["step"] == 2 or caplog.records or not (folder / "step-00000002.json").exists()
        ), what
    assert min(outcomes["refused"], outcomes[1], outcomes[2]) > 5, outcomes


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_with_one_byte_changed(tmp_path, zipped):
    """Each file is read, or refused in one message, whatever torch's reader raises."""
    file, rng, refused = tmp_path / "w.pth", random.Random(6), 0
    torch.save(
        {"a": torch.ones(4), "b": torch.zeros(2, 3)}, file, _use_new_zipfile_serialization=zipped
    )
    whole = file.read_bytes()
    for _ in range(200):
        place = rng.randrange(len(whole))
        file.write_bytes(
            whole[:place] + bytes([whole[place] ^ rng.randrange(1, 256)]) + whole[place + 1 :]
        )
        try:
            read_state(file)
        except WeightsMissing:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "change",
    [
        {"id2label": ["a"]},
        {"id2label": {"a": "b"}},
        {"mean": "x"},
        {"mean": [1, 2]},
        {"arguments": {"classes": -1}},
    ],
)
def test_a_config_of_the_wrong_type_is_one_message(tmp_path, change):
    save_model(tmp_path, fast_scnn.build(classes=3, width=0.25))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsMissing, match="config.json does not describe a model"):
        load_model(tmp_path)


def test_a_hundred_damaged_models(tmp_path):
    """Each folder is refused, or is a model; damaged weights never pass their checksum."""
    rng, outcomes = random.Random(3), Counter()
    save_model(tmp_path / "good", fast_scnn.build(classes=3, width=0.25))
    for number in range(100):
        folder = Path(shutil.copytree(tmp_path / "good", tmp_path / str(number)))
        what = damage(rng, folder)
        with in_time(60):
            try:
                outcomes["read"] += load_model(folder).classes > 0
            except FreqKDError as error:
                outcomes[type(error).__name__] += 1
                assert len(str(error)) < 2000, what
        shutil.rmtree(folder)
    assert outcomes["WeightsMissing"] > 30 and outcomes["read"] > 10, outcomes


def test_through_the_command_line(tmp_path, monkeypatch, capfd):
    """On the command line: one message, exit 1, 2, 3 or 4, no result on stdout."""
    dump(make_job(), tmp_path / "good", Notes(), shard_bytes=12_000)
    save_model(tmp_path / "model", fast_scnn.build(classes=12, width=0.25))
    rng = random.Random(4)
    for number in range(12):
        cache, model = (
            Path(shutil.copytree(tmp_path / name, tmp_path / f"{name}{number}"))
            for name in ("good", "model")
        )
        damage(rng, cache), damage(rng, model)
        file = tmp_path / f"{number}.yaml"
        file.write_bytes(
            rng.choice(
                [rng.randbytes(200), mutated(rng, RECIPES[0].read_text()).encode(errors="replace")]
            )
        )
        evaluation = [
            "eval",
            str(model),
            "--recipe",
            "quickstart",
            "--limit",
            "1",
            "--set",
            "data.workers=0",
        ]
        for words in (
            ["recipe", "check", str(file)],
            ["cache", "verify", str(cache)],
            ["cache", "info", str(cache)],
            evaluation,
        ):
            monkeypatch.setattr(sys, "argv", ["freqkd", *words])
            capfd.readouterr()
            with pytest.raises(SystemExit) as ended:
                app.main()
            err = capfd.readouterr().err
            assert ended.value.code in (0, 1, 2, 3, 4) and "Traceback" not in err, (words, err)
            assert (ended.value.code == 0) == ("error:" not in err) and err.count("error:") <= 1, (
                words,
                err,
            )
