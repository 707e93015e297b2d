"""Words in the names of folders and files: images or masks, and which split."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["image", "mask"]

_SEPARATORS = re.compile(r"[-_. ]+")

_IMAGES = frozenset(
    """images image imgs img jpegimages jpgimages pngimages jpegs photos photo pictures input
    inputs originals original rgb frames leftimg8bit""".split()
)
_MASKS = frozenset(
    """masks mask labels label annotations annotation annots annot ann anns annotated gt gts
    groundtruth groundtruths truth segmentation segmentations segmentationclass segmentationclassraw
    segmentationclassaug segmentationmask segmentationmasks segs seg targets target labelmaps
    labelmap lbl lbls gtfine semantic semantics manual 1stmanual 2ndmanual""".split()
)
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "validate": "val", "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_SHORT_SPLITS = {"trn": "train", "tr": "train", "va": "val", "ts": "test", "te": "test"}
"""Only beside a word for images or masks, as in ``imagesTr``."""

_SILENT = frozenset({"png", "jpg", "jpeg", "tif", "tiff", "bmp", "gif", "dir", "folder"})
"""Words beside the one that says what a folder holds, as in ``masks_png`` and ``img_dir``."""

_FILLERS = frozenset({"set", "data", "split", "dataset"})
_LIST_FILLERS = frozenset(
    """list lists lst ids id images image files file filenames names split set pairs stems
    """.split()
)
_MASK_ENDINGS = _MASKS | frozenset(
    "labelids labeltrainids trainids maskimage l gtfinelabelids".split()
)


_DERIVED = frozenset(
    """color colors colour colours colored coloured vis viz visual visualization overlay overlays
    blend preview thumb thumbnail depth instance instances instanceids edge edges boundary
    """.split()
)
"""Last words of files that are made from a mask or for another task."""


class Role(NamedTuple):
    """What a folder holds, None where its name does not say so."""

    kind: Kind | None
    split: str | None


@lru_cache(maxsize=4096)
def role(name: str) -> Role:
    """Return what a folder of this name holds; both parts are None for any other name."""
    parts = [part for part in _SEPARATORS.split(name.casefold()) if part]
    joined = "".join([part for part in parts if part not in _SILENT] or parts)
    if joined in _SPLITS:
        return Role(None, _SPLITS[joined])
    if kind := _kind(joined):
        return Role(kind, None)
    for word in sorted(_SPLITS | _SHORT_SPLITS, key=len, reverse=True):
        split = (_SPLITS | _SHORT_SPLITS)[word]
        for rest in _without(joined, word):
            kind = _kind(rest)
            if kind or (rest in _FILLERS and word in _SPLITS):
                return Role(kind, split)
    return Role(None, None)


def names_images(name: str) -> bool:
    """Return whether a word in a folder's name means images, as in ``images_small``."""
    return any(part in _IMAGES for part in _SEPARATORS.split(name.casefold()))


def listed_split(stem: str) -> str | None:
    """Return the split that a list file of this stem lists, such as ``train`` of ``train_list``."""
    parts = [part for part in _SEPARATORS.split(stem.casefold()) if part]
    words = [part for part in parts if part not in _LIST_FILLERS]
    if len(words) == 1:
        for filler in ("", *_LIST_FILLERS):
            if words[0].removesuffix(filler) in _SPLITS:
                return _SPLITS[words[0].removesuffix(filler)]
    return None


def is_mask_word(text: str) -> bool:
    """Return whether the parts of a file's name around those of its image mean a mask."""
    words = _letters(text)
    return not {*words} & _DERIVED and any(_ends_in_mask(words[: k + 1]) for k in range(len(words)))


def names_mask(stem: str) -> bool:
    """Return whether the first or last word of a file's stem is a word for masks."""
    words = _letters(stem)
    return not names_derived(stem) and (_ends_in_mask(words) or _ends_in_mask(words[:1]))


def names_derived(stem: str) -> bool:
    """Return whether the last word of a stem means a file that is neither image nor mask."""
    return bool(words := _letters(stem)) and words[-1] in _DERIVED


def _ends_in_mask(words: list[str]) -> bool:
    return bool({*words[-1:], "".join(words[-2:])} & _MASK_ENDINGS)


def _letters(text: str) -> list[str]:
    """Return the words of a name without its numbers."""
    return re.findall(r"[^\W\d_]+", text.casefold())


def _kind(joined: str) -> Kind | None:
    if joined in _IMAGES:
        return "image"
    if joined in _MASKS:
        return "mask"
    both = [word for word in _MASKS for rest in _without(joined, word) if rest in _IMAGES | _MASKS]
    return "mask" if both else None


def _without(joined: str, word: str) -> list[str]:
    """Return what is left of a name when a word at its start or end is removed."""
    rests = []
    if joined.startswith(word):
        rests.append(joined[len(word) :])
    if joined.endswith(word):
        rests.append(joined[: -len(word)])
    return [rest for rest in rests if rest]
