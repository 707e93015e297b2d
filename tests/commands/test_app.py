"""The command line: help without torch, exit codes, one message per error."""

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

COMMANDS = Path(app.__file__).parent / "commands"


def commands(
    folder: Path = COMMANDS, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yield the words and the file of every command."""
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


def test_the_folder_contains_the_commands():
    names = {words for words, _ in ALL}
    assert {
        ("zoo",),
        ("losses",),
        *(("recipe", verb) for verb in ("check", "show", "schema", "list", "copy")),
    } <= names


@pytest.mark.parametrize(("words", "path"), ALL, ids=[" ".join(words) for words, _ in ALL])
def test_every_command_has_help_with_a_summary_and_an_example(invoke, words, path):
    result = invoke(*words, "--help")
    assert invoke(*words, "-h").output == result.output
    assert result.exit_code == 0
    examples = result.output.split("\n\n  Example:\n")[1].split("\n\n")[0].splitlines()
    start = f"freqkd {' '.join(words)} "
    assert all(f"{line.strip()} ".startswith(start) for line in examples), "no runnable example"
    summary = result.output.splitlines()[2].strip()
    assert summary[0].isupper() and 15 < len(summary) < 63, "the list of commands would cut it"
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
    lines = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stderr.splitlines()
    assert len(lines) == len(ALL) + 1
    assert [line for line in lines if not (line.startswith("0 ") and line.endswith(" []"))] == []


@pytest.mark.timing
@pytest.mark.parametrize(
    ("words", "limit"),
    [(["--help"], 0.4), (["recipe", "check", "--help"], 0.6)],
    ids=["freqkd", "a command"],
)
def test_help_is_quick(words, limit):
    """Measures the processor time of a whole process, the best of a few."""
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


def test_version_no_arguments_and_wrong_arguments(invoke):
    assert freqkd("--version").stdout == f"freqkd {__version__}\n"
    assert "Commands:" in invoke().output and invoke("-h").output == invoke("--help").output
    assert "check" in invoke("recipe", "-h").output
    assert invoke("zoo", "--cuonts").exit_code == 2 and invoke("recipe", "check").exit_code == 2
    wrong = freqkd("recpe")
    assert wrong.returncode == 2 and "recipe" in wrong.stderr and wrong.stdout == ""


def planted(error: str) -> typer.Typer:
    """Return an app with one command that raises."""
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


def test_the_drawn_tree_of_errors_is_the_real_one():
    """The tree in the docstring of errors.py has the exit codes of the classes."""
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
def test_each_error_is_one_message_with_its_exit_code(kind):
    result = CliRunner().invoke(
        planted(f"errors.{kind.__name__}('it broke', got='this', need='that', tip='so')"), ["fail"]
    )
    assert result.exit_code == kind.exit_code
    assert result.stderr == "error: it broke\n  got  this\n  need that\n  try  so\n"
    assert result.stdout == "half a result\n"


def test_debug_shows_the_traceback_and_keeps_the_code():
    result = CliRunner().invoke(planted("errors.DataMissing('no data')"), ["--debug", "fail"])
    assert result.exit_code == 4 and "Traceback" in result.stderr and "no data" in result.stderr


def test_debug_is_accepted_anywhere():
    for words in (["--debug", "zoo", "nothing"], ["zoo", "nothing", "--debug"]):
        shown = freqkd(*words)
        assert shown.returncode == 2 and "Traceback" in shown.stderr and shown.stdout == ""


def test_an_interrupt_is_130_and_a_bug_keeps_its_traceback():
    result = CliRunner().invoke(planted("KeyboardInterrupt()"), ["fail"])
    assert result.exit_code == 130 and "Traceback" not in result.stderr
    result = CliRunner().invoke(planted("ZeroDivisionError('a bug')"), ["fail"])
    assert result.exit_code == 1 and isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS])
def test_a_refusal_of_the_system_is_one_message(code):
    result = CliRunner().invoke(
        planted(f"OSError({code}, {os.strerror(code)!r}, '/some/file')"), ["fail"]
    )
    assert result.exit_code == 1 and result.stderr == f"error: /some/file: {os.strerror(code)}\n"


TORCH_CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate "
TORCH_CPU += "memory: you tried to allocate 640000000000 bytes. Error code 12"


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "MemoryError('Unable to allocate 9.31 GiB for an array')",
        f"RuntimeError({TORCH_CPU!r})",
        "RuntimeError('std::bad_alloc')",
        "RuntimeError('[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation')",
        "OSError(12, 'Cannot allocate memory')",
        "type('OutOfMemoryError', (RuntimeError,), {})('CUDA out of memory. Tried ...')",
    ],
)
def test_memory_that_runs_out_is_one_message(error):
    result = CliRunner().invoke(planted(error), ["fail"])
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: not enough memory\n")
    assert "\n  try  " in result.stderr and "train.batch_size" in result.stderr
    assert "\n  got  " in result.stderr or error == "MemoryError()"


def test_memory_that_torch_does_not_get_is_one_message():
    result = CliRunner().invoke(planted("__import__('torch').empty(2**50)"), ["fail"])
    assert result.exit_code == 1 and result.stderr.startswith("error: not enough memory\n")


def test_other_runtime_errors_are_bugs():
    result = CliRunner().invoke(planted("RuntimeError('sizes do not match')"), ["fail"])
    assert isinstance(result.exception, RuntimeError)


NO_SUCH = [
    "distill nosuch --out x",
    "teacher-dump nosuch --out x",
    "bench nosuch",
    "data nosuch",
    "eval nosuch",
    "eval nosuch --teacher",
    "eval nosuch --recipe quickstart",
    "eval . --recipe nosuch",
    "spectrum nosuch",
    "spectrum --recipe nosuch",
    "compare nosuch",
    "export nosuch",
    "predict nosuch x --out y",
    "recipe check nosuch",
    "recipe show nosuch",
    "recipe copy nosuch",
]


def test_a_misspelt_name_is_refused_before_torch_is_imported(tmp_path):
    """Importing torch took four seconds and one gigabyte before the message."""
    code = f"""
import sys
from freqkd_cli.app import main
for words in {NO_SUCH!r}:
    try:
        main(words.split())
    except SystemExit as end:
        print(end.code, "torch" in sys.modules, words)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stderr.count("error: ") == len(NO_SUCH)
    expected = re.compile(r"[24] False .*nosuch.*")
    wrong = [line for line in done.stdout.splitlines() if not expected.fullmatch(line)]
    assert wrong == [] and os.listdir(tmp_path) == []


def test_eval_of_a_recipe_offers_its_teacher(invoke):
    result = invoke("eval", "fastscnn_kl")
    assert result.exit_code == 2 and "freqkd eval fastscnn_kl --teacher" in result.stderr


def test_an_unexpected_missing_file_is_a_bug():
    result = CliRunner().invoke(planted("FileNotFoundError(2, 'No such file', 'x')"), ["fail"])
    assert isinstance(result.exception, FileNotFoundError)


def test_a_reader_that_leaves_early_gets_no_traceback():
    """``freqkd ... | head -c 1``: nothing on stderr, exit code 1."""
    code = "from tests.commands.test_app import planted; "
    code += "planted('[print(n) for n in range(100_000)]')()"
    words = [sys.executable, "-c", code, "fail"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        errors_text = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert errors_text == b""


def test_zoo_and_losses_print_lists_with_names(invoke):
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


def test_losses_are_printed_in_groups(invoke):
    blocks = [block.splitlines() for block in invoke("losses").stdout.split("\n\n")]
    printed = {heading: [row.split()[0] for row in losses] for heading, *losses in blocks}
    assert list(printed) == ["class scores", "features", "frequency", "relations", "labels"]
    rows = json.loads(invoke("losses", "--json").stdout)
    assert printed == {
        heading: [row["name"] for row in rows if row["group"] == heading] for heading in printed
    }
    assert sorted(sum(printed.values(), [])) == list(app_names("losses"))


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


def test_zoo_counts_the_parameters_of_segformer_b0():
    """Reference: transformers' model with its default configuration, which is b0."""
    import torch
    import transformers

    from freqkd_cli.commands import zoo
    from freqkd_cli.models import segformer

    with torch.device("meta"):
        reference = transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(num_labels=19)
        )
    model = zoo._built(segformer, "b0", [{"name": "weights"}], "meta")
    counts = [sum(p.numel() for p in module.parameters()) for module in (model, reference)]
    assert counts[0] == counts[1]


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


def test_recipe_check_reports_all_problems_of_all_files(invoke, tmp_path):
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


def test_recipe_show_prints_a_recipe_that_can_be_read_again(invoke, tmp_path):
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
    assert (
        warned.stderr.startswith("warning: there is no cross_entropy")
        and "warning" not in warned.stdout
    )


def test_recipe_list_and_copy(invoke, tmp_path, monkeypatch):
    from freqkd_cli.recipe import shipped

    store = tmp_path / "store"
    store.mkdir()
    (store / "one.yaml").write_text(
        "# yaml-language-server: $schema=x\n" + RECIPE, encoding="utf-8"
    )
    (store / "plans").mkdir()
    (store / "plans" / "two.yaml").write_text("# Which one?\nversion: 1\n", encoding="utf-8")
    monkeypatch.setattr(shipped, "folder", lambda: store)
    monkeypatch.chdir(tmp_path)
    assert invoke("recipe", "list").stdout == "one  A question?\n"
    assert json.loads(invoke("recipe", "list", "--json").stdout)[0]["name"] == "one"
    assert invoke("recipe", "list", "--plan").stdout == "two  Which one?\n"
    assert invoke("recipe", "copy", "one").stdout == "one.yaml\n"
    assert (tmp_path / "one.yaml").read_bytes() == (store / "one.yaml").read_bytes()
    (tmp_path / "one.yaml").write_text("mine", encoding="utf-8")
    again = invoke("recipe", "copy", "one")
    assert again.exit_code == 2 and "exists already" in again.stderr
    assert (tmp_path / "one.yaml").read_text(encoding="utf-8") == "mine"
    assert invoke("recipe", "copy", "one", "no/folder/x.yaml").exit_code == 2
    (tmp_path / "sub").mkdir()
    assert invoke("recipe", "copy", "one", "sub").stdout == f"{Path('sub/one.yaml')}\n"
    assert invoke("recipe", "copy", "one", "--overwrite").exit_code == 0


def test_recipe_schema_is_one_json_document(invoke):
    result = invoke("recipe", "schema")
    assert result.exit_code == 0 and json.loads(result.stdout)["title"] == "freqkd recipe"


def test_completion_offers_models_losses_and_commands():
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
