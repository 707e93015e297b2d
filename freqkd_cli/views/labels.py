"""Numbers that labels, losses and scores agree on."""

from __future__ import annotations

IGNORE = 255
"""Label of pixels that no score and no label loss counts."""
