"""``freqkd cache merge`` and ``freqkd cache prune``: rows stay, refusals are one message."""

from __future__ import annotations

import dataclasses
import errno
import json
import sys
from pathlib import Path

import pytest
import torch
from cache_fakes import Images, Notes, Teacher, bytes_of, make_job

from freqkd_cli import app
from freqkd_cli.cache import index_file, pruning, writer
from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.cache.journal import CachePlan
from freqkd_cli.cache.merging import merge
from freqkd_cli.cache.pruning import prune
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.stored_rows import complex_names, stored_columns
from freqkd_cli.cache.writer import CacheWriter
from freqkd_cli.errors import CacheMismatch, FreqKDError, Missing, UsageError
from freqkd_cli.teacher.dump import dump

SMALL = 3_000  # a shard per batch


def rows_of(folder: Path) -> dict[str, torch.Tensor]:
    reader = CacheReader(folder)
    return reader.read(sorted(reader.items), reader.names)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=["taps", "targets"])
def cache(request, tmp_path) -> Path:
    dump(make_job(content=request.param), tmp_path / "all", Notes(), shard_bytes=SMALL)
    return tmp_path / "all"


def subject(cache: Path, number: int) -> str:
    taps = CacheReader(cache).content == "taps"
    return ("stage1", "stage2")[number] if taps else ("copy", "wave")[number]


def copy_of(cache: Path, name: str, *, keep=(), **options) -> Path:
    """Return a copy of a cache that is pruned where options say so."""
    folder = cache.with_name(name)
    folder.mkdir()
    for file, data in bytes_of(cache).items():
        (folder / file).write_bytes(data)
    if keep or options:
        prune(folder, keep, options.get("views"), options.get("images"))
    return folder


def part_of(cache: Path, name: str, shards: slice) -> Path:
    """Return a cache of some shards of a cache."""
    reader, folder = CacheReader(cache), cache.with_name(name)
    chosen = reader.index.shards[shards]
    plan = CachePlan(reader.fingerprint, tuple((shard.items,) for shard in chosen))
    with CacheWriter(folder, plan) as writer:
        for number, shard in enumerate(chosen):
            rows = stored_columns(reader, shard.items, reader.names)
            writer.put(number, rows, complex_names(reader))
        writer.finish()
    return folder


def test_halves_of_the_tensors_make_the_whole(cache, tmp_path):
    halves = [copy_of(cache, f"half{i}", keep=[subject(cache, i)]) for i in (0, 1)]
    result = merge(*halves, tmp_path / "both")
    assert result["items"] == 12 and result["taps"] == list(CacheReader(cache).names)
    assert same(rows_of(tmp_path / "both"), rows_of(cache))
    both, whole = (CacheReader(folder).fingerprint for folder in (tmp_path / "both", cache))
    assert both.differences(whole) == [] and whole.differences(both) == []


def test_halves_of_the_views_make_the_whole(cache, tmp_path):
    first, second = part_of(cache, "first", slice(0, 2)), part_of(cache, "second", slice(2, None))
    merge(second, first, tmp_path / "both")
    assert same(rows_of(tmp_path / "both"), rows_of(cache))
    with pytest.raises(CacheMismatch, match="do not have every view.*\n.*image"):
        merge(second, part_of(cache, "third", slice(1, 2)), tmp_path / "less")


