"""Results on standard output: tables, JSON documents, and the paths that commands will write."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from freqkd_cli import recipe as recipes
from freqkd_cli.commands import _output, export
from freqkd_cli.commands._exporting import export_command
from freqkd_cli.commands.teacher_dump import _choices
from freqkd_cli.errors import FreqKDError, RecipeError, UsageError
from freqkd_cli.runtime.logs import log_to_stderr


def test_results_are_valid_json_whatever_they_contain(capsys):
    import numpy as np

    result = {
        "nan": float("nan"),
        "path": Path("a"),
        "array": np.array([1.5, np.inf]),
        "number": np.float32(0.5),
        3: (1, None, True),
    }
    _output.print_result(result, True, str)
    printed = capsys.readouterr()
    expected = {"nan": None, "path": "a", "array": [1.5, None], "number": 0.5, "3": [1, None, True]}
    assert json.loads(printed.out) == expected and printed.err == ""


def test_columns_align_and_cut_nothing():
    assert _output.columns([("a", 1), ("long name", 200)]) == "a            1\nlong name  200"
    assert _output.columns([]) == "" and "x" * 500 in _output.columns([("x" * 500,)])


def test_the_forms_of_a_cache_have_headings_that_name_what_is_compared():
    """They were error, cosine and of."""
    loss = {"relative_error": 0.25, "gradient_cosine": 0.5}
    row = {"content": "taps", "dtype": "int8", "scores": None, "bytes": 2**20}
    row |= {"bytes_per_view": 1024, "seconds": 1.0, "losses": {"kl": loss}}
    heading, line = _choices([row]).splitlines()
    assert heading.split("  ")[-3:] == ["largest loss error", "lowest gradient cosine", "of loss"]
    assert line.split()[-3:] == ["2.5e-01", "0.50000", "kl"]


def test_columns_take_a_generator():
    """The rows are read twice; a generator gave an empty second reading and a ValueError."""
    rows = [("a", 1), ("b", 20)]
    assert _output.columns(row for row in rows) == _output.columns(rows)
    assert _output.columns(iter([])) == ""


@pytest.mark.parametrize("width", [40, 60])
def test_tables_wrap_to_the_terminal_and_lose_no_word(monkeypatch, width):
    words = " ".join(f"word{i}" for i in range(30))
    rows = [("name", "description", "count"), ("band", words, 7), ("kl", "short", 12345)]
    arguments = [
        {"name": "cutoff", "type": "float", "required": False, "default": 0.25, "about": words}
    ]
    piped = _output.columns(rows), _output.argument_table(arguments)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    wrapped = _output.columns(rows), _output.argument_table(arguments)
    for pipe, terminal in zip(piped, wrapped, strict=True):
        assert max(map(len, pipe.splitlines())) > 150
        assert max(map(len, terminal.splitlines())) <= width
        assert sorted(pipe.split()) == sorted(terminal.split())
    assert wrapped[0].splitlines()[1].endswith("    7")  # numbers stay flush right
    narrow = [("a", 1), ("long name", 200)]
    assert _output.columns(narrow) == "a            1\nlong name  200"


def test_a_table_of_many_columns_is_cut_into_tables_that_fit(monkeypatch):
    """Before, each word was broken into columns of two letters."""
    rows = [
        ("class", *(f"number {i}" for i in range(12))),
        ("road", *(f"{i}.00" for i in range(12))),
    ]
    more = [("mIoU", "1.00")]
    assert _output.blocks(rows, more) == [[*rows, ("",), *more]]  # piped
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    *tables, last = _output.blocks(rows, more)
    assert last == more and [row[0] for table in tables for row in table] == ["class", "road"] * 3
    assert [cell for table in tables for cell in table[1][1:]] == list(rows[1][1:])
    lines = "\n".join(map(_output.columns, tables)).splitlines()
    assert len(lines) == 6 and max(map(len, lines)) <= 50


def test_check_parents_takes_the_root_folder():
    """The root has no parents; looking for the nearest one raised StopIteration."""
    _output.check_parents("--out", Path("/"))


def test_paths_that_cannot_be_written_are_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    _output.check_parents("--out", tmp_path / "new" / "folder")
    with pytest.raises(UsageError, match="which is a file"):
        _output.check_parents("--out", file / "below")
    with pytest.raises(UsageError, match="is not UTF-8"):
        _output.check_parents("--out", tmp_path / os.fsdecode(b"caf\xe9"))
    _output.check_file("--png", tmp_path / "a.png", ".png")
    for path in (tmp_path / "a.jpg", file / "a.png"):
        with pytest.raises(UsageError, match="--png"):
            _output.check_file("--png", path, ".png")


def test_a_file_in_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(FreqKDError, match="--png .*a.png cannot be written"):
        _output.check_file("--png", tmp_path / "new/a.png", ".png")


def test_the_log_goes_to_stderr_by_level(capsys):
    lines = {-2: [], -1: ["warning: w"], 0: ["i", "warning: w"], 1: ["d", "i", "warning: w"]}
    for verbosity, expected in lines.items():
        log_to_stderr(verbosity)
        log = logging.getLogger("freqkd_cli.somewhere")
        log.debug("d"), log.info("i"), log.warning("w")
        printed = capsys.readouterr()
        assert printed.err.splitlines() == expected and printed.out == ""
    logging.getLogger("freqkd_cli").handlers.clear()


def test_commands_that_a_message_offers_are_quoted_for_a_shell():
    """A folder with a space in its name was two words."""
    assert export_command(Path("my run")) == "freqkd export 'my run' --format onnx"
    assert export._next("onnx", Path("a b.onnx"), {}).startswith("freqkd predict 'a b.onnx' PHOTOS")
    with pytest.raises(RecipeError, match="freqkd sweep 'my plan.yaml' --out DIR"):
        recipes.loads("recipes: [a]", "my plan.yaml")


def test_what_is_not_known_has_no_part_in_a_table_of_facts():
    """The baseline in ``distill --baseline --dry-run`` had ``bands None``."""
    result = {"steps": 5, "bands": None, "baseline": {"steps": 5, "bands": None, "miou": 0.5}}
    assert _output.facts(result) == "steps     5\nbaseline  steps 5, miou 50.00"
