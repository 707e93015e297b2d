"""Training crops that show too little of an image."""

from __future__ import annotations

from statistics import median

from freqkd_cli.doctor.finding import Finding
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.dataset import spread
from freqkd_cli.images.file_dataset import FileDataset

_SAMPLES = 32
"""Images whose size is read."""

_SMALLEST_SHARE = 0.03
"""Crops that show less of an image than this lack its context."""


def small_views(
    dataset: FileDataset, size: tuple[int, int], scale: tuple[float, float]
) -> Finding | None:
    """Return the finding of photographs that are much larger than the views cut from them.

    Args:
        size: ``data.size``, height and width of a view.
        scale: ``data.augment.scale``; the smallest zoom shows the most.
    """
    sizes = []
    for index in spread(len(dataset), _SAMPLES):
        try:
            sizes.append(dataset.image_size(index))
        except DataBroken:
            continue
    if not sizes:
        return None
    height, width = (int(median(side)) for side in zip(*sizes, strict=True))
    share = min(1, size[0] / (scale[0] * height)) * min(1, size[1] / (scale[0] * width))
    if share >= _SMALLEST_SHARE:
        return None
    zoom = max(size[0] / height, size[1] / width)
    return Finding(
        "warning",
        "a training view shows only a small part of an image",
        (),
        f"images of {height}x{width}, views of {size[0]}x{size[1]} at zoom {scale[0]:g}: "
        f"at most {100 * share:.1f} %",
        f"at least {100 * _SMALLEST_SHARE:.0f} %",
        "scale the images and masks down to the resolution of the application, "
        f"or set data.augment.scale, for example [{zoom:.2f}, {2 * zoom:.2f}]",
    )
