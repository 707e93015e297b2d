"""The processes that a launcher started for one job, and the operations that they do together.

Losses, models and the training loop do not depend on them. ``views/loader.py`` splits a batch over
the processes, and results of the whole batch are joined here. A single process forms no group.
"""

from __future__ import annotations

import atexit
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

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: one of them may score a teacher or fill a cache alone.

torch's own 10 minutes (NCCL) or 30 (gloo) would end healthy work. A process that has ended is not
waited for: its connections close, and the launcher ends the others. There is a limit for a machine
that vanishes without closing them.
"""


@dataclass(frozen=True)
class Processes:
    """This process among the others. All processes must call every method, in the same order.

    Attributes:
        device: the device of this process.
        index: its rank; rank 0 writes the files that exist once.
        number: the number of processes.

    Raises:
        FreqKDError: in every method, another process has ended.
    """

    device: torch.device
    index: int = 0
    number: int = 1

    @property
    def first(self) -> bool:
        return self.index == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes, on the device of ``tensor``."""
        if self.number == 1:
            return tensor
        total = tensor.to(self.device, copy=True)
        with peer_errors():
            dist.all_reduce(total)
        return total.to(tensor.device)

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.any(False)

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in at least one process."""
        return bool(self.sum(torch.tensor(int(flag))))

    @torch.no_grad()
    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace float tensors by their mean over the processes, in one message."""
        if self.number == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        with peer_errors():
            dist.all_reduce(flat)
        for tensor, mean in zip(
            tensors, (flat / self.number).split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(mean.view(tensor.shape))

    def share(self, value: Any) -> Any:
        """Return the value of rank 0; the values of other ranks are ignored."""
        if self.number == 1:
            return value
        box = [value if self.first else None]
        with peer_errors():
            dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order of rank."""
        if self.number == 1:
            return [value]
        values: list[Any] = [None] * self.number
        with peer_errors():
            dist.all_gather_object(values, value)
        return values


ALONE = Processes(torch.device("cpu"))


def join(name: str | None) -> Processes:
    """Return the processes of this job, each with its own device: ``--device``, or the best one.

    Raises:
        UsageError: the device is missing, or there are fewer GPUs than processes.
    """
    if launch.processes() == 1:
        return Processes(pick_device(name))
    # Several processes cannot share an MPS device.
    device = pick_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.index is not None or device.type not in ("cpu", "cuda"):
        raise UsageError(
            "each process needs its own device",
            got=f"--device {name}",
            need="cpu or cuda, without a number",
            key="device",
        )
    if device.type == "cuda":
        if launch.local_rank() >= torch.cuda.device_count():
            raise UsageError(
                "there are more processes than GPUs on this machine",
                need=f"at most {torch.cuda.device_count()}",
            )
        device = torch.device("cuda", launch.local_rank())
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        atexit.register(_leave)
    return Processes(device, dist.get_rank(), dist.get_world_size())


def _leave() -> None:
    """Close the connections: a thread of theirs that outlives the program may abort it."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def peer_errors() -> Iterator[None]:
    """Turn an error of the connection into one message."""
    try:
        yield
    except RuntimeError as error:
        raise FreqKDError(launch.PEER_ENDED, tip="read the error of that process") from error