def test_a_pruned_cache_has_the_rows_of_the_whole_and_serves_a_smaller_recipe(cache):
    before = rows_of(cache)
    reader = CacheReader(cache)
    order = sorted(reader.items)
    size = reader.bytes
    result = prune(cache, [subject(cache, 0)], 1, 4)
    assert (result["items"], result["views"]) == (4, 1)
    assert result["bytes"] < result["bytes_before"] == size
    places = [n for n, (image, view) in enumerate(order) if view < 1 and image < 4]
    pruned = rows_of(cache)
    assert all(torch.equal(pruned[name], before[name][places]) for name in pruned)
    assert {name.partition(".")[0] for name in pruned} == {subject(cache, 0)}
    job = make_job(content=reader.content, views=1)
    wanted = {**job.fingerprint.fields, "images": 4}
    if reader.content == "taps":
        wanted["taps"] = ["stage1"]
    else:
        wanted |= {"taps": ["stage2"], "targets": {"copy": wanted["targets"]["copy"]}}
    pruned_fields = CacheReader(cache).fingerprint
    assert pruned_fields.differences(Fingerprint(wanted)) == []
    assert len(pruned_fields.differences(job.fingerprint)) >= 2
    assert len(list(cache.glob("shard-*"))) == len(CacheReader(cache).index.shards)


def test_more_views_serve_fewer(cache):
    """View v of an image does not depend on their number; it was refused."""
    reader = CacheReader(cache)
    assert (
        reader.fingerprint.differences(make_job(content=reader.content, views=1).fingerprint) == []
    )


@pytest.mark.parametrize("where", ["write_shard", "write_index", "unlink"])
def test_a_killed_pruning_leaves_one_whole_cache(cache, monkeypatch, where):
    before, calls = rows_of(cache), []

    def killed(*words, **options):
        calls.append(where)
        if len(calls) == 1 + (where != "write_index"):
            raise KeyboardInterrupt
        return write(*words, **options)

    if where == "unlink":
        write = Path.unlink

        def remove(path, **options):
            return (killed if path.suffix == ".safetensors" else write)(path, **options)

        monkeypatch.setattr(Path, "unlink", remove)
    else:
        place = pruning if where == "write_shard" else pruning.index_file
        write = getattr(place, where)
        monkeypatch.setattr(place, where, killed)
    with pytest.raises(KeyboardInterrupt):
        prune(cache, [], 1, None)
    monkeypatch.undo()
    after = CacheReader(cache)
    if where == "unlink":
        assert len(after) == 6
        prune(cache, [], None, 4)
    else:
        assert same(rows_of(cache), before)
        prune(cache, [], 1, 4)
    assert len(CacheReader(cache)) == 4
    assert len(list(cache.glob("shard-*"))) == len(CacheReader(cache).index.shards)


def test_the_same_pruning_again_removes_what_a_killed_one_left(cache, monkeypatch):
    """It said that nothing would be removed, and the old shards stayed."""
    monkeypatch.setattr(pruning, "_remove_others", lambda folder, shards: None)
    prune(cache, [], 1, None)
    monkeypatch.undo()
    assert len(list(cache.glob("shard-*"))) > len(CacheReader(cache).index.shards)
    with pytest.raises(UsageError, match="nothing of the cache .* would be removed"):
        prune(cache, [], 1, None)
    assert len(list(cache.glob("shard-*"))) == len(CacheReader(cache).index.shards)


def test_a_full_disk_leaves_no_new_shards_and_no_tip_of_a_dump(cache, tmp_path, monkeypatch):
    """Each new try needed the whole space again, and `--resume` was advised."""

    def full(*words):
        if words[1] in ("shard-00001.safetensors", last):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*words)

    halves = [copy_of(cache, f"half{i}", keep=[subject(cache, i)]) for i in (0, 1)]
    before, write = bytes_of(cache), pruning.write_shard
    last = f"shard-{2 * len(CacheReader(cache).index.shards) - 1:05d}.safetensors"
    monkeypatch.setattr(pruning, "write_shard", full)
    monkeypatch.setattr(writer, "write_shard", full)
    with pytest.raises(FreqKDError, match="No space left") as caught:
        prune(cache, [subject(cache, 0)], None, None)
    assert bytes_of(cache) == before
    assert caught.value.tip.endswith("then run it again: the cache is whole")
    with pytest.raises(FreqKDError, match="No space left") as caught:
        merge(*halves, tmp_path / "both")
    assert caught.value.tip.endswith("then run it again with --overwrite")
    monkeypatch.undo()
    assert merge(*halves, tmp_path / "both", "overwrite")["items"] == 12


