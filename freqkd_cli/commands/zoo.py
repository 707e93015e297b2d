"""``freqkd zoo``: the models that a recipe may name as student or teacher, and their taps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import Json, complete_model
from freqkd_cli.commands._output import argument_table, columns, print_result

CLASSES = 19
"""Classes that taps and parameters are told for: those of Cityscapes, as papers do."""


def run(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="One model, with its arguments and taps.", autocompletion=complete_model)
    ] = None,
    counts: Annotated[bool, typer.Option("--counts", help="Count parameters (builds each variant without memory).")] = False,
    as_json: Json = False,
) -> None:
    """List the models, their variants and taps.

    Taps and parameters are told for 19 classes.

        freqkd zoo fast_scnn --counts
    """
    from freqkd_cli import registry

    if name:
        registry.find("models", name)
    rows = [_describe(one, counts) for one in ([name] if name else registry.names("models"))]
    print_result(rows, as_json, _one if name else _all)


def _describe(name: str, counts: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from freqkd_cli import registry
    from freqkd_cli.recipe.describe import arguments

    module = registry.find("models", name)
    known = arguments("models", name)
    variants = next(([v for v in row["type"].split(" | ") if v != "null"] for row in known if row["name"] == "variant"), [])
    row = {"name": name, "about": registry.first_line(module).replace("``", ""), "variants": variants, "arguments": known}
    row["taps"] = [] if any(argument["required"] for argument in known) else [asdict(tap) for tap in module.taps(classes=CLASSES)]
    if getattr(module, "LICENCE_NOTE", None):
        row["licence"] = " ".join(module.LICENCE_NOTE.split())
    if counts:
        row["parameters"] = {variant or "": _parameters(module, variant, known) for variant in variants or [None]}
    return row


def _parameters(module: Any, variant: str | None, known: list[dict[str, Any]]) -> int:
    """Trainable numbers of a variant, built on the meta device: no weights are read and no memory is used."""
    import torch

    said = {} if variant is None else {"variant": variant}
    said |= {row["name"]: None for row in known if row["name"] in ("weights", "encoder_weights")}
    with torch.device("meta"):
        model = module.build(classes=CLASSES, **said)
    return sum(parameter.numel() for parameter in model.parameters())


def _all(rows: list[dict[str, Any]]) -> str:
    if any("parameters" in row for row in rows):
        counted = [(row["name"], variant, f"{count:,}") for row in rows for variant, count in row["parameters"].items()]
        return columns([("model", "variant", "parameters"), *counted])
    return columns([(row["name"], row["about"], " ".join(row["variants"])) for row in rows])


def _one(rows: list[dict[str, Any]]) -> str:
    (row,) = rows
    parts = [f"{row['name']}: {row['about']}", argument_table(row["arguments"])]
    if row["taps"]:
        head = {"name": "tap", "stride": "stride", "channels": "channels", "heads": "heads", "kind": "kind", "alias": "stands for"}
        parts.append(columns([tuple(head.values()), *(tuple(tap[key] for key in head) for tap in row["taps"])]))
    parts += ["\n".join(f"{variant} {count:,} parameters".strip() for variant, count in row.get("parameters", {}).items())]
    parts += [row.get("licence", "")]
    return "\n\n".join(part for part in parts if part)
