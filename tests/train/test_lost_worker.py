"""A data loading process that the system kills: one message, exit code 1, a run to resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = """
version: 1
data: {name: scenes, size: [64, 64], length: 16, held_out: 4, workers: 2}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
train: {epochs: 20, batch_size: 4, precision: float32}
"""


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "delay",
    [0.05, pytest.param(0.0, marks=pytest.mark.slow), pytest.param(0.11, marks=pytest.mark.slow)],
)
def test_a_killed_worker_is_one_message_and_a_run_to_resume(tmp_path, delay):
    (tmp_path / "r.yaml").write_text(RECIPE)
    words = [sys.executable, "-m", "freqkd_cli", "distill", "r.yaml", "--out", "a"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, **options)
    end = time.monotonic() + 60
    while not list((tmp_path / "a").glob("state/*.json")) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(delay)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1, errors
    assert errors.count("error: ") == 1 and "Traceback" not in errors
    assert "data.workers" in errors
    sets = ["--resume", "--set", "data.workers=0"]
    done = subprocess.run([*words, *sets], timeout=120, **options)
    assert done.returncode == 0 and "resuming at step" in done.stderr, done.stderr
