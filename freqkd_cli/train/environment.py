"""What a run's bits depend on besides its recipe, and the warning where it is resumed elsewhere."""

from __future__ import annotations

import logging
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from freqkd_cli import __version__
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.train.checkpoint import write_json

log = logging.getLogger(__name__)

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "safetensors",
    "segmentation-models-pytorch",
    "numpy",
    "pillow",
)

SETTINGS = ("machine", "device", "processes", "threads", "compute", "source")
"""The parts of ``environment.json`` that the bits depend on."""


def describe(device: torch.device, compute: str, source: str) -> dict[str, Any]:
    """Return what a run's bits depend on besides the recipe.

    Args:
        compute: precision and memory format, as one text.
        source: where the teacher's targets come from.
    """
    return {
        "freqkd": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "compute": compute,
        "source": source,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "command": " ".join(["freqkd", *sys.argv[1:]]),
    }


def record(out: Path, now: dict[str, Any]) -> None:
    """Write ``environment.json``; warn where a run is resumed in another environment.

    Then the file keeps both: the first environment, and the later ones under ``resumed``.
    """
    path = out / "environment.json"
    first = object_or_none(path)
    before, after = (facts | _object(facts.get("libraries")) for facts in (first or now, now))
    changed = [
        f"{key} {after[key]} instead of {before.get(key)}"
        for key in (*SETTINGS, *LIBRARIES)
        if after[key] != before.get(key)
    ]
    if changed:
        log.warning(
            "resumed with %s: the bits may differ from those of an undisturbed run",
            ", ".join(changed),
        )
    if first is None:
        write_json(path, now)
    elif changed:
        earlier = first.get("resumed")
        resumed = [*(earlier if isinstance(earlier, list) else []), now]
        write_json(path, {**first, "resumed": resumed})


def class_weights(out: Path) -> dict[str, dict[str, float]] | None:
    """Return the class weights that a run counted at its start; None where there are none."""
    kept = _object(object_or_none(out / "environment.json")).get("class_weights")
    sound = isinstance(kept, dict) and all(
        isinstance(weights, dict) and all(isinstance(x, float) for x in weights.values())
        for weights in kept.values()
    )
    return kept if sound else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
