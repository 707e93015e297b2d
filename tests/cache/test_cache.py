"""A cache folder: what it is made from, who may write to it, and every way in which it is refused."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import struct
from pathlib import Path

import pytest
import torch
from cache_fakes import SPEC, Notes, Pictures, Teacher, bytes_of, make_job
from safetensors.torch import load_file, save_file

from freqkd_cli.cache import index_file, shards, writer
from freqkd_cli.cache.fingerprint import dump_command, loss_identity, views_identity, weights_sha256
from freqkd_cli.cache.reader import CacheReader, CacheWriter, Fingerprint
from freqkd_cli.cache.shards import check_file
from freqkd_cli.errors import CacheDamaged, CacheMismatch, FreqKDError, UsageError
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.dump_plan import plan
from freqkd_cli.views.view import ViewSpec

SMALL = 12_000


@pytest.fixture
def cache(tmp_path) -> Path:
    dump(make_job(), tmp_path / "cache", Notes(), shard_bytes=SMALL)
    return tmp_path / "cache"


def use(folder: Path) -> None:
    """Open a cache and read all of it."""
    reader = CacheReader(folder)
    reader.read(sorted(reader.items), reader.names)


def edit_index(folder: Path, change, *, sealed: bool = True) -> None:
    """Edit index.json, with a right checksum of its own where ``sealed``, so that the check behind it is reached."""
    raw = json.loads((folder / "index.json").read_text())
    raw.pop("sha256")
    seal = index_file._seal(raw)
    change(raw)
    raw["sha256"] = index_file._seal(raw) if sealed else seal
    (folder / "index.json").write_text(json.dumps(raw))


# --- shards ---


def test_shard_file_equals_the_library(tmp_path):
    tensors = {
        "0/0/a": torch.randn(3, 5),
        "0/0/b": torch.arange(7),
        "0/0/c": torch.tensor(True),
        "1/0/a": torch.randn(2, 2).bfloat16(),
        "1/0/d": torch.zeros(0, 4),
        "1/0/e": torch.randn(6, 4).half().T,
    }
    size, checksum = shards.write_shard(tmp_path / "ours", tensors)
    found = load_file(tmp_path / "ours")
    assert set(found) == set(tensors)
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    assert size == (tmp_path / "ours").stat().st_size and checksum == shards.sha256(
        tmp_path / "ours"
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_complex_numbers_survive():
    x = torch.randn(2, 3, dtype=torch.complex64)
    stored, is_complex = shards.store(x, torch.float32)
    assert (
        is_complex
        and stored.shape == (2, 3, 2)
        and torch.equal(shards.restore(stored, is_complex=True), x)
    )


# --- damage ---


def test_untouched_cache_is_used(cache):
    use(cache)
    edit_index(cache, lambda raw: None)
    use(cache)


@pytest.mark.parametrize("where", range(0, 20))
def test_any_flipped_bit_of_a_shard_is_refused(cache, where):
    shard = cache / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[where * (len(data) - 1) // 19] ^= 1 << (where % 8)
    shard.write_bytes(data)
    with pytest.raises(CacheDamaged):
        use(cache)


def test_a_damaged_shard_is_refused_before_its_first_row(cache):
    shard = cache / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    reader = CacheReader(cache)
    reader.read([(0, 0)], ["stage1"])
    with pytest.raises(CacheDamaged, match="shard-00001.*checksum"):
        reader.read([reader.index.shards[1].items[0]], ["stage1"])
    with pytest.raises(CacheDamaged, match="checksum"):
        check_file(cache, shard.name, shard.stat().st_size, reader.index.shards[1].sha256)


@pytest.mark.parametrize("keep", [0, 1, 8, 100, -1])
def test_truncated_shard_is_refused_at_opening(cache, keep):
    shard = cache / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(CacheDamaged, match="another size"):
        CacheReader(cache)


def test_missing_shard_is_refused_at_opening(cache):
    (cache / "shard-00001.safetensors").unlink()
    with pytest.raises(CacheDamaged, match="missing"):
        CacheReader(cache)


def test_shard_that_is_a_link_is_refused(cache, tmp_path):
    (cache / "shard-00001.safetensors").rename(tmp_path / "elsewhere")
    (cache / "shard-00001.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheDamaged, match="outside"):
        CacheReader(cache)


def test_swapped_shards_are_refused(cache):
    a, b = cache / "shard-00000.safetensors", cache / "shard-00001.safetensors"
    a.rename(cache / "x"), b.rename(a), (cache / "x").rename(b)
    with pytest.raises(CacheDamaged):
        CacheReader(cache)


def set_in(*path, to):
    def change(raw):
        for step in path[:-1]:
            raw = raw[step]
        raw[path[-1]] = to

    return change


LIES = {
    "above the folder": set_in("shards", 0, "file", to="../shard-00000.safetensors"),
    "absolute": set_in("shards", 0, "file", to="/etc/passwd"),
    "below": set_in("shards", 0, "file", to="x/shard-00000.safetensors"),
    "absurd shape": set_in("shards", 0, "tensors", "stage1", "shape", to=[6, 2**31, 2**31]),
    "more than absurd": set_in("shards", 0, "tensors", "stage1", "shape", to=[6, 10**30, 16]),
    "negative shape": set_in("shards", 0, "tensors", "stage1", "shape", to=[6, -8, 16]),
    "other shape": set_in("shards", 0, "tensors", "stage1", "shape", to=[6, 16, 8]),
    "fewer axes": set_in("shards", 0, "tensors", "stage1", "shape", to=[6, 128]),
    "dtype": set_in("shards", 0, "tensors", "stage1", "dtype", to="BF16"),
    "no dtype": set_in("shards", 0, "tensors", "stage1", "dtype", to="F8"),
    "storage": set_in("fingerprint", "storage", to="bfloat16"),
    "content": set_in("fingerprint", "content", to="pictures"),
    "complex": set_in("shards", 0, "tensors", "stage1", "complex", to=True),
    "size": set_in("shards", 0, "bytes", to=7),
    "negative size": set_in("shards", 0, "bytes", to=-1),
    "checksum": set_in("shards", 0, "sha256", to="0" * 64),
    "no checksum": set_in("shards", 0, "sha256", to=""),
    "item twice": lambda raw: set_in("shards", 0, "items", 0, to=raw["shards"][0]["items"][1])(raw),
    "item of another": set_in("shards", 0, "items", 0, to=[99, 0]),
    "negative item": set_in("shards", 0, "items", 0, to=[-5, 0]),
    "shard twice": lambda raw: raw["shards"].append(raw["shards"][0]),
    "no shards": set_in("shards", to=None),
    "format": set_in("format", to="other"),
    "newer version": set_in("version", to=2),
    "names": lambda raw: raw["tensors"].pop("stage1"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("sealed", [True, False])
def test_an_index_that_lies_is_refused(cache, lie, sealed):
    edit_index(cache, LIES[lie], sealed=sealed)
    with pytest.raises((CacheDamaged, UsageError)) as caught:
        use(cache)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_index_and_shards_that_lie_together_about_the_dtype_are_refused(cache, dtype):
    """The shard itself is of another type than the fingerprint says, every checksum right."""
    reader = CacheReader(cache)
    found = []
    for shard in reader.index.shards:
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(cache / shard.file).items()}
        size, checksum = shards.write_shard(cache / shard.file, tensors)
        lie = {
            name: tensor.model_copy(update={"dtype": shards.DTYPES[dtype]})
            for name, tensor in shard.tensors.items()
        }
        found.append(shard.model_copy(update={"bytes": size, "sha256": checksum, "tensors": lie}))
    index_file.write_index(cache, reader.fingerprint, found)
    with pytest.raises(CacheDamaged, match="contradicts itself"):
        CacheReader(cache)


def test_a_header_that_claims_absurd_shapes_is_refused(cache):
    """Size, checksum and index fit; only the shard's own header lies."""
    reader = CacheReader(cache)
    shard = reader.index.shards[0]
    data = (cache / shard.file).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    next(iter(header.values()))["shape"] = [2**40, 2**40]
    text = json.dumps(header, separators=(",", ":")).encode()
    (cache / shard.file).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    update = {
        "bytes": (cache / shard.file).stat().st_size,
        "sha256": shards.sha256(cache / shard.file),
    }
    index_file.write_index(
        cache, reader.fingerprint, [shard.model_copy(update=update), *reader.index.shards[1:]]
    )
    with pytest.raises(CacheDamaged, match="cannot be read"):
        use(cache)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": "freqkd-cache"}', "[" * 100_000, "\x00\xff"]
)
def test_an_index_that_is_none_is_refused(cache, text):
    (cache / "index.json").write_text(text)
    with pytest.raises(CacheDamaged):
        CacheReader(cache)


