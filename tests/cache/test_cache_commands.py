"""``freqkd cache info`` and ``freqkd cache verify``, and how a damaged cache is mended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cache_fakes
import pytest
import torch
from cache_fakes import Notes, bytes_of, make_job
from safetensors.torch import load_file

from freqkd_cli import app
from freqkd_cli.cache import index_file
from freqkd_cli.cache.reader import CacheReader, CacheWriter
from freqkd_cli.cache.shards import sha256, write_shard
from freqkd_cli.errors import CacheDamaged
from freqkd_cli.features.taps import Tap
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.dump_plan import plan
from freqkd_cli.teacher.sources import CachedTeacher, LiveTeacher
from freqkd_cli.views.loader import Loader

SMALL = 12_000


@pytest.fixture
def cache(tmp_path) -> Path:
    dump(make_job(), tmp_path / "cache", Notes(), shard_bytes=SMALL)
    return tmp_path / "cache"


@pytest.fixture
def freqkd(monkeypatch, capfd):
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["freqkd", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code, *capfd.readouterr()

    return run


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(data)


def test_info_says_what_a_recipe_must_say(freqkd, cache):
    code, out, _ = freqkd("cache", "info", cache, "--json")
    found = json.loads(out)
    assert (
        code == 0
        and found["finished"]
        and (found["items"], found["images"], found["views"]) == (12, 6, 2)
    )
    assert {row["name"]: (row["dtype"], row["shape"]) for row in found["tensors"]} == {
        "stage1": ("F16", [6, 8, 16]), "stage2": ("F16", [10, 4, 8])
    }  # fmt: skip
    assert found["bytes"] == sum(path.stat().st_size for path in cache.glob("shard-*"))
    fits = found["fits"]
    assert (
        fits["data.views"],
        fits["data.view_seed"],
        fits["data.size"],
        fits["data.augment.scale"],
    ) == (2, 5, [32, 64], [0.8, 1.5])
    assert fits["teacher.name"] == "fake" and fits["teacher taps"] == ["stage1", "stage2"]
    code, out, _ = freqkd("cache", "info", cache)
    assert (
        code == 0
        and "stage1  [6, 8, 16]  F16" in out
        and "finished" in out
        and "data.augment.flip" in out
    )


def test_info_of_targets_and_of_an_unfinished_cache(freqkd, tmp_path):
    dump(make_job(content="targets", views=0), tmp_path / "t", Notes())
    found = json.loads(freqkd("cache", "info", tmp_path / "t", "--json")[1])
    assert (
        found["fits"]["losses"] == ["copy", "wave"]
        and found["views"] == "whole"
        and "data.views" not in found["fits"]
    )

    with CacheWriter(tmp_path / "u", plan(make_job(), SMALL)[0]):
        pass
    code, out, _ = freqkd("cache", "info", tmp_path / "u")
    assert code == 0 and "unfinished: 0 of 4 shards" in out
    assert freqkd("cache", "verify", tmp_path / "u")[0] == 2
    assert freqkd("cache", "info", tmp_path)[0] == 2


def test_verify_names_every_damaged_shard_and_resume_makes_only_those_again(freqkd, cache):
    assert freqkd("cache", "verify", cache)[:2] == (0, f"{cache}: ok, 4 shards, 0.0 MiB\n")
    before = bytes_of(cache)
    stamps = {path.name: path.stat().st_mtime_ns for path in cache.glob("shard-*")}
    flip(cache / "shard-00001.safetensors")
    (cache / "shard-00003.safetensors").unlink()
    code, out, err = freqkd("cache", "verify", cache)
    assert (code, out) == (3, "") and "shard-00001.safetensors does not match its checksum" in err
    assert "a shard of the cache is missing" in err
    found = json.loads(freqkd("cache", "verify", cache, "--json")[1])
    assert not found["ok"] and [row["file"] for row in found["damaged"]] == [
        "shard-00001.safetensors",
        "shard-00003.safetensors",
    ]
    notes = Notes()
    dump(make_job(), cache, notes, mode="resume", shard_bytes=SMALL)
    assert "2 of 4 shards are kept" in notes.said and bytes_of(cache) == before
    assert freqkd("cache", "verify", cache)[0] == 0
    kept = ("shard-00000.safetensors", "shard-00002.safetensors")
    assert all((cache / name).stat().st_mtime_ns == stamps[name] for name in kept)


def test_a_damaged_cache_of_other_batches_is_left_as_it_is(cache):
    flip(cache / "shard-00001.safetensors")
    before = bytes_of(cache)
    with pytest.raises(CacheDamaged, match="other items than this command's would\n.*shard-00001"):
        dump(make_job(batch_size=4), cache, Notes(), mode="resume", shard_bytes=SMALL)
    assert bytes_of(cache) == before


def test_verify_of_a_damaged_index(freqkd, cache):
    flip(cache / "index.json")
    code, out, err = freqkd("cache", "verify", cache)
    assert (code, out) == (3, "") and "index.json" in err and "--overwrite" in err


def test_a_key_that_is_written_twice_is_refused(cache):
    """JSON readers keep the last of two; the one that a person sees first may be the other."""
    text = (cache / "index.json").read_text()
    (cache / "index.json").write_text(text.replace('"version":1', '"version":7,"version":1'))
    with pytest.raises(CacheDamaged, match="a key is written twice"):
        CacheReader(cache)


def test_a_shard_with_a_key_twice_is_refused(cache):
    """One tensor of the header under another's name, size and checksum right."""
    reader = CacheReader(cache)
    shard = reader.index.shards[0]
    write_shard(cache / shard.file, load_file(cache / shard.file))
    data = (cache / shard.file).read_bytes()
    data = data.replace(b'"0/0/stage1"', b'"0/1/stage1"')
    (cache / shard.file).write_bytes(data)
    lie = shard.model_copy(update={"bytes": len(data), "sha256": sha256(cache / shard.file)})
    index_file.write_index(cache, reader.fingerprint, [lie, *reader.index.shards[1:]])
    with pytest.raises(CacheDamaged):
        CacheReader(cache)


def test_an_alias_is_stored_as_the_tap_that_it_stands_for(tmp_path):
    taps = {**cache_fakes.TEACHER_TAPS, "encoder": Tap("encoder", 8, 10, alias="stage2")}
    parts = {"tap": cache_fakes.Copy("stage2"), "alias": cache_fakes.Copy("encoder")}
    live = LiveTeacher(cache_fakes.Teacher(), parts, taps, round_to="float16")
    assert live.wanted == ("stage2",)
    dump(make_job(), tmp_path / "a", Notes())
    cached = CachedTeacher(CacheReader(tmp_path / "a"), parts, taps)
    batch = next(iter(Loader(make_job().dataset, [[(0, 0), (1, 0)]])))
    ours, theirs = (source.targets(batch, cache_fakes.grids()) for source in (cached, live))
    for id in parts:
        torch.testing.assert_close(ours[id]["map"], theirs[id]["map"], rtol=1e-2, atol=1e-2)
    assert (ours["tap"]["map"] == ours["alias"]["map"]).all()
