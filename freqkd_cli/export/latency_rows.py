"""The latency table of an export: one image on the CPU, at each size and number of threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.runtime.latency import by_turns_ms, latency_table, threads

Form = Callable[[int], Callable[[Tensor], Any]]
"""Number of threads -> the function of an image that is timed."""


def latency_rows(
    forms: Mapping[str, Form],
    sizes: Sequence[tuple[int, int]],
    runs: int,
    counts: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the keys ``latency_ms``, ``latency_runs``, ``device`` and ``threads``.

    All forms of a row run in turn, so that other load affects all of them.

    Args:
        sizes: (height, width) of the rows.
        runs: timed runs per row, whose median is reported; 0 = no rows.
        counts: numbers of threads; each row then has a key ``threads``. Without any, there is one
            row per size, with torch's own number.
    """
    if not counts or not runs:
        calls = {name: form(threads()) for name, form in forms.items()} if runs else {}
        return latency_table(calls, sizes, runs)
    before, rows = threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            calls = {name: form(count) for name, form in forms.items()}
            rows += [_row(calls, size, runs) | {"threads": count} for size in sizes]
    finally:
        torch.set_num_threads(before)
    return {"latency_ms": rows, "latency_runs": runs, "device": "cpu", "threads": before}


@torch.inference_mode()
def _row(
    calls: Mapping[str, Callable[[Tensor], Any]], size: tuple[int, int], runs: int
) -> dict[str, Any]:
    image = torch.full((1, 3, *size), 0.5)
    timed = {name: functools.partial(call, image) for name, call in calls.items()}
    return {"size": [1, *size], **by_turns_ms(timed, runs=runs)}


def bfloat16_form(form: nn.Module) -> dict[str, Form]:
    """Return ``torch bfloat16`` and its form where the CPU has bfloat16, else an empty dict."""
    if not native_bfloat16():
        return {}

    def call(image: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return form(image)

    return {"torch bfloat16": lambda count: call}


def native_bfloat16() -> bool:
    """Return whether the CPU computes in bfloat16 by itself (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for name in checks if (check := getattr(torch.cpu, name, None)))
