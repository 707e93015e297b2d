"""Label images and videos of no data set: label PNGs, overlays, and a legend of the classes.

An image is shown upright (its EXIF orientation is applied). Gray becomes RGB, and transparency
is dropped. It is padded, run and upsampled as in an
evaluation, so an image of a data set gets the labels that ``eval --masks`` writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build.exported_model import folder_of, load_file_or_folder
from freqkd_cli.errors import UsageError
from freqkd_cli.images.palette import palette as distinct_colors
from freqkd_cli.images.video_files import require_library
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.runtime.written_files import WrittenFiles
from freqkd_cli.score.averaging import Averaging, require_class_scores
from freqkd_cli.score.input_conversion import ConversionOptions, conversion_of
from freqkd_cli.score.input_images import Input, gather, large_last
from freqkd_cli.score.label_files import check_class_count, protect
from freqkd_cli.score.prediction_files import (
    Draw,
    PredictionFiles,
    labels_path,
    overlay_path,
)

if TYPE_CHECKING:
    from torch import nn

LEGEND = "legend.json"


@dataclass(frozen=True)
class PredictOptions:
    """The options of ``freqkd predict``.

    Attributes:
        draw: draws an overlay; None = label PNGs only.
        limit: only the first images, and the first frames of each video; 0 = all.
        batch_size: None = by the size of the images.
        averaging: what is averaged for every image and frame.
        conversion: how images of more than 8 bits or three bands are read.
    """

    out: Path
    draw: Draw | None = None
    overwrite: bool = False
    device: str | None = None
    limit: int = 0
    batch_size: int | None = None
    averaging: Averaging = Averaging()
    conversion: ConversionOptions = ConversionOptions()


def predict(
    source: Path, images: Iterable[Path], options: PredictOptions, progress: Progress
) -> dict[str, Any]:
    """Label images and videos, write ``legend.json``; the document of ``predict --json``.

    An image becomes ``NAME.png`` (palette PNG, index = class) and ``NAME_overlay.png``. A video
    becomes a folder ``NAME`` with a PNG per frame, and ``NAME_overlay.mp4``. A file that cannot be
    read, or that does not fit into memory, is listed in ``unreadable``; the others are labelled.

    Raises:
        WeightsMissing, DataMissing: there is no model, no such image, or a folder without images.
        UsageError: two images have one name, or ``out`` holds files that must not be replaced.
        FreqKDError: the model's logits of an image are not finite.
    """
    inputs = gather(images, options.out)[: options.limit or None]
    if any(entry.video for entry in inputs):
        require_library()
    written = WrittenFiles(options.out)
    _check_targets(inputs, options, written)
    model = load_file_or_folder(source)
    conversion = conversion_of(source, model, options.conversion)
    require_class_scores(model, options.averaging)
    check_class_count(model.classes)
    legend = legend_of(source, model)
    device = pick_device(options.device or getattr(model, "runs_on", None))
    model.ready(device)
    started = time.monotonic()
    text = (json.dumps(legend, indent=2) + "\n").encode()
    written.write(options.out / LEGEND, lambda file: file.write(text))
    files = PredictionFiles(model.to(device).eval(), legend, options, written, conversion)
    _run(files, large_last(inputs), progress)
    return {
        "out": str(options.out),
        "model": str(source),
        "images": len(files.done),
        "unreadable": files.failed,
        "legend": str(options.out / LEGEND),
        "classes": legend,
        "files": files.done,
        "test_time": options.averaging.to_json(),
        "device": str(device),
        "seconds": round(time.monotonic() - started, 3),
    }


def _run(files: PredictionFiles, inputs: Sequence[Input], progress: Progress) -> None:
    progress.begin("image", len(inputs))
    try:
        for number, entry in enumerate(inputs, start=1):
            files.add(entry)
            progress.advance(number)
        files.flush()
    finally:
        progress.end()


def _check_targets(inputs: Sequence[Input], options: PredictOptions, written: WrittenFiles) -> None:
    """
    Raises:
        UsageError: two images have one name, or files are there that must not be replaced.
    """
    out, sources = options.out, {}
    for entry in inputs:
        for path in _targets(entry, options):
            if path in sources:
                raise UsageError(
                    f"two images would be written to {path.relative_to(out)}",
                    got=f"{sources[path]} and {entry.path}",
                    need="one name per image",
                    tip="run one command with its own --out for each",
                )
            sources[path] = entry.path
    targets = [*sources, out / LEGEND]
    images = [entry.path for entry in inputs]
    protect(f"--out {out}", targets, images, "images that are to be labelled")
    written.check("--out", targets, options.overwrite)


def _targets(entry: Input, options: PredictOptions) -> list[Path]:
    """The files of an input; the number of a video's frames is unknown, so those that are there."""
    name = options.out / entry.name
    labels = sorted(name.glob("[0-9]*.png")) if entry.video else [labels_path(name)]
    return [*labels, overlay_path(name, entry.video)] if options.draw else labels


def class_colors(source: Path, model: nn.Module) -> list[list[int]]:
    """Return the color of every class, RGB in 0..255, see :func:`legend_of`."""
    return [row["color"] for row in legend_of(source, model)]


def legend_of(source: Path, model: nn.Module) -> list[dict[str, Any]]:
    """Number, name and color of every class.

    The colors are those in an exported file, else those of the run's data set where it has some,
    else distinct hues.
    """
    names = getattr(model, "id2label", None) or {}
    facts = getattr(model, "facts", None)
    stored = facts.colors if facts else None
    palette = stored or _palette(
        folder_of(source), [names.get(k, f"class {k}") for k in range(model.classes)]
    )
    if palette is None or len(palette) != model.classes:
        palette = distinct_colors(model.classes)
    colors = [[int(value) for value in row] for row in palette]
    return [
        {"id": k, "name": names.get(k, f"class {k}"), "color": rgb} for k, rgb in enumerate(colors)
    ]


def _palette(source: Path, names: Sequence[str]) -> Any:
    """The colors of the data set that a run was trained on; its images need not be there."""
    recipe = source / "recipe.yaml"
    data = recipes.load(recipe, parts=False).data if recipe.is_file() else None
    if data is None or data.name not in registry.names("datasets"):
        return None
    module = registry.find("datasets", data.name)
    if hasattr(module, "palette_of"):
        return module.palette_of(names, data.arguments.get("colors"))
    return getattr(module, "PALETTE", None)
