"""Copies of batches run ahead of the steps: the order of work on a stream, with a fake one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from freqkd_cli.train.copies import Copies


class FakeStream:
    """A list of work. An event, or a wait for a stream, is the number of its first pieces."""

    def __init__(self, *_: object) -> None:
        self.work: list[str] = []
        self.waited: list[list[str]] = []

    def record_event(self) -> list[str]:
        return list(self.work)

    def wait_event(self, event: list[str]) -> None:
        self.waited.append(event)

    def wait_stream(self, other: FakeStream) -> None:
        self.waited.append(list(other.work))


class FakeBatch:
    tensors: dict[str, torch.Tensor] = {}

    def __init__(self, name: str, copies: FakeStream) -> None:
        self.name, self.copies = name, copies

    def to(self, device: torch.device) -> FakeBatch:
        self.copies.work.append(f"images of {self.name}")
        return self


class FakeSource:
    def start(self, batch: FakeBatch) -> list[torch.Tensor]:
        batch.copies.work.append(f"rows of {batch.name}")
        return []


@pytest.fixture
def steps(monkeypatch) -> FakeStream:
    """The stream of the steps."""
    stream = FakeStream()
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    return stream


def test_a_step_waits_for_the_copy_of_its_own_batch_alone(steps):
    copies = Copies(torch.device("cuda"), FakeSource())
    batches = copies.ahead(FakeBatch(name, copies.stream) for name in "abc")
    work = [f"{what} of {name}" for name in "abc" for what in ("images", "rows")]
    for number, batch in enumerate(batches, start=1):
        assert copies.stream.work == work[: 2 * number + 2], "the next batch is being copied"
        assert copies.of(batch) is batch
        assert steps.waited[-1] == work[: 2 * number]
    assert number == 3 and not copies._started


def test_a_batch_that_was_not_ahead_is_copied_when_it_is_used(steps):
    copies = Copies(torch.device("cuda"), FakeSource())
    copies.of(FakeBatch("a", copies.stream))
    assert steps.waited == [["images of a", "rows of a"]]
