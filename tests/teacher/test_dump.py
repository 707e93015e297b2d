"""Dumps: killed and resumed, verified against the live teacher, refused on overflow."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cache_fakes import Images, Notes, Teacher, bytes_of, make_job
from safetensors.torch import load_file

from freqkd_cli.cache import index_file, inspection
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import CacheMismatch, CheckFailed, FreqKDError, Interrupted, UsageError
from freqkd_cli.runtime.tensor_file import write_tensors
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.dump_plan import plan
from freqkd_cli.teacher.verification import SLACK, TF32_SLACK, _slack, select, verify
from freqkd_cli.views.loader import ViewDataset, collate
from freqkd_cli.views.view import ViewSpec

SMALL = 12_000
"""Bytes of a shard: one batch of the fake teacher's taps in fp16 is 3 x 2 176 bytes."""


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; return 0, 1 for an exception, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dump_until(out: Path, last: int) -> None:
    """Resume a dump of ten images and kill this process after teacher pass ``last``."""
    job = make_job(batch_size=2, images=Images(10))
    taps = job.teacher.taps

    def dying(batch):
        if job.teacher.model.passes > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return taps(batch)

    job.teacher.taps = dying
    dump(job, out, Notes(), mode="resume", shard_bytes=9_000)


def test_result_and_rows(tmp_path):
    notes = Notes()
    job = make_job()
    result = dump(job, tmp_path / "a", notes, shard_bytes=SMALL)
    reader = CacheReader(tmp_path / "a")
    assert result["items"] == 12 and result["views"] == 2 and result["taps"] == ["stage1", "stage2"]
    assert result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "a").glob("shard-*"))
    assert len(reader.index.shards) > 1 and sorted(reader.items) == [
        (i, v) for i in range(6) for v in range(2)
    ]
    assert "12 views" in notes.said[0] and any(text.startswith("about ") for text in notes.said)
    views = ViewDataset(job.split, job.spec, view_seed=5, views=2)
    batch = collate([views[item] for item in ((4, 1), (0, 0))])
    live, cached = job.teacher.taps(batch), reader.read([(4, 1), (0, 0)], ["stage2", "stage1"])
    for name in ("stage1", "stage2"):
        assert cached[name].dtype is torch.float32
        torch.testing.assert_close(cached[name], live[name].half().float(), rtol=2**-10, atol=1e-5)


def test_shards_are_what_the_library_reads(tmp_path):
    dump(make_job(storage="bfloat16"), tmp_path / "a", Notes())
    tensors = load_file(tmp_path / "a" / "shard-00000.safetensors")
    assert set(tensors) == {
        f"{i}/{v}/{name}" for i in range(6) for v in range(2) for name in ("stage1", "stage2")
    }
    assert tensors["3/1/stage1"].dtype is torch.bfloat16 and tensors["3/1/stage1"].shape == (
        6,
        8,
        16,
    )


def test_estimate_is_the_size_of_the_tensors(tmp_path):
    job = make_job()
    cache_plan, estimate = plan(job, SMALL)
    assert estimate.items == 12 and estimate.bytes == 12 * 2 * (6 * 8 * 16 + 10 * 4 * 8)
    per_shard = [sum(len(batch) for batch in shard) for shard in cache_plan.shards]
    assert sum(per_shard) == 12 and all(number % 3 == 0 for number in per_shard)
    assert max(per_shard) * estimate.bytes / 12 <= SMALL
    dump(job, tmp_path / "a", Notes(), shard_bytes=SMALL)
    assert [len(shard.items) for shard in CacheReader(tmp_path / "a").index.shards] == per_shard


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_no_bit(tmp_path, workers):
    dump(make_job(workers=workers), tmp_path / "a", Notes(), shard_bytes=SMALL)
    dump(make_job(), tmp_path / "b", Notes(), shard_bytes=SMALL)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_killed_dump_resumed_equals_undisturbed(tmp_path):
    for last in (0, 1, 4, 3, 2, 1):  # the first pass of each child probes the size
        assert in_child(lambda last=last: dump_until(tmp_path / "killed", last)) == -signal.SIGKILL
        if not (tmp_path / "killed").exists():
            continue
        with pytest.raises(UsageError, match="--resume"):
            CacheReader(tmp_path / "killed")
    kept = sorted(path.name for path in (tmp_path / "killed").glob("shard-*.safetensors"))
    assert kept
    written = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept}
    assert in_child(lambda: dump_until(tmp_path / "killed", 10_000)) == 0
    assert in_child(lambda: dump_until(tmp_path / "whole", 10_000)) == 0
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("shard-*"))) >= 4
    assert all(
        (tmp_path / "killed" / name).stat().st_mtime_ns == stamp for name, stamp in written.items()
    )


