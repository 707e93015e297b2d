"""Images of a split that cannot be read as they are: damaged, of several pages, bands or bits."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from freqkd_cli.doctor.finding import Finding, unreadable
from freqkd_cli.doctor.survey import HEADERS, MASKS
from freqkd_cli.errors import DataBroken, some
from freqkd_cli.images.conversion import range_text
from freqkd_cli.images.dataset import spread
from freqkd_cli.images.decode import read_alpha, read_range
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.runtime.progress import Progress, bar

_OPAQUE = 255

_MOST_LABELS = 32
"""An alpha channel with more different values is transparency, not a mask."""

_LABELLED_SHARE = 0.1
"""Share of the pixels that are not opaque, from which an alpha channel may be a mask."""


def image_findings(
    dataset: FileDataset,
    known: Collection[str],
    every: bool,
    progress: Progress,
) -> tuple[Finding, ...]:
    """Return the problems of the images, errors first.

    Headers of a spread sample are read. Images of more than 8 bits a channel, and those with an
    alpha channel, are decoded in part; with ``every`` all images are decoded.

    Args:
        known: texts of errors that are reported already.
    """
    errors: list[DataBroken] = []
    deep, alpha = [], []
    for index in spread(len(dataset), len(dataset) if every else HEADERS):
        try:
            header = dataset.header(index)
        except DataBroken as error:
            errors.append(error)
            continue
        deep += [index] * (header.bits > 8)
        alpha += [index] * header.alpha
    unread = deep if not dataset.conversion.reads_deep else []
    chosen, skipped = range(len(dataset)) if every else _sample(deep), set(unread)
    errors += _decode(dataset, [k for k in chosen if k not in skipped], progress)
    findings = (_unreadable(errors, known), _deep(dataset, unread), _alpha(dataset, _sample(alpha)))
    return tuple(finding for finding in findings if finding is not None)


def _sample(indices: Sequence[int]) -> list[int]:
    return [indices[place] for place in spread(len(indices), MASKS)]


def _decode(dataset: FileDataset, indices: Sequence[int], progress: Progress) -> list[DataBroken]:
    """Decode images; return the errors."""
    errors: list[DataBroken] = []
    if not indices:
        return errors
    with bar(progress, "image", len(indices)):
        for number, index in enumerate(indices, start=1):
            try:
                dataset.image(index)
            except DataBroken as error:
                errors.append(error)
            progress.advance(number)
    return errors


def _unreadable(errors: Sequence[DataBroken], known: Collection[str]) -> Finding | None:
    distinct = {error.what: error for error in errors if error.what not in known}
    return unreadable(list(distinct.values())) if distinct else None


def _deep(dataset: FileDataset, indices: Sequence[int]) -> Finding | None:
    """Return the finding of images of more than 8 bits without a key that reads them."""
    ranges = []
    for index in _sample(indices):
        try:
            ranges.append(read_range(dataset.pairs[index].image))
        except DataBroken as error:
            return _unreadable([error], ())
    if not ranges:
        return None
    low, high = min(low for low, _, _ in ranges), max(high for _, high, _ in ranges)
    fractions = any(part for _, _, part in ranges)
    files = tuple(str(dataset.pairs[index].image) for index in indices)
    bits = max(dataset.header(index).bits for index in indices)
    read = f" in {len(ranges)} of them" if len(ranges) > 1 else ""
    return Finding(
        "error",
        f"{len(files)} image{'s' * (len(files) > 1)} with more than 8 bits a channel: "
        + some(files),
        files,
        range_text(bits, low, high, fractions) + read,
        "8 bits a channel" + (", or the range of the values" if dataset.conversion.form else ""),
        dataset.conversion.range_tip(low, high, fractions),
    )


def _alpha(dataset: FileDataset, indices: Sequence[int]) -> Finding | None:
    """Return the warning about alpha channels that look like masks."""
    suspects: list[int] = []
    values: set[int] = set()
    for index in indices:
        try:
            channel = read_alpha(dataset.pairs[index].image)
        except DataBroken:
            continue  # reported by the image itself
        present = set(np.unique(channel).tolist())
        cut_out = dataset.labelled and present <= {0, _OPAQUE}
        if 2 <= len(present) <= _MOST_LABELS and not cut_out:
            if (channel != _OPAQUE).mean() >= _LABELLED_SHARE:
                suspects.append(index)
                values |= present
    if not suspects:
        return None
    files = tuple(str(dataset.pairs[index].image) for index in suspects)
    return Finding(
        "warning",
        f"the alpha channel may hold the mask in {len(files)} images: {some(files)}",
        files,
        f"alpha values {some(map(str, sorted(values)), 8)}; transparency is not read",
        "masks in files of their own",
        _alpha_command(dataset.pairs[suspects[0]].image),
    )


def _alpha_command(image: Path) -> str:
    """Return the command that writes the alpha channels of a folder's images to files."""
    if not isinstance(image, Path):  # a cell of a table
        return "save the alpha channels as a column of label images"
    folder = image.parent
    masks = folder.with_name(f"{folder.name}_alpha")
    script = (
        "import pathlib, PIL.Image; "
        f"folder, masks = pathlib.Path({str(folder)!r}), pathlib.Path({str(masks)!r}); "
        "masks.mkdir(exist_ok=True); "
        "[PIL.Image.open(file).getchannel('A').save(masks / (file.stem + '.png')) "
        f"for file in folder.glob('*{image.suffix}')]"
    )
    return f"python -c {shlex.quote(script)}"
