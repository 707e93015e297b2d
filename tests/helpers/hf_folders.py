"""Small data sets of Hugging Face ``datasets``; tests that need them skip where it is absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLASSES = ["road", "car", "sky"]
SHAPE = (40, 56)


def library() -> Any:
    """The library ``datasets``; skips where it is not installed."""
    return pytest.importorskip("datasets", reason="needs the extra hf")


def arrays(number: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and labels, which hold the ids 0 .. 2 and 255 for void."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8) for _ in range(number)]
    labels = [rng.choice(np.uint8([0, 1, 2, 255]), SHAPE) for _ in range(number)]
    return images, labels


def cell(array: np.ndarray, name: str | None) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": name}


def rows(number: int, seed: int = 0, *, labels: Any = None, names: bool = True) -> Any:
    """A split with the columns image and label; ``labels`` replaces the label images."""
    hub = library()
    images, masks = arrays(number, seed)
    content = {
        "image": [cell(x, f"photo_{k}.png" if names else None) for k, x in enumerate(images)],
        "label": [cell(x, None) for x in masks] if labels is None else labels[0],
    }
    kind = hub.Image() if labels is None else labels[1]
    return hub.Dataset.from_dict(content, features=hub.Features(image=hub.Image(), label=kind))


def save_splits(folder: Path, **splits: Any) -> Path:
    """Write a folder as ``save_to_disk`` of several splits does."""
    library().DatasetDict(splits).save_to_disk(str(folder))
    return folder
