"""8-bit numbers and the largest class scores: against float64, at edges, and through a cache."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from cache_fakes import Images, Notes, Teacher, bytes_of, make_job

from freqkd_cli.cache import shards
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.shards import SMALL, Storage, decode, encode, rounded
from freqkd_cli.errors import FreqKDError
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.verification import verify

INT8 = Storage("int8")


def through(x: torch.Tensor, form: Storage = INT8, name: str = "x") -> np.ndarray:
    return rounded(name, x, form).double().numpy()


def reference(x: np.ndarray, lead: int) -> np.ndarray:
    """Affine 8-bit rounding in float64; the first ``lead`` axes of a row number its groups."""
    groups = x.reshape(*x.shape[: lead + 1], -1).astype(np.float64)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    step = (high - low) / 255
    codes = np.rint((groups - low) / np.where(step > 0, step, 1))
    return (low + codes * step).reshape(x.shape)


@pytest.mark.parametrize(
    "shape, lead",
    [
        ((2, 6, 16, 12), 1),  # a map: a range per channel
        ((2, 6, 16, 200), 2),  # a wide map: per row of a channel
        ((2, 30, 500), 1),  # rows of a spectrum
        ((2, 400, 8), 0),  # eigenvectors: rows of 8 are too short
        ((2, 3, 40, 40), 1),  # graphs: per head
        ((2, 2000), 0),
    ],
)
def test_8_bits_equal_float64(shape, lead):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + 5
    parts = encode("x", x, INT8)
    groups = math.prod(shape[1 : lead + 1])
    assert parts["x"].dtype == torch.uint8 and parts["x:range"].shape == (shape[0], 2, groups)
    expected, actual = reference(x.numpy(), lead), through(x)
    # A number in the middle between two codes may go to either.
    step = (expected.max() - expected.min()) / 255
    differs = np.abs(actual - expected) > 1e-6 * np.abs(expected).max()
    assert differs.mean() < 1e-3 and np.abs(actual - expected).max() <= 1.001 * step
    flat = x.double().numpy().reshape(*shape[: lead + 1], -1)
    bound = (flat.max(-1, keepdims=True) - flat.min(-1, keepdims=True)) / 510
    assert (np.abs(actual.reshape(flat.shape) - flat) <= bound * (1 + 1e-4) + 1e-6).all()


def test_zeros_constants_and_the_zero_of_a_relu_are_exact():
    x = torch.randn(1, 4, 16, 16).relu()
    x[0, 1], x[0, 2] = 0.0, -7.25
    out = through(x)
    assert (out[0, 1] == 0).all() and (out[0, 2] == -7.25).all()
    assert (out[x.numpy() == 0] == 0).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1e20, 1e38])
def test_very_small_and_very_large_ranges(scale):
    x = (torch.rand(1, 2, 32, 32, dtype=torch.float64) * 2 - 1) * scale
    x = x.float()
    error = np.abs(through(x) - x.double().numpy()).max()
    assert error <= 2.01 * scale / 510 + 255 * 1.4e-45


def test_complex_numbers_integers_and_small_tensors():
    spectrum = torch.randn(2, 5, 600, dtype=torch.complex64)
    parts = encode("s", spectrum, INT8)
    assert parts["s"].dtype == torch.uint8 and parts["s"].shape == (2, 5, 600, 2)
    back = decode("s", parts, is_complex=True)
    assert back.dtype == torch.complex64 and (back - spectrum).abs().max() < 0.03
    numbers = torch.arange(4000).view(2, 2000)
    assert torch.equal(rounded("n", numbers, INT8), numbers)
    small = torch.randn(2, SMALL - 1)
    assert torch.equal(rounded("d", small, INT8), small)
    assert torch.equal(rounded("e", torch.zeros(2, 0, 5), INT8), torch.zeros(2, 0, 5))


# --- class scores ---


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float16", 2e-3)])
def test_the_rest_of_the_mass_is_spread_evenly(dtype, tolerance):
    logits = torch.randn(2, 19, 6, 8, generator=torch.Generator().manual_seed(2)) * 4
    parts = encode("kl.logits", logits, Storage(dtype, scores=4))
    assert sorted(parts) == [f"kl.logits:{part}" for part in ("class", "classes", "rest", "top")]
    out = through(logits, Storage(dtype, scores=4), "kl.logits")
    z = logits.double().numpy()
    order = np.argsort(-z, axis=1)
    expected = z.copy()
    rest = np.take_along_axis(z, order[:, 4:], 1)
    np.put_along_axis(expected, order[:, 4:], np.log(np.exp(rest).mean(1, keepdims=True)), 1)
    assert np.abs(out - expected).max() < tolerance * np.abs(z).max()
    # Probabilities of the top classes, and that of all others together, are those of the teacher.
    if dtype == "float32":
        softmax = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in (z, out)]
        top = [np.take_along_axis(p, order[:, :4], 1) for p in softmax]
        assert np.abs(top[0] - top[1]).max() < 1e-6


def test_all_scores_are_kept_where_there_are_few_and_maps_of_features_stay():
    logits = torch.randn(2, 4, 6, 8)
    assert torch.equal(rounded("logits", logits, Storage("float32", scores=4)), logits)
    features = torch.randn(2, 19, 6, 8)
    assert torch.equal(rounded("stage4", features, Storage("float32", scores=4)), features)
    many = torch.randn(1, 300, 5, 5)
    assert encode("logits", many, Storage("float16", 3))["logits:class"].dtype == torch.int16
    kept = rounded("logits", many, Storage("float32", 3)).topk(3, dim=1)
    assert torch.equal(kept.indices, many.topk(3, dim=1).indices)


# --- through a cache ---


@pytest.fixture
def small(monkeypatch):
    """Store tensors of the fake teacher in 8 bits, which has few numbers."""
    monkeypatch.setattr(shards, "SMALL", 64)


@pytest.mark.parametrize("content", ["taps", "targets"])
def test_a_cache_of_8_bits_is_the_rounded_teacher(tmp_path, content, small):
    job = make_job(content=content, storage="int8")
    dump(job, tmp_path / "a", Notes(), shard_bytes=12_000)
    reader = CacheReader(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "index.json").read_text())["version"] == 2
    assert not any(":" in name for name in reader.names)
    assert {t.dtype for t in reader.index.tensors.values()} >= {"U8", "F32"}
    assert verify(job, reader, 12, Notes()).worst <= 1
    dump(make_job(content=content), tmp_path / "b", Notes(), shard_bytes=12_000)
    assert json.loads((tmp_path / "b" / "index.json").read_text())["version"] == 1
    halves = CacheReader(tmp_path / "b")
    items = sorted(reader.items)
    for name in reader.names:
        x, y = (r.read(items, [name])[name] for r in (reader, halves))
        assert x.dtype == y.dtype and x.shape == y.shape
        if not x.is_complex():
            assert (x - y).abs().max() <= (y.max() - y.min()) / 255


def test_a_resumed_cache_of_8_bits_equals_an_undisturbed_one(tmp_path, small):
    for name in "ab":
        job = make_job(content="targets", storage="int8")
        dump(job, tmp_path / name, Notes(), shard_bytes=12_000)
    (tmp_path / "a" / "shard-00001.safetensors").unlink()
    job = make_job(content="targets", storage="int8")
    dump(job, tmp_path / "a", Notes(), mode="resume", shard_bytes=12_000)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_whole_images_of_several_sizes_have_one_form(tmp_path):
    """A map that is small on some images is stored as on the first one."""
    job = make_job(storage="int8", views=0, images=Images(mixed=True))
    dump(job, tmp_path / "a", Notes())
    assert verify(job, CacheReader(tmp_path / "a"), 6, Notes()).worst <= 1


class Broken(Teacher):
    """Its first feature of one view has a chosen value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images, taps=()):
        out = super().forward(images, taps)
        if "stage1" in out:
            out["stage1"][-1, 0, 0, 0] = self.value
            out["stage1"][-1, 0, 0, 1] = -self.value
        return out


@pytest.mark.parametrize(
    "value, message",
    [
        (math.nan, "not finite at stage1, image 0, view 0"),
        (math.inf, "not finite at stage1"),
        (3e38, "does not fit int8 at stage1, image 0.*\n.*3e\\+38\n.*at most 1.7.*\n.*fp32"),
    ],
)
def test_numbers_that_8_bits_cannot_hold_are_refused(tmp_path, small, value, message):
    job = make_job(storage="int8", teacher=Broken(value), batch_size=1)
    with pytest.raises(FreqKDError, match=message):
        dump(job, tmp_path / "a", Notes())
    assert not (tmp_path / "a" / "index.json").exists()
