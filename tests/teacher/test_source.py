"""A live teacher and its cache give the same targets, and the teacher does not change."""

from __future__ import annotations

import pytest
import torch
from cache_fakes import SPEC, TEACHER_TAPS, Images, Notes, Teacher, grids, losses, make_job
from torch import nn

from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.shards import Storage
from freqkd_cli.errors import CacheMismatch, RecipeError
from freqkd_cli.teacher.cached import CachedTeacher
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.targets import NoTeacher
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.view import ViewSpec


def batches(epochs: int = 3, size: int = 3, spec: ViewSpec = SPEC):
    """Draws 0, 1 and 2 of views of which two are stored, in another order than in the dump."""
    items = [
        [(index, epoch) for index in order]
        for epoch in range(epochs)
        for order in ([4, 0, 2], [5, 3, 1])
    ]
    return Loader(
        ViewDataset(Images(), spec, view_seed=5, views=2), [item[:size] for item in items]
    )


@pytest.mark.parametrize("content", ["taps", "targets"])
@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
def test_cached_equals_live(tmp_path, content, storage):
    dump(make_job(content=content, storage=storage), tmp_path / "a", Notes(), shard_bytes=12_000)
    cached = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    live = LiveTeacher(
        Teacher(), losses(), TEACHER_TAPS, round_to=Storage(storage), content=content
    )
    for batch in batches():
        from_cache, from_live = cached.targets(batch, grids()), live.targets(batch, grids())
        assert list(from_cache) == list(from_live) == ["copy", "wave", "labels"]
        assert from_cache["labels"] == {}
        assert from_cache["wave"]["spectrum"].dtype is torch.complex64
        assert from_cache["wave"]["largest"].dtype is torch.int64
        for id, target in from_live.items():
            assert list(from_cache[id]) == list(target)
            for name, tensor in target.items():
                # Another batch changes the last bit of a convolution, which may round differently.
                step = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 1e-5}[storage]
                torch.testing.assert_close(
                    from_cache[id][name],
                    tensor,
                    rtol=2 * step,
                    atol=step * float(tensor.abs().max()),
                )


@pytest.mark.parametrize("content", ["taps", "targets"])
@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
def test_cached_equals_live_to_the_bit_at_equal_batches(tmp_path, content, storage):
    job = make_job(content=content, storage=storage)
    dump(job, tmp_path / "a", Notes())
    cached = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    live = LiveTeacher(
        Teacher(), losses(), TEACHER_TAPS, round_to=Storage(storage), content=content
    )
    for batch in Loader(job.dataset, list(job.batches())):
        from_cache, from_live = cached.targets(batch, grids()), live.targets(batch, grids())
        for id in from_live:
            for name in from_live[id]:
                assert torch.equal(from_cache[id][name], from_live[id][name]), (id, name)


def test_swapped_rows_are_not_equal(tmp_path):
    """The comparison above can fail: another view of the same image is far away."""
    dump(make_job(), tmp_path / "a", Notes())
    reader = CacheReader(tmp_path / "a")
    one, other = (reader.read([(3, view)], ["stage2"])["stage2"] for view in (0, 1))
    assert (one - other).abs().max() > 0.1 * one.std()


def test_clean_teacher_images_are_used(tmp_path):
    spec = ViewSpec((32, 64), color=1.0, teacher_sees="clean")
    dump(make_job(spec=spec, storage="float32"), tmp_path / "a", Notes())
    cached = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    # Draws 0 and 2: the same stored view in other colors.
    first, second = (list(batches(3, spec=spec))[i] for i in (0, 4))
    assert not torch.equal(first.images, second.images) and torch.equal(first.views, second.views)
    live = LiveTeacher(Teacher(), losses(), TEACHER_TAPS)
    for batch in (first, second):
        torch.testing.assert_close(
            cached.targets(batch, grids())["copy"]["map"],
            live.targets(batch, grids())["copy"]["map"],
        )


def test_one_pass_for_the_taps_of_all_losses():
    model = Teacher()
    live = LiveTeacher(model, losses(), TEACHER_TAPS)
    live.targets(next(iter(batches(size=2))), grids())  # two images are one part
    assert model.passes == 1 and live.wanted == ("stage1", "stage2")


def test_parts_of_a_batch_side_by_side_are_the_batch():
    batch, whole = next(iter(batches())), Teacher().eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        live = LiveTeacher(Teacher(), losses(), TEACHER_TAPS)
        taps = live.taps(batch)
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        expected = whole(batch.images, taps=list(taps))
    assert len(batch) == 3 and live.model.passes == 0, "copies ran in their own threads"
    for name, tap in taps.items():
        torch.testing.assert_close(tap, expected[name])


def test_nothing_runs_for_losses_without_a_teacher():
    model = Teacher()
    live = LiveTeacher(model, {"labels": losses()["labels"]}, TEACHER_TAPS)
    assert live.targets(next(iter(batches())), grids()) == {"labels": {}} and model.passes == 0
    assert NoTeacher().targets(next(iter(batches())), grids()) == {}


def test_the_teacher_stays_frozen():
    model = Teacher().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    live = LiveTeacher(model, losses(), TEACHER_TAPS)
    nn.ModuleList([model]).train()
    assert not any(module.training for module in model.modules()) and model.train() is model
    target = live.targets(next(iter(batches())), grids())["copy"]["map"]
    assert not target.requires_grad and not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_autocast_does_not_reach_the_teacher(dtype):
    batch = next(iter(batches()))
    live = LiveTeacher(Teacher(), losses(), TEACHER_TAPS, dtype=dtype)
    plain = live.targets(batch, grids())
    with torch.autocast("cpu", torch.float16 if dtype == "bfloat16" else torch.bfloat16):
        inside = live.targets(batch, grids())
    assert plain["copy"]["map"].dtype is torch.float32
    assert torch.equal(plain["copy"]["map"], inside["copy"]["map"])
    assert next(live.model.parameters()).dtype is getattr(torch, dtype)


def test_a_row_depends_on_its_sample_alone():
    live = LiveTeacher(Teacher(), losses(), TEACHER_TAPS)
    whole = live.targets(next(iter(batches())), grids())
    alone = live.targets(next(iter(batches(size=1))), grids())
    for name, tensor in alone["wave"].items():
        torch.testing.assert_close(whole["wave"][name][:1], tensor)


def test_a_target_without_rows_is_refused():
    parts = losses()
    parts["copy"].target = lambda teacher, batch, grids: {"map": torch.zeros(())}
    with pytest.raises(RecipeError, match="the target map of copy has no row"):
        LiveTeacher(Teacher(), parts, TEACHER_TAPS).targets(next(iter(batches())), grids())


def test_a_cache_without_a_tap_or_a_target_is_refused(tmp_path):
    parts = losses()
    parts["copy"].teacher = "logits"
    for content, missing in (("taps", "the tap logits"), ("targets", "the targets of other")):
        dump(make_job(content=content), tmp_path / content, Notes())
        reader = CacheReader(tmp_path / content)
        with pytest.raises(CacheMismatch, match=missing):
            CachedTeacher(
                reader, {"other" if content == "targets" else "copy": parts["copy"]}, TEACHER_TAPS
            )


def test_a_view_that_was_not_stored_is_refused(tmp_path):
    dump(make_job(), tmp_path / "a", Notes())
    cached = CachedTeacher(CacheReader(tmp_path / "a"), losses(), TEACHER_TAPS)
    endless = Loader(ViewDataset(Images(), SPEC, view_seed=5, views=0), [[(2, 7)]])
    with pytest.raises(CacheMismatch, match="image 2, view 7"):
        cached.targets(next(iter(endless)), grids())
