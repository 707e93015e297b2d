"""Where the images and masks of a split may lie, by the names of folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from freqkd_cli.datasets._folder_files import Tree
from freqkd_cli.datasets._folder_names import Kind, role
from freqkd_cli.errors import DataBroken, some
from freqkd_cli.images.pairs import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Place:
    """A folder in the root, or in a folder of the root.

    Attributes:
        kind, split: what its path means; None where it does not say so.
    """

    path: Path
    kind: Kind | None
    split: str | None


def places(tree: Tree) -> list[Place]:
    """Return the folders whose names mean images, masks or a split, outermost first."""
    outer: list[Place] = []
    inner: list[Place] = []
    for name in tree.folders(tree.root):
        top = role(name)
        if top == (None, None):
            continue
        path = tree.root / name
        outer.append(Place(path, *top))
        for below in tree.folders(path):
            here = role(below)
            contradiction = here.split and top.split and here.split != top.split
            if here != (None, None) and not contradiction:
                kind, split = here.kind or top.kind, here.split or top.split
                inner.append(Place(path / below, kind, split))
    return outer + inner


def image_place(tree: Tree, split: str) -> Place | None:
    """Return the folder with the images of a split, None where there is none.

    ``images/SPLIT`` and ``SPLIT/images`` come first; other names count if they hold images.

    Raises:
        DataBroken: two folders may be meant.
    """
    for path in (tree.root / "images" / split, tree.root / split / "images"):
        if path.is_dir():
            return Place(path, "image", split)
    all_places = [place for place in places(tree) if place.split == split]
    for kind in ("image", None):
        fits = [
            place
            for place in innermost(place for place in all_places if place.kind == kind)
            if tree.find(place.path, IMAGE_SUFFIXES)
        ]
        if len(fits) > 1:
            raise DataBroken(
                f"two folders hold images of the split {split!r}",
                got=some(str(place.path) for place in fits),
                need="one folder of images for a split",
                tip="remove or rename one of them",
            )
        if fits:
            return fits[0]
    return None


def pool_place(tree: Tree) -> Place | None:
    """Return the one folder of images without splits, None where there is none.

    Raises:
        DataBroken: two folders may be meant.
    """
    divided = {place.path.parent for place in places(tree) if place.split}
    fits = [
        place
        for place in places(tree)
        if place.kind == "image"
        and place.split is None
        and place.path not in divided
        and tree.find(place.path, IMAGE_SUFFIXES)
    ]
    if len(fits) > 1:
        raise DataBroken(
            f"two folders in {tree.root} hold images",
            got=some(place.path.name for place in fits),
            need="one folder of images",
            tip="remove or rename one of them",
        )
    if fits:
        return fits[0]
    direct = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in tree.files(tree.root))
    return Place(tree.root, None, None) if direct else None


def mask_places(tree: Tree, images: Place) -> list[list[Place]]:
    """Return the folders that may hold the masks of an image folder, in groups by rank.

    The first group is the folder that belongs to ``images/SPLIT`` or ``SPLIT/images``, the second
    those of the split, and the third those of all splits.
    """
    everywhere = [place for place in places(tree) if place.kind == "mask"]
    partner = partner_of(tree.root, images)
    divided = {place.path.parent for place in everywhere if place.split}
    same = innermost(place for place in everywhere if place.split == images.split)
    of_all = innermost(
        place for place in everywhere if place.split is None and place.path not in divided
    )
    groups = [
        [Place(partner, "mask", images.split)] if partner and partner.is_dir() else [],
        [place for place in same if images.split and place.path != partner],
        of_all,
    ]
    return [group for group in groups if group]


def partner_of(root: Path, images: Place) -> Path | None:
    """Return the folder ``masks`` beside ``images``, None where the images are elsewhere."""
    if images.path.parent == root / "images":
        return root / "masks" / images.path.name
    if images.path.name == "images" and images.path.parent != root:
        return images.path.parent / "masks"
    return None


def innermost(candidates: Iterable[Place]) -> list[Place]:
    """Return the places without those that contain another of them."""
    listed = list(candidates)
    outer = {place.path.parent for place in listed}
    return [place for place in listed if place.path not in outer]
