"""Random numbers that depend on key, step, image and view alone."""

from __future__ import annotations

import dataclasses

import torch
from rival_inputs import batch_of
from scipy import stats

from freqkd_cli.features.keyed_noise import keyed_generator, keyed_uniform, new_key

KEY = torch.tensor(12345)


def many(images: int):
    """A batch of this many images."""
    numbers = torch.arange(images)
    return dataclasses.replace(batch_of(4, 4), indices=numbers, views=numbers * 0)


def test_the_numbers_are_uniform_and_uncorrelated():
    numbers = keyed_uniform(KEY, many(64), 5, 1000)
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    correlations = torch.corrcoef(numbers) - torch.eye(64)
    assert correlations.abs().max() < 5 / 1000**0.5
    shifted = torch.corrcoef(torch.stack((numbers[:, :-1].flatten(), numbers[:, 1:].flatten())))
    assert abs(shifted[0, 1]) < 0.02


def test_they_depend_on_key_step_image_and_view():
    batch = batch_of(4, 4)
    others = [
        keyed_uniform(KEY, batch, 5, 100),
        keyed_uniform(KEY + 1, batch, 5, 100),
        keyed_uniform(KEY, batch, 6, 100),
        keyed_uniform(KEY, dataclasses.replace(batch, views=batch.views + 1), 5, 100),
        keyed_uniform(KEY, dataclasses.replace(batch, views=batch.views - 1), 5, 100),
        keyed_uniform(KEY, dataclasses.replace(batch, indices=batch.indices + 1), 5, 100),
    ]
    for i, numbers in enumerate(others):
        assert not any((numbers == other).float().mean() > 0.05 for other in others[:i])


def test_they_do_not_depend_on_the_batch_around_an_image():
    whole = keyed_uniform(KEY, many(8), 5, 100)
    part = dataclasses.replace(many(8), indices=torch.tensor([6, 2]), views=torch.zeros(2).long())
    assert torch.equal(keyed_uniform(KEY, part, 5, 100), whole[[6, 2]])


def test_the_key_follows_the_seed():
    keys = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        keys.append(int(new_key()))
    assert keys[0] == keys[1] != keys[2]


def test_numbers_of_no_sample_depend_on_key_and_step():
    def numbers(key, step):
        return torch.rand(4, generator=keyed_generator(int(key), step))

    assert torch.equal(numbers(KEY, 5), numbers(KEY.clone(), 5))
    assert not torch.equal(numbers(KEY, 5), numbers(KEY, 6))
    assert not torch.equal(numbers(KEY, 5), numbers(KEY + 1, 5))
