"""Whether the views of a cache are padded, as the images of a live source never are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from freqkd_cli.cache.reader import CacheReader, Item
from freqkd_cli.errors import FreqKDError
from freqkd_cli.spectrum.graph_inputs import views_of_cache
from freqkd_cli.views.view import View, zoomed

log = logging.getLogger(__name__)


def warn_of_padding(reader: CacheReader, views: Sequence[Item], data_root: Path | None) -> None:
    """Log a warning where views are padded, whose border has frequencies of its own.

    The spectrum itself needs no images. Without them their sizes are not known, and nothing is
    logged. Nothing is downloaded for it.
    """
    data = reader.fingerprint.fields["data"]
    if data_root is None and "repo" in data["arguments"]:
        return
    try:
        dataset = views_of_cache(reader, data_root)
    except FreqKDError:
        return
    own = [item for item in views if item[0] < data["number"]]
    sizes = [dataset.images.image_size(index) for index, _ in own]
    padded = [
        size for item, size in zip(own, sizes, strict=True) if _is_padded(dataset.view(item), size)
    ]
    if padded:
        log.warning(
            "%d of %d views of the cache %s are padded, such as one of an image of %dx%d, and the "
            "border of the padding is in these spectra. A recipe or a model as the source cuts "
            "images instead: freqkd spectrum RECIPE",
            len(padded),
            len(own),
            reader.folder,
            *padded[0],
        )


def _is_padded(view: View, image_size: tuple[int, int]) -> bool:
    """Return whether a view shows more than its image, or hides a part of it."""
    height, width = zoomed(image_size, view.scale)
    beyond = view.top + view.height > height or view.left + view.width > width
    return min(view.top, view.left) < 0 or beyond or view.kept is not None
