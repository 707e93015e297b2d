"""The choice of the scan's backend: by name, by device and by what is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from freqkd_cli.errors import UnknownName, UsageError

BACKENDS = ("auto", "mamba-ssm", "numba", "parallel", "torch")


@dataclass(frozen=True)
class Choice:
    """A backend (one of :data:`BACKENDS`, not auto), and the reason in words for a log."""

    name: str
    reason: str


@lru_cache
def choose(backend: str, device: str, dtype: torch.dtype) -> Choice:
    """Return the backend that ``selective_scan(..., backend=backend)`` runs.

    ``auto`` never fails: mamba-ssm's kernel on CUDA and numba's on the CPU where they are
    available, else the parallel form in torch.

    Args:
        device: type of the tensors' device: ``cpu``, ``cuda`` or another.
        dtype: of the tensors.

    Raises:
        UnknownName: no such backend.
        UsageError: the named one cannot run here; the message holds the reason.
    """
    if backend not in BACKENDS:
        raise UnknownName(
            f"there is no scan backend {backend!r}",
            need=f"one of {', '.join(BACKENDS)}",
            key="scan",
        )
    if backend != "auto":
        if obstacle := _obstacle(backend, device, dtype):
            what = f"the scan backend {backend} cannot run here: {obstacle}"
            tip = "scan: auto; on a CPU (--device cpu) that is numba's kernel"
            raise UsageError(what, tip=tip, key="scan")
        return Choice(backend, "named")
    fastest = {"cuda": "mamba-ssm", "cpu": "numba"}.get(device)
    if fastest is None:
        return Choice("parallel", f"no kernel is made for {device}")
    if obstacle := _obstacle(fastest, device, dtype):
        return Choice("parallel", f"not {fastest}: {obstacle}; slower, the same numbers")
    compiles = "; compiled at its first call, then kept on disk" if fastest == "numba" else ""
    return Choice(fastest, f"the fastest on {device}{compiles}")


def _obstacle(backend: str, device: str, dtype: torch.dtype) -> str | None:
    if backend == "mamba-ssm":
        if device != "cuda":
            return f"it needs tensors on CUDA, these are on {device}"
        return "it has no float64" if dtype == torch.float64 else mamba_kernel()[1]
    if backend == "numba":
        return (
            _numba_obstacle()
            if device == "cpu"
            else f"it needs tensors on the CPU, these are on {device}"
        )
    return None


@lru_cache
def mamba_kernel() -> tuple[Callable[..., Tensor] | None, str | None]:
    """Return mamba-ssm's ``selective_scan_fn``, or None and the reason why not."""
    if find_spec("mamba_ssm") is None:
        return None, "mamba-ssm is not installed"
    try:
        interface = import_module("mamba_ssm.ops.selective_scan_interface")
        # Newer versions import without their CUDA part and fail at the first call.
        import_module("selective_scan_cuda")
    except Exception as error:  # a broken build raises whatever its libraries raise
        return None, f"mamba-ssm is installed but broken ({error!r})"
    return interface.selective_scan_fn, None


@lru_cache
def _numba_obstacle() -> str | None:
    try:
        import_module("freqkd_cli.scan._kernels")
    except ImportError as error:  # numba refuses versions of numpy and Python that it does not know
        return f"numba does not import ({error})"
    return None
