"""Learning rates against torch's own schedulers; loss weights against the definition."""

from __future__ import annotations

import pytest
import torch

from freqkd_cli.build.schedules import loss_weight, rate_factor


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
    ours = [rate_factor(step, total, kind="one_cycle") for step in range(total)]
    assert ours == pytest.approx(expected, abs=1e-9)


def test_poly_is_torch_s():
    expected = _torch_rates(
        lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=50, power=0.9), 50
    )
    assert [rate_factor(step, 50, kind="poly", power=0.9) for step in range(50)] == pytest.approx(
        expected, abs=1e-9
    )


def test_warm_up_rises_to_the_peak_and_never_is_zero():
    rates = [rate_factor(step, 100, kind="constant", warmup=0.1) for step in range(100)]
    assert 0 < rates[0] < 0.2
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == [1.0] * 90


def test_a_loss_weight_grows_linearly_over_its_share_of_the_steps():
    weights = [loss_weight(2.0, 0.5, step, 10) for step in range(10)]
    assert weights == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    assert loss_weight(2.0, 0.0, 0, 10) == 2.0
