"""The result of ``freqkd export`` as a table."""

from __future__ import annotations

from typing import Any


def export_table(result: dict[str, Any]) -> str:
    """Return the result of ``freqkd export`` as a table."""
    from freqkd_cli.report.tables import render
    from freqkd_cli.runtime.byte_sizes import size

    relative = result["relative_difference"]
    difference = "labels only"
    if relative is not None:
        difference = f"{result['max_abs_difference']:.1e}, {relative:.1e} of the largest value"
    accepted = "any size"
    if result.get("size") is not None:
        accepted = f"{'x'.join(map(str, result['size']))} only; --size H,W sets another"
    opset = result.get("opset")
    rows = [
        ["written", f"{result['file']} ({size(result['bytes'])})"],
        *([["operator set", str(opset)]] if opset is not None else []),
        ["image size", accepted],
        ["largest difference", difference],
        ["same class", f"{100 * result['argmax_agreement']:.4f} % of the pixels"],
        ["checked at", ", ".join("x".join(map(str, checked)) for checked in result["sizes"])],
    ]
    rows += [["uploaded to", result["pushed"]]] if "pushed" in result else []
    rows += _int8(result["int8"]) if "int8" in result else []
    rows += [_latency(row, result) for row in result["latency_ms"]]
    return render(["", ""], rows).lstrip()


def _int8(facts: dict[str, Any]) -> list[list[str]]:
    """Return the rows about the score of an int8 file."""
    from freqkd_cli.runtime.byte_sizes import size

    kept = facts["float_layers"]
    ranges = f"{facts['calibration']} of {facts['calibration_images']} training images"
    return [
        ["ranges", "trained with the weights" if facts["trained_ranges"] else ranges],
        ["mIoU float32, int8", f"{100 * facts['float_miou']:.2f}, {100 * facts['miou']:.2f}"],
        [
            "same class as float32",
            f"{100 * facts['agreement']:.2f} % of the pixels of {facts['scored_on']}",
        ],
        ["float32 file", size(facts["float_bytes"])],
        *([["in float32", ", ".join(kept)]] if kept else []),
    ]


def _latency(row: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Return one row of the latency table."""
    height, width = row["size"][1:]
    count = row.get("threads", result["threads"])
    threads = f"{count} thread{'s' * (count != 1)}"
    times = ", ".join(f"{name} {ms:.1f}" for name, ms in row.items() if name not in _NO_FORM)
    where = f"{result['device']}, {threads}, median of {result['latency_runs']}"
    return [f"ms per image of {height}x{width}", f"{times} ({where})"]


_NO_FORM = ("size", "threads")
"""Keys of a row of the latency table that are no time."""
