"""List files: the images of a split by stems, names or paths, alone or each with its mask."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from freqkd_cli.datasets._folder_files import File, Tree
from freqkd_cli.datasets._folder_match import FORMS
from freqkd_cli.datasets._folder_names import listed_split, role
from freqkd_cli.errors import DataBroken, DataMissing, some
from freqkd_cli.images.pairs import IMAGE_SUFFIXES, Pair

log = logging.getLogger(__name__)

_FOLDERS = (
    "", "splits", "split", "lists", "list", "sets", "ImageSets", "ImageSets/Segmentation",
)  # fmt: skip
_SUFFIXES = (".txt", ".lst", ".csv")
_HEADER = frozenset("image images img filename file name path id stem mask label".split())
_NEED = "the stem or path of an image in each line, alone or with the path of its mask"


def list_file(tree: Tree, split: str) -> Path | None:
    """Return the file that lists a split, None where there is none.

    Raises:
        DataBroken: two files may be meant.
    """
    files = [
        tree.root / folder / name
        for folder in _FOLDERS
        for name in tree.files(tree.root / folder)
        if os.path.splitext(name)[1].lower() in _SUFFIXES
        and listed_split(os.path.splitext(name)[0]) == split
    ]
    if len(files) > 1:
        raise DataBroken(
            f"two files list the split {split!r}",
            got=some(map(str, files)),
            need="one list for a split",
            tip="remove or rename one of them",
        )
    return files[0] if files else None


class ListReader:
    """Finds the files that the lines of a list name.

    Args:
        images: the images that lines without a folder may name.
    """

    def __init__(self, tree: Tree, images: Iterable[File]) -> None:
        self.tree = tree
        self.by_name: dict[str, list[File]] = {}
        for file in images:
            for key in {file.name, file.stem}:
                self.by_name.setdefault(FORMS[1](key), []).append(file)

    def read(self, listing: Path) -> tuple[list[File], list[Path]]:
        """Return the images of a list, and their masks where the lines name them.

        Raises:
            DataMissing: nothing is listed.
            DataBroken: a line that names no image, or one twice, or no mask where others do.
        """
        images: dict[Path, File] = {}
        masks: list[Path] = []
        lines = _lines(listing)
        for number, (where, text) in enumerate(lines):
            if number == 0 and {word.casefold() for word in _words(text)} <= _HEADER:
                continue
            image, mask = self._line(where, text)
            if image.path in images:
                raise DataBroken(f"{where} lists an image twice", got=text[:120], need=_NEED)
            images[image.path] = image
            masks += [mask] if mask else []
            if masks and len(masks) < len(images):
                raise DataBroken(f"{where} has a mask in some lines only", got=text, need=_NEED)
        if not images:
            raise DataMissing(f"{listing} is empty", need=_NEED)
        return list(images.values()), masks

    def _line(self, where: str, text: str) -> tuple[File, Path | None]:
        words = _words(text)
        if len(words) != 2:
            image = self._image(where, text, exact=len(words) > 1)
            mask = None
        else:
            image, mask = self._image(where, words[0]), self._path(where, words[1])
        if len(words) != 2 and image is not None:
            return image, None
        if (image is None or mask is None) and (whole := self._image(where, text, exact=True)):
            return whole, None
        if image is None or mask is None:
            missing = words[-1] if image is not None else text
            raise DataBroken(
                f"{where} names a file that is not there", got=missing[:120], need=_NEED
            )
        return image, mask

    def _image(self, where: str, text: str, *, exact: bool = False) -> File | None:
        """Return the image of a stem, name or path, None where there is none.

        With ``exact`` the whole text is the path in the root, or the name.
        """
        path = self._path(where, text, exact=exact)
        if path is not None and path.suffix.lower() in IMAGE_SUFFIXES:
            folder = f"{path.parent.relative_to(self.tree.root).as_posix()}/".removeprefix("./")
            return File(self.tree.root, folder, folder, path.stem, path.suffix)
        parts = _parts(where, text)
        fits = self.by_name.get(FORMS[1](parts[-1]), []) if len(parts) == 1 or not exact else []
        if len(parts) > 1:  # an image in a subfolder must be in the one that the line names
            folder = _subfolder(parts[:-1])
            fits = [file for file in fits if _subfolder(file.group.split("/")) in ("", folder)]
        if len(fits) > 1:
            end = "/".join(parts[:-1])
            fits = [file for file in fits if end and f"/{file.path.parent}".endswith(f"/{end}")]
        if len(fits) > 1:
            raise DataBroken(
                f"{where} names several images",
                got=some(str(file.path) for file in fits),
                need="a path that names one of them",
            )
        return fits[0] if fits else None

    def _path(self, where: str, text: str, *, exact: bool = False) -> Path | None:
        """Return the file of a path in the root.

        The first parts of the path may name a folder of the disk on which the list was made.
        """
        parts = _parts(where, text)
        paths = (self.tree.root.joinpath(*parts[k:]) for k in range(1 if exact else len(parts)))
        return next((path for path in paths if self.tree.has(path)), None)


def pairs_of(images: list[File], masks: list[Path]) -> list[Pair]:
    """Return listed images with their listed masks, named by stems where these are unique."""
    if len(set(masks)) < len(masks):
        twice = [str(mask) for mask, count in Counter(masks).items() if count > 1]
        raise DataBroken("a list names one mask for several images", got=some(twice), need=_NEED)
    unique = len({file.stem for file in images}) == len(images)
    return [
        Pair(file.stem if unique else file.title, file.path, mask)
        for file, mask in zip(images, masks, strict=True)
    ]


def warn_of_overlap(reader: ListReader, listing: Path, train: Path | None) -> None:
    """Log a warning if images of a list are in that of the train split too."""
    if train is None or train == listing:
        return
    try:
        first, second = (reader.read(path)[0] for path in (train, listing))
    except (DataBroken, DataMissing):
        return  # reading the train split reports it
    both = {file.path for file in first} & {file.path for file in second}
    if both:
        names = some(sorted(path.name for path in both))
        log.warning("%d images of %s are in %s too: %s", len(both), listing, train.name, names)


def _lines(listing: Path) -> list[tuple[str, str]]:
    """Return the lines of a list that are not empty: (file:line, text)."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataBroken(f"cannot read {listing}", got=error, need="text in UTF-8") from error
    return [(f"{listing}:{k}", line.strip()) for k, line in enumerate(lines, 1) if line.strip()]


def _words(text: str) -> list[str]:
    """Return the parts of a line, divided at tabs or commas, else at spaces."""
    split = re.split(r"\s*[\t,;]\s*", text) if re.search(r"[\t,;]", text) else text.split()
    return [word.strip("\"' ") for word in split if word.strip("\"' ")]


def _subfolder(folders: list[str]) -> str:
    """Return the last of these folders whose name does not mean images or masks."""
    named = [folder for folder in folders if folder and not role(folder).kind]
    return FORMS[1](named[-1]) if named else ""


def _parts(where: str, text: str) -> list[str]:
    """Return the parts of a listed path.

    Raises:
        DataBroken: they lead out of the root.
    """
    parts = text.strip("\"'").replace("\\", "/").split("/")
    parts = [part for part in parts if part not in ("", ".")]
    if ".." in parts or not parts:
        raise DataBroken(f"{where} leads out of the data set's folder", got=text[:120], need=_NEED)
    return parts
