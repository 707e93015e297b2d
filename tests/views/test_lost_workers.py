"""Data loading processes that are killed: one error that names the signal, at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each case runs in a process of its own: a worker is a fork, and would inherit the threads and open
# files of other tests.
KILLED = """
import os, signal, sys, threading, time
import numpy as np
from multiprocessing.process import BaseProcess
from freqkd_cli.errors import FreqKDError
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.view import ViewSpec

moment, main = sys.argv[1], os.getpid()


class Images:
    labelled = False
    def __len__(self): return 4
    def image_size(self, index): return (48, 64)
    def read(self, index):
        if moment in ("waiting", "reading") and os.getpid() != main:
            time.sleep(0.3 if moment == "waiting" else 0.02)
        if moment == "itself" and index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((48, 64, 3), np.uint8), None


def kill(process, after=0.0):
    # From another process, as the system does, so that the signal arrives at any instruction.
    os.system(f"(sleep {after}; kill -9 {process.pid}) &")


def work(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(100))


def loader(workers=2, batches=400):
    items = [[(n % 4, n)] for n in range(batches)]
    return Loader(ViewDataset(Images(), ViewSpec((256, 256))), items, workers)


started = []
start = BaseProcess.start
def recorded(self):
    start(self)
    started.append(self)
    if moment == "start" and len(started) == 1:
        os.kill(self.pid, signal.SIGKILL)
        time.sleep(0.3)
BaseProcess.start = recorded

begun = time.perf_counter()
try:
    if moment == "idle":  # every batch that the workers may prepare is ready
        batches = iter(loader(batches=6))
        next(batches)
        time.sleep(0.5)
        os.kill(started[0].pid, signal.SIGKILL)
        work(0.2)
    elif moment == "other":  # the process waits for another loader
        batches = iter(loader())
        next(batches)
        first = started[0]
        moment = "waiting"
        others = iter(loader(1))
        next(others)
        kill(first, 0.2)
        for _ in others:
            pass
    elif moment == "closing":
        batches = iter(loader())
        next(batches)
        os.kill(started[0].pid, signal.SIGKILL)
        batches.close()
        raise FreqKDError("closed")
    else:
        batches = iter(loader())
        if moment == "step":
            next(batches)
            kill(started[1], 0.1)
        if moment in ("waiting", "reading"):
            next(batches)
            kill(started[1], 0.15)
    for batch in batches:
        if moment == "step":
            work(0.05)
    print("finished")
except FreqKDError as error:
    print(error.what, "|", error.got, "|", error.tip)
print(f"{time.perf_counter() - begun:.1f} s")
"""

MOMENTS = ("start", "step", "waiting", "reading", "itself", "other")


def run(moment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, moment],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_worker_is_one_error(moment):
    done = run(moment)
    assert "a data loading process was killed | SIGKILL" in done.stdout, done.stdout + done.stderr
    assert "data.workers" in done.stdout
    assert done.stderr == "" and done.returncode == 0


@pytest.mark.parametrize("moment", ["idle", "closing"])
def test_a_worker_killed_after_its_last_batch_does_no_harm(moment):
    done = run(moment)
    assert done.stdout.split()[0] in ("finished", "closed", "a"), done.stdout + done.stderr
    assert done.stderr == "" and done.returncode == 0


TRAINING = """
import os, signal, sys
from pathlib import Path
from freqkd_cli.app import main
from freqkd_cli.datasets.scenes import Scenes

read, first, main_process = Scenes.read, Path("killed"), os.getpid()

def fatal(self, index):
    if self.split == "val":
        Path("epoch").touch()  # the first epoch is over and saved
    elif Path("epoch").exists() and not first.exists() and os.getpid() != main_process:
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, index)

Scenes.read = fatal
main(sys.argv[1:])
"""
RECIPE = """\
version: 1
data: {name: scenes, size: [64, 64], length: 8, held_out: 2, workers: 2}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {epochs: 6, batch_size: 2, eval_every: 1}
"""


def test_a_training_ends_with_one_message_and_can_be_resumed(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    words = [sys.executable, "-c", TRAINING, "distill", "r.yaml", "--out", "run", "-q"]
    ends = []
    for resume in ([], ["--resume"]):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        ends.append(
            subprocess.run(
                words + resume,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
        )
    killed, resumed = ends
    assert killed.returncode == 1, killed.stderr
    assert killed.stderr.startswith("error: a data loading process was killed\n  got  SIGKILL")
    assert killed.stderr.count("\n") == 3 and killed.stdout == ""
    assert resumed.returncode == 0, resumed.stderr
