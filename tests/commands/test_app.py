"""The door: help without torch, exit codes, one message per error, stdout for the result alone."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from freqkd_cli import __version__, app, errors
from freqkd_cli.commands import _output
from freqkd_cli.runtime.logs import log_to_stderr

COMMANDS = Path(app.__file__).parent / "commands"


def commands(
    folder: Path = COMMANDS, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """The words of every command, and its file."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and not path.name.startswith("_"):
            yield (*before, path.stem.replace("_", "-")), path
        elif (path / "__init__.py").is_file():
            yield from commands(path, (path.name.replace("_", "-"),))


ALL = list(commands())


def freqkd(*words: str, **keywords) -> subprocess.CompletedProcess[str]:
    keywords = {"capture_output": True, "text": True, "timeout": 120} | keywords
    return subprocess.run([sys.executable, "-m", "freqkd_cli", *words], **keywords)


@pytest.fixture(scope="module")
def invoke():
    runner, built = CliRunner(), app.build_app()
    return lambda *words: runner.invoke(built, list(words))


def test_the_drawer_holds_the_commands():
    names = {words for words, _ in ALL}
    assert {
        ("zoo",),
        ("losses",),
        *(("recipe", verb) for verb in ("check", "show", "schema", "list", "copy")),
    } <= names


@pytest.mark.parametrize(("words", "path"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_every_command_has_help_with_a_promise_and_an_example(invoke, words, path):
    result = invoke(*words, "--help")
    assert result.exit_code == 0
    example = result.output.split("\n\n  Example:\n    ")[1].split("\n\n")[0]
    assert f"{example} ".startswith(f"freqkd {' '.join(words)} ") and "\n" not in example, (
        "no runnable example"
    )
    promise = result.output.splitlines()[2].strip()
    assert promise[0].isupper() and 15 < len(promise) < 63, "the list of commands would cut it"
    assert all(len(line) <= 80 for line in result.output.splitlines())


HEAVY = ("torch", "transformers", "numpy", "yaml", "matplotlib", "onnx", "PIL")


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from freqkd_cli.app import main
for words in {[(), *(words for words, _ in ALL)]!r}:
    try:
        main([*words, "--help"])
    except SystemExit as end:
        print(end.code, words, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stderr.splitlines()
    assert len(said) == len(ALL) + 1
    assert [line for line in said if not (line.startswith("0 ") and line.endswith(" []"))] == []


@pytest.mark.timing
@pytest.mark.parametrize(
    ("words", "limit"),
    [(["--help"], 0.4), (["recipe", "check", "--help"], 0.6)],
    ids=["freqkd", "a command"],
)
def test_help_is_quick(words, limit):
    """Processor time of a whole process, which on a quiet machine is the time a person waits; the best of a few."""
    seconds = []
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "freqkd_cli", *words], stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(used.ru_utime + used.ru_stime)
    assert min(seconds) < limit, seconds


def test_version_no_words_and_wrong_words(invoke):
    assert freqkd("--version").stdout == f"freqkd {__version__}\n"
    assert "Commands:" in invoke().output
    assert invoke("zoo", "--cuonts").exit_code == 2 and invoke("recipe", "check").exit_code == 2
    wrong = freqkd("recpe")
    assert wrong.returncode == 2 and "recipe" in wrong.stderr and wrong.stdout == ""


def planted(error: str) -> typer.Typer:
    """An app with one command that raises."""
    built = typer.Typer(pretty_exceptions_enable=False)
    settings = {"debug": False}

    @built.callback()
    def start(debug: bool = False) -> None:
        settings["debug"] = debug

    def run() -> None:
        print("half a result")
        raise eval(error)  # noqa: S307

    built.command("fail")(app._guarded(run, settings))
    return built


def family(kind: type = errors.FreqKDError) -> Iterator[type]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


def test_the_drawn_family_is_the_real_one():
    """The tree in errors.py says what the classes do."""
    drawn = dict(
        re.findall(
            r"(\w+) +(\d+) +[a-z]",
            (errors.__doc__ or "").replace("Missing           4", "Missing  4 x"),
        )
    )
    real = {kind.__name__: str(kind.exit_code) for kind in family()}
    assert drawn.items() <= real.items() and set(real) - set(drawn) <= {"UnknownName", "Missing"}, (
        drawn,
        real,
    )


@pytest.mark.parametrize("kind", list(family()), ids=lambda kind: kind.__name__)
def test_each_error_of_the_family_is_one_message_and_its_code(kind):
    result = CliRunner().invoke(
        planted(f"errors.{kind.__name__}('it broke', got='this', need='that', tip='so')"), ["fail"]
    )
    assert result.exit_code == kind.exit_code
    assert result.stderr == "error: it broke\n  got  this\n  need that\n  try  so\n"
    assert result.stdout == "half a result\n"


def test_debug_shows_the_traceback_and_keeps_the_code():
    result = CliRunner().invoke(planted("errors.DataMissing('no data')"), ["--debug", "fail"])
    assert result.exit_code == 4 and "Traceback" in result.stderr and "no data" in result.stderr


def test_debug_may_stand_anywhere():
    for words in (["--debug", "zoo", "nothing"], ["zoo", "nothing", "--debug"]):
        shown = freqkd(*words)
        assert shown.returncode == 2 and "Traceback" in shown.stderr and shown.stdout == ""


def test_interrupt_is_130_and_a_bug_keeps_its_traceback():
    result = CliRunner().invoke(planted("KeyboardInterrupt()"), ["fail"])
    assert result.exit_code == 130 and "Traceback" not in result.stderr
    result = CliRunner().invoke(planted("ZeroDivisionError('a bug')"), ["fail"])
    assert result.exit_code == 1 and isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS])
