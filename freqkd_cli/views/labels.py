"""Label values shared by data sets, losses and scores."""

from __future__ import annotations

IGNORE = 255
"""Label of void pixels, which no score and no label loss counts."""
