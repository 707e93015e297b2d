"""A run that is cut anywhere resumes to the same bits; a full disk and damage lose nothing."""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cache_fakes import Notes

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.errors import CheckpointDamaged, FreqKDError, UsageError
from freqkd_cli.runtime import files
from freqkd_cli.runtime.lock import LOCK
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train import checkpoint, environment, extension, loop, run_folder
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data:
  {name: scenes, size: [32, 64], length: 8, held_out: 2, workers: 0,
   augment: {flip: true, color: 0.2}}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, dropout: 0.2}
losses:
  - {name: cross_entropy}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4, warmup: 0.5}
train: {epochs: 6, batch_size: 4, lr: 1.0e-3, clip: 1.0, ema: 0.9, warmup: 0.2, eval_every: 1}
"""
STEPS = 12
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def run(out: Path, *sets: str, resume: bool = True) -> None:
    distill(recipes.loads(RECIPE, sets=sets), out, Silent(), resume=resume)


def bits(out: Path) -> dict[str, object]:
    """Every byte that the recipe and the seed decide."""
    names = ("model.safetensors", "config.json", "last/model.safetensors", "metrics.jsonl")
    files: dict[str, object] = {name: (out / name).read_bytes() for name in names}
    files |= {
        path.name: path.read_bytes() for path in (out / "state").iterdir() if path.name != LOCK
    }
    summary = json.loads((out / "summary.json").read_text())
    return files | {key: summary[key] for key in ("steps", "miou", "best_step", "last_miou")}


def in_child(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Run ``work`` in a forked process; return its exit code, minus the signal that ended it.

    Args:
        kill_after: seconds until it is killed, wherever it is.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(out: Path, call: int) -> None:
    """Run, and be killed at the ``call``-th sync or rename."""
    calls = 0

    def counted(real):
        def dying(*arguments):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return dying

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    run(out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, int]:
    """A whole run, and how often it synced or renamed."""
    out, seen = tmp_path_factory.mktemp("runs") / "whole", []
    with pytest.MonkeyPatch.context() as patch:
        for real in (os.fsync, os.replace):
            patch.setattr(os, real.__name__, lambda *a, real=real: [seen.append(real), real(*a)][1])
        run(out, resume=False)
    return out, len(seen)


@pytest.fixture
def whole(undisturbed) -> Path:
    return undisturbed[0]


@pytest.fixture
def calls(undisturbed) -> int:
    return undisturbed[1]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that ended in the middle, with two checkpoints: of epochs 2 and 3."""
    out, save = tmp_path_factory.mktemp("runs") / "half", loop.Loop._save

    def stopping(self) -> None:
        save(self)
        if self.training.step == STEPS // 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_save", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(out)
    assert sorted(path.name for path in (out / "state").glob("*.json")) == [
        "step-00000004.json",
        "step-00000006.json",
    ]
    return out


@pytest.fixture
def half(stopped, tmp_path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "half"))