def test_what_the_system_refuses_is_one_message(code):
    result = CliRunner().invoke(
        planted(f"OSError({code}, {os.strerror(code)!r}, '/some/file')"), ["fail"]
    )
    assert result.exit_code == 1 and result.stderr == f"error: /some/file: {os.strerror(code)}\n"


def test_a_missing_file_that_nobody_foresaw_is_a_bug():
    result = CliRunner().invoke(planted("FileNotFoundError(2, 'No such file', 'x')"), ["fail"])
    assert isinstance(result.exception, FileNotFoundError)


def test_a_reader_that_leaves_early_hears_no_complaint():
    """``freqkd ... | head -c 1``: no traceback, nothing on stderr."""
    code = "from tests.commands.test_app import planted; planted('[print(n) for n in range(100_000)]')()"
    words = [sys.executable, "-c", code, "fail"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert said == b""


def test_zoo_and_losses_are_lists_with_names(invoke):
    for word, drawer in (("zoo", "models"), ("losses", "losses")):
        result = invoke(word, "--json")
        assert result.exit_code == 0 and result.stderr == ""
        rows = json.loads(result.stdout)
        assert [row["name"] for row in rows] == list(app_names(drawer)) and all(
            row["about"] for row in rows
        )
        assert all(
            {"name", "type", "required", "about"} <= set(argument)
            for row in rows
            for argument in row["arguments"]
        )
    assert [line.split()[0] for line in invoke("losses").stdout.splitlines()] == [
        row["name"] for row in rows
    ]


def app_names(drawer: str) -> tuple[str, ...]:
    from freqkd_cli import registry

    return registry.names(drawer)


def test_zoo_counts_parameters_and_lists_taps(invoke):
    (row,) = json.loads(invoke("zoo", "fast_scnn", "--counts", "--json").stdout)
    taps = {tap["name"]: tap for tap in row["taps"]}
    assert taps["encoder"]["stride"] == 32 and taps["stage4"]["alias"] == "encoder"
    from freqkd_cli.models import fast_scnn

    real = sum(parameter.numel() for parameter in fast_scnn.build(classes=19).parameters())
    assert row["parameters"] == {"": real}
    assert "1,1" in invoke("zoo", "fast_scnn", "--counts").stdout


def test_zoo_knows_the_size_of_segformer_b0():
    """As many parameters as transformers' own model with its default configuration, which is b0."""
    import torch
    import transformers

    from freqkd_cli.commands import zoo
    from freqkd_cli.models import segformer

    with torch.device("meta"):
        theirs = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(num_labels=19)
        )
    ours = zoo._built(segformer, "b0", [{"name": "weights"}], "meta")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    "words", ["zoo fast_scn", "losses bnad", "recipe copy quikstart", "recipe show /no/x.yaml"]
)
def test_an_unknown_name_is_a_usage_error(invoke, words):
    result = invoke(*words.split())
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and result.stdout == ""


RECIPE = """\
# A question?
version: 1
data: {name: scenes, size: [64, 96]}
student: {name: fast_scnn}
losses: [{name: cross_entropy}]
train: {steps: 2}
"""


def test_recipe_check_tells_all_problems_of_all_files(invoke, tmp_path):
    good, bad, worse = (tmp_path / name for name in ("good.yaml", "bad.yaml", "worse.yaml"))
    good.write_text(RECIPE, encoding="utf-8")
    bad.write_text(
        RECIPE.replace("steps", "stesp").replace("fast_scnn", "fast_scn"), encoding="utf-8"
    )
    worse.write_text("a: [", encoding="utf-8")
    result = invoke("recipe", "check", str(good))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{good}: ok\n", "")
    result = invoke("recipe", "check", str(good), str(bad), str(worse))
    assert result.exit_code == 2 and result.stdout == f"{good}: ok\n"
    for place in (f"{bad}:4:17 student.name", f"{bad}:6:9 train.stesp", f"{worse}:1:"):
        assert place in result.stderr
    rows = json.loads(invoke("recipe", "check", str(good), str(bad), "--json").stdout)
    assert [(row["ok"], len(row["problems"])) for row in rows] == [(True, 0), (False, 3)]
    result = invoke("recipe", "check", str(good), "--set", "train.lr=on")
    assert result.exit_code == 2 and "--set train.lr=on: got 'on', need a number" in result.stderr