def dump_until_call(out: Path, call: int) -> None:
    """Resume a dump and kill this process at its ``call``-th sync or rename."""
    calls = itertools.count(1)

    def counted(real):
        def dying(*arguments):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return dying

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    dump_until(out, 10_000)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_dump_killed_ten_times_where_it_writes_equals_undisturbed(tmp_path):
    assert in_child(lambda: dump_until(tmp_path / "whole", 10_000)) == 0
    whole, rng, killed = bytes_of(tmp_path / "whole"), random.Random(7), 0
    while killed < 10:
        call = rng.randint(1, 9)
        killed += (
            in_child(lambda call=call: dump_until_call(tmp_path / "killed", call))
            == -signal.SIGKILL
        )
        if (tmp_path / "killed" / "index.json").exists():
            # Finished too early: remove a shard, so that there is work left.
            (tmp_path / "killed" / "shard-00001.safetensors").unlink(missing_ok=True)
    assert in_child(lambda: dump_until(tmp_path / "killed", 10_000)) == 0
    assert bytes_of(tmp_path / "killed") == whole


def interrupted(job, out: Path, after: int, number: int = signal.SIGTERM) -> None:
    """Dump and send this process a signal in the middle."""
    taps = job.teacher.taps

    def kicking(batch):
        if job.teacher.model.passes == after:
            os.kill(os.getpid(), number)
        return taps(batch)

    job.teacher.taps = kicking
    dump(job, out, Notes(), mode="resume", shard_bytes=SMALL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_a_cache_that_can_be_resumed(tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="--resume") as caught:
        interrupted(make_job(), tmp_path / "a", after=3, number=number)
    assert caught.value.exit_code == 75 and signal.getsignal(number) is before
    assert (
        not (tmp_path / "a" / "index.json").exists()
        and (tmp_path / "a" / "shard-00000.safetensors").exists()
    )
    dump(make_job(), tmp_path / "a", Notes(), mode="resume", shard_bytes=SMALL)
    dump(make_job(), tmp_path / "b", Notes(), shard_bytes=SMALL)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_damaged_shard_of_an_unfinished_dump_is_made_again(tmp_path):
    with pytest.raises(Interrupted):
        interrupted(make_job(), tmp_path / "a", after=3)
    shard = tmp_path / "a" / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-7] ^= 4
    shard.write_bytes(data)
    with open(tmp_path / "a" / "journal.jsonl", "ab") as file:
        file.write(b'\n{"number": 2, "sha')
    (tmp_path / "a" / "shard-00003.safetensors.part").write_bytes(b"half")
    dump(make_job(), tmp_path / "a", Notes(), mode="resume", shard_bytes=SMALL)
    dump(make_job(), tmp_path / "b", Notes(), shard_bytes=SMALL)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_resume_refuses_other_settings_and_lists_them(tmp_path):
    with pytest.raises(Interrupted):
        interrupted(make_job(), tmp_path / "a", after=3)
    with pytest.raises(CacheMismatch) as caught:
        dump(
            make_job(teacher=Teacher(seed=1), storage="bfloat16"),
            tmp_path / "a",
            Notes(),
            mode="resume",
            shard_bytes=SMALL,
        )
    assert "teacher.weights_sha256" in str(
        caught.value
    ) and 'storage: cached "float16", wanted "bfloat16"' in str(caught.value)
    with pytest.raises(CacheMismatch, match="layout.batch_size: cached 3, wanted 4"):
        dump(make_job(batch_size=4), tmp_path / "a", Notes(), mode="resume", shard_bytes=SMALL)
    with pytest.raises(CacheMismatch, match="layout.shards"):
        dump(make_job(), tmp_path / "a", Notes(), mode="resume", shard_bytes=3 * SMALL)


def test_resume_of_a_finished_cache_does_nothing(tmp_path):
    dump(make_job(), tmp_path / "a", Notes())
    before, notes, job = bytes_of(tmp_path / "a"), Notes(), make_job()
    result = dump(job, tmp_path / "a", notes, mode="resume")
    assert (
        bytes_of(tmp_path / "a") == before
        and job.teacher.model.passes == 1
        and "already finished" in notes.said[-1]
    )
    assert result["items"] == 12 and result["images_per_second"] is None
    with pytest.raises(CacheMismatch, match="teacher.weights_sha256"):
        dump(make_job(teacher=Teacher(1)), tmp_path / "a", Notes(), mode="resume")
    with pytest.raises(UsageError, match="not empty.*\n.*--overwrite"):
        dump(make_job(), tmp_path / "a", Notes())
    dump(make_job(teacher=Teacher(1)), tmp_path / "a", Notes(), mode="overwrite")
    assert CacheReader(tmp_path / "a").fingerprint == make_job(teacher=Teacher(1)).fingerprint


