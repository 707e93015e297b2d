"""``freqkd zoo``: the models that a recipe may name as student or teacher, and their taps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json, complete_model
from freqkd_cli.commands._output import argument_table, columns, print_result

CLASSES = 19
"""Classes that taps and counts are told for: those of Cityscapes, as papers do."""

SIZE = (512, 1024)
"""Image (H, W) that operations and latency are told for: Cityscapes at half its sides."""

RUNS = 5
"""Forward passes whose median is the latency."""


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="One model, with its arguments and taps.",
            autocompletion=complete_model,
        ),
    ] = None,
    counts: Annotated[
        bool,
        typer.Option(
            "--counts", help="Count parameters and operations (builds each variant without memory)."
        ),
    ] = False,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency", help="Time one image on this machine's CPU as well; implies --counts."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models, their variants and taps.

    Taps and counts are told for 19 classes, operations and latency for one image of 512x1024. Operations are matrix products,
    convolutions, Fourier transforms and selective scans; a multiply-add is 1 MAC or 2 FLOP.

        freqkd zoo fast_scnn --counts
    """
    from freqkd_cli import registry

    if name:
        registry.find("models", name)
    rows = [_describe(one) for one in ([name] if name else registry.names("models"))]
    for row in rows if counts or latency else ():
        row |= _counts(row, latency)
    print_result(rows, as_json, _one if name else _all)


def _describe(name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from freqkd_cli import registry
    from freqkd_cli.recipe.describe import arguments

    module = registry.find("models", name)
    known = arguments("models", name)
    variants = next(
        (
            [v for v in row["type"].split(" | ") if v != "null"]
            for row in known
            if row["name"] == "variant"
        ),
        [],
    )
    row = {
        "name": name,
        "about": registry.first_line(module).replace("``", ""),
        "variants": variants,
        "arguments": known,
    }
    row["taps"] = (
        []
        if any(argument["required"] for argument in known)
        else [asdict(tap) for tap in module.taps(classes=CLASSES)]
    )
    if getattr(module, "LICENCE_NOTE", None):
        row["licence"] = " ".join(module.LICENCE_NOTE.split())
    return row


def _counts(row: dict[str, Any], latency: bool) -> dict[str, Any]:
    """What each variant of a row holds, and takes for an image, by the variant's name (the empty word where there are none)."""
    from freqkd_cli import registry
    from freqkd_cli.runtime.latency import measure_latency, threads
    from freqkd_cli.runtime.operations import forward_flops, parameters

    module = registry.find("models", row["name"])
    found: dict[str, Any] = {"parameters": {}, "macs": {}, "flops": {}, "count_size": list(SIZE)}
    for variant in row["variants"] or [None]:
        key, model = variant or "", _built(module, variant, row["arguments"], "meta")
        flops = forward_flops(model, SIZE)
        found["parameters"][key], found["macs"][key], found["flops"][key] = (
            parameters(model),
            flops // 2,
            flops,
        )
        if latency:
            taken = measure_latency(
                _built(module, variant, row["arguments"], "cpu"), SIZE, runs=RUNS
            )
            found.setdefault("latency_ms", {})[key] = taken
    return found | ({"device": "cpu", "threads": threads()} if latency else {})


def _built(module: Any, variant: str | None, known: list[dict[str, Any]], device: str) -> Any:
    """A variant as it starts; no weights are read, and on the meta device no memory is used."""
    import torch

    said = {} if variant is None else {"variant": variant}
    said |= {row["name"]: None for row in known if row["name"] in ("weights", "encoder_weights")}
    with torch.device(device):
        return module.build(classes=CLASSES, **said)


def _all(rows: list[dict[str, Any]]) -> str:
    if any("parameters" in row for row in rows):
        return _counted(rows)
    return columns([(row["name"], row["about"], " ".join(row["variants"])) for row in rows])


def _counted(rows: list[dict[str, Any]]) -> str:
    """One line a variant."""
    timed = any("latency_ms" in row for row in rows)
    lines = [("model", "variant", "parameters", "GMAC", "GFLOP", *(["ms"] if timed else []))]
    for row in rows:
        for variant, count in row["parameters"].items():
            line = (
                row["name"],
                variant,
                f"{count:,}",
                f"{row['macs'][variant] / 1e9:.2f}",
                f"{row['flops'][variant] / 1e9:.2f}",
            )
            lines.append((*line, *([f"{row['latency_ms'][variant]:.0f}"] if timed else [])))
    return columns(lines)


def _one(rows: list[dict[str, Any]]) -> str:
    (row,) = rows
    parts = [f"{row['name']}: {row['about']}", argument_table(row["arguments"])]
    if row["taps"]:
        head = {
            "name": "tap",
            "stride": "stride",
            "channels": "channels",
            "heads": "heads",
            "kind": "kind",
            "alias": "stands for",
        }
        parts.append(
            columns(
                [tuple(head.values()), *(tuple(tap[key] for key in head) for tap in row["taps"])]
            )
        )
    parts += [_counted(rows) if "parameters" in row else ""]
    parts += [row.get("licence", "")]
    return "\n\n".join(part for part in parts if part)