def test_recipe_show_prints_what_can_be_read_again(invoke, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    shown = invoke("recipe", "show", str(file), "--set", "train.lr=5e-4")
    assert shown.exit_code == 0 and "  lr: 0.0005\n" in shown.stdout
    again = tmp_path / "again.yaml"
    again.write_text(shown.stdout, encoding="utf-8")
    assert invoke("recipe", "show", str(again)).stdout == shown.stdout
    assert (
        json.loads(invoke("recipe", "show", str(again), "--json").stdout)["train"]["lr"] == 0.0005
    )
    warned = invoke(
        "recipe",
        "show",
        str(file),
        "--set",
        "losses.0={name: feature, student: encoder, teacher: stage4}",
    )
    assert warned.stderr.startswith("warning: no cross_entropy") and "warning" not in warned.stdout


def test_recipe_list_and_copy(invoke, tmp_path, monkeypatch):
    from freqkd_cli.recipe import shipped

    store = tmp_path / "store"
    store.mkdir()
    (store / "one.yaml").write_text(
        "# yaml-language-server: $schema=x\n" + RECIPE, encoding="utf-8"
    )
    monkeypatch.setattr(shipped, "folder", lambda: store)
    monkeypatch.chdir(tmp_path)
    assert invoke("recipe", "list").stdout == "one  A question?\n"
    assert json.loads(invoke("recipe", "list", "--json").stdout)[0]["name"] == "one"
    assert invoke("recipe", "copy", "one").stdout == "one.yaml\n"
    assert (tmp_path / "one.yaml").read_bytes() == (store / "one.yaml").read_bytes()
    (tmp_path / "one.yaml").write_text("mine", encoding="utf-8")
    again = invoke("recipe", "copy", "one")
    assert again.exit_code == 2 and "is there already" in again.stderr
    assert (tmp_path / "one.yaml").read_text(encoding="utf-8") == "mine"
    assert invoke("recipe", "copy", "one", "no/folder/x.yaml").exit_code == 2
    (tmp_path / "sub").mkdir()
    assert invoke("recipe", "copy", "one", "sub").stdout == f"{Path('sub/one.yaml')}\n"
    assert invoke("recipe", "copy", "one", "--overwrite").exit_code == 0


def test_recipe_schema_is_one_json_document(invoke):
    result = invoke("recipe", "schema")
    assert result.exit_code == 0 and json.loads(result.stdout)["title"] == "freqkd recipe"


def test_completion_knows_models_losses_and_commands():
    def complete(line: str) -> list[str]:
        extra = {
            "_FREQKD_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        }
        return freqkd("", env=os.environ | extra).stdout.split()

    assert "zoo" in complete("freqkd zo")
    assert complete("freqkd zoo fast_") == ["fast_scnn"]
    assert "logit_kl" in complete("freqkd losses lo")


def test_results_are_valid_json_whatever_they_hold(capsys):
    import numpy as np

    result = {
        "nan": float("nan"),
        "path": Path("a"),
        "array": np.array([1.5, np.inf]),
        "number": np.float32(0.5),
        3: (1, None, True),
    }
    _output.print_result(result, True, str)
    out = capsys.readouterr()
    assert (
        json.loads(out.out)
        == {"nan": None, "path": "a", "array": [1.5, None], "number": 0.5, "3": [1, None, True]}
        and out.err == ""
    )


def test_columns_align_and_cut_nothing():
    assert _output.columns([("a", 1), ("long name", 200)]) == "a            1\nlong name  200"
    assert _output.columns([]) == "" and "x" * 500 in _output.columns([("x" * 500,)])


def test_the_log_goes_to_stderr_by_level(capsys):
    import logging

    for verbosity, told in (
        (-1, ["warning: w"]),
        (0, ["i", "warning: w"]),
        (1, ["d", "i", "warning: w"]),
    ):
        log_to_stderr(verbosity)
        log = logging.getLogger("freqkd_cli.somewhere")
        log.debug("d"), log.info("i"), log.warning("w")
        out = capsys.readouterr()
        assert out.err.splitlines() == told and out.out == ""
    logging.getLogger("freqkd_cli").handlers.clear()
