"""Every command and code block of README and docs works as it is written.

An HTML comment on the line before a block decides what is done with it:

- ``<!-- run: NAME -->``: run the shell or Python block. Blocks with one NAME share a folder and run
  in order, with small settings. ``<!-- run: slow NAME -->`` runs with ``pytest -m slow``.
- ``<!-- check-only -->``, or no comment: each ``freqkd`` line of a shell block must parse, and each
  ``make`` target exist. A Python block without a comment is run by itself.
- ``<!-- plant: FOLDER/NAME.py -->``: put the Python block there in a copy of the package.
  ``<!-- with: FOLDER/NAME.py -->``: train the recipe, or run the shell block, with that copy.
- ``<!-- skip: REASON -->``: nothing is checked.

YAML blocks are checked as plans, as recipes, or as sections of one. JSON blocks must parse.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from doc_blocks import BLOCKS, FILES, ROOT, SHELLS, Block, inline_commands, program_words
from doc_server import CLIENT

from freqkd_cli import app, registry
from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.errors import FreqKDError
from freqkd_cli.lab import plan as plans

KINDS = {*SHELLS, "python", "yaml", "json", "jsonl", "text", ""}
GROUPS = list(dict.fromkeys(block.group for block in BLOCKS if block.group))


def checked(*languages: str) -> list:
    """Return the parameters of the blocks in these languages that other tests do not handle."""
    return [
        pytest.param(block, id=block.name)
        for block in BLOCKS
        if block.language in languages and not block.mark.startswith(("skip:", "plant:", "with:"))
    ]


def test_every_block_has_a_known_language_and_mark():
    assert any(file.name == "README.md" for file in FILES) and len(BLOCKS) > 5
    marks = re.compile(r"(run|plant|with|skip): \S.*|check-only|")
    wrong = [
        f"{block.name}: language {block.language!r}, mark {block.mark!r}"
        for block in BLOCKS
        if not marks.fullmatch(block.mark)
        or (block.language not in KINDS and not block.mark.startswith("skip:"))
    ]
    assert wrong == []


def test_no_shell_block_is_unseen():
    """A block without any command that is checked needs a mark with the reason."""
    unseen = [
        block.name
        for block in BLOCKS
        if block.language in SHELLS
        and not block.group
        and not block.mark.startswith(("skip:", "with:"))
        and not [*program_words(block.text, "freqkd"), *program_words(block.text, "make")]
    ]
    assert unseen == []


# --- commands that are parsed ---


@pytest.fixture(scope="module")
def command_line():
    import typer

    return typer.main.get_command(app.build_app())


def parse(command_line, words: list[str], *, complete: bool = True) -> None:
    """Parse a command line without running it; ``complete`` also asks for required arguments."""
    command, context = command_line, command_line.make_context("freqkd", words[:0] or ["x"])
    words = list(words)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.context_class(command, info_name=name, parent=context)
        if not hasattr(command, "commands"):
            break
        words = [*command.make_parser(context).parse_args(args=words)[1]]
        if not words and not complete:
            return
    with context:
        if complete:
            context = command.make_context(context.info_name, words, parent=context.parent)
        else:
            command.make_parser(context).parse_args(args=words)


def refusal(command_line, words: list[str], *, complete: bool = True) -> str:
    """Return what is wrong with a command line, or the empty string."""
    words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in words]  # variables of the shell
    if words[:1] in (["-h"], ["--help"], ["--version"], []):
        return ""
    if not complete and words[-1].startswith("-"):
        words = [*words, "1"]  # an option that the text names without its value
    try:
        parse(command_line, words, complete=complete)
    except Exception as error:  # Typer has its own copy of Click, whose errors have no public name
        if type(error).__name__ in ("Exit", "NoArgsIsHelpError"):
            return ""
        text = error.format_message() if hasattr(error, "format_message") else error
        return f"freqkd {' '.join(words)}: {text}"
    return ""


@pytest.mark.parametrize("block", checked(*SHELLS))
def test_every_command_of_a_shell_block_parses(block, command_line):
    problems = [refusal(command_line, words) for words in program_words(block.text, "freqkd")]
    assert [problem for problem in problems if problem] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target, *_ in program_words(block.text, "make"):
        assert re.search(rf"(?m)^{re.escape(target)}:", makefile), f"make {target}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_command_in_the_text_has_real_options(file, command_line):
    problems = []
    for command in inline_commands(file):
        for words in program_words(command, "freqkd"):
            problems.append(refusal(command_line, words, complete=False))
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("distil x --out y", "No such command 'distil'"),
        ("distill quickstart", "Missing option '--out'"),
        ("distill quickstart --out a --cahce c", "No such option: --cahce"),
        ("recipe chekc a.yaml", "No such command 'chekc'"),
        ("recipe check", "Missing argument 'RECIPE'"),
        ("eval runs/a --min-miou high", "should be a valid number"),
        ("export runs/a --format tflite", "is not one of"),
        ("losses band --json", ""),
        ("recipe list", ""),
        ("--version", ""),
    ],
)
def test_a_planted_command_is_parsed(command_line, command, problem):
    text = refusal(command_line, command.split())
    assert problem in text and bool(problem) == bool(text)


# --- recipes, Python and JSON ---

BASE = {
    "version": 1,
    "data": {"name": "scenes", "size": [192, 256]},
    "teacher": {"name": "segformer", "weights": "embedded"},
    "losses": [{"name": "cross_entropy"}],
    "train": {"epochs": 1},
}
STUDENTS = ({"name": "fast_scnn"}, {"name": "vmamba", "variant": "nano"})


def check_recipe(text: str) -> str:
    """Return the problems of a recipe, or the empty string."""
    try:
        assemble.check(recipes.loads(text), data=False)
    except FreqKDError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("block", checked("yaml"))
def test_every_yaml_block_is_a_plan_or_a_recipe_or_a_part_of_one(block):
    content = yaml.safe_load(block.text)
    if "recipes" in content:
        plans.loads(block.text)
        return
    sections = {*BASE, "student"}
    if not isinstance(content, dict) or not set(content) <= sections:
        assert content is not None
    elif "version" in content:
        assert check_recipe(block.text) == ""
    else:
        whole = [json.dumps({"student": student} | BASE | content) for student in STUDENTS]
        problems = [check_recipe(text) for text in whole]
        assert "" in problems, problems[0]


@pytest.mark.parametrize("block", checked("json", "jsonl"))
def test_every_json_block_parses(block):
    for text in block.text.splitlines() if block.language == "jsonl" else [block.text]:
        json.loads(text)


@pytest.mark.parametrize("block", [p for p in checked("python") if not p.values[0].group])
def test_every_python_block_without_a_group_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.name, "exec"), {"__name__": "__doc_block__"})


# --- blocks that are run ---


@pytest.fixture(scope="module")
def path_with_freqkd(tmp_path_factory):
    """The PATH of blocks: the script ``freqkd`` sends its words to one warm process."""
    folder = tmp_path_factory.mktemp("bin")
    address = str(folder / "socket")
    client = folder / "freqkd"
    client.write_text(CLIENT.format(python=sys.executable, socket=address), encoding="utf-8")
    client.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, str(ROOT / "tests" / "helpers" / "doc_server.py"), address]
    with subprocess.Popen(words, env=environment) as server:
        try:
            wait_for(address, server)
            yield f"{folder}{os.pathsep}{os.environ['PATH']}"
        finally:
            server.kill()


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Return when the server accepts connections."""
    late = time.monotonic() + 120
    while time.monotonic() < late and server.poll() is None:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
                probe.sendall(b'{"words": ["--version"], "folder": "/"}')
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the freqkd of the blocks did not start")


