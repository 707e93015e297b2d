"""A sweep that is killed twice and then shared by two workers equals an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_plan import write_plan

from freqkd_cli.lab import study as studies
from freqkd_cli.lab.comparison import compare_records
from freqkd_cli.lab.run_collection import collect
from freqkd_cli.lab.study import Run, held

PLAN = """# Are the runs of a disturbed sweep those of an undisturbed one?
version: 1
recipes: [labels.yaml, scores.yaml, features.yaml]
seeds: [3]
set: {train.steps: 40, train.save_every: 1, data.length: 16}
"""
TIMEOUT = 600


def start(plan: Path, out: Path) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "freqkd_cli", "sweep", str(plan), "--out", str(out), "-q"]
    return subprocess.Popen(words, env=env)


def wait_for(condition) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def steps(run: Run) -> int:
    names = [path.stem[5:] for path in run.folder.glob("state/step-*.json")]
    return max(map(int, names), default=0)


def kill_in(run: Run, sweep: subprocess.Popen) -> None:
    """Kill the sweep in the middle of a run, and wait until its child has saved and ended."""
    wait_for(lambda: steps(run) >= 3 or sweep.poll() is not None)
    assert sweep.poll() is None
    sweep.kill()
    sweep.wait()
    wait_for(lambda: not held(run.folder / "state" / ".lock"))


def table(folder: Path) -> list[tuple]:
    """Return the rows of ``freqkd compare`` without their times."""
    rows = compare_records(collect([folder]).records, "labels").rows
    return [(row.name, row.values, row.difference, row.wins, row.verdict) for row in rows]


@pytest.mark.slow
def test_killed_twice_and_shared_by_two_workers(tmp_path):
    plan = write_plan(tmp_path, PLAN)
    assert start(plan, tmp_path / "undisturbed").wait(TIMEOUT) == 0
    calm = studies.read(tmp_path / "undisturbed").runs()

    folder = tmp_path / "disturbed"
    sweep = start(plan, folder)
    wait_for(lambda: studies.is_study(folder))
    runs = studies.read(folder).runs()
    kill_in(runs[0], sweep)
    kill_in(runs[1], start(plan, folder))
    stopped = [run for run in runs if run.summary() is None]
    assert len(stopped) >= 1
    workers = [start(plan, folder) for _ in range(2)]
    assert [worker.wait(TIMEOUT) for worker in workers] == [0, 0]

    for one, other in zip(calm, runs, strict=True):
        for name in ("model.safetensors", "last/model.safetensors", "metrics.jsonl"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
        scores = [json.loads((run.folder / "summary.json").read_text()) for run in (one, other)]
        assert scores[0]["miou"] == scores[1]["miou"] is not None
    assert table(tmp_path / "undisturbed") == table(folder)
