"""Which picture belongs to which label image: by stem, or by the lines of a list file; and what is said where files are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from freqkd_cli.errors import DataBroken, DataMissing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """A picture and its label image, or None."""

    stem: str
    image: Path
    label: Path | None


def stems(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder with one of these suffixes, by stem, sorted; hidden files are passed over.

    A link to nothing is among them, so that it is told when it is read and not passed over in silence.

    Raises:
        DataBroken: two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or path.is_dir():
            continue
        if path.stem in found:
            both = f"{found[path.stem].name} and {path.name}"
            raise DataBroken(
                f"two files of {folder} share a stem", got=both, need="one file per stem"
            )
        found[path.stem] = path
    return found


def by_stem(folder: Path, stem: str, suffixes: Sequence[str]) -> Path | None:
    """The file of this stem, its suffix in small letters or in capitals."""
    files = (folder / f"{stem}{form}" for suffix in suffixes for form in (suffix, suffix.upper()))
    return next((file for file in files if file.is_file()), None)


def check_stems(pairs: Sequence[Pair]) -> list[Pair]:
    """
    Raises:
        DataBroken: two pictures share a stem, under which labels of theirs would be written.
    """
    seen: dict[str, Path] = {}
    for pair in pairs:
        if pair.stem in seen:
            both = f"{seen[pair.stem]} and {pair.image}"
            raise DataBroken(
                "two pictures of the split share a stem", got=both, need="one file per stem"
            )
        seen[pair.stem] = pair.image
    return list(pairs)


def pair_by_stem(images: Path, labels: Path | None) -> list[Pair]:
    """Pictures of a folder with the label images of the same stem in another.

    Raises:
        DataMissing: no picture in ``images``.
        DataBroken: pictures without a label image, where there is a folder for them.
    """
    pictures = stems(images, IMAGE_SUFFIXES)
    if not pictures:
        raise DataMissing(
            f"no pictures in {images}", need="files ending in " + " ".join(IMAGE_SUFFIXES)
        )
    if labels is None:
        return [Pair(stem, path, None) for stem, path in pictures.items()]
    masks = stems(labels, LABEL_SUFFIXES)
    alone = [stem for stem in pictures if stem not in masks]
    if alone:
        raise DataBroken(
            f"{len(alone)} of {len(pictures)} pictures in {images} have no label image in {labels}",
            got=f"no {some(alone)}",
            need="a file of the same stem ending in " + " ".join(LABEL_SUFFIXES),
        )
    return [Pair(stem, path, masks[stem]) for stem, path in pictures.items()]


def lines_of(listing: Path) -> list[tuple[str, list[str]]]:
    """The lines of a list file that are not empty: (file:line, words).

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
    """The last two parts of a listed path, under ``root``; what stands before them is a folder of somebody else's disk.

    Raises:
        DataBroken: there are no two, or they lead elsewhere.
    """
    parts = PurePosixPath(word.replace("\\", "/")).parts[-2:]
    if len(parts) != 2 or ".." in parts or "/" in parts:
        said = (
            "leaves the folder of the data set"
            if ".." in parts or "/" in parts
            else "does not name a folder and a file"
        )
        raise DataBroken(
            f"{where} {said}", got=word, need="a path that ends in FOLDER/FILE, without blanks"
        )
    return root.joinpath(*parts)


def check_list(listing: Path, pairs: Sequence[tuple[str, Pair]], layout: str) -> list[Pair]:
    """The pairs of a list file, given with the lines they stand on.

    Raises:
        DataBroken: a stem is listed twice, or some of the files are not there.
        DataMissing: nothing is listed, or none of the pictures is there.
    """
    seen: set[str] = set()
    for where, pair in pairs:
        if pair.stem in seen:
            raise DataBroken(f"{where} lists a stem twice", got=pair.stem)
        seen.add(pair.stem)
    if not pairs:
        raise DataMissing(f"{listing} lists nothing", need=layout)
    missing = [
        path
        for _, pair in pairs
        for path in (pair.image, pair.label)
        if path is not None and not path.is_file()
    ]
    if missing:
        files, are = ("file", "is") if len(missing) == 1 else ("files", "are")
        what = f"{len(missing)} {files} that {listing} lists {are} not there"
        gone = {pair.image for _, pair in pairs} <= set(missing)
        raise (DataMissing if gone else DataBroken)(
            what, got=some(f"no {path}" for path in missing), need=layout
        )
    return [pair for _, pair in pairs]


def some(names: Iterable[str], number: int = 3) -> str:
    """The first few of many names."""
    names = list(names)
    return ", ".join(names[:number]) + (" ..." if len(names) > number else "")


def no_split(name: str, split: str, root: Path | None, layout: str) -> DataMissing:
    """The error for a data set that is not where the recipe says."""
    tip = "data.root in the recipe, or --data-root DIR"
    if root is None:
        return DataMissing(f"{name} needs the folder of the data set", need=layout, tip=tip)
    found = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else None
    got = "no such folder" if found is None else ", ".join(found) or "an empty folder"
    return DataMissing(f"no split {split!r} of {name} in {root}", got=got, need=layout, tip=tip)
