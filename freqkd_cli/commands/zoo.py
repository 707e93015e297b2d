"""``freqkd zoo``: the models that a recipe may name as student or teacher, and their taps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json, complete_name
from freqkd_cli.commands._output import argument_table, columns, print_result

CLASSES = 19
"""Number of classes for taps and counts: that of Cityscapes, as in papers."""

SIZE = (512, 1024)
"""Image (H, W) for operations and latency: Cityscapes at half its sides."""

RUNS = 5
"""Number of timed forward passes, whose median is the latency."""

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Show one model with its arguments and taps; all models by default.",
        autocompletion=complete_name("models"),
    ),
]
Counts = Annotated[
    bool,
    typer.Option(
        "--counts", help="Count parameters and operations (builds each variant without memory)."
    ),
]
TimeImage = Annotated[
    bool,
    typer.Option("--latency", help="Time one image on this machine's CPU; implies --counts."),
]


def run(
    name: Model = None, counts: Counts = False, latency: TimeImage = False, as_json: Json = False
) -> None:
    """List the models, their variants and taps.

    Taps and counts are for 19 classes, operations and latency for one image of 512x1024. Operations
    are matrix products, convolutions, Fourier transforms and selective scans. A multiply-add is 1
    MAC or 2 FLOP.

        freqkd zoo fast_scnn --counts
    """
    from freqkd_cli import registry

    if name:
        registry.find("models", name)
    rows = [_describe(model) for model in ([name] if name else registry.names("models"))]
    for row in rows if counts or latency else ():
        if row["taps"]:  # without its required arguments a model cannot be built
            row |= _counts(row, latency)
    print_result(rows, as_json, _one_model if name else _all_models)


def _describe(name: str) -> dict[str, Any]:
    from dataclasses import asdict

    from freqkd_cli import registry
    from freqkd_cli.recipe.describe import arguments

    module = registry.find("models", name)
    known = arguments("models", name)
    types = {row["name"]: row["type"] for row in known}
    variants = [word for word in types.get("variant", "").split(" | ") if word not in ("", "null")]
    required = any(row["required"] for row in known)
    license = getattr(module, "PUBLISHED_LICENSE", None)
    return {
        "name": name,
        "about": registry.first_line(module).replace("``", ""),
        "variants": variants,
        "arguments": known,
        "taps": [] if required else [asdict(tap) for tap in module.taps(classes=CLASSES)],
        "license": license.model_dump() if license else None,
    }


def _counts(row: dict[str, Any], latency: bool) -> dict[str, Any]:
    """Return the counts by variant; the key is empty for a model without variants."""
    from freqkd_cli import registry
    from freqkd_cli.runtime.latency import measure_latency, threads
    from freqkd_cli.runtime.operations import forward_flops, parameters

    module = registry.find("models", row["name"])
    counts: dict[str, Any] = {"parameters": {}, "macs": {}, "flops": {}, "count_size": list(SIZE)}
    if latency:
        counts |= {"latency_ms": {}, "device": "cpu", "threads": threads()}
    for variant in row["variants"] or [None]:
        key, model = variant or "", _built(module, variant, row["arguments"], "meta")
        flops = forward_flops(model, SIZE)
        counts["parameters"][key] = parameters(model)
        counts["macs"][key], counts["flops"][key] = flops // 2, flops
        if latency:
            model = _built(module, variant, row["arguments"], "cpu")
            counts["latency_ms"][key] = measure_latency(model, SIZE, runs=RUNS)
    return counts


def _built(module: Any, variant: str | None, known: list[dict[str, Any]], device: str) -> Any:
    """Build a variant without weights; the meta device needs no memory."""
    import torch

    given = {} if variant is None else {"variant": variant}
    given |= {row["name"]: None for row in known if row["name"] in ("weights", "encoder_weights")}
    with torch.device(device):
        return module.build(classes=CLASSES, **given)


def _all_models(rows: list[dict[str, Any]]) -> str:
    if any("parameters" in row for row in rows):
        return _count_table(rows)
    return columns([(row["name"], row["about"], " ".join(row["variants"])) for row in rows])


def _count_table(rows: list[dict[str, Any]]) -> str:
    """Return a table with one line per variant."""
    timed = any("latency_ms" in row for row in rows)
    lines = [("model", "variant", "parameters", "GMAC", "GFLOP", *(["ms"] if timed else []))]
    for row in rows:
        for variant, count in row.get("parameters", {}).items():
            giga = [f"{row[unit][variant] / 1e9:.2f}" for unit in ("macs", "flops")]
            time = [f"{row['latency_ms'][variant]:.0f}"] if timed else []
            lines.append((row["name"], variant, f"{count:,}", *giga, *time))
    return columns(lines)


def _one_model(rows: list[dict[str, Any]]) -> str:
    (row,) = rows
    keys = ("name", "stride", "channels", "heads", "kind", "alias")
    taps = [tuple(tap[key] for key in keys) for tap in row["taps"]]
    head = ("tap", "stride", "channels", "heads", "kind", "alias of")
    parts = [
        f"{row['name']}: {row['about']}",
        argument_table(row["arguments"]),
        columns([head, *taps]) if taps else "",
        _count_table(rows) if "parameters" in row else "",
        f"{row['license']['name']}. {row['license']['note']}" if row["license"] else "",
    ]
    return "\n\n".join(part for part in parts if part)
