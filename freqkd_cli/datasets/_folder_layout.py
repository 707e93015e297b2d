"""The images of a split with their masks, in the layouts that people use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from freqkd_cli.datasets._folder_files import File, Tree
from freqkd_cli.datasets._folder_lists import ListReader, list_file, pairs_of, warn_of_overlap
from freqkd_cli.datasets._folder_pairing import pair_place
from freqkd_cli.datasets._folder_partial import MaskKeys
from freqkd_cli.datasets._folder_pattern import NO_MASKS, check_pattern
from freqkd_cli.datasets._folder_places import Place, image_place, places, pool_place
from freqkd_cli.datasets._folder_split import check_share, in_split, offered, shares_of
from freqkd_cli.errors import DataBroken, DataMissing, FreqKDError, UsageError
from freqkd_cli.images.dataset import SPLITS
from freqkd_cli.images.pairs import IMAGE_SUFFIXES, ROOT_TIP, Pair, contents

LAYOUT = (
    "images/{train,val,test} and masks/{train,val,test}, "
    "or {train,val,test}/images and {train,val,test}/masks"
)


def find_pairs(
    root: Path, split: str, keys: MaskKeys, split_shares: float | Sequence[float] | None
) -> list[Pair]:
    """Return the images of a split with their masks, or all without.

    Args:
        keys: with ``partial`` some images may have no mask beside others that have one.
        split_shares: ``data.split`` of the recipe.

    Raises:
        DataMissing: there is no such split.
        DataBroken: images without a mask, or a layout with two meanings.
        UsageError: a key that does not fit.
    """
    check_pattern(keys.pattern)
    tree = Tree(root)
    if split_shares is not None:
        return _shared(tree, split, keys, shares_of(split_shares))
    if (place := image_place(tree, split)) is not None:
        return pair_place(tree, place, keys)
    if (listing := list_file(tree, split)) is not None:
        return _listed(tree, listing, split, keys)
    raise _no_split(tree, split, keys)


def find_images(
    root: Path, pattern: str | None, split_shares: float | Sequence[float] | None
) -> list[Pair]:
    """Return the images of the train split, or all where there are no splits, without labels.

    Masks are only looked for to leave them out, so no problem of theirs is an error.

    Raises:
        DataMissing: there are no images.
        DataBroken: a layout with two meanings.
        UsageError: a key that does not fit.
    """
    check_pattern(pattern)
    tree = Tree(root)
    try:
        pairs = _alone(tree, MaskKeys(pattern, "all"), split_shares)
    except DataBroken:
        pairs = _alone(tree, MaskKeys(NO_MASKS, "all"), split_shares)
    return [Pair(pair.stem, pair.image, None) for pair in pairs]


def _alone(tree: Tree, keys: MaskKeys, split_shares: float | Sequence[float] | None) -> list[Pair]:
    if split_shares is not None:
        return _shared(tree, "train", keys, shares_of(split_shares))
    if (place := image_place(tree, "train")) is not None:
        return pair_place(tree, place, keys)
    if (listing := list_file(tree, "train")) is not None:
        return _listed(tree, listing, "train", keys)
    divided = any(place.split for place in places(tree))
    if not divided and (place := pool_place(tree) or Place(tree.root, None, None)):
        return pair_place(tree, place, keys)
    raise _no_split(tree, "train", keys)


def _shared(tree: Tree, split: str, keys: MaskKeys, shares: Sequence[float]) -> list[Pair]:
    """Return a share of the only folder: that without splits, or that of train."""
    names = SPLITS[: len(shares)]
    present = {name: place for name in SPLITS if (place := image_place(tree, name))}
    if split in present and split not in names:
        return pair_place(tree, present[split], keys)
    check_share(split, shares)
    divided = [name for name in names if name in present]
    if divided not in ([], ["train"]):
        raise UsageError(
            "data.split divides one folder of images, but these are divided already",
            got=f"folders of {', '.join(divided)} in {tree.root}",
            need="images in one folder",
            tip="--set data.split=null",
            key="split",
        )
    place = present.get("train") or pool_place(tree)
    if place is None:
        raise _no_split(tree, split, keys)
    return in_split(pair_place(tree, place, keys), split, shares)


def _listed(tree: Tree, listing: Path, split: str, keys: MaskKeys) -> list[Pair]:
    """Return the images that a list file names."""
    pool = pool_place(tree)
    below = [place for place in places(tree) if place.kind != "mask"]
    images = [file for place in below for file in tree.find(place.path, IMAGE_SUFFIXES)]
    pooled = tree.find(pool.path, IMAGE_SUFFIXES) if pool else list(_once(images))
    reader = ListReader(tree, pooled)
    files, masks = reader.read(listing)
    warn_of_overlap(reader, listing, list_file(tree, "train") if split != "train" else None)
    if masks:
        return pairs_of(files, masks)
    base = pool or Place(tree.root, None, None)
    inside = [_below(base.path, file) for file in files]
    return pair_place(tree, Place(base.path, base.kind, split), keys, inside)


def _once(files: Sequence[File]) -> list[File]:
    return list({file.path: file for file in files}.values())


def _below(base: Path, file: File) -> File:
    """Return the file as one of ``base``, where it lies there."""
    if base not in file.path.parents or file.base == base:
        return file
    folder = f"{file.path.parent.relative_to(base).as_posix()}/".removeprefix("./")
    return File(base, folder, folder, file.stem, file.suffix)


def _no_split(tree: Tree, split: str, keys: MaskKeys) -> DataMissing:
    """Return the error of a split without images; its tip is a change that works, if any."""
    root = tree.root
    present = [name for name in SPLITS if image_place(tree, name)]
    pool = image_place(tree, "train") if present in (["train"], ["train", "test"]) else None
    pool = pool or (pool_place(tree) if not present else None)
    share = _share(tree, pool, keys) if pool and split != "test" else None
    tip = ROOT_TIP
    if share and pool:
        tip = f"--set 'data.split={share}' to divide {pool.path} into train and val by the names"
    elif inner := _inner(root, split):
        tip = f"--data-root {inner}"
    return DataMissing(
        f"no split {split!r} in {root}",
        got=f"only {', '.join(present)}" if present else contents(root),
        need=LAYOUT,
        tip=tip,
        key="root",
    )


def _share(tree: Tree, pool: Place, keys: MaskKeys) -> float | None:
    try:
        return offered(pair_place(tree, pool, keys))
    except FreqKDError:
        return 0.8  # the next message is about the masks


def _inner(root: Path, split: str) -> Path | None:
    """Return the only folder of the root, where it holds the data set."""
    names = Tree(root).folders(root)
    if len(names) != 1:
        return None
    inner = Tree(root / names[0])
    return inner.root if image_place(inner, split) or list_file(inner, split) else None
