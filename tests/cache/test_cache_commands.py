"""``freqkd cache info`` and ``freqkd cache verify``, and the repair of a damaged cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cache_fakes
import pytest
import torch
from cache_fakes import Notes, bytes_of, make_job
from safetensors.torch import load_file

from freqkd_cli import app
from freqkd_cli.cache import index_file
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.shards import Storage
from freqkd_cli.cache.writer import CacheWriter
from freqkd_cli.errors import CacheDamaged
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.byte_sizes import size
from freqkd_cli.runtime.files import sha256
from freqkd_cli.runtime.tensor_file import write_tensors
from freqkd_cli.teacher.cached import CachedTeacher
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.dump_plan import plan
from freqkd_cli.teacher.live import LiveTeacher
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
    info = json.loads(out)
    assert (
        code == 0
        and info["finished"]
        and (info["items"], info["images"], info["views"]) == (12, 6, 2)
    )
    assert {row["name"]: (row["dtype"], row["shape"]) for row in info["tensors"]} == {
        "stage1": ("F16", [6, 8, 16]), "stage2": ("F16", [10, 4, 8])
    }  # fmt: skip
    assert info["bytes"] == sum(path.stat().st_size for path in cache.glob("shard-*"))
    fits = info["fits"]
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
    info = json.loads(freqkd("cache", "info", tmp_path / "t", "--json")[1])
    assert (
        info["fits"]["losses"] == ["copy", "wave"]
        and info["views"] == "whole"
        and "data.views" not in info["fits"]
    )

    with CacheWriter(tmp_path / "u", plan(make_job(), SMALL)[0]):
        pass
    code, out, _ = freqkd("cache", "info", tmp_path / "u")
    assert code == 0 and "unfinished: 0 of 4 shards" in out
    assert freqkd("cache", "verify", tmp_path / "u")[0] == 2
    assert freqkd("cache", "info", tmp_path)[0] == 4  # as a run that is missing; it was 2


def test_verify_names_every_damaged_shard_and_resume_makes_only_those_again(freqkd, cache):
    shown = size(json.loads(freqkd("cache", "verify", cache, "--json")[1])["bytes"])
    assert freqkd("cache", "verify", cache)[:2] == (0, f"{cache}: ok, 4 shards, {shown}\n")
    assert shown.endswith(" KiB")  # was 0.0 MiB
    before = bytes_of(cache)
    stamps = {path.name: path.stat().st_mtime_ns for path in cache.glob("shard-*")}
    flip(cache / "shard-00001.safetensors")
    (cache / "shard-00003.safetensors").unlink()
    code, out, err = freqkd("cache", "verify", cache)
    assert (code, out) == (3, "") and "shard-00001.safetensors does not match its checksum" in err
    assert "a shard of the cache is missing" in err
    info = json.loads(freqkd("cache", "verify", cache, "--json")[1])
    assert not info["ok"] and [row["file"] for row in info["damaged"]] == [
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
    with pytest.raises(CacheDamaged, match="other items than this command writes\n.*shard-00001"):
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
    with pytest.raises(CacheDamaged, match="a key occurs twice"):
        CacheReader(cache)


def test_a_shard_with_a_key_twice_is_refused(cache):
    """One tensor of the header under another's name, size and checksum right."""
    reader = CacheReader(cache)
    shard = reader.index.shards[0]
    write_tensors(cache / shard.file, load_file(cache / shard.file))
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
    live = LiveTeacher(cache_fakes.Teacher(), parts, taps, round_to=Storage("float16"))
    assert live.wanted == ("stage2",)
    dump(make_job(), tmp_path / "a", Notes())
    cached = CachedTeacher(CacheReader(tmp_path / "a"), parts, taps)
    batch = next(iter(Loader(make_job().dataset, [[(0, 0), (1, 0)]])))
    grids = cache_fakes.grids()
    from_cache, from_live = cached.targets(batch, grids), live.targets(batch, grids)
    for id in parts:
        torch.testing.assert_close(
            from_cache[id]["map"], from_live[id]["map"], rtol=1e-2, atol=1e-2
        )
    assert (from_cache["tap"]["map"] == from_cache["alias"]["map"]).all()


def test_info_needs_no_torch(cache):
    """It took 3 s and 0.9 GiB, most of it for importing torch."""
    script = "import sys\nfrom freqkd_cli.app import main\ntry:\n    main()\nfinally:\n"
    script += "    print(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))\n"
    words = [sys.executable, "-c", script, "cache", "info", str(cache)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert "stage1  [6, 8, 16]  F16" in result.stdout and result.stdout.endswith("[]\n")
