"""Run length, learning rates against torch's own schedulers, loss weights by definition."""

from __future__ import annotations

import pytest
import torch

from freqkd_cli.build.schedules import loss_weight, run_length
from freqkd_cli.recipe.learning_rate import rate_factor
from freqkd_cli.recipe.sections import Train


def _torch_rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("total", [10, 57, 400])
def test_one_cycle_is_torch_s(total):
    expected = _torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 1.0, total_steps=total, final_div_factor=1e4
        ),
        total,
    )
    rates = [rate_factor(step, total, kind="one_cycle") for step in range(total)]
    assert rates == pytest.approx(expected, abs=1e-9)


def test_poly_is_torch_s():
    expected = _torch_rates(
        lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=50, power=0.9), 50
    )
    assert [rate_factor(step, 50, kind="poly", power=0.9) for step in range(50)] == pytest.approx(
        expected, abs=1e-9
    )


def test_warm_up_rises_to_the_peak_and_is_never_zero():
    rates = [rate_factor(step, 100, kind="constant", warmup=0.1) for step in range(100)]
    assert 0 < rates[0] < 0.2
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == [1.0] * 90


def test_a_loss_weight_grows_linearly_over_its_share_of_the_steps():
    weights = [loss_weight(2.0, 0.5, 0.0, step, 10) for step in range(10)]
    assert weights == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    assert loss_weight(2.0, 0.0, 0.0, 0, 10) == 2.0


def test_a_loss_weight_falls_linearly_over_the_last_share_of_the_steps():
    weights = [loss_weight(2.0, 0.0, 0.5, step, 10) for step in range(10)]
    assert weights == pytest.approx([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.6, 1.2, 0.8, 0.4])
    both = [loss_weight(1.0, 0.5, 1.0, step, 4) for step in range(4)]
    assert both == pytest.approx([0.5, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    ("images", "batch", "accumulate", "epochs", "steps"),
    [(100, 8, 5, 10, 24), (100, 8, 1, 10, 120), (13, 4, 2, 3, 5), (16, 4, 8, 1, 1)],
)
def test_a_run_sees_every_batch_of_its_epochs(images, batch, accumulate, epochs, steps):
    length = run_length(images, Train(epochs=epochs, batch_size=batch, accumulate=accumulate))
    assert length.steps == steps and length.epochs_after(steps) >= epochs
    assert steps * accumulate >= epochs * (images // batch) > (steps - 1) * accumulate


def test_epochs_end_where_their_last_batch_is_seen():
    """100 images in batches of 8 are 12 batches, so 5 a step end the epochs at these steps."""
    length = run_length(100, Train(epochs=10, batch_size=8, accumulate=5))
    ends = [step for step in range(1, length.steps + 1) if length.ends_an_epoch(step)]
    assert ends == [3, 5, 8, 10, 12, 15, 17, 20, 22, 24]
    assert [step for step in ends if length.ends_an_epoch(step, 5)] == [12, 24]


def test_a_run_in_steps_has_that_many():
    assert run_length(100, Train(steps=7, batch_size=8, accumulate=5)).steps == 7
