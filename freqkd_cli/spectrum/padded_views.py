"""Whether the views of a cache are padded, as the images of a live source never are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from freqkd_cli.cache.reader import CacheReader, Item
from freqkd_cli.errors import FreqKDError
from freqkd_cli.spectrum.graph_inputs import images_of_cache
from freqkd_cli.views.view import MULTIPLE

log = logging.getLogger(__name__)


def warn_of_padding(reader: CacheReader, views: Sequence[Item], data_root: Path | None) -> None:
    """Log a warning where whole images were padded, whose border has frequencies of its own.

    The spectrum itself needs no images. Without them their sizes are not known, and nothing is
    logged.
    """
    if reader.fingerprint.fields["views"]["kind"] != "whole":
        return
    try:
        images = images_of_cache(reader, data_root, None)
    except FreqKDError:
        return
    sizes = [images.image_size(index) for index, _ in views if index < len(images)]
    padded = [size for size in sizes if any(side % MULTIPLE for side in size)]
    if padded:
        log.warning(
            "%d of %d images were padded to multiples of %d when the cache %s was made, such as "
            "%dx%d, and the border of the padding is in these spectra. A recipe or a model as the "
            "source cuts images instead: freqkd spectrum RECIPE",
            len(padded),
            len(sizes),
            MULTIPLE,
            reader.folder,
            *padded[0],
        )
