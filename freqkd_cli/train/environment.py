"""What a run's bits depend on besides its recipe, and the warning where it is resumed elsewhere."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli import __version__
from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.json_file import object_or_none, write_json
from freqkd_cli.teacher.cached import CachedTeacher
from freqkd_cli.teacher.live import LiveTeacher

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.teacher.targets import Source

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
        "command": shlex.join(["freqkd", *sys.argv[1:]]),
    }


def image_names(images: Dataset) -> dict[str, Any]:
    """Return what identifies training images by their names, in the order of their numbers.

    Batches and views are drawn by number. ``sorted_sha256`` tells another order from other images.
    """
    names = [os.fsencode(images.name(index)) for index in range(len(images))]
    orders = {"sha256": names, "sorted_sha256": sorted(names)}
    hashes = {key: hashlib.sha256(b"\0".join(order)) for key, order in orders.items()}
    return {"number": len(names)} | {key: value.hexdigest() for key, value in hashes.items()}


def of_teacher(source: Source) -> dict[str, str]:
    """Return the form of a cache, and the hash of the teacher's weights; empty without a teacher.

    The hash of a cache is that of the weights before they were cast to ``teacher.dtype``.
    """
    if isinstance(source, CachedTeacher):
        cache = source.cache
        scores = f" of {cache.form.scores} scores" if cache.form.scores else ""
        sha256 = str(cache.fingerprint.fields["teacher"].get("weights_sha256"))
        form = f"{cache.content} in {cache.storage}{scores}"
        return {"cache": form, "teacher_sha256": sha256}
    if isinstance(source, LiveTeacher):
        return {"teacher_sha256": source.weights_sha256}
    return {}


def require_same_teacher(out: Path, source: Source) -> None:
    """Check that a run that is resumed has the teacher that it was started with.

    A run of an earlier version has no record of it. A live teacher and a cache are not compared.

    Raises:
        UsageError: the teacher has other weights.
    """
    before = _object(object_or_none(out / "environment.json"))
    recorded, now = before.get("teacher_sha256"), of_teacher(source).get("teacher_sha256")
    if before.get("source") != source.name.split()[0] or not recorded or recorded == now:
        return
    raise UsageError(
        f"the run in {out} was started with another teacher",
        got=f"weights of sha256 {str(now)[:16]}",
        need=f"weights of sha256 {str(recorded)[:16]}",
        tip="restore the teacher's weights or its cache, or start a new run with another --out",
        key="teacher",
    )


def require_same_images(out: Path, images: Dataset) -> None:
    """Check that a run that is resumed trains on the images that it was started with.

    A run of an earlier version has no record of them.

    Raises:
        UsageError: other images, or another order.
    """
    before = _object(_object(object_or_none(out / "environment.json")).get("image_names"))
    now = image_names(images)
    if not before or before == now:
        return
    if before.get("number") != now["number"]:
        found, needed = f"{now['number']} images", f"{before.get('number')} images"
    elif before.get("sorted_sha256") == now["sorted_sha256"]:
        found, needed = "the same images in another order", "the order of the run"
    else:
        found, needed = f"{now['number']} images of which some have other names", "those of the run"
    raise UsageError(
        f"the run in {out} was started on other training images",
        got=found,
        need=needed,
        tip="restore the images or their list, or start a new run with another --out",
        key="data",
    )


def record(out: Path, now: dict[str, Any]) -> None:
    """Write ``environment.json``; warn where a run is resumed in another environment.

    Then the file keeps both: the first environment, and the later ones under ``resumed``.
    """
    path = out / "environment.json"
    first = object_or_none(path)
    before, after = (facts | _object(facts.get("libraries")) for facts in (first or now, now))
    forms = ("cache",) if before.get("cache") and after.get("cache") else ()
    changed = [
        f"{key} {after[key]} instead of {before.get(key)}"
        for key in (*SETTINGS, *forms, *LIBRARIES)
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
