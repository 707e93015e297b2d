"""What a run's bits depend on besides its recipe, and what is said where it is taken up in another environment."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.train.checkpoint import write_json

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


def here(device: torch.device, compute: str, source: str) -> dict[str, Any]:
    """What the same bits depend on besides the recipe. ``source`` is where the teacher's half comes from."""
    return {
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


def record(out: Path, now: dict[str, Any], say: Callable[[str], None]) -> None:
    """Write ``environment.json``; where a run is taken up elsewhere, warn and keep both in it: what it was started in, and ``resumed``."""
    path = out / "environment.json"
    first = object_or_none(path)
    before, after = (found | _object(found.get("libraries")) for found in (first or now, now))
    changed = [
        f"{key} {after[key]} instead of {before.get(key)}"
        for key in (*SETTINGS, *LIBRARIES)
        if after[key] != before.get(key)
    ]
    if changed:
        say(
            f"warning: taken up with {', '.join(changed)}: its bits may differ from those of an undisturbed run"
        )
    if first is None or changed:
        earlier = (first or {}).get("resumed")
        write_json(
            path,
            now
            if first is None
            else {**first, "resumed": [*(earlier if isinstance(earlier, list) else []), now]},
        )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
