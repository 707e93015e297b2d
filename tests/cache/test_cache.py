"""A cache folder: its fingerprint, its one writer, and every way in which it is refused."""

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
from cache_fakes import SPEC, Images, Notes, Teacher, bytes_of, make_job
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli.cache import index_file, shards, writer
from freqkd_cli.cache.checksum import check_file
from freqkd_cli.cache.fingerprint import (
    Fingerprint,
    loss_identity,
    teacher_identity,
    views_identity,
    weights_sha256,
)
from freqkd_cli.cache.journal import Journal
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.writer import CacheWriter
from freqkd_cli.errors import CacheDamaged, CacheMismatch, FreqKDError, Missing, UsageError
from freqkd_cli.recipe.command_line import distill_command
from freqkd_cli.runtime.files import sha256
from freqkd_cli.runtime.tensor_file import write_tensors
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.dump_plan import plan
from freqkd_cli.teacher.recipe_cache import Form, dump_command
from freqkd_cli.views.view import ViewSpec
from freqkd_cli.weights.config import License

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
    """Edit index.json; ``sealed`` renews its own checksum, so that later checks are reached."""
    raw = json.loads((folder / "index.json").read_text())
    raw.pop("sha256")
    seal = index_file.seal(raw)
    change(raw)
    raw["sha256"] = index_file.seal(raw) if sealed else seal
    (folder / "index.json").write_text(json.dumps(raw))


# --- shards ---


def test_tensors_of_a_shard_survive(tmp_path):
    tensors = {
        "0/0/a": torch.randn(3, 5),
        "0/0/b": torch.arange(7),
        "0/0/c": torch.tensor(True),
        "1/0/a": torch.randn(2, 2).bfloat16(),
        "1/0/d": torch.zeros(0, 4),
        "1/0/e": torch.randn(6, 4).half().T,
    }
    size, checksum = write_tensors(tmp_path / "shard", tensors)
    loaded = load_file(tmp_path / "shard")
    assert set(loaded) == set(tensors)
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )
    assert size == (tmp_path / "shard").stat().st_size
    assert checksum == sha256(tmp_path / "shard")
    assert len(list(tmp_path.iterdir())) == 1


def test_tensors_that_share_memory_are_all_written(tmp_path):
    """Two losses may have the same tap as their target, which safetensors alone refuses."""
    whole = torch.randn(4, 6)
    tensors = {"a": whole, "b": whole, "c": whole[1:3], "d": whole[2:], "e": torch.zeros(0, 6)}
    tensors |= {f"row{i}": row for i, row in enumerate(whole.unbind(0))}
    write_tensors(tmp_path / "shard", tensors)
    loaded = load_file(tmp_path / "shard")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_complex_numbers_survive():
    x = torch.randn(2, 3, dtype=torch.complex64)
    parts = shards.encode("x", x, shards.Storage("float32"))
    assert parts["x"].shape == (2, 3, 2) and list(parts) == ["x"]
    assert torch.equal(shards.decode("x", parts, is_complex=True), x)


