"""``--nproc``: several processes that end as one would, with one message and its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_recipe import SMALL

from freqkd_cli.app import _report
from freqkd_cli.runtime import launch, launcher, threads

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
DISTILL = ("distill", "recipe.yaml", "--set", "teacher=null", "--nproc", "2", "--json")
LABELS = ("--set", "losses=[{name: cross_entropy}]", "--set", "train.save_every=1")

needs_two_cores = pytest.mark.skipif(threads.cores() < 2, reason="needs two CPU cores")


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "recipe.yaml").write_text(SMALL)
    return subprocess.Popen(
        [sys.executable, "-m", "freqkd_cli", *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(folder: Path, *words: str) -> tuple[int, str, str]:
    process = started(folder, *words)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def children(process: int) -> list[int]:
    """Return the processes that a process has started, in this order."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return sorted(int(number) for number in path.read_text().split())


def wait_for(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 500
    while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


@needs_two_cores
def test_a_failed_check_is_one_message_with_its_exit_code(tmp_path):
    words = ("--teacher", "--min-miou", "99.9", "--nproc", "2")
    code, out, err = finished(tmp_path, "eval", "recipe.yaml", *words)
    assert (code, out) == (3, "") and err.count("error: ") == 1, err
    assert "below --min-miou" in err and "rank" not in err and "Traceback" not in err


@pytest.mark.slow
@needs_two_cores
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_a_killed_process_and_ctrl_c_leave_a_run_to_resume(tmp_path):
    long = (*DISTILL, *LABELS, "--set", "train.epochs=null", "--set", "train.steps=400")
    process = started(tmp_path, *long, "--out", "run")
    wait_for(tmp_path, "run/state/step-*.json", process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=500)
    assert (process.returncode, out) == (1, "") and err.count("error: ") == 1, err
    assert "process 2 of 2 was killed" in err and "--resume" in err and "Traceback" not in err

    before = len(list((tmp_path / "run/state").glob("step-*.json")))
    process = started(tmp_path, *long, "--out", "run", "--resume")
    end = time.monotonic() + 500
    while "  loss " not in process.stderr.readline() and time.monotonic() < end:
        pass
    assert before
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=500)
    assert (process.returncode, out) == (75, "") and err.count("error: ") == 1, err
    assert "of 400; everything is saved in run" in err


@pytest.mark.slow
@needs_two_cores
def test_the_result_is_printed_once_and_is_that_of_one_process(tmp_path):
    same = ("--set", "train.freeze_norm=true", "--set", "student.dropout=0.0")
    code, out, err = finished(tmp_path, *DISTILL, *LABELS, *same, "--out", "two")
    assert code == 0 and json.loads(out)["run"] == "two" and "error" not in err, err
    one = [word for word in (*DISTILL, *LABELS, *same) if word not in ("--nproc", "2")]
    assert finished(tmp_path, *one, "--out", "one")[0] == 0
    two, one = (load_file(tmp_path / name / "last/model.safetensors") for name in ("two", "one"))
    assert max((two[key].double() - one[key].double()).abs().max() for key in one) < 1e-5


def test_more_processes_than_cores_or_gpus(freqkd, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 3)
    words = ("eval", "quickstart", "--teacher", "--nproc", "4")
    code, out, err = freqkd(*words, "--device", "cpu")
    assert (code, out) == (2, "") and "--nproc 4, and 3 CPU cores" in err and "at most 3" in err
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "--nproc 4, and 1 GPU\n" in freqkd(*words)[2]


def test_a_launcher_and_nproc_exclude_each_other(freqkd, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(launch, "error_file", lambda: None)
    code = freqkd("eval", "quickstart", "--teacher", "--nproc", "3")[0]
    assert code == 2


def ended_as(folder: Path, monkeypatch, *codes: str) -> int:
    """Return the exit code for processes that run such code, of which waiting ones are killed."""
    monkeypatch.setattr(launcher, "GRACE", 0.1)
    children = [subprocess.Popen([sys.executable, "-c", code]) for code in codes]
    return launcher._end(children, *launcher._wait(children), folder)


WAITS, FAILS = "import time; time.sleep(60)", "raise SystemExit(1)"


def test_a_process_that_is_killed_for_another_one_is_not_the_cause(tmp_path, monkeypatch, capsys):
    (tmp_path / "0").write_text(f"error: {launch.PEER_ENDED}\n")
    assert ended_as(tmp_path, monkeypatch, FAILS, WAITS) == 1
    assert capsys.readouterr().err == f"error: {launch.PEER_ENDED}\n"
    (tmp_path / "1").write_text("error: the loss is not finite\n")  # and then it hangs
    assert ended_as(tmp_path, monkeypatch, FAILS, WAITS) == 1
    assert capsys.readouterr().err == "error: the loss is not finite\n"


def test_a_process_that_the_system_kills_is_the_cause(tmp_path, monkeypatch, capsys):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert ended_as(tmp_path, monkeypatch, WAITS, killed) == 1
    assert "process 2 of 2 was killed" in capsys.readouterr().err


def test_an_error_may_have_a_path_that_is_no_utf8(tmp_path, monkeypatch):
    shown: list[str] = []
    monkeypatch.setattr(launcher.streams, "print_error", shown.append)
    for name, value in {launch.ERRORS: str(tmp_path), "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    name = os.fsdecode(b"image\xff.png")
    _report(f"error: {name}: no such file")
    assert ended_as(tmp_path, monkeypatch, FAILS) == 1
    assert shown == [f"error: {name}: no such file"]
