"""The processes that a launcher started for one job, and the few things that they do together.

Losses, models and the loop's arithmetic know nothing of them: a batch is shared out by ``views/loader.py``, and what must be whole again
goes through here. One process forms no group and imports nothing for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.runtime import launch
from freqkd_cli.runtime.precision import pick_device


@dataclass(frozen=True)
class Processes:
    """This process among the others. Every method must be called by all of them, in the same order.

    Attributes:
        device: where this process computes.
        index: its number, 0 for the one that writes what there is once.
        number: how many there are.

    Raises:
        FreqKDError: in every method, another process is gone.
    """

    device: torch.device
    index: int = 0
    number: int = 1

    @property
    def first(self) -> bool:
        return self.index == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, on the device of ``tensor``."""
        if self.number == 1:
            return tensor
        total = tensor.to(self.device, copy=True)
        with _others():
            dist.all_reduce(total)
        return total.to(tensor.device)

    def wait(self) -> None:
        """Until all are here."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Whether it is so in one process at least."""
        return bool(self.sum(torch.tensor(int(flag))))

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes in place of float tensors, all of them in one message."""
        if self.number == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        with _others():
            dist.all_reduce(flat)
        for tensor, mean in zip(
            tensors, (flat / self.number).split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(mean.view(tensor.shape))

    def share(self, value: Any) -> Any:
        """What the first process has; the others' values are not looked at."""
        if self.number == 1:
            return value
        box = [value if self.first else None]
        with _others():
            dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order."""
        if self.number == 1:
            return [value]
        found: list[Any] = [None] * self.number
        with _others():
            dist.all_gather_object(found, value)
        return found


ALONE = Processes(torch.device("cpu"))


def join(name: str | None) -> Processes:
    """The processes of this job, each on a device of its own: ``--device``, or the best there is.

    Raises:
        UsageError: there is no such device, or there are fewer than processes.
    """
    device = pick_device(name)
    if launch.processes() == 1:
        return Processes(device)
    if device.index is not None:
        raise UsageError(
            "each process takes a device of its own",
            got=f"--device {name}",
            tip=f"--device {device.type}",
        )
    if device.type == "cuda" and launch.local_rank() >= torch.cuda.device_count():
        raise UsageError(
            "there are more processes than GPUs on this machine",
            need=f"at most {torch.cuda.device_count()}",
        )
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return Processes(
        device if device.type == "cpu" else state.device, state.process_index, state.num_processes
    )


def first_to_fail() -> bool:
    """Whether this process is the one to say what went wrong: the first that asks. Others fail of the same, or of its end."""
    if launch.processes() == 1:
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=5),
        )
        return store.add(f"freqkd/failed/{attempt}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # nobody keeps the list: one message a machine
        return launch.local_rank() == 0


@contextmanager
def _others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise FreqKDError(
            "another process of this job has ended", tip="what the launcher says of it"
        ) from error
