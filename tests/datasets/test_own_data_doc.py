"""docs/own-data.md: every command runs, in order, on a small folder of images and masks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from console import Result, console
from PIL import Image

from freqkd_cli.datasets import scenes
from freqkd_cli.recipe import shipped

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"

SMALL = ["data.size=[64, 64]", "data.workers=0"]
TINY = {
    ("distill", "teacher.yaml"): [
        *SMALL,
        *("student.variant=mini", "student.weights=embedded"),
        *("train.epochs=null", "train.steps=2", "train.batch_size=2", "train.warmup=0"),
    ],
    ("distill", "mine.yaml"): [
        *(*SMALL, "data.views=2", "student.width=0.25"),
        *("train.epochs=null", "train.steps=2", "train.batch_size=2"),
    ],
    ("teacher-dump", "mine.yaml"): [*SMALL, "data.views=2", "train.batch_size=2"],
    ("eval", "mine.yaml"): [*SMALL, "train.batch_size=2"],
}
"""Changes to the recipes that make a command take a second."""


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line]


@pytest.fixture
def freqkd(tmp_path, monkeypatch, capfd):
    """Run command lines in a folder with eight small images of ``scenes`` as files."""
    monkeypatch.chdir(tmp_path)
    for split, number in (("train", 6), ("val", 2)):
        data = scenes.build(split=split, size=(64, 96))
        for index in range(number):
            for kind, pixels in zip(("images", "masks"), data.read(index), strict=True):
                folder = Path("data/mine") / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{data.name(index)}.png")
    Path("data/mine/classes.txt").write_text("\n".join(scenes.CLASSES))
    return console(monkeypatch, capfd)


def test_the_page_has_all_steps():
    verbs = [words[1] for words in commands()]
    assert {words[0] for words in commands()} == {"freqkd"}
    for verb in ("datasets", "recipe", "data", "distill", "teacher-dump", "eval", "compare"):
        assert verb in verbs
    assert verbs[-2:] == ["predict", "export"]


def test_every_command_of_the_page_runs(freqkd):
    for words in commands():
        changes = TINY.get((words[1], words[2] if len(words) > 2 else ""), [])
        given = [word for change in changes for word in ("--set", change)]
        done: Result = freqkd(*words[1:], *given)
        assert done.code == 0, (words, done.err)
        assert "Traceback" not in done.err
    for path in ("samples.png", "runs/mine/model.onnx", "predictions/legend.json"):
        assert Path(path).is_file()


@pytest.mark.parametrize("name", ["starter", "starter_teacher"])
def test_a_copy_of_the_starter_recipes_keeps_their_comments(freqkd, name):
    assert freqkd("recipe", "copy", name, "copy.yaml").code == 0
    copy, original = Path("copy.yaml").read_text(), shipped.find(name).read_text()
    assert copy.splitlines()[1:] == original.splitlines()[1:]
    assert freqkd("recipe", "check", "copy.yaml").code == 0


def test_the_optional_keys_of_starter_are_right(freqkd):
    """Each commented key can be used as it stands."""
    text = shipped.find("starter").read_text()
    optional = re.findall(r"(?m)^  # (- \{.*\}|[a-z_]+: .*)$", text)
    assert len(optional) >= 10
    for line in optional:
        recipe = text.replace(f"  # {line}", f"  {line}")
        assert recipe != text
        Path("r.yaml").write_text(recipe)
        done = freqkd("recipe", "check", "r.yaml")
        assert done.code == 0, (line, done.err)