def test_a_cache_with_shards_in_another_order_opens_and_resumes(cache):
    """Versions before safetensors' own writer ordered tensors by item; shards say so themselves."""
    before = CacheReader(cache).read([(4, 1), (0, 0)], ["stage2"])["stage2"]
    reader = CacheReader(cache)
    rewritten = []
    for shard in reader.index.shards:
        tensors = load_file(cache / shard.file)
        names = [f"{i}/{v}/{name}" for i, v in shard.items for name in ("stage2", "stage1")]
        body = {name: tensors[name].numpy().tobytes() for name in names}
        header, offset = {}, 0
        for name in names:
            span = [offset, offset := offset + len(body[name])]
            shape = list(tensors[name].shape)
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": span}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path = cache / shard.file
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body.values()))
        update = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        rewritten.append(shard.model_copy(update=update))
    index_file.write_index(cache, reader.fingerprint, rewritten)
    after = CacheReader(cache).read([(4, 1), (0, 0)], ["stage2"])["stage2"]
    assert torch.equal(after, before)
    kept = (cache / "shard-00000.safetensors").read_bytes()
    (cache / "shard-00001.safetensors").unlink()
    dump(make_job(), cache, Notes(), mode="resume", shard_bytes=SMALL)
    assert (cache / "shard-00000.safetensors").read_bytes() == kept
    use(cache)


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
    with pytest.raises(CacheDamaged, match="size of the shard"):
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
    "newer version": set_in("version", to=3),
    "names": lambda raw: raw["tensors"].pop("stage1"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("sealed", [True, False])
def test_an_index_that_lies_is_refused(cache, lie, sealed):
    edit_index(cache, LIES[lie], sealed=sealed)
    with pytest.raises((CacheDamaged, UsageError)) as caught:
        use(cache)
    assert len(str(caught.value)) < 1000


def test_a_number_of_the_index_is_refused_in_plain_words(cache):
    """It was "Input should be greater than 0"."""
    edit_index(cache, LIES["negative size"])
    with pytest.raises(CacheDamaged, match=r"shards\.0\.bytes\n  got  -1\n  need more than 0\n"):
        CacheReader(cache)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_index_and_shards_that_lie_together_about_the_dtype_are_refused(cache, dtype):
    """The shard itself is of another type than the fingerprint says, every checksum right."""
    reader = CacheReader(cache)
    written = []
    for shard in reader.index.shards:
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(cache / shard.file).items()}
        size, checksum = write_tensors(cache / shard.file, tensors)
        lie = {
            name: tensor.model_copy(update={"dtype": shards.DTYPES[dtype]})
            for name, tensor in shard.tensors.items()
        }
        written.append(shard.model_copy(update={"bytes": size, "sha256": checksum, "tensors": lie}))
    index_file.write_index(cache, reader.fingerprint, written)
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
        "sha256": sha256(cache / shard.file),
    }
    index_file.write_index(
        cache, reader.fingerprint, [shard.model_copy(update=update), *reader.index.shards[1:]]
    )
    with pytest.raises(CacheDamaged, match="cannot be read"):
        use(cache)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": "freqkd-cache"}', "[" * 100_000, "\x00\xff"]
)
def test_an_index_that_cannot_be_read_is_refused_with_the_option(cache, text):
    (cache / "index.json").write_text(text)
    with pytest.raises(CacheDamaged, match="--overwrite"):
        CacheReader(cache)


def test_resume_refuses_a_truncated_index_and_keeps_the_files(cache):
    """Without checksums no shard can be kept, and another recipe's cache must not be lost."""
    index = (cache / "index.json").read_bytes()
    (cache / "index.json").write_bytes(index[: len(index) // 2])
    before = bytes_of(cache)
    with pytest.raises(CacheDamaged, match="not the index.*\n.*--overwrite"):
        dump(make_job(), cache, Notes(), mode="resume", shard_bytes=SMALL)
    assert bytes_of(cache) == before
    dump(make_job(), cache, Notes(), mode="overwrite", shard_bytes=SMALL)
    use(cache)


def test_resume_replaces_a_truncated_index_where_the_journal_is_there(cache, tmp_path):
    index = index_file.read_index(cache)
    journal = Journal(cache)
    journal.start(plan(make_job(), SMALL)[0].to_json())
    for number, shard in enumerate(index.shards):
        journal.add(number, shard)
    whole = (cache / "index.json").read_bytes()
    (cache / "index.json").write_bytes(whole[:100])
    notes = Notes()
    dump(make_job(), cache, notes, mode="resume", shard_bytes=SMALL)
    assert (cache / "index.json").read_bytes() == whole and not journal.path.exists()


# --- links ---


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
@pytest.mark.parametrize(
    "name",
    [
        "index.json",
        "journal.jsonl",
        "shard-00000.safetensors",
        "index.json.part",
        "journal.jsonl.part",
        "shard-00000.safetensors.part",
    ],
)
def test_a_link_in_the_folder_is_never_followed(tmp_path, mode, name):
    """What a link points to stays as it is, whether the link is refused or replaced."""
    with CacheWriter(tmp_path / "a", plan(make_job(), SMALL)[0]):
        pass
    (tmp_path / "mine").mkdir()
    victim = tmp_path / "mine" / "file"
    path = tmp_path / "a" / name
    if path.exists():
        path.rename(victim)
    else:
        victim.write_text("years of work")
    before = victim.read_bytes()
    path.symlink_to(victim)
    try:
        dump(make_job(), tmp_path / "a", Notes(), mode=mode, shard_bytes=SMALL)
    except CacheDamaged:
        assert (mode, name) == ("resume", "index.json")
    else:
        use(tmp_path / "a")
        assert not any(file.is_symlink() for file in (tmp_path / "a").iterdir())
    assert victim.read_bytes() == before


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "a" / ".lock").symlink_to(tmp_path / "file")
    with pytest.raises(UsageError, match="symbolic link"):
        dump(make_job(), tmp_path / "a", Notes())
    assert (tmp_path / "file").read_text() == "years of work"


def test_an_index_or_a_folder_behind_a_link(cache, tmp_path):
    (tmp_path / "link").symlink_to(cache)
    use(tmp_path / "link")
    (cache / "index.json").rename(tmp_path / "index.json")
    (cache / "index.json").symlink_to(tmp_path / "index.json")
    with pytest.raises(CacheDamaged, match="symbolic link"):
        CacheReader(cache)


def test_no_cache_and_unfinished_cache(tmp_path):
    with pytest.raises(Missing, match="no cache in"):
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
            pytest.raises(UsageError, match="written by this process"),
            CacheWriter(tmp_path / "a", cache_plan, "overwrite"),
        ):
            pass
    with CacheWriter(tmp_path / "a", cache_plan, "resume"):
        pass


