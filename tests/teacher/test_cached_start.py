"""``distill --cache`` without the teacher's weights, and its read-ahead."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cache_fakes import TEACHER_TAPS, Notes, grids, losses, make_job
from cached_recipe import load, make_weights, scenes

from freqkd_cli.cache import index_file
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import CacheMismatch, WeightsMissing
from freqkd_cli.runtime import file_hashes
from freqkd_cli.teacher.cached import AHEAD, CachedTeacher, read_ahead
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.labels_alone import labels_alone
from freqkd_cli.views.loader import Loader


@pytest.fixture(autouse=True)
def hashes(tmp_path, monkeypatch):
    """Keep hashes in a folder of the test, as a new process does."""
    monkeypatch.setenv("FREQKD_CACHE", str(tmp_path / "user-cache"))
    monkeypatch.setattr(file_hashes, "_known", {})
    monkeypatch.setattr(file_hashes, "_trusting", True)


def model_bytes(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("content", ["taps", "targets"])
def test_a_cache_trains_without_the_weights_of_its_teacher(tmp_path, caplog, content):
    """It needed them for the taps, the classes and the fingerprint."""
    weights = make_weights(tmp_path / "t", scenes())
    recipe, cache = load(weights), tmp_path / "c"
    dump_recipe(recipe, cache, Notes(), DumpOptions(Form(content)))
    with_weights = distill(recipe, tmp_path / "with", Notes(), cache=cache)
    assert with_weights["teacher_images"] > 0
    shutil.rmtree(weights)
    shutil.rmtree(tmp_path / "user-cache")
    notes = Notes()
    without = distill(recipe, tmp_path / "without", notes, cache=cache)
    assert f"teacher.weights: {weights} is not on this machine" in caplog.text
    assert "the teacher is not scored, because it is not on this machine" in notes.said
    assert model_bytes(tmp_path / "with") == model_bytes(tmp_path / "without")
    assert without["source"] == f"cache {cache}" and "teacher_miou" not in without
    assert labels_alone(recipe, cache).teacher is None
    with pytest.raises(WeightsMissing):
        distill(recipe, tmp_path / "live", Notes())


def test_arguments_of_an_absent_teacher_are_compared(tmp_path):
    weights = make_weights(tmp_path / "t", scenes())
    dump_recipe(load(weights), tmp_path / "c", Notes(), DumpOptions())
    shutil.rmtree(weights)
    for key, field in {
        "teacher.dtype=bfloat16": 'teacher.dtype: cached "float32", wanted "bfloat16"',
        "teacher.decoder=32": "teacher.arguments.decoder: cached 16, wanted 32",
    }.items():
        with pytest.raises(CacheMismatch, match=field):
            distill(load(weights, key), tmp_path / "r", Notes(), cache=tmp_path / "c")
    assert not (tmp_path / "r").exists()


def test_an_older_cache_without_a_teacher_of_its_own(tmp_path):
    """Its fingerprint has the arguments of the model, which give the taps."""
    weights, cache = make_weights(tmp_path / "t", scenes()), tmp_path / "c"
    dump_recipe(load(weights), cache, Notes(), DumpOptions())
    index = index_file.read_index(cache)
    index_file.write_index(cache, index.full_fingerprint, index.shards)
    shutil.rmtree(weights)
    result = distill(load(weights), tmp_path / "r", Notes(), cache=cache)
    assert result["source"] == f"cache {cache}"


# --- reading ahead ---


def test_rows_are_read_ahead_and_equal(tmp_path):
    job = make_job(content="taps")
    dump(job, tmp_path / "a", Notes(), shard_bytes=12_000)
    batches = [[(i, v + 2 * e) for i in range(3 * h, 3 * h + 3)] for e in (0, 1) for v in (0, 1)
               for h in (0, 1)]  # fmt: skip
    plain = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    ahead = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    taken = read_ahead(ahead, batches, 2, torch.device("cpu"))
    for batch in Loader(job.dataset, taken):
        assert 0 < len(ahead._ahead) <= AHEAD
        one, other = (source.targets(batch, grids()) for source in (plain, ahead))
        for id in one:
            assert all(torch.equal(one[id][name], other[id][name]) for name in one[id])
    assert not ahead._ahead and not ahead._planned
    assert read_ahead(object(), batches, 2, torch.device("cpu")) is batches


def test_an_error_of_the_thread_is_that_of_the_step(tmp_path):
    job = make_job()
    dump(job, tmp_path / "a", Notes(), shard_bytes=12_000)
    teacher = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    (batch,) = Loader(job.dataset, read_ahead(teacher, [[(0, 0)]], 2, torch.device("cpu")))
    wrong = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    list(wrong.read_ahead([[(99, 0)]], 2, torch.device("cpu")))
    batch.indices[0] = 99
    with pytest.raises(CacheMismatch, match="image 99"):
        wrong.targets(batch, grids())
