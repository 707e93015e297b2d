"""Which labelled images and images of a pool a batch holds: exact shares, no repetition, resume."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest

from freqkd_cli.errors import UsageError
from freqkd_cli.views.pool_share import PoolShare, batches_per_epoch, exact, has_both
from freqkd_cli.views.steps import Item, Steps

CASES = [(32, 8, 0.5), (30, 7, 0.5), (13, 4, 0.3), (50, 5, 0.3), (9, 8, 0.8), (20, 10, 0.3333)]


def steps(length: int, batch_size: int, share: float, stop: int, pool: int = 11, **more) -> Steps:
    return Steps(
        length, batch_size, seed=5, start=0, stop=stop, pool=PoolShare(pool, share), **more
    )


def kinds(batch: list[Item], length: int) -> tuple[list[Item], list[Item]]:
    return [i for i in batch if i[0] < length], [i for i in batch if i[0] >= length]


@pytest.mark.parametrize(("length", "batch_size", "share"), CASES)
def test_the_share_is_exact_over_time_and_an_epoch_is_one_pass(length, batch_size, share):
    order = steps(length, batch_size, share, 60)
    taken = 0
    for number, batch in enumerate(order, start=1):
        labelled, pool = kinds(batch, length)
        assert len(batch) == batch_size and labelled and pool, "both kinds in every batch"
        assert batch == labelled + pool
        taken += len(pool)
        assert abs(taken - exact(share) * batch_size * number) <= Fraction(1, 2)
    per_epoch = order.per_epoch
    assert per_epoch == batches_per_epoch(length, batch_size, share)
    batches = list(order)
    for epoch in range(60 // per_epoch):
        inside = [
            item
            for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch]
            for item in kinds(batch, length)[0]
        ]
        assert len(set(inside)) == len(inside) and {draw for _, draw in inside} == {epoch}
        left = length - len(inside)
        assert 0 <= left <= batch_size * (1 - share) + 1, "less than a batch is dropped"


def test_the_pool_is_used_up_before_an_image_comes_again():
    batches = list(steps(16, 8, 0.5, 40, pool=11))
    pool = [item for batch in batches for item in kinds(batch, 16)[1]]
    assert len(pool) == 160
    for number in range(14):  # 14 whole passes over 11 images, across the ends of epochs
        one = pool[11 * number : 11 * (number + 1)]
        assert {draw for _, draw in one} == {number}
        assert sorted(index for index, _ in one) == list(range(16, 27))
    orders = {tuple(index for index, _ in pool[11 * k : 11 * (k + 1)]) for k in range(14)}
    assert len(orders) == 14


def test_the_order_of_the_labelled_images_is_that_without_a_pool():
    plain = [item for batch in Steps(16, 4, seed=5, start=0, stop=8) for item in batch]
    mixed = [item for batch in steps(16, 8, 0.5, 8) for item in kinds(batch, 16)[0]]
    assert mixed == plain


@pytest.mark.parametrize(("length", "batch_size", "share"), CASES)
def test_it_can_be_resumed_anywhere(length, batch_size, share):
    whole = list(steps(length, batch_size, share, 30))
    for start in range(30):
        part = Steps(length, batch_size, 5, start, 30, pool=PoolShare(11, share))
        assert list(part) == whole[start:]


def test_processes_share_a_batch_evenly():
    whole = list(steps(32, 8, 0.5, 12))
    parts = [list(steps(32, 8, 0.5, 12, process=p, processes=2)) for p in range(2)]
    for batch, one, two in zip(whole, *parts, strict=True):
        assert sorted(one + two) == sorted(batch)
        assert [len(part) for part in kinds(one, 32)] == [len(part) for part in kinds(two, 32)]


def test_a_small_pool_repeats_within_a_batch():
    (batch,) = steps(8, 8, 0.5, 1, pool=1)
    assert Counter(index for index, _ in kinds(batch, 8)[1]) == {8: 4}


def test_too_few_labelled_images_name_a_batch_that_fits():
    with pytest.raises(UsageError, match="smaller than one batch") as caught:
        steps(3, 8, 0.5, 1)
    assert "share of 1/2 is labelled" in str(caught.value.got)
    assert caught.value.tip == "--set 'train.batch_size=6'"
    assert steps(3, 6, 0.5, 1).per_epoch == 1


def test_both_kinds_need_a_place():
    assert has_both(2, 0.5) and has_both(4, 0.25) and has_both(10, 0.9)
    assert not has_both(1, 0.5) and not has_both(4, 0.2) and not has_both(4, 0.8)
