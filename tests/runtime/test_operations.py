"""Counts of operations against what is counted by hand, and published ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from freqkd_cli.commands import zoo
from freqkd_cli.models import vmamba
from freqkd_cli.models._vmamba_blocks import SS2D
from freqkd_cli.models._vmamba_sizes import VARIANTS
from freqkd_cli.runtime.operations import Operations, forward_flops


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_transform_counts_5_n_log_n_and_half_where_a_side_is_real(device: str) -> None:
    x = torch.zeros(3, 8, 16, device=device)
    with Operations() as counter:
        half = torch.fft.rfft2(x)
    assert counter.get_total_flops() == 2.5 * 3 * 128 * 7
    with Operations() as counter:
        torch.fft.irfft2(half, s=(8, 16))
    assert (
        counter.get_total_flops() >= 2.5 * 3 * 128 * 4
    )  # a CPU goes axis by axis and counts the first as complex
    with Operations() as counter:
        torch.fft.fft2(x.to(torch.complex64))
    assert counter.get_total_flops() == 5 * 3 * 128 * 7


def test_a_scan_counts_what_its_recurrence_takes() -> None:
    with torch.device("meta"):
        op = SS2D(32, VARIANTS["nano"], "auto")
    cells, inner, rank = 2 * 5 * 7, 32, 2
    with Operations() as counter, torch.no_grad():
        op(torch.empty(2, 5, 7, 32, device="meta"))
    products = 2 * cells * (2 * 32 * inner + 9 * inner + 4 * (rank + 2) * inner + 4 * rank * inner)
    assert counter.get_total_flops() == products + cells * 4 * inner * (7 + 5)


def test_nothing_stays_behind() -> None:
    class Counted(nn.Identity):
        def uncounted(self, x: torch.Tensor) -> int:
            return 5

    module = Counted()
    with Operations() as counter:
        module(torch.ones(1))
    module(torch.ones(1))
    assert counter.get_total_flops() == 5


@pytest.mark.parametrize(("variant", "published"), [("tiny", 4.9), ("small", 8.7)])
def test_backbones_take_what_was_published(variant: str, published: float) -> None:
    """The authors' table (224x224) counts a multiply-add once, and 9 for each state of a scan."""
    with torch.device("meta"):
        backbone = vmamba.build(classes=19, variant=variant).backbone
    flops = forward_flops(backbone, (224, 224))
    scans = [
        (224 // (4 << i)) ** 2 * b.op.Ds.numel()
        for i, stage in enumerate(backbone.layers)
        for b in stage.blocks
    ]
    assert ((flops - 12 * sum(scans)) / 2 + (9 + 1) * sum(scans)) / 1e9 == pytest.approx(
        published, rel=0.02
    )


def test_the_zoo_shows_counts_and_latency() -> None:
    row = {
        "name": "vmamba",
        "variants": ["nano", "micro"],
        "arguments": [{"name": "encoder_weights"}],
    }
    counts = zoo._counts(row, latency=False)
    assert counts["count_size"] == [512, 1024]
    assert counts["flops"] == {name: 2 * macs for name, macs in counts["macs"].items()}
    assert counts["flops"]["nano"] < counts["flops"]["micro"]
    assert "latency_ms" not in counts
    timed = zoo._counts({"name": "fast_scnn", "variants": [], "arguments": []}, latency=True)
    assert timed["latency_ms"][""] > 0
    assert "ms" in zoo._count_table([{"name": "fast_scnn", **timed}]).splitlines()[0]