def example_images(folder: Path) -> None:
    """Make the folders that docs talk about: photographs, and a small data set of one's own."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(2):
        noise = rng.integers(0, 256, (192, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "photos" / f"photo{number}.jpg")
    root = folder / "my" / "data"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(4):
            noise = rng.integers(0, 256, (192, 256, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "images" / split / f"frame{number}.jpg")
            labels = rng.integers(0, 3, (6, 8), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
            Image.fromarray(labels).save(root / "masks" / split / f"frame{number}.png")
    (root / "classes.txt").write_text("road\ncar\nsky\n", encoding="utf-8")


def run_block(block: Block, folder: Path, path: str, names: dict[str, object]) -> None:
    """Run one block in ``folder``; Python blocks of a group share their names."""
    if block.language == "python":
        with contextlib.chdir(folder):
            exec(compile(block.text, block.name, "exec"), names)
        return
    environment = os.environ | {"PATH": path, "EDITOR": "true", "HF_HUB_OFFLINE": "1"}
    words = ["bash", "-e", "-o", "pipefail", "-c", block.text]
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, f"{block.name}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, f"{block.name}\n{done.stderr}"


def run_group(group: str, folder: Path, path: str) -> None:
    example_images(folder)
    names: dict[str, object] = {"__name__": "__doc_block__"}
    blocks = [block for block in BLOCKS if block.group == group]
    assert all(block.language in (*SHELLS, "python") for block in blocks)
    for block in blocks:
        run_block(block, folder, path, names)


@pytest.fixture(scope="module")
def chain_folder(tmp_path_factory, path_with_freqkd):
    """The folder in which the five commands of the README have run."""
    folder = tmp_path_factory.mktemp("chain")
    run_group("chain", folder, path_with_freqkd)
    return folder


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=pytest.mark.slow if group.startswith("slow") else ())
        for group in GROUPS
        if group != "chain"
    ],
)
def test_the_blocks_of_a_group_run(group, tmp_path, path_with_freqkd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_group(group, tmp_path, path_with_freqkd)


CONTRACT = {
    "teacher-dump": "cache items views bytes taps seconds images_per_second",
    "distill": "run steps miou seconds images_per_second",
    "eval": "miou pixel_accuracy mean_accuracy boundary_iou per_class parameters latency_ms device "
    "images seconds",
    "spectrum": "source stages",
    "export": "file format bytes max_abs_difference argmax_agreement",
}


@pytest.mark.parametrize("command", CONTRACT)
def test_each_command_of_the_chain_prints_one_json_document(chain_folder, command):
    document = json.loads((chain_folder / ".results" / f"{command}.json").read_text())
    assert set(CONTRACT[command].split()) <= document.keys()


def test_the_documents_of_the_chain_agree(chain_folder):
    results = chain_folder / ".results"
    documents = {name: json.loads((results / f"{name}.json").read_text()) for name in CONTRACT}
    assert documents["teacher-dump"]["items"] == 16 and documents["distill"]["steps"] == 4
    assert set(documents["spectrum"]["stages"]) == {"stage3"}
    stage = documents["spectrum"]["stages"]["stage3"]
    keys = "rho power cycles_per_pixel relative_log_amplitude low_energy high_energy"
    assert set(keys.split()) <= stage.keys()
    assert stage["low_energy"] + stage["high_energy"] == pytest.approx(1, abs=1e-5)
    export = documents["export"]
    assert export["argmax_agreement"] >= 0.9999
    assert (chain_folder / export["file"]).stat().st_size == export["bytes"]


# --- parts that docs show how to write ---


def planted_tree(folder: Path, target: str) -> Path:
    """Make a package of links to this one, with the block for ``target`` as a file in it."""
    (block,) = (block for block in BLOCKS if block.mark == f"plant: {target}")
    room, file = target.split("/")
    package = folder / "freqkd_cli"
    (package / room).mkdir(parents=True)
    for source in (ROOT / "freqkd_cli").iterdir():
        if source.name != room:
            (package / source.name).symlink_to(source)
    for source in (ROOT / "freqkd_cli" / room).iterdir():
        (package / room / source.name).symlink_to(source)
    (package / room / file).write_text(block.text, encoding="utf-8")
    return folder


PLANTED = [block.mark.removeprefix("plant: ") for block in BLOCKS if block.mark.startswith("plant")]


def test_every_planted_file_is_used():
    uses = {block.mark.removeprefix("with: ") for block in BLOCKS if block.mark.startswith("with")}
    assert uses == set(PLANTED) and not [
        target for target in PLANTED if (ROOT / "freqkd_cli" / target).exists()
    ]


@pytest.mark.parametrize("target", PLANTED)
def test_a_part_of_the_docs_works(target, tmp_path):
    """A loss, model or data set trains a student; a command runs."""
    tree = planted_tree(tmp_path / "tree", target)
    code = "import sys; sys.path.insert(0, {helpers!r}); import doc_server; "
    code += "sys.exit(doc_server.run({words!r}))"
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    for block in BLOCKS:
        if block.mark != f"with: {target}":
            continue
        calls = list(program_words(block.text, "freqkd"))
        if block.language == "yaml":
            (tmp_path / "r.yaml").write_text(block.text, encoding="utf-8")
            calls = [["distill", "r.yaml", "--out", "run"]]
        for words in calls:
            line = code.format(helpers=str(ROOT / "tests" / "helpers"), words=words)
            done = subprocess.run(
                [sys.executable, "-c", line],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
            )
            assert done.returncode == 0, done.stderr


# --- names that docs promise ---


@pytest.mark.parametrize("drawer", ["losses", "metrics"])
def test_every_loss_and_metric_has_its_section_in_the_docs(drawer):
    page = ROOT / "docs" / f"{drawer}.md"
    headings = set(re.findall(r"(?m)^#+ `?(\w+)`?$", page.read_text(encoding="utf-8")))
    assert set(registry.names(drawer)) <= headings


def test_every_key_of_a_recipe_is_in_the_docs():
    from freqkd_cli.recipe.data_section import Augment
    from freqkd_cli.recipe.sections import SECTIONS

    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    keys = {key for model in SECTIONS.values() for key in model.model_fields} | {
        *Augment.model_fields
    }
    missing = [key for key in keys - {"arguments"} if not re.search(rf"\b{key}\b", text)]
    assert missing == []