def test_no_cache_and_unfinished_cache(tmp_path):
    with pytest.raises(UsageError, match="no cache in"):
        CacheReader(tmp_path)
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(UsageError, match="unfinished.*\n.*--resume"):
        CacheReader(tmp_path)


# --- the one writer ---


def hold(folder: Path, held, release) -> None:
    with CacheWriter(folder, plan(make_job(), SMALL)[0]):
        held.set()
        release.wait(60)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
def test_a_second_writer_is_told_who_writes(tmp_path, mode):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "a", held, release))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(UsageError, match=f"being written by process {other.pid} on .* since"):
            dump(make_job(), tmp_path / "a", Notes(), mode=mode, shard_bytes=SMALL)
    finally:
        release.set()
        other.join()
    dump(make_job(), tmp_path / "a", Notes(), mode="resume", shard_bytes=SMALL)


def test_a_second_writer_in_this_process_is_refused(tmp_path):
    cache_plan, _ = plan(make_job(), SMALL)
    with CacheWriter(tmp_path / "a", cache_plan):
        with (
            pytest.raises(UsageError, match="this very process"),
            CacheWriter(tmp_path / "a", cache_plan, "overwrite"),
        ):
            pass
    with CacheWriter(tmp_path / "a", cache_plan, "resume"):
        pass


