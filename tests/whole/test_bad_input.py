"""Wrong input on the command line: one message, the right exit code, no half result."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from console import Result, console
from PIL import Image
from tips import alternatives

from freqkd_cli import app

ROOT = Path(__file__).resolve().parents[2]
SCENES = "name: scenes, size: [64, 64], length: 4, held_out: 2"
TEACHER = "teacher: {name: segformer, weights: embedded}\n"
HIGH = "  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}\n"
RECIPE = f"""\
version: 1
data: {{{SCENES}, views: 1, workers: 0}}
{TEACHER}student: {{name: fast_scnn, width: 0.25}}
losses:
  - {{name: cross_entropy}}
{HIGH}train: {{epochs: 2, batch_size: 2}}
"""
FOLDER = (SCENES, "name: folder, size: [64, 64]")
ALONE = ((TEACHER, ""), (HIGH, ""))


@pytest.fixture
def freqkd(tmp_path, monkeypatch, capfd):
    """Return a function that runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return console(monkeypatch, capfd)


def recipe(*changes: tuple[str, str], name: str = "r.yaml") -> str:
    """Write the good recipe with some text replaced; return its file name."""
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    Path(name).write_text(text, encoding="utf-8")
    return name


def refused(result: Result, code: int, *parts: str) -> None:
    """Assert one message that contains all ``parts``, this exit code, and an empty stdout."""
    assert result.code == code, result
    assert result.out == ""
    assert (
        result.err.startswith("error: ")
        and result.err.count("error:") == 1
        and "Traceback" not in result.err
    ), result.err
    for part in parts:
        assert part in result.err, result.err
    after = result.err.splitlines()[1:]
    assert all(line.startswith("  ") for line in after), result.err