@forks
def test_six_epochs_equal_three_a_kill_and_three(whole, calls, tmp_path):
    """Cut in the later half where a file is about to become whole: at a sync or a rename."""
    for number, call in enumerate(random.Random(5).sample(range(calls // 2, calls), 2)):
        out = tmp_path / str(number)
        assert in_child(lambda call=call, out=out: killed_at(out, call)) == -signal.SIGKILL
        run(out)
        assert bits(out) == bits(whole), call


@forks
@pytest.mark.slow
def test_ten_random_moments(whole, tmp_path):
    """By the clock, so anywhere: in a step, an evaluation, before the first or in the last save."""
    started = time.monotonic()
    run(tmp_path / "timed")
    seconds, killed = time.monotonic() - started, 0
    for number in range(10):
        out = tmp_path / str(number)
        moment = random.Random(number).uniform(0.02, 1) * seconds
        killed += in_child(lambda out=out: run(out), kill_after=moment) == -signal.SIGKILL
        run(out)
        assert bits(out) == bits(whole), moment
    assert killed >= 7


@forks
@pytest.mark.slow
def test_every_moment_at_which_a_file_becomes_whole(whole, calls, tmp_path):
    for call in range(1, calls + 1):
        out = tmp_path / str(call)
        assert in_child(lambda call=call, out=out: killed_at(out, call)) == -signal.SIGKILL
        run(out)
        assert bits(out) == bits(whole), call
        shutil.rmtree(out)


def test_tensorboard_shows_every_step_once(whole, half):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(half)
    shown = []
    for out in (whole, half):
        events = EventAccumulator(str(out / "tensorboard"))
        events.Reload()
        shown.append(
            {
                tag: [(e.step, e.value) for e in events.Scalars(tag)]
                for tag in events.Tags()["scalars"]
                if "speed" not in tag
            }
        )
    assert shown[0] == shown[1]
    assert [step for step, _ in shown[1]["val/miou"]] == [2, 4, 6, 8, 10, 12] and [
        s for s, _ in shown[1]["total"]
    ] == [10, 12]


def test_a_checkpoint_inside_an_epoch_is_resumed_to_the_same_bits(whole, tmp_path, monkeypatch):
    """Saved after every step; the run dies after step 5, in the middle of an epoch of 2 steps."""
    out, step = tmp_path / "run", loop.Loop.step

    def dying(self, batches) -> None:
        if self.training.step == 5:
            raise KeyboardInterrupt
        step(self, batches)

    monkeypatch.setattr(loop.Loop, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        run(out, "train.save_every=1")
    steps = sorted(path.stem for path in (out / "state").glob("*.json"))
    assert steps == ["step-00000004", "step-00000005"]
    monkeypatch.undo()
    run(out)
    after, before = bits(out), bits(whole)
    for name in ("step-00000010.safetensors", "step-00000012.safetensors"):
        assert after[name] == before[name]
    assert after == before


def test_checkpoints_between_epochs_follow_steps_or_time(monkeypatch):
    interval = checkpoint.Interval(3)
    assert [step for step in range(1, 10) if interval.due(step)] == [3, 6, 9]
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    for text, seconds in (("90s", 90), ("1.5min", 90), ("2h", 7200)):
        interval, now = checkpoint.Interval(text), now + seconds - 1
        assert not interval.due(1)
        now += 1
        assert interval.due(1)
        interval.saved()
        assert not interval.due(2)
    assert not any(checkpoint.Interval(0).due(step) for step in range(1, 100))


@pytest.mark.parametrize("value", ["10 min", "min", "-5", "1.5", "10m"])
def test_an_interval_that_cannot_be_read_is_refused(value):
    with pytest.raises(UsageError, match="train.save_every"):
        recipes.loads(RECIPE, sets=[f"train.save_every={value}"])


def test_workers_change_no_bit_and_may_change_on_the_way(whole, half, tmp_path):
    run(half, "data.workers=2")
    assert bits(half) == bits(whole)


def test_a_finished_run_is_known_before_anything_is_built(whole, monkeypatch):
    monkeypatch.setattr(assemble, "check", lambda *_, **__: pytest.fail("the recipe was checked"))
    before = bits(whole)
    run(whole)
    assert bits(whole) == before


def test_a_damaged_summary_is_written_again(whole, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    (out / "summary.json").write_text('{"steps": 1')
    run(out)
    assert bits(out) == bits(whole)


def test_another_number_of_threads_is_a_warning(whole, half, caplog):
    facts = json.loads((half / "environment.json").read_text())
    (half / "environment.json").write_text(
        json.dumps({**facts, "threads": 64, "libraries": {**facts["libraries"], "torch": "1.0"}})
    )
    run(half)
    threads, version = torch.get_num_threads(), torch.__version__.split("+")[0]
    (warning,) = caplog.messages
    assert f"threads {threads} instead of 64, torch {version}" in warning
    assert "bits may differ" in warning
    after = json.loads((half / "environment.json").read_text())
    assert after["threads"] == 64 and after["resumed"][0]["threads"] == torch.get_num_threads()


def test_a_dry_run_costs_the_steps_that_are_left(half, tmp_path):
    dry = {"resume": True, "dry_run": True}
    left = distill(recipes.loads(RECIPE), half, Silent(), **dry)
    assert (left["steps"], left["views_seen"]) == (STEPS - 6, 4 * (STEPS - 6))
    assert distill(recipes.loads(RECIPE), tmp_path / "new", Silent(), **dry)["steps"] == STEPS


def test_a_dry_run_reads_no_tensors(half, monkeypatch, caplog):
    """Only the header: a file that is cut off is skipped as a resumed run skips it."""
    recipe = recipes.loads(RECIPE)
    for name in ("load_file", "sha256"):
        monkeypatch.setattr(checkpoint, name, None)
    assert extension.steps_done(half, recipe) == 6
    last = half / "state/step-00000006.safetensors"
    last.write_bytes(last.read_bytes()[:-8])
    assert extension.steps_done(half, recipe) == 4
    assert "step-00000006 is damaged" in caplog.text
    (half / "state/step-00000004.safetensors").unlink()
    with pytest.raises(CheckpointDamaged):
        extension.steps_done(half, recipe)
    assert extension.steps_done(half / "none", recipe) == 0


def test_the_command_in_the_environment_can_be_run_again(monkeypatch):
    words = ["freqkd", "distill", "r.yaml", "--set", "data.size=[32, 64]", "--out", "my runs/a"]
    monkeypatch.setattr("sys.argv", words)
    command = environment.describe(torch.device("cpu"), "float32", "none")["command"]
    assert shlex.split(command) == words
    assert command == "freqkd distill r.yaml --set 'data.size=[32, 64]' --out 'my runs/a'"


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["step-00000006.safetensors", "step-00000006.json"])
def test_damage_of_the_last_checkpoint_costs_an_epoch_and_no_bit(whole, half, name, caplog):
    flip(half / "state" / name, at=40)
    notes = Notes()
    distill(recipes.loads(RECIPE), half, notes, resume=True)
    assert "step-00000006 is damaged" in caplog.text
    assert f"resuming at step 4 of {STEPS}" in notes.said
    assert bits(half) == bits(whole)


def test_damage_of_all_checkpoints_is_refused(half):
    best = (half / "model.safetensors").read_bytes()
    for path in (half / "state").glob("*.json"):
        path.write_text("{}")
    with pytest.raises(
        CheckpointDamaged, match=r"no checkpoint in .* is intact\n.*\n.*--overwrite"
    ):
        run(half)
    assert (half / "model.safetensors").read_bytes() == best


def test_a_checkpoint_of_another_recipe_is_skipped(half, tmp_path, caplog):
    other = tmp_path / "other"
    run(other, "train.lr=0.01", "train.epochs=3")
    for path in (other / "state").glob("step-00000006.*"):
        shutil.copy(path, half / "state")
    run(half)
    assert "belongs to another recipe" in caplog.text


def test_a_damaged_later_checkpoint_displaces_no_intact_one(tmp_path):
    for step in (30, 40):
        checkpoint.save(tmp_path, step, {"x": torch.zeros(2)}, {})
        flip(tmp_path / f"step-000000{step}.safetensors")
    with pytest.raises(CheckpointDamaged):
        checkpoint.load(tmp_path)
    for step in (10, 20):
        checkpoint.save(tmp_path, step, {"x": torch.ones(2)}, {})
        assert checkpoint.load(tmp_path)[1]["step"] == step
    assert len(list(tmp_path.iterdir())) == 4


def test_a_full_disk_ends_in_one_message_and_loses_nothing(whole, half, monkeypatch):
    """The next checkpoint is written to /dev/full, so the kernel reports a full disk."""
    before = {path.name: path.read_bytes() for path in (half / "state").iterdir()}

    def on_a_full_disk(path, mode):
        full = path.name == "step-00000008.safetensors.part"
        return open("/dev/full", "wb") if full else open(path, mode)

    with monkeypatch.context() as patched:
        patched.setattr(files, "open", on_a_full_disk, raising=False)
        with pytest.raises(
            FreqKDError, match="half cannot be written: No space left on device\n.*--resume"
        ) as caught:
            run(half)
    assert caught.value.exit_code == 1
    assert {path.name: path.read_bytes() for path in (half / "state").iterdir()} == before
    run(half)
    assert bits(half) == bits(whole)


def test_a_model_that_cannot_be_written_ends_in_one_message(whole, half):
    """No file may grow past 4 kB, so the best model fails, or the checkpoint."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FreqKDError, match="cannot be written: File too large"):
            run(half)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    run(half)
    assert bits(half) == bits(whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_lost_permission_ends_in_one_message(whole, half):
    (half / "state").chmod(0o500)
    with pytest.raises(FreqKDError, match="cannot be written: Permission denied"):
        run(half)
    (half / "state").chmod(0o700)
    run(half)
    assert bits(half) == bits(whole)


def test_resume_refuses_a_folder_that_no_run_wrote(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"is no run of freqkd\n.*holiday\.jpg"):
        run(tmp_path)
    assert os.listdir(tmp_path) == ["holiday.jpg"]


@forks
def test_a_run_has_one_writer(half):
    before = {
        path: path.read_bytes()
        for path in half.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    held, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with run_folder.lock(half):
            os.write(held[1], b"x")
            os.read(release[0], 1)
            os._exit(0)
    os.read(held[0], 1)
    try:
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(UsageError, match=f"being written by process {child} on"):
                distill(recipes.loads(RECIPE), half, Silent(), **options)
    finally:
        os.write(release[1], b"x")
        os.waitpid(child, 0)
    assert {
        path: path.read_bytes()
        for path in half.rglob("*")
        if path.is_file() and path.name != ".lock"
    } == before
    run(half)
