"""Images of a page as data URIs, with their content in words: photos, label maps, error maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from freqkd_cli.images.dataset import Dataset
from freqkd_cli.report.comparison_image import colored

WIDEST = 320
"""Pixels of the width of an image on the page."""
BOTH, FIRST, SECOND, NEITHER, IGNORED = range(5)
ERRORS = np.array(
    [(224, 224, 228), (213, 94, 0), (0, 114, 178), (30, 30, 36), (160, 160, 168)], np.uint8
)
"""Colors of the error map: both right, the first model alone right, the second alone, neither, and
pixels without a label."""


@dataclass(frozen=True)
class Panel:
    """An image on the page: ``source`` is a data URI, ``alt`` its content in words."""

    heading: str
    source: str
    alt: str
    width: int
    height: int


def photo(image: np.ndarray, name: str) -> Panel:
    """Return an image ``[H, W, 3]`` uint8 as a JPEG."""
    sheet = _shrunk(Image.fromarray(image), Image.Resampling.LANCZOS)
    return _panel("image", sheet, f"Image {name}", "JPEG")


def label_panel(
    heading: str, labels: np.ndarray, truth: np.ndarray | None, name: str, dataset: Dataset
) -> Panel:
    """Return a label map ``[H, W]`` in the colors of its data set; ``truth`` counts the errors."""
    classes = dataset.classes
    inside = labels[labels < len(classes)]
    counts = np.bincount(inside.ravel(), minlength=len(classes))
    largest = [k for k in np.argsort(-counts, kind="stable")[:3] if counts[k]]
    shares = ", ".join(f"{classes[k]} {counts[k] / labels.size:.0%}" for k in largest)
    alt = f"Classes of {name}, {heading}: {shares}"
    if truth is not None and heading != "ground truth":
        valid = truth < len(classes)
        right = (labels == truth)[valid].mean() if valid.any() else 0.0
        alt += f"; {right:.1%} of pixels are right"
    sheet = Image.fromarray(colored(labels, dataset.palette))
    return _panel(heading, _shrunk(sheet, Image.Resampling.NEAREST), alt, "PNG")


def error_map(labels: Sequence[np.ndarray], truth: np.ndarray, classes: int) -> np.ndarray:
    """Return which models are right, per pixel, as in :data:`ERRORS`.

    Args:
        labels: of one model (right is ``BOTH``, wrong ``NEITHER``) or of two.
        classes: number of classes; void is a larger value.
    """
    right = [one == truth for one in labels]
    first, second = right[0], right[-1]
    kinds = np.select([first & second, first, second], [BOTH, FIRST, SECOND], NEITHER)
    return np.where(truth >= classes, IGNORED, kinds).astype(np.uint8)


def error_panel(
    names: Sequence[str], labels: Sequence[np.ndarray], truth: np.ndarray, classes: int, name: str
) -> Panel:
    """Return the :func:`error_map` of the models called ``names``."""
    kinds = error_map(labels, truth, classes)
    valid = max(1, int((kinds != IGNORED).sum()))
    shares = [
        f"{text} {(kinds == kind).sum() / valid:.1%}"
        for kind, text in enumerate(_error_names(names))
        if text
    ]
    sheet = _shrunk(Image.fromarray(colored(kinds, ERRORS)), Image.Resampling.NEAREST)
    return _panel("errors", sheet, f"Errors on {name}: {', '.join(shares)}", "PNG")


def _error_names(names: Sequence[str]) -> list[str]:
    if len(names) == 1:
        return ["right", "", "", "wrong"]
    return ["both right", f"only {names[0]} right", f"only {names[1]} right", "both wrong"]


def error_legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names and colors of the error maps of one model or two."""
    texts = zip((*_error_names(names), "ignored"), ERRORS, strict=True)
    return [(text, hex_color(color)) for text, color in texts if text]


def _shrunk(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    if image.width <= WIDEST:
        return image
    height = max(1, round(WIDEST * image.height / image.width))
    return image.resize((WIDEST, height), resampling)


def _panel(heading: str, image: Image.Image, alt: str, form: str) -> Panel:
    """Return an image as a data URI; one of few colors as a PNG with a palette."""
    if form == "PNG":
        image = image.quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, form, optimize=True, **({"quality": 82} if form == "JPEG" else {}))
    text = base64.b64encode(file.getvalue()).decode()
    return Panel(heading, f"data:image/{form.lower()};base64,{text}", alt, *image.size)


def hex_color(color: Sequence[int] | np.ndarray) -> str:
    """Return an RGB color as CSS has it."""
    return "#" + "".join(f"{int(part):02x}" for part in color)
