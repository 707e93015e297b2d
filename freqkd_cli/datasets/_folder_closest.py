"""What comes closest to a pairing where no rule fits, for messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from freqkd_cli.datasets._folder_files import File
from freqkd_cli.datasets._folder_match import (
    FORMS,
    Names,
    affixes,
    common_parts,
    paired_masks,
    pattern_of,
)

_TRIED = 8
"""Images whose masks are looked for."""


def loose_pattern(images: Sequence[File], masks: Sequence[File]) -> str | None:
    """Return a value of ``data.mask`` that pairs all images but needs a human's consent."""
    index = Names(masks, str, False).index()
    stems = Names(images, str, False).keys()
    for before, after in affixes(stems, index, limit=None, words=False):
        paired = paired_masks([(folder, f"{before}{stem}{after}") for folder, stem in stems], index)
        if paired and len(masks) == len(images):
            return pattern_of("{stem}", before, after, paired)
    return None


@dataclass(frozen=True)
class Closest:
    """The rule that pairs the most images where none pairs all.

    Attributes:
        paired: how many images have a mask.
        missing: names of the absent masks without suffix; of the images where nothing pairs.
    """

    paired: int
    missing: list[str]


def closest(images: Sequence[File], masks: Sequence[File]) -> Closest:
    """Return the rule that comes closest, for messages."""
    best = Closest(0, [f"{file.folder}{file.stem}" for file in images])
    nested = any(file.group for file in (*images, *masks))
    for flat in (False, True) if nested else (False,):
        for form in FORMS:
            index = Names(masks, form, flat).index()
            names = Names(images, form, flat)
            stems = names.keys()
            rules = [stems, names.keys(whole=True)]
            parts = common_parts([stem for _, stem in stems])
            for before, after in dict.fromkeys((("", ""), parts)):
                cores = [
                    (group, stem[len(before) : len(stem) - len(after)]) for group, stem in stems
                ]
                for prefix, suffix in affixes(cores, index, limit=_TRIED)[:_TRIED]:
                    rules.append([(group, f"{prefix}{core}{suffix}") for group, core in cores])
            for keys in rules:
                absent = [k for k, key in enumerate(keys) if index.get(key) is None]
                if len(images) - len(absent) > best.paired:
                    shown = [
                        f"{images[k].folder}{images[k].stem}" if form is str and keys is stems
                        else "".join(keys[k])
                        for k in absent
                    ]  # fmt: skip
                    best = Closest(len(images) - len(absent), shown)
    return best
