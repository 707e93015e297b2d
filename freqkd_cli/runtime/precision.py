"""Device, precision and memory format of a run.

``auto`` follows the hardware alone, so the same machine always chooses the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.memory import keep_freed_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compute:
    """Precision and memory format of a run; ``reason`` explains both in the log."""

    dtype: torch.dtype
    channels_last: bool
    reason: str

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the autocast context of the student's forward pass."""
        return torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16
        )

    def layout(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return images ``[B, C, H, W]`` in the memory format of the run."""
        return (
            tensor.contiguous(memory_format=torch.channels_last) if self.channels_last else tensor
        )


def choose(device: torch.device, precision: str, channels_last: bool | str) -> Compute:
    """Resolve ``train.precision`` and ``train.channels_last``.

    ``auto`` is bfloat16 on a GPU that has it and float32 everywhere else. channels_last feeds the
    tensor cores of a GPU and saves reordering around depth-wise convolutions on a CPU.

    A CPU never computes in bfloat16 with channels_last. oneDNN then reads uninitialized memory in
    the weight gradient of a dilated depth-wise convolution, such as Fast-SCNN's (torch 2.14 with
    AVX512-BF16: not finite, or off by up to 1e27). float32 and contiguous images are right.
    bfloat16 also gains nothing there. Medians of a cross-entropy step on two such cores:

    ========== ========================= ======================= =====================
    student    float32 and channels_last bfloat16, channels_last bfloat16, contiguous
    ========== ========================= ======================= =====================
    Fast-SCNN  407 ms                    449 ms                  637 ms
    VMamba     936 ms                    1112 ms                 1126 ms
    ========== ========================= ======================= =====================

    Raises:
        UsageError: the recipe asks for bfloat16 and channels_last on a CPU.
    """
    _prepare(device)
    native, why = _native_bfloat16(device)
    bfloat16 = precision == "bfloat16" or (precision == "auto" and native)
    wrong_gradients = bfloat16 and device.type == "cpu"
    if wrong_gradients and channels_last is True:
        raise UsageError(
            "bfloat16 with channels_last gives wrong gradients on a CPU",
            got="train.precision: bfloat16, train.channels_last: true",
            tip="--set train.channels_last=auto, or --set train.precision=float32",
            key="train.channels_last",
        )
    last = channels_last is True or (channels_last == "auto" and not wrong_gradients)
    requested = "" if precision == "auto" else " (requested)"
    name = "bfloat16 autocast" if bfloat16 else "float32"
    return Compute(
        torch.bfloat16 if bfloat16 else torch.float32,
        last,
        f"{name}{requested}{', channels_last' if last else ''}; {device.type}: {why}",
    )


def for_scores(device: torch.device) -> Compute:
    """Return the precision of scores: float32 everywhere, so that scores of machines agree."""
    _prepare(device)
    return Compute(torch.float32, True, f"float32 on {device}")


def _prepare(device: torch.device) -> None:
    # Numbers below 1e-38 cost a CPU a hundred times the others. A channel about to die has many.
    torch.set_flush_denormal(True)
    if device.type == "cpu":
        keep_freed_memory()


def _native_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, "the GPU has bfloat16" if native else "the GPU has no bfloat16"
    return False, "float32 is faster here" if device.type == "cpu" else "bfloat16 is off here"


def pick_device(name: str | None) -> torch.device:
    """Return the device that ``--device`` names, else the best one: CUDA, then MPS, then the CPU.

    Raises:
        UsageError: this machine has no such device.
    """
    device = _named_device(name) if name else torch.device(_best_kind())
    if device.type == "mps":
        log.warning("mps is untested; use --device cpu where it fails")
    return device


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64; MPS does not."""
    return device.type != "mps"


def widest(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the most exact float type of its device."""
    return x.to(torch.float64 if has_float64(x.device) else torch.float32)


def _named_device(name: str) -> torch.device:
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (device.index or 0) >= available.get(device.type, 0):
        listed = [
            kind if number == 1 else f"{kind}:0 to {kind}:{number - 1}"
            for kind, number in available.items()
            if number
        ]
        raise UsageError(
            "this machine has no such device",
            got=f"--device {name}",
            need=" or ".join(listed),
            key="device",
        )
    return device
