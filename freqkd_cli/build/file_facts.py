"""Facts stored in an exported file: output, classes, colors and how images are read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli.errors import WeightsMissing

FACTS_IN_PT2 = "freqkd.json"
"""Name of the extra file with the metadata of a pt2 file."""


@dataclass(frozen=True)
class FileFacts:
    """Facts stored in an exported file.

    Attributes:
        output: ``logits``, ``labels`` or ``probabilities``.
        names: of the classes; empty where they are unknown.
        classes: K.
        colors: RGB of each class in 0..255, or None.
        size: the only (height, width) that the graph takes; None = any.
        conversion: ``bits``, ``percentile`` and ``bands`` of the images that the model was trained
            on, those that are set; None where the file does not say.
    """

    output: str
    names: tuple[str, ...]
    classes: int
    colors: tuple[tuple[int, int, int], ...] | None
    size: tuple[int, int] | None
    conversion: Mapping[str, Any] | None

    @classmethod
    def read(
        cls,
        path: Path,
        metadata: Mapping[str, str],
        output: str,
        sides: Collection[Any],
        channels: Any,
    ) -> FileFacts:
        """Return the facts of a file.

        Args:
            metadata: what ``freqkd export`` wrote into the file.
            output: name of the output.
            sides: height and width of the input, integers where they are fixed.
            channels: axis 1 of the output, which is K unless the file returns labels.

        Raises:
            WeightsMissing: the metadata is not that of freqkd.
        """
        try:
            names = tuple(str(name) for name in json.loads(metadata["classes"]))
            colors = tuple(tuple(map(int, c)) for c in json.loads(metadata.get("colors", "[]")))
            classes = int(metadata.get("number_of_classes", len(names) or channels))
            if classes < 1 or len(names) not in (0, classes):
                raise ValueError("a name for each class")
            if len(colors) not in (0, classes) or any(len(c) != 3 for c in colors):
                raise ValueError("colors: three numbers for each class")
            conversion = json.loads(metadata.get("conversion", "null"))
            if not isinstance(conversion, dict | None):
                raise ValueError("conversion: an object")
        except (KeyError, ValueError, TypeError) as error:
            raise WeightsMissing(
                f"{path} was not written by freqkd",
                got=f"metadata {', '.join(sorted(metadata)) or 'of no kind'}",
                need="a file of freqkd export, with its classes in the metadata",
                tip="freqkd export RUN again",
            ) from error
        fixed = tuple(side for side in sides if isinstance(side, int))
        size = fixed if len(fixed) == 2 else None
        return cls(output, names, classes, colors or None, size, conversion)
