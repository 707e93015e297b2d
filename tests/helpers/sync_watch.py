"""Calls of a GPU's code that wait for the GPU, found without one: tensors without data on FAKE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten

FAKE = "fake_gpu"
MODE = FakeTensorMode(allow_non_fake_inputs=True)
"""One for all tests: constants that a cache keeps must not meet another mode."""

WAITING = {
    # The host reads a number.
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    # The size of the result is a number that the device has.
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.histc,
    # They check on the host whether the solver converged.
    aten._linalg_eigh,
    aten._linalg_svd,
    aten._linalg_solve_ex,
    aten.linalg_cholesky_ex,
    aten.linalg_inv_ex,
    aten._linalg_check_errors,
}


class SyncWatch(TorchDispatchMode):
    """Records calls that wait for a GPU, with the shapes that they were called with.

    Attributes:
        calls: one text per call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if reason := _waits(func, args, kwargs):
            self.calls.append(f"{func} {reason}")
        return func(*args, **kwargs)


def _waits(func, args, kwargs) -> str:
    packet, first = func.overloadpacket, next((a for a in args if isinstance(a, Tensor)), None)
    on_gpu = any(isinstance(a, Tensor) and a.device.type == FAKE for a in args)
    if packet in WAITING and on_gpu:
        return str(tuple(first.shape))
    if packet in (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index) and on_gpu:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return "with a mask"
        if any(index.device.type == "cpu" for index in indices):
            return "with an index of the CPU"
    if packet is aten.repeat_interleave and on_gpu and kwargs.get("output_size") is None:
        return "without output_size"
    if packet in (aten._to_copy, aten.copy_):
        source = args[1] if packet is aten.copy_ else args[0]
        target = args[0].device if packet is aten.copy_ else kwargs.get("device")
        blocking = not (
            args[2] if packet is aten.copy_ and len(args) > 2 else kwargs.get("non_blocking")
        )
        if target is not None and torch.device(target).type != source.device.type:
            if source.device.type == FAKE or blocking:
                return f"copies {tuple(source.shape)} from {source.device} to {target}"
    return ""


def register() -> None:
    """Give torch a device of the name FAKE, once in a process."""
    if not hasattr(torch, FAKE):
        _setup_privateuseone_for_python_backend(FAKE)
        module = getattr(torch, FAKE)
        module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Tensors that are made inside have no data; their device may be FAKE."""
    register()
    fake_tensor.CONSTANT_NUMEL_LIMIT = 0  # else operations on single numbers are done for real
    before = torch._C._only_lift_cpu_tensors()
    with MODE:
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(before)


def moved(module: nn.Module) -> nn.Module:
    """Put the parameters and buffers of a real module on the GPU without data, in place."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_like(tensor, device=FAKE)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = (
                        nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                    )
    return module