@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
def test_strange_folders_are_left_alone(tmp_path, mode):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="teacher-dump did not write"):
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
    calls = []

    def full(path, tensors):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_tensors(path, tensors)

    monkeypatch.setattr(writer, "write_tensors", full)
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
    """The kernel itself refuses to let a file grow past the limit, in the middle of a shard."""
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
        images=Images(7, mixed=True),
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
    (images,) = cached.differences(Fingerprint({**cached.fields, "images": 60}))
    assert images.line() == "images: cached 6, wanted 60"


def test_a_target_cache_with_another_cutoff_is_refused(tmp_path):
    dump(make_job(content="targets"), tmp_path / "a", Notes())
    cached = CacheReader(tmp_path / "a").fingerprint
    wanted = make_job(content="targets", cutoff=0.25).fingerprint
    (cutoff,) = cached.differences(wanted)
    assert cutoff.line() == "targets.wave.arguments.cutoff: cached 0.5, wanted 0.25"
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


def test_colors_that_the_teacher_does_not_see_do_not_count():
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


def test_a_name_that_is_also_a_file_counts_as_a_name(tmp_path, monkeypatch):
    """A file ``stage4`` in the working folder changed the fingerprint of a tap's name."""
    monkeypatch.chdir(tmp_path)
    identities = []
    for _ in range(2):
        identities.append(loss_identity("x", {"basis": "stage4"}, ("basis",), (), {}))
        (tmp_path / "stage4").write_text("notes")
    assert identities[0] == identities[1] and identities[0]["arguments"] == {"basis": "stage4"}


def test_the_license_of_a_teacher_is_recorded_and_not_compared():
    teacher = Teacher()
    plain = Fingerprint({"teacher": teacher_identity(teacher, name="fake", dtype="float32")})
    teacher.license = License(name="research only", noncommercial=True)
    noted = Fingerprint({"teacher": teacher_identity(teacher, name="fake", dtype="float32")})
    assert noted.fields["teacher"]["license"] == "research only"
    assert plain.differences(noted) == noted.differences(plain) == []


def test_the_commands_can_be_pasted():
    text = "version: 1\ndata: {name: scenes, size: [64, 64]}\nstudent: {name: fast_scnn}\n"
    text += "losses: [{name: cross_entropy}]\ntrain: {epochs: 1}\n"
    sets = ["data.views=4"]
    recipe = recipes.loads(text, "my recipe.yaml", sets, {"data.root": "d"}, parts=False)
    command = dump_command(recipe, Path("caches/b"), Form("targets", "bf16", images=3))
    given = "--set data.views=4 --data-root d"
    start = "freqkd teacher-dump 'my recipe.yaml' --out caches/b"
    assert command == f"{start} {given} --limit 3 --content targets --dtype bf16"
    command = distill_command(recipe, Path("caches/b"))
    start = "freqkd distill 'my recipe.yaml' --cache caches/b --out 'runs/my recipe'"
    assert command == f"{start} {given}"


def test_a_shipped_recipe_has_its_name_in_commands():
    """It was a file of the installed package."""
    command = distill_command(recipes.load("fastscnn_kl", parts=False), Path("c"))
    assert command == "freqkd distill fastscnn_kl --cache c --out runs/fastscnn_kl"
