"""Standard streams: closed, full, narrow or without a reader, they never give a traceback."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in ``folder``, in which ``freqkd`` is this tree."""
    line = f'freqkd() {{ "{sys.executable}" -m freqkd_cli "$@"; }}; {command}'
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, timeout=60
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("freqkd recipe list >&-", 0),
        ("freqkd recipe list --json >&- 2>&-", 0),
        ("freqkd --help >&-", 0),
        ("freqkd zoo nosuch 2>&-", 2),
        ("freqkd recipe check - <&- 2>/dev/null", 2),
    ],
)
def test_closed_streams_are_the_null_device(tmp_path, command, code):
    done = shell(command, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_a_file_does_not_take_the_number_of_a_closed_stream(tmp_path):
    """Without a null device there, the first file that is opened would be standard output."""
    assert shell("freqkd recipe copy fastscnn_ce mine.yaml >&-", tmp_path).returncode == 0
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8").startswith("# yaml-language")


@pytest.mark.parametrize("command", ["recipe list", "--help", "zoo nosuch"])
def test_a_reader_that_closes_at_once_gives_no_complaint(tmp_path, command):
    done = shell(f"freqkd {command} 2>&1 | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert done.stderr == b"" and done.stdout in (b"0\n", b"1\n", b"2\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["recipe list --json", "--help"])
def test_a_full_disk_behind_standard_output_is_one_message(tmp_path, command):
    done = shell(f"freqkd {command} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: No space left on device\n"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("name", [NOT_UTF8, "é図"], ids=["not utf-8", "utf-8"])
def test_file_names_that_a_terminal_cannot_show_are_escaped(tmp_path, encoding, name):
    narrow = {"PYTHONIOENCODING": encoding}
    command = f"freqkd recipe copy fastscnn_ce '{name}.yaml' --overwrite"
    table = shell(command, tmp_path, **narrow)
    assert table.returncode == 0 and table.stderr == b"" and b".yaml\n" in table.stdout
    document = shell(f"{command} --json", tmp_path, **narrow)
    assert json.loads(document.stdout.decode(encoding))["path"] == f"{name}.yaml"
    missing = shell(f"freqkd recipe show '{name}'", tmp_path, **narrow)
    assert missing.returncode == 2 and missing.stderr.startswith(b"error: there is no recipe")


def test_the_c_locale_prints_other_characters_as_escapes(tmp_path):
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell("freqkd recipe copy fastscnn_ce é.yaml", tmp_path, **narrow)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.endswith(b".yaml\n")


@pytest.mark.parametrize("before", [None, b"an older copy"])
def test_a_copy_to_a_full_disk_leaves_no_half_file(tmp_path, before):
    file = tmp_path / "mine.yaml"
    if before:
        file.write_bytes(before)
    done = subprocess.run(
        [sys.executable, "-m", "freqkd_cli", "recipe", "copy", "fastscnn_ce", file, "--overwrite"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, f"error: {file}: File too large\n")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("home", [None, "/dev/null/home"])
def test_matplotlib_makes_no_noise_without_a_home(tmp_path, home):
    code = "from freqkd_cli.runtime.logs import log_to_stderr; log_to_stderr(); "
    code += "import matplotlib; matplotlib.get_cachedir()"
    names = ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)} | ({"HOME": home} if home else {})
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