def test_caches_of_other_teachers_are_refused_with_all_fields(cache, tmp_path):
    content = CacheReader(cache).content
    job = make_job(
        content=content, teacher=Teacher(1), dtype="bfloat16", storage="float32", images=Images(7)
    )
    dump(job, tmp_path / "other", Notes())
    with pytest.raises(CacheMismatch) as caught:
        merge(cache, tmp_path / "other", tmp_path / "x")
    listed = {line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:-1]}
    assert listed == {"teacher.weights_sha256", "teacher.dtype", "storage", "data.number"}
    assert "--content, --dtype, --scores" in caught.value.tip
    assert not (tmp_path / "x").exists()


def test_fewer_images_are_warned_of(cache, caplog):
    """A recipe that trains on all of them is refused with the cache from now on."""
    prune(cache, [], 1, None)
    assert not caplog.records
    prune(cache, [], None, 4)
    assert f"{cache} now has 4 of 6 images: it no longer fits" in caplog.text


def test_refusals_of_merge(cache, tmp_path):
    with pytest.raises(CacheMismatch, match="same tensor of the same view\n.*image 0, view 0") as e:
        merge(cache, copy_of(cache, "copy"), tmp_path / "x")
    assert e.value.tip == f"use {cache} alone, which has all of {tmp_path / 'copy'}"
    parts = [copy_of(cache, f"part{i}", keep=[subject(cache, i)]) for i in (0, 1)]
    with pytest.raises(CacheMismatch, match="same tensor of the same view") as e:
        merge(parts[0], cache, tmp_path / "x")
    assert e.value.tip == f"use {cache} alone, which has all of {parts[0]}"
    prune(parts[0], [], None, 4)
    fewer = copy_of(cache, "fewer", images=3)
    with pytest.raises(CacheMismatch, match="same tensor of the same view") as e:
        merge(parts[0], fewer, tmp_path / "x")
    assert e.value.tip == f"freqkd cache prune {fewer} --keep {subject(cache, 1)}, then merge again"
    half = copy_of(cache, "half", keep=[subject(cache, 0)], images=4)
    other = copy_of(cache, "otherhalf", keep=[subject(cache, 1)])
    with pytest.raises(CacheMismatch, match="not the same views\n.*8 and 12 views"):
        merge(half, other, tmp_path / "x")
    with pytest.raises(UsageError, match="one of the merged caches"):
        merge(half, other, half, "overwrite")
    with pytest.raises(Missing, match="no cache in"):
        merge(half, tmp_path, tmp_path / "x")
    with pytest.raises(UsageError, match="not empty"):
        merge(half, copy_of(cache, "third", keep=[subject(cache, 1)], images=4), cache)


def test_targets_of_a_loss_with_other_arguments_are_refused(tmp_path):
    """They were merged where the views differ: half of the views had another cutoff."""
    parts = []
    for name, cutoff, shards in (("a", 0.5, slice(0, 2)), ("b", 0.25, slice(2, None))):
        job = make_job(content="targets", cutoff=cutoff)
        dump(job, tmp_path / f"all{name}", Notes(), shard_bytes=SMALL)
        parts.append(part_of(tmp_path / f"all{name}", name, shards))
    with pytest.raises(CacheMismatch) as caught:
        merge(*parts, tmp_path / "x")
    (line,) = str(caught.value).splitlines()[1:-1]
    assert line.strip() == "targets.wave.arguments.cutoff: cached 0.5, other 0.25"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("part", ["class_map", "pool"])
