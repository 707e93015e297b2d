"""Pair images with label images: by stem, or by the lines of a list file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from freqkd_cli.errors import DataBroken, DataMissing, some
from freqkd_cli.images.stored_labels import LABEL_SUFFIXES, LOSSY_SUFFIXES

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

ROOT_TIP = "set data.root in the recipe, or use --data-root DIR"


@dataclass(frozen=True)
class Pair:
    """An image and its label image, or None.

    Instead of files they may be objects that offer ``open`` and ``stat``, such as cells of a table.
    """

    stem: str
    image: Path
    label: Path | None


def stems(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder that have one of these suffixes, by stem, sorted.

    Hidden files are skipped. Broken links are included: reading them reports the error.

    Raises:
        DataBroken: two files share a stem.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or path.is_dir():
            continue
        if path.stem in files:
            raise same_stem(folder, files[path.stem].name, path.name)
        files[path.stem] = path
    return files


def same_stem(folder: object, first: str, second: str) -> DataBroken:
    """Return the error for two files of a folder whose names differ in the suffix alone."""
    return DataBroken(
        f"two files in {folder} have the same stem",
        got=f"{first} and {second}",
        need="one file per stem",
        tip="rename or remove one of them",
    )


def by_stem(folder: Path, stem: str, suffixes: Sequence[str]) -> Path | None:
    """Return the file of this stem, its suffix in lower or upper case."""
    files = (folder / f"{stem}{form}" for suffix in suffixes for form in (suffix, suffix.upper()))
    return next((file for file in files if file.is_file()), None)


def check_stems(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs if no two images share a stem: their masks would be written to one file.

    Raises:
        DataBroken: two images share a stem.
    """
    first: dict[str, Path] = {}
    for pair in pairs:
        if pair.stem in first:
            raise DataBroken(
                "two images of the split have the same stem",
                got=f"{first[pair.stem]} and {pair.image}",
                need="one file per stem",
            )
        first[pair.stem] = pair.image
    return list(pairs)


def pair_by_stem(images: Path, labels: Path | None) -> list[Pair]:
    """Pair the images of a folder with the label images of the same stem in another.

    Raises:
        DataMissing: no image in ``images``.
        DataBroken: images without a label image, where there is a folder for them.
    """
    files = stems(images, IMAGE_SUFFIXES)
    if not files:
        raise DataMissing(
            f"no images in {images}", need="files ending in " + " ".join(IMAGE_SUFFIXES)
        )
    if labels is None:
        return [Pair(stem, path, None) for stem, path in files.items()]
    lossless = [suffix for suffix in LABEL_SUFFIXES if suffix not in LOSSY_SUFFIXES]
    masks = stems(labels, LOSSY_SUFFIXES) | stems(labels, lossless)
    unlabelled = [stem for stem in files if stem not in masks]
    if unlabelled:
        raise DataBroken(
            f"{len(unlabelled)} of {len(files)} images in {images} have no label image",
            got=f"no {some(unlabelled)} in {labels}",
            need="a file with the stem of the image, ending in " + " ".join(LABEL_SUFFIXES),
            tip="add the label images, or remove these images from the split",
        )
    return [Pair(stem, path, masks[stem]) for stem, path in files.items()]


def lines_of(listing: Path) -> list[tuple[str, list[str]]]:
    """Return the non-empty lines of a list file: (file:line, words).

    Raises:
        DataBroken: it cannot be read.
    """
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataBroken(f"cannot read {listing}", got=error, need="text in UTF-8") from error
    return [
        (f"{listing}:{number}", line.split())
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def inside(root: Path, word: str, where: str) -> Path:
    """Return the last two parts of a listed path, under ``root``.

    The parts before them name a folder of the disk on which the list was made.

    Raises:
        DataBroken: there are fewer than two parts, or they lead out of ``root``.
    """
    parts = PurePosixPath(word.replace("\\", "/")).parts[-2:]
    outside = ".." in parts or "/" in parts
    if len(parts) != 2 or outside:
        problem = "leads out of the data set's folder" if outside else "names no folder and file"
        raise DataBroken(
            f"{where} {problem}", got=word, need="a path that ends in FOLDER/FILE, without spaces"
        )
    return root.joinpath(*parts)


def check_list(listing: Path, pairs: Sequence[tuple[str, Pair]], layout: str) -> list[Pair]:
    """Return the pairs of a list file, given with the places of their lines.

    Raises:
        DataBroken: a stem is listed twice, or some of the files are missing.
        DataMissing: nothing is listed, or none of the images exists.
    """
    listed: set[str] = set()
    for where, pair in pairs:
        if pair.stem in listed:
            raise DataBroken(
                f"{where} lists a stem twice", got=pair.stem, tip="remove one of the lines"
            )
        listed.add(pair.stem)
    if not pairs:
        raise DataMissing(f"{listing} is empty", need=layout)
    missing = [
        path
        for _, pair in pairs
        for path in (pair.image, pair.label)
        if path is not None and not path.is_file()
    ]
    if missing:
        all_missing = {pair.image for _, pair in pairs} <= set(missing)
        raise (DataMissing if all_missing else DataBroken)(
            f"{len(missing)} files listed in {listing} are missing",
            got=some(f"no {path}" for path in missing),
            need=layout,
        )
    return [pair for _, pair in pairs]


def no_split(name: str, split: str, root: Path | None, layout: str) -> DataMissing:
    """Return the error for a split that is not in the recipe's folder."""
    if root is None:
        return DataMissing(
            f"{name} needs the folder of the data set", need=layout, tip=ROOT_TIP, key="root"
        )
    return DataMissing(
        f"no split {split!r} of {name} in {root}",
        got=contents(root),
        need=layout,
        tip=ROOT_TIP,
        key="root",
    )


def contents(folder: Path) -> str:
    """Return the first names in a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    return some((path.name for path in sorted(folder.iterdir())), 8) or "an empty folder"


def printable(text: object) -> str:
    """Return a text in which bytes of file names that are not UTF-8 are escaped, as ``\\udcff``."""
    return str(text).encode("utf-8", "backslashreplace").decode()
