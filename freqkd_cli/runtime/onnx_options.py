"""Options with which onnxruntime runs a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import onnxruntime

EXACT_INT8 = ("session.x64quantprecision", "1")
"""Sums of int8 products in 32 bits, where x86 without VNNI adds pairs of them in 16 bits and cuts
what is larger (onnxruntime, pull request 12088). Builds for other architectures ignore it."""


def onnx_options(number_of_threads: int) -> onnxruntime.SessionOptions:
    """Return options of a session with exact sums of int8 products, which logs errors alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = number_of_threads
    options.log_severity_level = 3
    # VNNI is exact by itself, and the option would take its instructions away.
    if not _has_vnni():
        options.add_session_config_entry(*EXACT_INT8)
    return options


def _has_vnni() -> bool:
    """Return whether the CPU has VNNI of AVX512, the only form that torch reports."""
    check = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(check and check())
