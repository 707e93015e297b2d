"""What a tally copies to the device that counts."""

from __future__ import annotations

import pytest
import torch

from freqkd_cli.score.tally import Tally


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_a_copy_to_another_device_is_not_waited_for(monkeypatch, device):
    """A copy from an MPS device to a CPU would be counted before it has arrived."""
    waits, copy = [], torch.Tensor.to

    def to(tensor, *args, **keys):
        waits.append(not keys.get("non_blocking"))
        return copy(tensor, *args, **keys)

    tally = Tally(3, cheap=True, device=device)
    for counts in tally.counts:
        monkeypatch.setattr(counts, "add", lambda *maps: None)
    expected = [counts.table.device.type == "cpu" for counts in tally.counts]
    monkeypatch.setattr(torch.Tensor, "to", to)
    labels = torch.zeros(4, 5, dtype=torch.int64)
    tally.add(labels, labels)
    assert (device == "cpu") in expected and waits == [x for x in expected for _ in range(2)]
