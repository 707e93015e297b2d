"""Copies of batches to the device of a run; on a GPU they run beside the steps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import torch
from torch import Tensor

from freqkd_cli.teacher.targets import Source
from freqkd_cli.views.batch import Batch


class Copies:
    """Copies the views of a batch, and what a cache holds of them, to a device.

    On a CUDA GPU they go through a stream of their own, from pinned memory. On other devices a
    batch is copied when it is used.
    """

    def __init__(self, device: torch.device, source: Source) -> None:
        self.device, self.source = device, source
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._started: dict[int, tuple[Batch, list[Tensor], torch.cuda.Event]] = {}

    def ahead(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        """Return the same batches; when one is returned, the next one is being copied."""
        return batches if self.stream is None else self._ahead(batches)

    def _ahead(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        with closing(batches):
            coming = next(batches, None)
            while coming is not None:
                batch, coming = coming, next(batches, None)
                for each in (batch, coming):
                    if each is not None and id(each) not in self._started:
                        self._start(each)
                yield batch

    def _start(self, batch: Batch) -> None:
        with torch.cuda.stream(self.stream):
            copy = batch.to(self.device)
            rows = self.source.start(copy)
            self._started[id(batch)] = copy, rows, self.stream.record_event()

    def of(self, batch: Batch) -> Batch:
        """Return the batch on the device."""
        if self.stream is None:
            return batch.to(self.device)
        if id(batch) not in self._started:
            self._start(batch)
        copy, rows, copied = self._started.pop(id(batch))
        here = torch.cuda.current_stream(self.device)
        here.wait_event(copied)  # not for the stream, which has the copy of the next batch as well
        for tensor in (*copy.tensors.values(), *rows):
            if tensor.device.type == "cuda":
                tensor.record_stream(here)  # keeps its memory until this stream is done with it
        return copy
