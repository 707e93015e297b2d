"""Label values shared by data sets, losses and scores."""

from __future__ import annotations

IGNORE = 255
"""Label of void pixels, which no score and no label loss counts, with up to 255 classes."""

IGNORE_16_BIT = 65535
"""The same where 255 is a class: images of labels then have 16 bits."""

MOST_CLASSES = IGNORE_16_BIT


def void_label(classes: int) -> int:
    """Return the label of void pixels among this many classes."""
    return IGNORE if classes <= IGNORE else IGNORE_16_BIT