def example_data(root: Path, number: int = 4) -> Path:
    """Make a folder data set of noise with three classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(number):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(image).save(
                root / "images" / split / f"p{i}.{'jpg' if i % 2 else 'png'}"
            )
            Image.fromarray(rng.integers(0, 3, (64, 64), dtype=np.uint8)).save(
                root / "masks" / split / f"p{i}.png"
            )
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    return root


def test_all_mistakes_of_a_recipe_are_reported_at_once_with_their_places(freqkd):
    text = recipe(
        ("cutoff: 0.4", "cutof: 0.4"), ("width: 0.25", "width: wide"), ("epochs: 2", "epochs: 1.5")
    )
    places = (
        "r.yaml:4:35 student.width: got 'wide', need a number",
        "r.yaml:7:76 losses.1.cutof: unknown key, did you mean 'cutoff'?",
        "r.yaml:8:17 train.epochs: got 1.5, need a whole number",
    )
    for words in (
        ["distill", text, "--out", "a"],
        ["teacher-dump", text, "--out", "a"],
        ["recipe", "check", text],
        ["recipe", "show", text],
    ):
        refused(freqkd(*words), 2, *places)
    assert os.listdir() == [text]


def test_unknown_taps_empty_bands_and_odd_sizes_are_reported_at_once(freqkd):
    changed = HIGH.replace("student: decoder", "student: decodr") + HIGH.replace(
        "high", "low"
    ).replace("0.4", "0.01")
    text = recipe((HIGH, changed), ("[64, 64]", "[64, 80]"))
    for words in (
        ["distill", text, "--out", "a"],
        ["teacher-dump", text, "--out", "a"],
        ["recipe", "check", text],
    ):
        result = freqkd(*words)
        refused(
            result,
            2,
            "3 problems in r.yaml",
            "r.yaml:2:22 data.size: both sides must be multiples of 32",
            "got [64, 80]; try --set 'data.size=[64, 64]'",
            "r.yaml:7:37 losses.1.student: the student 'fast_scnn' has no tap 'decodr', "
            "did you mean 'decoder'?; need one of stage1",
            "r.yaml:8:82 losses.2.cutoff: the low band of student 'decoder' and teacher 'decoder' "
            "is empty",
        )
        assert len(result.err.splitlines()) == 4
    assert os.listdir() == [text]


@pytest.mark.parametrize(("band", "cutoff"), [("low", "0.3"), ("high", "1.3")])
def test_a_band_that_is_empty_on_a_coarse_tap_lists_the_usable_cutoffs(freqkd, band, cutoff):
    """Stride 32 leaves 2x2 cells of 64x64 pixels; the offered cutoffs pass the check."""
    line = (
        HIGH.replace("decoder, teacher: decoder", "encoder, teacher: stage4")
        .replace("band: high", f"band: {band}")
        .replace("0.4", cutoff)
    )
    result = freqkd("recipe", "check", recipe((HIGH, line)))
    refused(
        result,
        2,
        f"losses.1.cutoff: the {band} band of student 'encoder' and teacher 'stage4' is empty",
        "; got 2x2 cells",
        "; try a cutoff from",
    )
    smallest, largest = result.err.split("try a cutoff from ")[1].split()[0:3:2]
    for offered in (smallest, largest):
        assert (
            freqkd("recipe", "check", "r.yaml", "--set", f"losses.high.cutoff={offered}").code == 0
        )


@pytest.mark.parametrize("command", ["distill", "teacher-dump"])
def test_missing_data(freqkd, command):
    camvid = recipe((SCENES, "name: camvid, size: [64, 64]"), name="camvid.yaml")
    folder = recipe(FOLDER, name="folder.yaml")
    refused(
        freqkd(command, camvid, "--out", "a"),
        4,
        "camvid needs the folder of the data set",
        "trainannot",
        "--data-root DIR",
    )
    refused(
        freqkd(command, camvid, "--out", "a", "--data-root", "nowhere"),
        4,
        "nowhere",
        "no such folder",
    )
    refused(
        freqkd(command, folder, "--out", "a"),
        4,
        "the data set 'folder' needs the folder of your images",
        "--data-root DIR",
    )
    refused(
        freqkd(command, folder, "--out", "a", "--data-root", "nowhere"),
        4,
        "nowhere",
        "images/{train,val,test}",
    )
    Path("empty").mkdir()
    refused(
        freqkd(command, folder, "--out", "a", "--data-root", "empty", "--dry-run"),
        4,
        "no split 'train' in empty",
        "an empty folder",
    )
    assert not Path("a").exists()


def test_a_recipe_can_be_checked_before_its_data_is_there(freqkd):
    for name, changes in (("taught.yaml", ()), ("alone.yaml", ALONE)):
        text = recipe(FOLDER, *changes, name=name)
        assert freqkd("recipe", "check", text) == Result(
            0, f"{name}: ok\n", freqkd("recipe", "check", text).err
        )
        refused(
            freqkd("distill", text, "--out", "a", "--data-root", "nowhere"),
            4,
            "there is no folder nowhere",
        )
    refused(
        freqkd("recipe", "check", "alone.yaml", "--set", "student.width=0"),
        2,
        "--set student.width=0",
    )


@pytest.mark.parametrize(("workers", "bad"), [(0, "p3.jpg"), (1, "p2.png")])
def test_a_truncated_image_ends_an_epoch_and_is_named(freqkd, workers, bad):
    root = example_data(Path("data"))
    text = recipe(FOLDER, *ALONE)
    broken = root / "images" / "train" / bad
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    words = [
        "distill",
        text,
        "--out",
        "a",
        "--data-root",
        "data",
        "-q",
        "--set",
        f"data.workers={workers}",
    ]
    refused(freqkd(*words), 1, f"cannot read data/images/train/{bad}", "truncated")
    assert not {"summary.json", "model.safetensors", "config.json"} & set(os.listdir("a"))
    for command in ("eval", "compare", "export"):
        refused(
            freqkd(command, "a", "-q"),
            4,
            "a contains no model yet",
            "--out a --resume",
        )
    assert freqkd("spectrum", "a", "-q").code == 2
    broken.write_bytes(whole)
    refused(freqkd(*words), 2, "--out a is not empty", "--resume")
    assert freqkd(*words, "--resume", "--json").code == 0
    assert json.loads(Path("a/summary.json").read_text())["steps"] == 4


def test_a_truncated_image_leaves_an_unfinished_cache(freqkd):
    root = example_data(Path("data"))
    text = recipe(FOLDER)
    broken = root / "images" / "train" / "p3.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    words = ["teacher-dump", text, "--out", "c", "--data-root", "data", "-q"]
    refused(freqkd(*words), 1, "cannot read data/images/train/p3.jpg")
    assert not Path("c/index.json").exists()
    for more in ([], ["--dry-run"]):
        refused(
            freqkd("distill", text, "--out", "a", "--cache", "c", "--data-root", "data", *more),
            2,
            "the cache c is unfinished",
            "--resume",
        )
    refused(freqkd(*words), 2, "--out c is not empty", "--resume")
    assert not Path("a").exists()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (
            np.full((64, 64), 7, np.uint8),
            "contains label values that belong to no class\n  got  7\n  need 0 .. 2, or 255",
        ),
        (
            np.full((64, 64, 3), (9, 0, 0), np.uint8),
            "is not a label image\n  got  the color #090000\n",
        ),
        (
            np.zeros((32, 64), np.uint8),
            "and its image p1.jpg differ in size\n  got  32x64 (height x width)\n  need 64x64",
        ),
        (b"", "cannot read data/masks/train/p1.png"),
        (None, "have no mask\n  got  no p1 in data/masks/train"),
    ],
    ids=["value", "colors", "size", "empty", "absent"],
)
def test_unusable_masks_are_named(freqkd, mask, expected):
    path = example_data(Path("data")) / "masks" / "train" / "p1.png"
    path.unlink()
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    elif mask is not None:
        Image.fromarray(mask).save(path)
    refused(
        freqkd("distill", recipe(FOLDER, *ALONE), "--out", "a", "--data-root", "data", "-q"),
        1,
        "data/masks/train",
        expected,
    )
    assert not Path("a/model.safetensors").exists() and not Path("a/summary.json").exists()


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A finished cache of the good recipe."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "r.yaml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        app.main(["teacher-dump", str(folder / "r.yaml"), "--out", str(folder / "c"), "-q"])
    assert ended.value.code == 0
    return folder / "c"


def test_a_cache_of_something_else_is_refused_field_by_field(freqkd, cache):
    text = recipe()
    sets = [
        "--set",
        "data.view_seed=3",
        "--set",
        "teacher.weights=null",
        "--set",
        "teacher.variant=mini",
    ]
    fields = ("  teacher.weights_sha256: cached", "  views.view_seed: cached 0, wanted 3")
    again = f"  try  freqkd teacher-dump r.yaml --out {cache}-new {' '.join(sets)}"
    for more in ([], ["--dry-run"]):
        result = freqkd("distill", text, "--out", "a", "--cache", cache, *sets, *more)
        warning, _, error = result.err.partition("\n")
        assert "no weights" in warning
        refused(replace(result, err=error), 2, "these fields differ", *fields, again)
    refused(
        freqkd("distill", text, "--out", "a", "--cache", cache, "--set", "data.views=0"),
        2,
        "endless views",
        "data.views=1",
    )
    refused(
        freqkd("distill", text, "--out", "a", "--cache", cache, "--set", "losses.high.weight=0"),
        2,
        "needs no cache",
    )
    refused(
        freqkd("distill", text, "--out", "a", "--cache", "nowhere"),
        4,
        "there is no cache in nowhere",
        "freqkd teacher-dump",
    )
    refused(
        freqkd("distill", text, "--out", "a", "--cache", "nowhere", "--dry-run"),
        4,
        "there is no cache in nowhere",
    )
    refused(
        freqkd("teacher-dump", text, "--out", cache, "--verify", 1, *sets[:2]), 2, "views.view_seed"
    )
    assert not Path("a").exists()


def test_the_command_that_is_offered_instead_of_a_cache_runs(freqkd):
    example_data(Path("data"))
    text = recipe(FOLDER)
    assert freqkd("teacher-dump", text, "--out", "c", "--data-root", "data", "-q").code == 0
    words = [
        "distill",
        text,
        "--out",
        "a",
        "--data-root",
        "data",
        "--seed",
        3,
        "--set",
        "data.view_seed=3",
        "-q",
        "--cache",
    ]
    result = freqkd(*words, "c")
    offered = (
        f"freqkd teacher-dump {text} --out c-new --set data.view_seed=3 --data-root data --seed 3"
    )
    refused(result, 2, "views.view_seed: cached 0, wanted 3", f"  try  {offered}\n")
    assert freqkd(*shlex.split(offered)[1:], "-q").code == 0
    assert freqkd(*words, "c-new").code == 0
    result = freqkd(
        "teacher-dump",
        text,
        "--out",
        "c",
        "--data-root",
        "data",
        "--limit",
        2,
        "--set=data.view_seed=3",
        "--verify",
        1,
        "-q",
    )
    refused(
        result,
        2,
        f"  try  freqkd teacher-dump {text} --out c-new --set data.view_seed=3 --data-root data "
        "--limit 2\n",
    )


def test_one_q_keeps_warnings_and_two_do_not(freqkd):
    root = example_data(Path("data"))
    for mask in root.glob("masks/*/*.png"):
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(mask)
    words = [
        "distill",
        recipe(FOLDER, ("  - {name: cross_entropy}\n", "")),
        "--data-root",
        "data",
        "--out",
    ]
    result = freqkd(*words, "a", "-q")
    assert result.code == 0 and all(
        line.startswith("warning: ") for line in result.err.splitlines()
    )
    for expected in ("cross_entropy", "no pixel of any class"):
        assert expected in result.err
    assert freqkd(*words, "b", "-qq").err == ""


def test_an_out_that_is_not_empty_stays_unchanged(freqkd, cache):
    text = recipe()
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    for command in ("distill", "teacher-dump"):
        refused(freqkd(command, text, "--out", "mine"), 2, "mine")
        refused(freqkd(command, text, "--out", "mine", "--overwrite"), 2, "mine")
        refused(
            freqkd(command, text, "--out", "mine", "--resume", "--overwrite"), 2, "give one of them"
        )
        refused(
            freqkd(command, text, "--out", text),
            2,
            f"{text} is a file" if command == "distill" else text,
        )
    assert os.listdir("mine") == ["notes.txt"]
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    refused(
        freqkd("teacher-dump", text, "--out", cache), 2, "it contains a finished cache", "--verify"
    )
    refused(freqkd("distill", text, "--out", cache, "--overwrite"), 2, "is no run of freqkd")
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before


def test_weights_that_are_missing_or_of_another_model(freqkd):
    text = recipe()
    Path("torn").mkdir()
    embedded = ROOT / "freqkd_cli" / "weights" / "segformer_scenes"
    shutil.copy(embedded / "config.json", "torn")
    Path("torn/model.safetensors").write_bytes((embedded / "model.safetensors").read_bytes()[:1000])
    for weights, expected in (
        ("no/folder", "no/folder is not a folder here"),
        ("torn", "torn/model.safetensors cannot be read"),
    ):
        for command in ("distill", "teacher-dump"):
            refused(
                freqkd(command, text, "--out", "a", "--set", f"teacher.weights={weights}"),
                4,
                expected,
            )
    refused(
        freqkd("distill", text, "--out", "a", "--set", "student.weights=no/folder"),
        4,
        "no/folder does not exist",
    )
    assert not Path("a").exists(), "a run that could not start left a folder"
    assert freqkd("distill", recipe(*ALONE, name="alone.yaml"), "--out", "s", "-q").code == 0
    losses = "losses=[{name: cross_entropy}, {name: logit_kl}]"
    for role, other, message in (
        ("teacher", "teacher.weights=s", "does not describe a SegFormer"),
        ("student", "student={name: fast_scnn, width: 0.5, weights: s}", "s does not fit the mod"),
        ("student", "student={name: vmamba, weights: s}", "s does not fit the model"),
    ):
        words = ("distill", text, "--out", "a", "--dry-run", "--set", losses)
        result = freqkd(*words, "--set", other)
        refused(result, 4, message)
        (tip,) = alternatives(result.err)
        assert tip[0].startswith(f"{role}={{name: fast_scnn, width: 0.25, ")
        assert freqkd(*words, "--set", tip[0]).code == 0, tip
    refused(
        freqkd("distill", text, "--out", "s", "--overwrite", "--set", "student.weights=no/folder"),
        4,
        "no/folder does not exist",
    )
    assert Path("s/model.safetensors").exists(), (
        "--overwrite threw a run away for one that could not start"
    )
    for words in (
        ["eval", "nowhere"],
        ["compare", "nowhere"],
        ["export", "nowhere"],
        ["spectrum", "nowhere"],
    ):
        refused(freqkd(*words), 4, "nowhere")
    refused(freqkd("eval", "s", "--min-miou", 100, "-q"), 3, "s is below --min-miou", "need 100.00")
    refused(freqkd("eval", "s", "--masks", text, "-q"), 2, f"--masks {text} is a file")
    for command, option in (("compare", "--picture"), ("spectrum", "--png"), ("spectrum", "--csv")):
        refused(
            freqkd(command, "s", option, "x.doc", "-q"),
            2,
            f"{option} x.doc cannot be written",
        )
        refused(
            freqkd(command, "s", option, f"{text}/x.{option[2:5].replace('pic', 'png')}", "-q"),
            2,
            "which is a file",
        )
    encoder = "student={name: smp, encoder: nope}"
    refused(
        freqkd("recipe", "check", text, "--set", encoder),
        2,
        f"--set {encoder} student.encoder: smp has no encoder 'nope'; need",
    )


def test_a_teacher_with_other_classes_is_refused_only_where_a_loss_reads_logits(freqkd):
    example_data(Path("data"))
    text = recipe(FOLDER, (HIGH, HIGH + "  - {id: kl, name: logit_kl}\n"))
    for command in ("distill", "teacher-dump"):
        result = freqkd(command, text, "--out", "a", "--data-root", "data", "-q")
        refused(
            result,
            2,
            "kl compares class scores",
            "got  12 classes: road, pavement",
            "need 3 classes: road, car, sky\n",
        )
        assert not Path("a").exists()
    for sets in (
        ["losses.kl.weight=0"],
        ["losses.kl={name: feature, student: decoder, teacher: decoder}"],
    ):
        result = freqkd(
            "distill",
            text,
            "--out",
            f"a{len(sets[0])}",
            "--data-root",
            "data",
            "-q",
            "--set",
            sets[0],
            "--set",
            "train.epochs=1",
        )
        assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta"])
def test_an_unknown_device(freqkd, name):
    refused(
        freqkd("distill", recipe(), "--out", "a", "--device", name),
        2,
        "this machine has no such device",
        f"--device {name}",
        "need cpu",
    )
    assert not Path("a").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--set", "train.batch_size=16"], "got  4"),
        (["--set", "losses.high={name: logit_kl}"], "got  12 classes"),
        (
            ["--set", "train.freeze_student=true", "--set", "losses.high.weight=0"],
            "train.freeze_student leaves nothing to train",
        ),
        (["--device", "nope"], "this machine has no such device"),
        (["--set", "student.weights=nowhere"], "nowhere does not exist"),
        (["--out", "data/classes.txt/a"], "--out data/classes.txt/a is below"),
    ],
)
def test_a_dry_run_is_refused_as_the_run_would_be(freqkd, more, expected):
    example_data(Path("data"))
    words = ["distill", recipe(FOLDER), "--out", "a", "--data-root", "data", "-q", *more]
    dry = freqkd(*words, "--dry-run")
    refused(dry, 4 if "nowhere" in expected else 2, expected)
    assert freqkd(*words) == dry and not Path("a").exists()


def test_a_folder_below_a_file_is_refused_before_any_work(freqkd):
    text = recipe()
    for command in ("distill", "teacher-dump"):
        refused(
            freqkd(command, text, "--out", f"{text}/a/b"),
            2,
            f"--out {text}/a/b is below",
            "which is a file",
            "need a folder",
        )


def test_a_run_resumes_with_another_spelling_of_its_data_folder(freqkd):
    example_data(Path("data"))
    example_data(Path("other"))
    Path("link").symlink_to("data")
    words = ["distill", recipe(FOLDER, *ALONE), "--out", "a", "-q", "--json"]
    first = json.loads(freqkd(*words, "--data-root", "data").out)
    for root in (Path("data").absolute(), "./other/../data", "link"):
        Path("a/summary.json").unlink()
        result = freqkd(*words, "--data-root", root, "--resume")
        assert result.code == 0 and json.loads(result.out)["last_miou"] == first["last_miou"], (
            result
        )
        assert "of another recipe" not in result.err
    refused(
        freqkd(*words, "--data-root", "other", "--resume"),
        2,
        "the run in a was started on other data",
        "got  data.root other",
        "need data.root",
    )
    refused(
        freqkd(*words, "--data-root", "data", "--resume", "--seed", 1),
        2,
        "another recipe",
        "train.seed 1",
    )


def test_a_killed_dump_is_unfinished_and_can_be_resumed(freqkd, monkeypatch):
    from freqkd_cli.teacher import dump_recipe

    text = recipe(("length: 4", "length: 64"), ("size: [64, 64]", "size: [64, 96]"))
    words = ["teacher-dump", text, "-q", "--resume", "--out"]
    small = "import functools, freqkd_cli.app as app, freqkd_cli.teacher.dump_recipe as room\n"
    small += (
        "room.DumpOptions = functools.partial(room.DumpOptions, shard_bytes=150_000)\napp.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", small, *words, "killed"], env=environment
    ) as child:
        late = time.monotonic() + 60
        while (
            len(list(Path("killed").glob("shard-*.safetensors"))) < 3
            and child.poll() is None
            and time.monotonic() < late
        ):
            time.sleep(0.01)
        child.kill()
    kept = {
        path.name: path.stat().st_mtime_ns for path in Path("killed").glob("shard-*.safetensors")
    }
    assert (
        child.returncode == -signal.SIGKILL
        and 3 <= len(kept) < 32
        and not Path("killed/index.json").exists()
    )
    refused(
        freqkd("distill", text, "--out", "a", "--cache", "killed"),
        2,
        "the cache killed is unfinished",
        "--resume",
    )
    refused(
        freqkd("teacher-dump", text, "--out", "killed"), 2, "--out killed is not empty", "--resume"
    )
    refused(freqkd("spectrum", "killed"), 2, "killed")
    assert not Path("a").exists()
    monkeypatch.setattr(
        dump_recipe, "DumpOptions", functools.partial(dump_recipe.DumpOptions, shard_bytes=150_000)
    )
    assert [freqkd(*words, folder).code for folder in ("killed", "whole")] == [0, 0]
    killed, whole = (
        {path.name: path.read_bytes() for path in Path(name).iterdir()}
        for name in ("killed", "whole")
    )
    assert killed == whole and len(whole) > 32
    # A shard that was in place but not yet in the index when the kill came is made again.
    assert (
        sum(Path("killed", name).stat().st_mtime_ns != stamp for name, stamp in kept.items()) <= 1
    )