def test_whole_views_of_mixed_sizes(tmp_path):
    job = make_job(views=0, images=Images(7, mixed=True), batch_size=2)
    dump(job, tmp_path / "a", Notes(), shard_bytes=SMALL)
    reader = CacheReader(tmp_path / "a")
    assert sorted(reader.items) == [(i, -1) for i in range(7)]
    assert reader.index.tensors["stage1"].shape == (6, None, None)
    assert reader.read([(0, -1)], ["stage1"])["stage1"].shape == (1, 6, 24, 40)
    assert reader.read([(1, -1)], ["stage1"])["stage1"].shape == (1, 6, 16, 24)
    assert verify(job, reader, 7, Notes()).items == 7


def test_half_precision_overflow_is_refused(tmp_path):
    job = make_job(teacher=Teacher(gain=1e6))
    with pytest.raises(FreqKDError, match="stage1, image 0, view 0.*\n.*\n.*65504\n.*--dtype bf16"):
        dump(job, tmp_path / "a", Notes())
    result = dump(
        make_job(teacher=Teacher(gain=1e6), storage="bfloat16"),
        tmp_path / "a",
        Notes(),
        mode="overwrite",
    )
    assert result["items"] == 12


def test_a_teacher_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(FreqKDError, match="not finite at stage1"):
        dump(
            make_job(teacher=Teacher(gain=float("nan")), storage="float32"), tmp_path / "a", Notes()
        )


@pytest.mark.parametrize("content", ["taps", "targets"])
@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
def test_verify_accepts_what_was_dumped(tmp_path, content, storage):
    job = make_job(content=content, storage=storage)
    dump(job, tmp_path / "a", Notes(), shard_bytes=SMALL)
    verified = verify(
        make_job(content=content, storage=storage, batch_size=5),
        CacheReader(tmp_path / "a"),
        9,
        Notes(),
    )
    assert verified.items == 9 and 0 <= verified.worst <= 1


def swap_views(folder: Path, image: int) -> None:
    """Exchange two views of one image, with consistent checksums, as a wrong key would do."""
    reader = CacheReader(folder)
    swapped = []
    for shard in reader.index.shards:
        tensors = load_file(folder / shard.file)
        for name in ("stage1", "stage2"):
            a, b = f"{image}/0/{name}", f"{image}/1/{name}"
            if a in tensors and b in tensors:
                tensors[a], tensors[b] = tensors[b], tensors[a]
        size, checksum = write_tensors(folder / shard.file, tensors)
        swapped.append(shard.model_copy(update={"bytes": size, "sha256": checksum}))
    index_file.write_index(folder, reader.fingerprint, swapped)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_verify_catches_two_swapped_views(tmp_path, storage):
    dump(
        make_job(storage=storage, spec=ViewSpec((32, 64), flip=True, scale=(0.9, 1.1))),
        tmp_path / "a",
        Notes(),
    )
    swap_views(tmp_path / "a", 3)
    job = make_job(storage=storage, spec=ViewSpec((32, 64), flip=True, scale=(0.9, 1.1)))
    reader = CacheReader(tmp_path / "a")
    # Every checksum is right, so only the live teacher shows the difference.
    assert inspection.verify(tmp_path / "a")["ok"]
    with pytest.raises(CheckFailed, match="stage1, image 3, view") as caught:
        verify(job, reader, 12, Notes())
    assert caught.value.exit_code == 3


def test_a_gpu_is_allowed_the_rounding_of_its_convolutions(monkeypatch):
    assert _slack("float32", "cpu") == SLACK["float32"] and _slack("float32", "cuda") == TF32_SLACK
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert _slack("float32", "cuda") == SLACK["float32"]


def test_verify_catches_another_teacher(tmp_path):
    dump(make_job(), tmp_path / "a", Notes())
    with pytest.raises(CheckFailed):
        verify(make_job(teacher=Teacher(1)), CacheReader(tmp_path / "a"), 1, Notes())


def test_the_sample_is_the_same_every_time():
    items = [(i, v) for i in range(50) for v in range(2)]
    assert select(items, 10) == select(reversed(items), 10) and len(set(select(items, 10))) == 10
    assert select(items, 1000) == items


def test_dump_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=dump, args=(make_job(), tmp_path / "a", Notes()))
    thread.start()
    thread.join()
    assert len(CacheReader(tmp_path / "a")) == 12
