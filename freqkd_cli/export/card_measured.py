"""The part of a model card that lists what was measured."""

from __future__ import annotations

from typing import Any

from freqkd_cli.build.exported_model import RUNTIME


def measured(checks: dict[str, Any]) -> str:
    """Return a list of what the export checked and timed; ``checks`` is its result."""
    readers = checks.get("checked_by") or [RUNTIME[checks["format"]]]
    sizes = ", ".join("x".join(map(str, size)) for size in checks["sizes"])
    relative = checks["relative_difference"]
    value = "logit" if checks.get("output", "logits") == "logits" else "probability"
    difference = ""
    if relative is not None:
        difference = (
            f"the largest difference from the trained model is {relative:.1e} of the largest "
            f"{value}, and "
        )
    lines = [
        f"- Read back by {' and '.join(readers)} at {sizes}: {difference}"
        f"{100 * checks['argmax_agreement']:.4f} % of the cells have the same class."
    ]
    if "int8" in checks:
        lines.append(_int8(checks["int8"]))
    lines += [_latency(row, checks) for row in checks["latency_ms"]]
    forms = "half-precision forms" if "int8" in checks else "half-precision or quantized forms"
    missing = (
        f"{'' if checks['latency_ms'] else 'latency, '}accuracy on the test split, on other data "
        f"and at other sizes; noise and bad light; calibration; {forms}"
    )
    return "\n".join([*lines, f"- Not measured: {missing}."])


def _int8(facts: dict[str, Any]) -> str:
    kept = ", ".join(facts["float_layers"]) or "none"
    ranges = (
        "trained with the weights"
        if facts["trained_ranges"]
        else (f"{facts['calibration']} of {facts['calibration_images']} training images")
    )
    return (
        f"- int8 weights (per channel) and activations; ranges: {ranges}; layers kept in float32: "
        f"{kept}. mIoU {100 * facts['miou']:.2f} on {facts['images']} images of "
        f"{'the split val' if facts['scored_on'] == 'val' else facts['scored_on']}, "
        f"where the float32 file has {100 * facts['float_miou']:.2f}; "
        f"{100 * facts['agreement']:.2f} % of the pixels have its class."
    )


def _latency(row: dict[str, Any], checks: dict[str, Any]) -> str:
    count = row.get("threads", checks["threads"])
    where = (
        f"({checks['device']}, {count} thread{'s' * (count != 1)}, median of "
        f"{checks['latency_runs']}, on the machine that exported it)"
    )
    height, width = row["size"][1:]
    times = {name: ms for name, ms in row.items() if name not in ("size", "threads")}
    if list(times) == ["torch"]:
        return f"- torch, one image of {height} x {width}: {times['torch']:.1f} ms {where}."
    listed = ", ".join(f"{name} {ms:.1f} ms" for name, ms in times.items())
    return f"- One image of {height} x {width}: {listed} {where}."
