"""Which of the scan's forms computes: chosen by name, by where the tensors are and by what is installed."""

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
    """The form that computes (one of :data:`BACKENDS`, not auto), and why, in words for a log."""

    name: str
    reason: str


@lru_cache
def choose(backend: str, device: str, dtype: torch.dtype) -> Choice:
    """What ``selective_scan(..., backend=backend)`` runs for tensors of ``dtype`` on a device of type ``cpu``, ``cuda`` or another.

    ``auto`` never fails: mamba-ssm's kernel on CUDA and numba's on the CPU where they can be had, else the parallel form in torch.

    Raises:
        UnknownName: no such backend.
        UsageError: the named one cannot run here; the message says why.
    """
    if backend not in BACKENDS:
        raise UnknownName(
            f"there is no scan backend {backend!r}", need=f"one of {', '.join(BACKENDS)}"
        )
    if backend != "auto":
        if obstacle := _obstacle(backend, device, dtype):
            tip = "scan: auto, which takes what can; on a CPU (--device cpu) that is numba's kernel"
            raise UsageError(f"the scan backend {backend} cannot run here: {obstacle}", tip=tip)
        return Choice(backend, "named")
    fastest = {"cuda": "mamba-ssm", "cpu": "numba"}.get(device)
    if fastest is None:
        return Choice("parallel", f"no kernel is made for {device}")
    if obstacle := _obstacle(fastest, device, dtype):
        return Choice("parallel", f"not {fastest}: {obstacle}; slower, the same numbers")
    return Choice(
        fastest,
        f"the fastest on {device}"
        + ("; compiled at its first call, then kept on disk" if fastest == "numba" else ""),
    )


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
    """mamba-ssm's ``selective_scan_fn``, or None and what is in the way."""
    if find_spec("mamba_ssm") is None:
        return None, "mamba-ssm is not installed"
    try:
        interface = import_module("mamba_ssm.ops.selective_scan_interface")
        # Newer versions import without their CUDA part and fail at the first call; importing it tells the reason now.
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
