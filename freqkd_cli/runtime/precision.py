"""Which number format and memory layout a run computes in.

``auto`` follows the hardware alone, so the same machine always chooses the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.memory import keep_freed_memory


@dataclass(frozen=True)
class Compute:
    """What a run computes in, and why, in words for the log."""

    dtype: torch.dtype
    channels_last: bool
    reason: str

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16
        )

    def layout(self, tensor: torch.Tensor) -> torch.Tensor:
        return (
            tensor.contiguous(memory_format=torch.channels_last) if self.channels_last else tensor
        )


def choose(device: torch.device, precision: str, channels_last: bool | str) -> Compute:
    """Resolve ``train.precision`` and ``train.channels_last``.

    bf16 pays where the processor multiplies it natively (AVX512-BF16, AMX, or a GPU that says so); elsewhere it is emulated, and slower
    than float32. channels_last saves the re-ordering around depth-wise convolutions on CPUs and feeds tensor cores on GPUs.
    """
    _ready(device)
    native, why = _native_bfloat16(device)
    bfloat16 = precision == "bfloat16" or (precision == "auto" and native)
    last = channels_last is True or channels_last == "auto"
    asked = "" if precision == "auto" else " (asked for)"
    name = "bfloat16 autocast" if bfloat16 else "float32"
    return Compute(
        torch.bfloat16 if bfloat16 else torch.float32,
        last,
        f"{name}{asked}{', channels_last' if last else ''}; {device.type}: {why}",
    )


def for_scores(device: torch.device) -> Compute:
    """What models are scored and shown in: float32 whatever the hardware multiplies, so that a machine does not change a score."""
    _ready(device)
    return Compute(torch.float32, True, f"float32 on {device}")


def _ready(device: torch.device) -> None:
    # Numbers below 1e-38 cost a processor a hundred times the others, and a network has many where a channel is about to die.
    torch.set_flush_denormal(True)
    if device.type == "cpu":
        keep_freed_memory()


def _native_bfloat16(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return native, "the GPU has bfloat16" if native else "the GPU has no bfloat16"
    if device.type == "cpu":
        features = getattr(torch.cpu, "get_capabilities", dict)()
        native = bool(
            features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16")
        )
        return (
            native,
            "the processor multiplies bfloat16"
            if native
            else "the processor only emulates bfloat16",
        )
    return False, "bfloat16 is left off here"


def pick_device(name: str | None) -> torch.device:
    """``--device``, or the first accelerator there is, or the CPU.

    Raises:
        UsageError: there is no such device on this machine.
    """
    if name:
        return _named(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def _named(name: str) -> torch.device:
    here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (device.index or 0) >= here.get(device.type, 0):
        listed = [
            kind if number == 1 else f"{kind}:0 to {kind}:{number - 1}"
            for kind, number in here.items()
            if number
        ]
        raise UsageError(
            "there is no such device here", got=f"--device {name}", need=" or ".join(listed)
        )
    return device
