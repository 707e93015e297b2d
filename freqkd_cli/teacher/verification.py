"""Compare rows of a cache with the live teacher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from freqkd_cli.cache.index_file import Item
from freqkd_cli.cache.reader import CacheReader, item_text
from freqkd_cli.cache.shards import LEVELS, Storage, rounded, steps_of
from freqkd_cli.errors import CheckFailed
from freqkd_cli.runtime.progress import Progress, bar
from freqkd_cli.teacher.dump_plan import Job, rows
from freqkd_cli.views.loader import Loader

ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "int8": 2.0**-20}
"""Largest relative error of rounding to a storage type; for 8 bits, of the range alone."""

SLACK = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 4e-2}
"""Allowed effect of another batch, thread count or processor on a teacher of this dtype, as a share
of the row's standard deviation."""

TF32_SLACK = SLACK["float16"]
"""The same for a float32 teacher on a GPU: its convolutions round their inputs to 10 bits, as
float16 does, and differently for each batch size."""

SMALLEST = {"float16": 2.0**-25, "bfloat16": 0.0, "float32": 0.0, "int8": 0.0}
"""Half of the smallest number above 0, where features can be as small."""


@dataclass(frozen=True)
class Verified:
    """Number of compared rows, and the largest difference as a share of the tolerance."""

    items: int
    worst: float


def verify(job: Job, reader: CacheReader, number: int, progress: Progress) -> Verified:
    """Run the live teacher on ``number`` items of the cache and compare every tap.

    Raises:
        CheckFailed: a row differs by more than rounding; names item, tap and difference.
        CacheDamaged: a shard does not match its checksum.
    """
    items = select(reader.items, number)
    selected = set(items)
    job = replace(job, images=1 + max(index for index, _ in items))
    batches = [
        kept for batch in job.batches() if (kept := [item for item in batch if item in selected])
    ]
    done, worst = 0, 0.0
    loader = Loader(job.dataset, batches, job.workers, device=job.device)
    with bar(progress, "verify", len(items)):
        for batch_items, batch in zip(batches, loader, strict=True):
            live = rows(job, batch.to(job.device))
            names = [name for name in live if name in reader.names]
            cached = reader.read(batch_items, names, job.device)
            for name in names:
                worst = max(worst, _compare(name, cached[name], live[name], batch_items, job))
            done += len(batch_items)
            progress.advance(done)
    return Verified(done, worst)


def _compare(name: str, cached: Tensor, live: Tensor, items: Sequence[Item], job: Job) -> float:
    """Return the largest difference, as a share of the tolerance."""
    if cached.shape != live.shape:
        raise CheckFailed(
            f"{name} has another shape in the cache",
            got=tuple(cached.shape[1:]),
            need=tuple(live.shape[1:]),
        )
    if cached.is_complex():
        cached, live = torch.view_as_real(cached), torch.view_as_real(live)
    slack = _slack(job.teacher.dtype, torch.device(job.device).type)
    expected, allowed = _expected(name, live, job.form, slack)
    cached, live, allowed = (
        x.double().reshape(len(items), -1) for x in (cached, expected, allowed)
    )
    difference = (cached - live).abs()
    tolerance = _tolerance(live, job.form.dtype, slack) + allowed
    # A row of zeros has no tolerance and no difference: 0 / 0 is no failure. NaN is one.
    share = torch.where(difference == 0, 0.0, difference / tolerance).nan_to_num(nan=torch.inf)
    worst = float(share.max()) if share.numel() else 0.0
    if worst > 1:
        row, column = divmod(int(share.argmax()), share.shape[1])
        raise CheckFailed(
            f"the cache differs from the teacher: {name}, {item_text(items[row])}",
            got=f"a difference of {float(difference[row, column]):.3g}",
            need=f"at most {float(tolerance[row, column]):.3g}",
            tip="make the cache again with --overwrite",
        )
    return worst


def _expected(name: str, live: Tensor, form: Storage, slack: float) -> tuple[Tensor, Tensor]:
    """Return rows as a cache keeps their class scores, and what the form may change beside.

    With 8 bits that is half a step. A class whose score nearly equals the smallest one that is kept
    may be kept or not.
    """
    allowed = torch.zeros_like(live)
    if live.is_floating_point() and form.dtype == "int8" and live.numel():
        allowed = steps_of(live) / 2
    scores = rounded(name, live, Storage("float32", form.scores))
    if form.scores and not torch.equal(scores, live):
        least = live.topk(form.scores, dim=1).values[:, -1:]
        spread = live.flatten(1).std(1, correction=0).view(-1, 1, 1, 1)
        if form.dtype == "int8":  # a group has scores of many classes
            allowed = ((live.amax() - live.amin()) / (2 * LEVELS)).expand_as(live)
        close = (live - least).abs() <= 2 * slack * spread + 2 * allowed
        allowed = torch.where(close, torch.inf, allowed)
    return scores, allowed


def _slack(dtype: str, device: str) -> float:
    tf32 = (dtype, device) == ("float32", "cuda") and torch.backends.cudnn.allow_tf32
    return TF32_SLACK if tf32 else SLACK[dtype]


def _tolerance(live: Tensor, storage: str, slack: float) -> Tensor:
    """Return what rounding and another order of additions may change, element by element."""
    spread = live.std(1, correction=0, keepdim=True).maximum(
        live.abs().amax(1, keepdim=True) * 1e-3
    )
    return live.abs() * ROUNDING[storage] + SMALLEST[storage] + slack * spread


def select(items: Iterable[Item], number: int) -> list[Item]:
    """Return a sorted sample without repetition, the same every time."""
    import numpy as np

    ordered = sorted(items)
    chosen = np.random.default_rng(0).permutation(len(ordered))[:number]
    return [ordered[i] for i in sorted(chosen.tolist())]
