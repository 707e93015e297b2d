"""Options with which onnxruntime runs a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

EXACT_INT8 = ("session.x64quantprecision", "1")
"""Sums of int8 products in 32 bits on every CPU. x86 without VNNI adds pairs of them in 16 bits by
default, and values beyond 32,767 are cut. CPUs with VNNI and ARM are not affected."""


def onnx_options(number_of_threads: int) -> onnxruntime.SessionOptions:
    """Return options that compute the same on every CPU, and print errors alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = number_of_threads
    options.log_severity_level = 3
    options.add_session_config_entry(*EXACT_INT8)
    return options
