"""Splits in which only some images have a mask (``data.unlabelled: pool``).

The rule of names that pairs the most images chooses those with a mask. They must then pair like a
split of their own, so the same names are refused as in a folder where every image has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from freqkd_cli.datasets._folder_files import File
from freqkd_cli.datasets._folder_match import FORMS, Names, affixes, common_parts
from freqkd_cli.images.dataset import spread

_SAMPLE = 8
"""Masks whose images are looked for, so that a rule is tried on images that have one."""


Key = tuple[str, str]
"""(folder, stem) of a file, as names are compared."""


class MaskKeys(NamedTuple):
    """The keys of a recipe that decide which images have a mask.

    Attributes:
        pattern: ``data.mask``.
        unlabelled: ``data.unlabelled``; ``all`` for a pool, whose masks are only left out.
    """

    pattern: str | None = None
    unlabelled: Literal["refuse", "pool", "all"] = "refuse"

    @property
    def partial(self) -> bool:
        """Whether images may lack a mask beside others that have one."""
        return self.unlabelled != "refuse"


def images_with_masks(images: Sequence[File], masks: Sequence[File]) -> list[File]:
    """Return the images to which the rule that pairs the most images gives a mask of their own.

    Of equal rules it is the strictest one.
    """
    best: list[int] = []
    nested = any(file.group for file in (*images, *masks))
    for flat in (False, True) if nested else (False,):
        for form in FORMS:
            index = Names(masks, form, flat).index()
            for keys in _rules(Names(images, form, flat), index):
                chosen = [k for k, key in enumerate(keys) if index.get(key) is not None]
                own = len({keys[k] for k in chosen}) == len(chosen)
                if own and len(chosen) > len(best):
                    best = chosen
            if len(best) == len(masks):
                return [images[k] for k in best]
    return [images[k] for k in best]


def _rules(names: Names, index: dict[Key, File | None]) -> Iterator[list[Key]]:
    """Yield the keys of the images' masks by each rule: equal names, then constant parts."""
    stems = names.keys()
    yield stems
    yield names.keys(whole=True)
    for before, after in dict.fromkeys((("", ""), common_parts([stem for _, stem in stems]))):
        cores = [(group, stem[len(before) : len(stem) - len(after)]) for group, stem in stems]
        for prefix, suffix in affixes(_likely(cores, index), index, limit=_SAMPLE)[:_SAMPLE]:
            yield [(group, f"{prefix}{core}{suffix}") for group, core in cores]


def _likely(cores: Sequence[Key], index: dict[Key, File | None]) -> list[Key]:
    """Return, for some masks, the longest core that occurs in the mask's name."""
    stems = list(index)
    chosen = [stems[place] for place in spread(len(stems), _SAMPLE)]
    fits = (
        [core for core in cores if core[1] and core[0] == group and core[1] in stem]
        for group, stem in chosen
    )
    return list(dict.fromkeys(max(each, key=lambda core: len(core[1])) for each in fits if each))
