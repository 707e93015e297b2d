"""Labels of pictures that belong to no data set: a label PNG and a colour overlay each, with a legend of the classes.

A picture is shown upright (its EXIF orientation is applied), grey ones as RGB, transparency is dropped, and of several frames the first is
taken. It is padded, run and upsampled as in an evaluation, so a picture of a data set gets the labels that ``eval --masks`` writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build.saved import load_model
from freqkd_cli.errors import DataBroken, DataMissing, UsageError
from freqkd_cli.images.decode import read_upright
from freqkd_cli.images.pairs import IMAGE_SUFFIXES
from freqkd_cli.images.palette import palette as distinct_colors
from freqkd_cli.runtime.files import write_aside
from freqkd_cli.runtime.precision import for_scores, pick_device
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.score.label_files import OVERLAY, require_free, require_room, spare, write_labels
from freqkd_cli.views.apply import apply_geometry
from freqkd_cli.views.upsample import predict_labels, require_finite
from freqkd_cli.views.view import whole

if TYPE_CHECKING:
    from torch import nn

LEGEND = "legend.json"


@dataclass(frozen=True)
class Options:
    """The options of ``freqkd predict``. ``alpha`` is the share of the colour in an overlay."""

    out: Path
    alpha: float = 0.5
    labels_only: bool = False
    overwrite: bool = False
    device: str | None = None


def predict(
    source: Path, images: Iterable[Path], options: Options, progress: Progress
) -> dict[str, Any]:
    """Write ``NAME.png`` (palette PNG, index = class) and ``NAME_overlay.png`` for every picture, and ``legend.json``.

    A picture that cannot be read is told in ``unreadable``; the others are done.

    Returns:
        The document of ``predict --json``: out, model, legend, classes, files, images, unreadable, device, seconds.

    Raises:
        WeightsMissing, DataMissing: no model, no such picture, a folder without pictures.
        UsageError: two pictures of one name, an output folder that is not empty, or outputs that would replace the pictures.
        FreqKDError: the model's logits of a picture are not finite.
    """
    targets = {path: _targets(path, options) for path in gather(images)}
    _check_targets(targets, options)
    model = load_model(source)
    require_room(model.classes)
    legend = classes_of(source, model)
    device = pick_device(options.device)
    model.ready(device)
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    write_aside(
        options.out / LEGEND,
        lambda file: file.write((json.dumps(legend, indent=2) + "\n").encode()),
    )
    files, unreadable = _label(model.to(device).eval(), targets, legend, options.alpha, progress)
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


def _label(
    model: nn.Module,
    targets: Mapping[Path, Mapping[str, Path]],
    legend: Sequence[Mapping[str, Any]],
    alpha: float,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Label every picture: rows of ``files``, and of ``unreadable``."""
    palette = np.array([row["color"] for row in legend], np.uint8)
    files: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    progress.begin("image", len(targets))
    try:
        for number, (path, names) in enumerate(targets.items(), start=1):
            try:
                image = read_upright(path)
            except DataBroken as error:
                unreadable.append({"image": str(path), "why": str(error.got)})
            else:
                labels = labels_of(model, image, str(path))
                files.append(
                    {
                        "image": str(path),
                        "size": list(labels.shape),
                        **_save(image, labels, palette, names, alpha),
                    }
                )
            progress.advance(number)
    finally:
        progress.end()
    return files, unreadable


def gather(images: Iterable[Path]) -> list[Path]:
    """The pictures that were named, and those directly in folders that were named, in the order of their names.

    Raises:
        DataMissing: something is not there, or a folder holds no picture.
    """
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            visible = [
                file
                for file in sorted(path.iterdir())
                if file.is_file() and not file.name.startswith(".")
            ]
            inside = [file for file in visible if file.suffix.lower() in IMAGE_SUFFIXES]
            if not inside:
                raise DataMissing(
                    f"no pictures in {path}", need="files ending in " + " ".join(IMAGE_SUFFIXES)
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataMissing(f"{path} is not there", need="a picture, or a folder of pictures")
    return list(dict.fromkeys(found))


def _targets(path: Path, options: Options) -> dict[str, Path]:
    labels = {"labels": options.out / f"{path.stem}.png"}
    return (
        labels
        if options.labels_only
        else labels | {"overlay": options.out / f"{path.stem}{OVERLAY}.png"}
    )


def _check_targets(targets: Mapping[Path, Mapping[str, Path]], options: Options) -> None:
    by_file: dict[Path, Path] = {}
    for image, files in targets.items():
        for file in files.values():
            if file in by_file:
                got = f"{by_file[file]} and {image}"
                raise UsageError(
                    f"two pictures would be written to {file.name}",
                    got=got,
                    tip="one command and one --out for each",
                )
            by_file[file] = image
    spare(
        f"--out {options.out}",
        (*by_file, options.out / LEGEND),
        targets,
        "pictures that are to be labelled",
    )
    require_free("--out", options.out, options.overwrite)


def classes_of(source: Path, model: nn.Module) -> list[dict[str, Any]]:
    """Number, name and colour of every class: the colours of the run's data set where it has such, else hues far apart."""
    names = getattr(model, "id2label", None) or {}
    palette = _palette(source, [names.get(k, f"class {k}") for k in range(model.classes)])
    if palette is None or len(palette) != model.classes:
        palette = distinct_colors(model.classes)
    colours = [[int(x) for x in row] for row in palette]
    return [
        {"id": k, "name": names.get(k, f"class {k}"), "color": rgb} for k, rgb in enumerate(colours)
    ]


def _palette(source: Path, names: Sequence[str]) -> Any:
    """Return the colors of the data set that a run was trained on; its images are not needed."""
    recipe = source / "recipe.yaml"
    data = recipes.load(recipe, parts=False).data if recipe.is_file() else None
    if data is None or data.name not in registry.names("datasets"):
        return None
    module = registry.find("datasets", data.name)
    if hasattr(module, "palette_of"):
        return module.palette_of(names, data.arguments.get("colors"))
    return getattr(module, "PALETTE", None)


@torch.inference_mode()
def labels_of(model: nn.Module, image: np.ndarray, name: str) -> np.ndarray:
    """``[H, W, 3]`` uint8 RGB -> the most likely class of every pixel, ``[H, W]`` uint8.

    Raises:
        FreqKDError: the logits of the picture, which is called ``name``, are not finite.
    """
    height, width = image.shape[:2]
    device = next(model.parameters()).device
    seen, _, _ = apply_geometry(whole((height, width)), image, None)
    logits = model(for_scores(device).layout(seen[None].to(device)))["logits"]
    require_finite(logits, [name])
    return (
        predict_labels(logits, (seen.shape[-2], seen.shape[-1]))[0, :height, :width]
        .to("cpu", torch.uint8)
        .numpy()
    )


def _save(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray,
    targets: Mapping[str, Path],
    alpha: float,
) -> dict[str, str]:
    """Write a picture's files."""
    write_labels(targets["labels"], labels, palette)
    if "overlay" in targets:
        mixed = Image.blend(Image.fromarray(image), Image.fromarray(palette[labels]), alpha)
        write_aside(targets["overlay"], lambda file: mixed.save(file, "PNG"))
    return {what: str(path) for what, path in targets.items()}