def test_caches_of_other_class_maps_or_pools_are_refused(tmp_path, part):
    """Leaves that one of them lacks were left out: the second map stayed in neither."""
    dump(make_job(content="targets"), tmp_path / "all", Notes())
    folders = []
    for number, value in enumerate(({"0": [0], "1": [1]}, {"0": [0], "2": [1]}, {})):
        folder = copy_of(tmp_path / "all", str(number), keep=[("copy", "wave", "wave")[number]])
        index = index_file.read_index(folder)
        fields = {**index.full_fingerprint.fields, **({part: value} if value else {})}
        index_file.write_index(folder, Fingerprint(fields), index.shards)
        folders.append(folder)
    with pytest.raises(CacheMismatch) as caught:
        merge(folders[0], folders[1], tmp_path / "x")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert lines == [f"{part}.1: cached [1], other nothing", f"{part}.2: cached nothing, other [1]"]
    assert merge(folders[0], folders[2], tmp_path / "x")["items"] == 12


def test_an_interrupted_merge_has_a_tip_of_its_own(cache, tmp_path):
    """It named --resume and --verify, which merge does not have."""
    halves = [copy_of(cache, f"half{i}", keep=[subject(cache, i)]) for i in (0, 1)]
    merge(*halves, tmp_path / "both")
    (tmp_path / "both" / "index.json").unlink()
    with pytest.raises(UsageError, match="an unfinished cache") as caught:
        merge(*halves, tmp_path / "both")
    assert caught.value.tip == "--overwrite to replace it, or another --out"


def test_refusals_of_prune(cache, tmp_path):
    before = bytes_of(cache)
    for views, images in ((0, None), (None, 0)):
        with pytest.raises(UsageError, match="would remove everything"):
            prune(cache, [], views, images)
    for options in (([], None, None), ([], 9, 9), ([subject(cache, 0), subject(cache, 1)], 2, 6)):
        with pytest.raises(UsageError, match="nothing of the cache .* would be removed"):
            prune(cache, *options)
    wrong = subject(cache, 0)[:-1]
    with pytest.raises(UsageError, match=f"no '{wrong}', did you mean|no '{wrong}'"):
        prune(cache, [wrong], None, None)
    with pytest.raises(Missing, match="no cache in"):
        prune(tmp_path, [], 1, None)
    assert bytes_of(cache) == before
    dump(make_job(views=0), tmp_path / "whole", Notes())
    with pytest.raises(UsageError, match="drawn views"):
        prune(tmp_path / "whole", [], 1, None)


def test_8_bits_and_top_scores_survive_both(tmp_path):
    job = make_job(storage="int8")
    fields = {**job.fingerprint.fields, "scores": 2}
    job = dataclasses.replace(job, fingerprint=Fingerprint(fields))
    dump(job, tmp_path / "all", Notes(), shard_bytes=SMALL)
    before = rows_of(tmp_path / "all")
    halves = [copy_of(tmp_path / "all", f"h{i}", keep=[f"stage{i}"]) for i in (1, 2)]
    merge(*halves, tmp_path / "both")
    assert same(rows_of(tmp_path / "both"), before)


def test_the_commands(cache, tmp_path, monkeypatch, capfd):
    def freqkd(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["freqkd", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code, *capfd.readouterr()

    other = copy_of(cache, "other", keep=[subject(cache, 1)])
    code, out, _ = freqkd("cache", "prune", cache, "--keep", subject(cache, 0), "--json")
    assert code == 0 and json.loads(out)["items"] == 12
    code, out, _ = freqkd("cache", "merge", cache, other, "--out", tmp_path / "both", "--json")
    assert code == 0 and json.loads(out)["cache"] == str(tmp_path / "both")
    assert freqkd("cache", "verify", tmp_path / "both")[0] == 0
    code, _, err = freqkd("cache", "prune", tmp_path / "both", "--views", 0)
    assert code == 2 and "would remove everything" in err
    code, out, _ = freqkd("cache", "prune", tmp_path / "both", "--views", 1)
    assert code == 0 and ", before " in out