@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
def test_strange_folders_are_left_alone(tmp_path, mode):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="no dump wrote"):
        dump(make_job(), tmp_path, Notes(), mode=mode)
    with pytest.raises(UsageError, match="is a file"):
        dump(make_job(), tmp_path / "thesis.tex", Notes(), mode=mode)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_overwrite_keeps_what_is_not_its_own(cache):
    (cache / "notes.txt").write_text("mine")
    dump(make_job(storage="float32"), cache, Notes(), mode="overwrite")
    assert (cache / "notes.txt").read_text() == "mine" and CacheReader(cache).storage == "float32"


# --- a disk that is full, a folder that is gone ---


def test_full_disk_is_one_message_and_can_be_resumed(tmp_path, monkeypatch):
    write, calls = shards.write_shard, []

    def full(path, tensors):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, tensors)

    monkeypatch.setattr(writer, "write_shard", full)
    with pytest.raises(
        FreqKDError, match="cannot be written: No space left on device\n.*--resume"
    ) as caught:
        dump(make_job(), tmp_path / "a", Notes(), shard_bytes=SMALL)
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    dump(make_job(), tmp_path / "a", Notes(), mode="resume", shard_bytes=SMALL)
    dump(make_job(), tmp_path / "b", Notes(), shard_bytes=SMALL)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_write_that_the_system_refuses(tmp_path):
    """No stand-in here: the kernel itself refuses to let a file grow past the limit, in the middle of a shard."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(FreqKDError, match="cannot be written: File too large"):
            dump(make_job(), tmp_path / "a", Notes(), shard_bytes=SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(bytes_of(tmp_path / "a")) == ["journal.jsonl"]
    dump(make_job(), tmp_path / "a", Notes(), mode="resume", shard_bytes=SMALL)
    use(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_lost_permission_is_one_message(tmp_path):
    (tmp_path / "a").mkdir(mode=0o500)
    with pytest.raises(FreqKDError, match="cannot be written: Permission denied"):
        dump(make_job(), tmp_path / "a", Notes())


def test_a_folder_that_cannot_be_made(tmp_path):
    with pytest.raises(FreqKDError, match="cannot be written"):
        dump(make_job(), Path("/proc/freqkd/cache"), Notes())


# --- fingerprints ---


def test_every_field_that_differs_is_listed(cache):
    cached = CacheReader(cache).fingerprint
    spec = ViewSpec((32, 64), scale=(0.5, 2.0), flip=False, color=0.3)
    wanted = make_job(
        teacher=Teacher(1, gain=2.0),
        spec=spec,
        views=3,
        pictures=Pictures(7, mixed=True),
        dtype="bfloat16",
    ).fingerprint
    command = "freqkd teacher-dump recipes/x.yaml --out caches/new"
    with pytest.raises(CacheMismatch) as caught:
        cached.require(wanted, where=cache, command=command)
    message = str(caught.value)
    assert caught.value.exit_code == 2 and command in message
    listed = {line.strip().split(":")[0] for line in message.splitlines()[1:-1]}
    assert listed == {
        "teacher.weights_sha256",
        "teacher.arguments.gain",
        "teacher.dtype",
        "views.scale",
        "views.flip",
        "views.stored",
        "data.number",
        "data.mixed",
        "images",
    }
    assert (
        "views.stored: cached 2, wanted 3" in message
        and "views.scale: cached [0.8, 1.5], wanted [0.5, 2.0]" in message
    )


def test_a_cache_may_hold_more_than_is_wanted(cache):
    cached = CacheReader(cache).fingerprint
    assert cached.differences(Fingerprint({**cached.fields, "taps": ["stage2"], "images": 4})) == []
    assert cached.differences(Fingerprint({**cached.fields, "taps": ["stage2", "logits"]})) != []
    assert cached.differences(Fingerprint({**cached.fields, "images": 60})) == [
        "images: cached 6, wanted 60"
    ]


def test_a_target_cache_with_another_cutoff_is_refused(tmp_path):
    dump(make_job(content="targets"), tmp_path / "a", Notes())
    cached = CacheReader(tmp_path / "a").fingerprint
    wanted = make_job(content="targets", cutoff=0.25).fingerprint
    assert cached.differences(wanted) == ["targets.wave.arguments.cutoff: cached 0.5, wanted 0.25"]
    fewer = {**cached.fields, "targets": {"copy": cached.fields["targets"]["copy"]}}
    assert (
        cached.differences(Fingerprint(fewer)) == []
        and Fingerprint(fewer).differences(cached) != []
    )


def test_versions_only_warn(cache):
    cached = CacheReader(cache).fingerprint
    other = Fingerprint(
        {**cached.fields, "versions": {**cached.fields["versions"], "torch": "1.0"}}
    )
    assert (
        cached.differences(other) == [] and len(cached.require(other, where=cache, command="")) == 1
    )
    assert "versions.torch" in cached.warnings(other)[0]


def test_weights_hash_sees_one_bit_and_a_name():
    model = Teacher()
    before = weights_sha256(model)
    assert before == weights_sha256(Teacher())
    with torch.no_grad():
        model.head.bias[1] = torch.nextafter(model.head.bias[1], torch.tensor(torch.inf))
    assert weights_sha256(model) != before
    assert weights_sha256(torch.nn.ModuleDict({"a": torch.nn.ReLU(), "b": Teacher()})) != before


def test_colours_that_the_teacher_does_not_see_do_not_count():
    clean = [
        views_identity(ViewSpec((32, 64), color=c, teacher_sees="clean"), view_seed=0, stored=2)
        for c in (0.0, 0.5)
    ]
    same = [views_identity(ViewSpec((32, 64), color=c), view_seed=0, stored=2) for c in (0.0, 0.5)]
    assert clean[0] == clean[1] and same[0] != same[1]
    assert views_identity(SPEC, view_seed=0, stored=2) != views_identity(
        SPEC, view_seed=1, stored=2
    )


def test_a_fitted_file_counts_by_its_bytes(tmp_path):
    identities = []
    for text in ("one", "two"):
        (tmp_path / "prompts").write_text(text)
        identities.append(
            loss_identity(
                "x",
                {"prompts": str(tmp_path / "prompts"), "weight": 3},
                ("prompts",),
                ("stage1",),
                {"a": (2, 3)},
                file_arguments=("prompts",),
            )
        )
    assert identities[0] != identities[1] and "weight" not in identities[0]["arguments"]


def test_a_file_with_the_name_of_a_tap_changes_no_fingerprint(tmp_path, monkeypatch):
    """Only arguments that a loss declares as files are read; a tap may be called like a file."""
    monkeypatch.chdir(tmp_path)
    arguments = ("band", {"teacher": "stage4"}, ("teacher",), ("stage4",), {"a": (2, 3)})
    before = loss_identity(*arguments)
    (tmp_path / "stage4").write_text("not a tap")
    assert loss_identity(*arguments) == before
    assert before["arguments"] == {"teacher": "stage4"}


def test_the_command_can_be_pasted():
    found = dump_command(
        "my recipe.yaml", "caches/b", sets=["data.views=4"], content="targets", dtype="bf16"
    )
    assert (
        found
        == "freqkd teacher-dump 'my recipe.yaml' --out caches/b --set data.views=4 --content targets --dtype bf16"
    )
