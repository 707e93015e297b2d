"""Labels of pictures that belong to no data set: a label PNG and a colour overlay each, with a legend of the classes.

A picture is shown upright (its EXIF orientation is applied), grey ones as RGB, transparency is dropped, and of several frames the first is
taken. It is padded, run and upsampled as in an evaluation, so a picture of a data set gets the labels that ``eval --masks`` writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.datasets import folder as plain_folder
from freqkd_cli.datasets._files import read_upright
from freqkd_cli.datasets._pairs import IMAGE_SUFFIXES
from freqkd_cli.engine.precision import choose, pick_device
from freqkd_cli.engine.progress import Progress
from freqkd_cli.engine.saved import load_model
from freqkd_cli.errors import DataBroken, DataMissing, UsageError
from freqkd_cli.metrics.upsample import predict_labels
from freqkd_cli.views.apply import apply_geometry
from freqkd_cli.views.view import whole

if TYPE_CHECKING:
    from torch import nn

LEGEND = "legend.json"
MOST_CLASSES = 255
"""What fits in an 8-bit PNG beside the value 255, which means void everywhere."""


@dataclass(frozen=True)
class Options:
    """The options of ``freqkd predict``. ``alpha`` is the share of the colour in an overlay."""

    out: Path
    alpha: float = 0.5
    labels_only: bool = False
    overwrite: bool = False
    device: str | None = None


def predict(source: Path, images: Iterable[Path], options: Options, progress: Progress) -> dict[str, Any]:
    """Write ``NAME.png`` (palette PNG, index = class) and ``NAME_overlay.png`` for every picture, and ``legend.json``.

    A picture that cannot be read is told in ``unreadable``; the others are done.

    Returns:
        The document of ``predict --json``: out, model, legend, classes, files, images, unreadable, device, seconds.

    Raises:
        WeightsMissing, DataMissing: no model, no such picture, a folder without pictures.
        UsageError: two pictures of one name, or an output folder that is not empty.
    """
    found = gather(images)
    targets = {path: _targets(path, options) for path in found}
    _check_names(targets)
    _check_out(options)
    model = load_model(source)
    if model.classes > MOST_CLASSES:
        raise UsageError("a label PNG has no room for so many classes", got=model.classes, need=f"at most {MOST_CLASSES}")
    legend = classes_of(source, model)
    device = pick_device(options.device)
    model.ready(device)
    palette = np.array([row["color"] for row in legend], np.uint8)
    options.out.mkdir(parents=True, exist_ok=True)
    _write(options.out / LEGEND, lambda file: file.write((json.dumps(legend, indent=2) + "\n").encode()))
    model, started = model.to(device).eval(), time.monotonic()
    files: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    progress.begin("image", len(found))
    try:
        for number, path in enumerate(found, start=1):
            try:
                image = read_upright(path)
            except DataBroken as error:
                unreadable.append({"image": str(path), "why": str(error.got)})
            else:
                labels = labels_of(model, image, device)
                written = _save(image, labels, palette, targets[path], options.alpha)
                files.append({"image": str(path), "size": list(labels.shape), **written})
            progress.advance(number)
    finally:
        progress.end()
    return {
        "out": str(options.out),
        "model": str(source),
        "images": len(files),
        "unreadable": unreadable,
        "legend": str(options.out / LEGEND),
        "classes": legend,
        "files": files,
        "device": str(device),
        "seconds": round(time.monotonic() - started, 3),
    }


def gather(images: Iterable[Path]) -> list[Path]:
    """The pictures that were named, and those directly in folders that were named, in the order of their names.

    Raises:
        DataMissing: something is not there, or a folder holds no picture.
    """
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            visible = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
            inside = [file for file in visible if file.suffix.lower() in IMAGE_SUFFIXES]
            if not inside:
                raise DataMissing(f"no pictures in {path}", need="files ending in " + " ".join(IMAGE_SUFFIXES))
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataMissing(f"{path} is not there", need="a picture, or a folder of pictures")
    return list(dict.fromkeys(found))


def _targets(path: Path, options: Options) -> dict[str, Path]:
    labels = {"labels": options.out / f"{path.stem}.png"}
    return labels if options.labels_only else labels | {"overlay": options.out / f"{path.stem}_overlay.png"}


def _check_names(targets: Mapping[Path, Mapping[str, Path]]) -> None:
    by_file: dict[Path, Path] = {}
    for image, files in targets.items():
        for file in files.values():
            if file in by_file:
                got = f"{by_file[file]} and {image}"
                raise UsageError(f"two pictures would be written to {file.name}", got=got, tip="one command and one --out for each")
            by_file[file] = image


def _check_out(options: Options) -> None:
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file", need="a folder")
    if options.out.is_dir() and any(options.out.iterdir()) and not options.overwrite:
        tip = "--overwrite, which replaces files of the same names and leaves others alone"
        raise UsageError(f"--out {options.out} is not empty", need="a new or an empty folder", tip=tip)


def classes_of(source: Path, model: nn.Module) -> list[dict[str, Any]]:
    """Number, name and colour of every class: the colours of the run's data set where it has such, else hues far apart."""
    names = getattr(model, "id2label", None) or {}
    palette = _palette(source)
    if palette is None or len(palette) != model.classes:
        palette = plain_folder.palette(model.classes)
    colours = [[int(x) for x in row] for row in palette]
    return [{"id": k, "name": names.get(k, f"class {k}"), "color": rgb} for k, rgb in enumerate(colours)]


def _palette(source: Path) -> Any:
    """The colours of the data set that a run was trained on; its pictures need not be here."""
    recipe = source / "recipe.yaml"
    name = recipes.load(recipe, parts=False).data.name if recipe.is_file() else None
    return getattr(registry.find("datasets", name), "PALETTE", None) if name in registry.names("datasets") else None


@torch.inference_mode()
def labels_of(model: nn.Module, image: np.ndarray, device: torch.device) -> np.ndarray:
    """``[H, W, 3]`` uint8 RGB -> the most likely class of every pixel, ``[H, W]`` uint8."""
    height, width = image.shape[:2]
    seen, _, _ = apply_geometry(whole((height, width)), image, None)
    logits = model(choose(device, "float32", "auto").layout(seen[None].to(device)))["logits"]
    return predict_labels(logits, (seen.shape[-2], seen.shape[-1]))[0, :height, :width].to("cpu", torch.uint8).numpy()


def _save(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, targets: Mapping[str, Path], alpha: float) -> dict[str, str]:
    """Write a picture's files."""
    indexed = Image.fromarray(labels)
    indexed.putpalette(palette.tobytes())
    _write(targets["labels"], lambda file: indexed.save(file, "PNG"))
    if "overlay" in targets:
        mixed = Image.blend(Image.fromarray(image), Image.fromarray(palette[labels]), alpha)
        _write(targets["overlay"], lambda file: mixed.save(file, "PNG"))
    return {what: str(path) for what, path in targets.items()}


def _write(path: Path, body: Any) -> None:
    """Aside, then renamed: under ``path`` there is the whole file or what was there before."""
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            body(file)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
