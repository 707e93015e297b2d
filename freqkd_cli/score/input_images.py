"""Images and videos that a user named, alone or in folders, and where their results go."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.decode import with_image
from freqkd_cli.images.pairs import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

LARGE = 2**24
"""Pixels above which an image is labelled after the others."""
OTHER_SUFFIXES = frozenset(
    ".heic .heif .avif .jxl .jp2 .gif .dng .cr2 .cr3 .nef .arw .raf .rw2 .orf .raw .pdf .svg .psd "
    ".dcm .nii .npy .npz .mat .h5 .exr .hdr .fits .jfif".split()
)
"""Images that are not taken from a folder; a warning lists them."""
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class Input:
    """One image or video.

    Attributes:
        path: the file.
        name: path of its results inside the output folder, without a suffix.
    """

    path: Path
    name: Path

    @property
    def video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def gather(paths: Iterable[Path], skipped: Path) -> list[Input]:
    """The files named, and the images and videos in the folders named, with their subfolders.

    Results keep the path of a file inside the folder that was named. Hidden files and folders are
    left out, and so is the folder ``skipped``, where results are written.

    Raises:
        DataMissing: a path does not exist, or a folder has no image and no video.
    """
    inputs: list[Input] = []
    for path in paths:
        if path.is_dir():
            inside = [Input(file, file.relative_to(path)) for file in _files(path, skipped)]
            if not inside:
                suffixes = " ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
                raise DataMissing(
                    f"{path} has no images",
                    got=_others(path, skipped) or None,
                    need=f"files ending in {suffixes}",
                )
            if others := _others(path, skipped):
                log.warning("%s: left out %s; name such a file to try it", path, others)
            inputs += inside
        elif path.is_file():
            inputs.append(Input(path, Path(path.name)))
        else:
            raise DataMissing(f"{path} does not exist", need="an image, a video, or a folder")
    named = {entry.path: Input(entry.path, entry.name.with_suffix("")) for entry in inputs}
    return list(named.values())


def large_last(inputs: Iterable[Input]) -> list[Input]:
    """The inputs in their order, with large images at the end.

    The system may end a process that runs out of memory; the other images are labelled by then.
    """
    return sorted(inputs, key=lambda entry: _pixels(entry) > LARGE)


def _pixels(entry: Input) -> int:
    """Pixels of an image by its header; 0 for a video and for a file that cannot be read."""
    if entry.video:
        return 0
    try:
        return with_image(entry.path, lambda image: image.width * image.height)
    except DataBroken:
        return 0


def _others(folder: Path, skipped: Path) -> str:
    """How many files below a folder are images of other formats, by suffix."""
    suffixes = OTHER_SUFFIXES.difference(IMAGE_SUFFIXES)
    counts = Counter(path.suffix.lower() for path in _files(folder, skipped, suffixes))
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))


def _files(
    folder: Path, skipped: Path, suffixes: Collection[str] = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
) -> Iterator[Path]:
    """Files below a folder with these suffixes, by name; links to folders are not followed."""
    out = os.path.realpath(skipped)
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(place, name)) != out
        )
        for name in sorted(names):
            path = Path(place, name)
            known = path.suffix.lower() in suffixes
            if known and not name.startswith(".") and path.is_file():
                yield path
