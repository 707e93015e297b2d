"""A study folder: the states of its runs, and who may run them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from freqkd_cli.errors import UsageError
from freqkd_cli.lab import plan as plans
from freqkd_cli.lab import study as studies
from freqkd_cli.lab.study import Study

TEXT = "version: 1\nrecipes: [a, b]\nseeds: [0, 3]\n"


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path / "study", plans.loads(TEXT))


def test_runs_come_seed_by_seed(study):
    assert [run.name for run in study.runs()] == ["a/seed-0", "b/seed-0", "a/seed-3", "b/seed-3"]
    assert study.runs()[2].folder == study.folder / "runs" / "a" / "seed-3"
    assert study.baseline == "a"


def test_states_of_a_run(study):
    run = study.runs()[0]
    assert run.state() == "missing" and run.step() == 0
    (run.folder / "state").mkdir(parents=True)
    (run.folder / "recipe.yaml").write_text("")
    (run.folder / "metrics.jsonl").write_text('{"step": 10, "lr": 1}\n{"step": 20}\n{"st')
    assert run.state() == "started" and run.step() == 20
    run.log.write_text("step 20\nfailed: exit code 1: the loss is not finite\n")
    assert run.state() == "failed" and run.failure() == "exit code 1: the loss is not finite"
    (run.folder / "summary.json").write_text(json.dumps({"miou": 0.5}))
    assert run.state() == "finished"
    with FileLock(run.folder / "state" / ".lock"):
        assert run.state() == "running"


def test_one_worker_claims_a_run(study):
    run = study.runs()[0]
    with run.claimed() as first, run.claimed() as second:
        assert first and not second and run.state() == "running"
    with run.claimed() as again:
        assert again


def test_a_run_that_is_still_being_saved_is_not_claimed(study):
    run = study.runs()[0]
    (run.folder / "state").mkdir(parents=True)
    with FileLock(run.folder / "state" / ".lock"), run.claimed() as mine:
        assert not mine


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_study_that_one_may_only_read_has_states(study, monkeypatch, code):
    """Before, ``compare`` and ``report`` failed on the study of another user."""
    run = study.runs()[0]
    run.folder.mkdir(parents=True)
    run.lock.touch()
    (run.folder / "summary.json").write_text("{}")
    error = OSError(code, "no")

    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", acquire)
    assert run.state() == "finished"
    error = OSError(errno.ENOLCK, "No locks available")
    with pytest.raises(OSError, match="No locks available"):
        run.state()


def test_a_killed_worker_leaves_no_claim(study):
    run = study.runs()[0]
    run.lock.parent.mkdir(parents=True)
    code = "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire()"
    words = [sys.executable, "-c", f"{code}; print('held', flush=True); time.sleep(60)"]
    holder = subprocess.Popen([*words, run.lock], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with run.claimed() as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with run.claimed() as mine:
        assert mine


def test_a_study_is_read_from_its_folder(study):
    with pytest.raises(UsageError, match="is not a study"):
        studies.read(study.folder)
    study.folder.mkdir()
    (study.folder / "plan.yaml").write_text(plans.dump(study.plan))
    assert studies.read(study.folder).plan.keys == study.plan.keys
    assert studies.is_study(study.folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do this")
def test_a_child_is_asked_to_stop_when_its_parent_is_killed(tmp_path):
    """A sweep that is killed with SIGKILL leaves no training behind that runs to its end."""
    child = (
        "import os, pathlib, signal, sys, time\n"
        "from freqkd_cli.runtime.child_process import follow\n"
        "out = pathlib.Path(sys.argv[2])\n"
        "def stopped(*_):\n    (out / 'stopped').touch()\n    raise SystemExit\n"
        "signal.signal(signal.SIGTERM, stopped)\n"
        "follow(int(sys.argv[1]))\n"
        "(out / 'ready').touch()\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import os, subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid()), sys.argv[2]])\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", parent, child, str(tmp_path)], env=env)

    def wait_for(name: str) -> bool:
        end = time.monotonic() + 30
        while not (tmp_path / name).exists() and time.monotonic() < end:
            time.sleep(0.02)
        return (tmp_path / name).exists()

    assert wait_for("ready")
    process.kill()
    process.wait()
    assert wait_for("stopped")
