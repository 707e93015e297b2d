"""Which mask belongs to which image, by their names alone.

A rule fits only where it gives every image a mask of its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from freqkd_cli.datasets._folder_files import LOSSLESS, File
from freqkd_cli.datasets._folder_names import is_mask_word

_NUMBER = re.compile(r"^0+(?=[0-9])")
_SEPARATORS = re.compile(r"[-_ .]+")


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return _composed(_composed(text).casefold())


def _loose(text: str) -> str:
    """Return the name without differences of separators and of zeros before a number."""
    parts = re.split(r"([0-9]+)", _SEPARATORS.sub("_", _folded(text)))
    return "".join(_NUMBER.sub("", part) for part in parts)


FORMS: tuple[Callable[[str], str], ...] = (str, _composed, _folded, _loose)
"""How two names are compared, from equal letters to equal numbers."""


@dataclass(frozen=True)
class Match:
    """A mask for every image.

    Attributes:
        masks: in the order of the images.
        pattern: the value of ``data.mask`` that pairs the same; None where there is none.
        known: the masks have equal stems, or a word for masks in their names.
    """

    masks: tuple[File, ...]
    pattern: str | None = None
    known: bool = True


@dataclass(frozen=True)
class Names:
    """Images or masks by the names that are compared: (folder, stem)."""

    files: Sequence[File]
    form: Callable[[str], str]
    flat: bool

    def keys(self, whole: bool = False) -> list[tuple[str, str]]:
        """Return the keys of the files; ``whole`` names include the suffix."""
        return [
            (
                "" if self.flat else self.form(file.group),
                self.form(file.name if whole else file.stem),
            )
            for file in self.files
        ]

    def index(self) -> dict[tuple[str, str], File | None]:
        """Return key -> file; None where two files have it. Lossless formats come first."""
        table: dict[tuple[str, str], File | None] = {}
        lossy = []
        for key, file in zip(self.keys(), self.files, strict=True):
            if file.suffix.lower() in LOSSLESS:
                table[key] = None if key in table else file
            else:
                lossy.append((key, file))
        later: dict[tuple[str, str], File | None] = {}
        for key, file in lossy:
            later[key] = None if key in later else file
        return later | table


def matches(images: Sequence[File], masks: Sequence[File]) -> list[Match]:
    """Return the pairings that fit: none, one, or several that contradict each other."""
    if not images or len(masks) < len(images):
        return []
    nested = any(file.group for file in (*images, *masks))
    for flat in (False, True) if nested else (False,):
        for form in FORMS:
            names = Names(images, form, flat).keys()
            equal = paired_masks(names, Names(masks, form, flat).index())
            if equal:
                return [Match(equal)]
        for form in FORMS:
            fits = _distinct(_added(images, masks, form, flat))
            known = [match for match in fits if match.known]
            if fits:
                return known if len(known) == 1 else fits
    return []


def paired_masks(
    keys: Sequence[tuple[str, str]], index: dict[tuple[str, str], File | None]
) -> tuple[File, ...]:
    """Return the masks of the keys, none where one is missing or belongs to two images."""
    masks = []
    for key in keys:
        mask = index.get(key)
        if mask is None:
            return ()
        masks.append(mask)
    return tuple(masks) if len(set(keys)) == len(keys) else ()


def _distinct(fits: Iterator[Match]) -> list[Match]:
    table: dict[tuple[File, ...], Match] = {}
    for match in fits:
        table.setdefault(match.masks, match)
    return list(table.values())


def _added(
    images: Sequence[File], masks: Sequence[File], form: Callable[[str], str], flat: bool
) -> Iterator[Match]:
    """Yield the pairings by the image's whole name, and by constant parts before and after it."""
    index = Names(masks, form, flat).index()
    image_names = Names(images, form, flat)
    whole = paired_masks(image_names.keys(whole=True), index)
    if whole:
        yield Match(whole, pattern_of("{name}", "", "", whole))
    stems = image_names.keys()
    constant = [("", "")]
    if common_parts([stem for _, stem in stems]) != ("", ""):
        constant.append(common_parts([stem for _, stem in stems]))
    for before, after in constant:
        cores = [(folder, stem[len(before) : len(stem) - len(after)]) for folder, stem in stems]
        fits = False
        for prefix, suffix in affixes(cores, index, limit=None):
            paired = paired_masks(
                [(folder, f"{prefix}{core}{suffix}") for folder, core in cores], index
            )
            if paired:
                fits = True
                pattern = None
                if not before and not after:
                    pattern = pattern_of("{stem}", prefix, suffix, paired)
                yield Match(paired, pattern, is_mask_word(f"{prefix}_{suffix}"))
        if fits:
            return


def affixes(
    cores: Sequence[tuple[str, str]],
    index: dict[tuple[str, str], File | None],
    limit: int | None,
    words: bool = True,
) -> list[tuple[str, str]]:
    """Return constant parts before and after the cores that occur in the masks.

    Args:
        limit: number of cores to look for; None for the longest alone, which occurs least.
        words: the cores are words or numbers of their own.
    """
    chosen = [max(cores, key=lambda core: len(core[1]))] if limit is None else cores[:limit]
    parts: dict[tuple[str, str], None] = {}
    for folder, core in chosen:
        for mask_folder, stem in index:
            if mask_folder == folder:
                parts |= dict.fromkeys(_around(stem, core, words))
    return sorted(parts, key=lambda part: (len(part[0]) + len(part[1]), part))


def _around(stem: str, core: str, words: bool) -> Iterator[tuple[str, str]]:
    """Yield what stands before and after each occurrence of the core."""
    if not core:
        yield stem, ""
        return
    place = stem.find(core)
    while place >= 0:
        before, after = stem[:place], stem[place + len(core) :]
        if not words or _apart(before, core, before) and _apart(core, after, after):
            yield before, after
        place = stem.find(core, place + 1)


def _apart(left: str, right: str, added: str) -> bool:
    """Return whether a word ends where two parts of a name meet."""
    if not left or not right:
        return True
    a, b = left[-1], right[0]
    return not ((a.isdigit() and b.isdigit()) or (a.isalpha() and b.isalpha())) or (
        a.isalpha() and is_mask_word(added)
    )


def common_parts(stems: Sequence[str]) -> tuple[str, str]:
    """Return what all stems start and end with, cut where a word or number ends.

    A single stem starts with its letters before a number.
    """
    if len(stems) == 1:
        single = re.fullmatch(r"(\D+)\d+", stems[0])
        return (single[1], "") if single else ("", "")
    if len(set(stems)) == 1:
        return stems[0], ""
    low, high = min(stems), max(stems)
    size = next((k for k, c in enumerate(low) if k >= len(high) or high[k] != c), len(low))
    before = low[:size]
    turned = [stem[size:][::-1] for stem in stems]
    low, high = min(turned), max(turned)
    size = next((k for k, c in enumerate(low) if k >= len(high) or high[k] != c), len(low))
    after = low[:size][::-1]
    while before and not all(_meet(before, stem[len(before) :]) for stem in stems):
        before = before[:-1]
    while after and not all(_meet(stem[: -len(after)], after) for stem in stems):
        after = after[1:]
    return before, after


def _meet(left: str, right: str) -> bool:
    return not left or not right or _apart(left, right, "")


def pattern_of(core: str, before: str, after: str, masks: Sequence[File]) -> str:
    """Return the value of ``data.mask`` for constant parts around the stem or the name."""
    suffixes = {mask.suffix for mask in masks}
    suffix = suffixes.pop() if len(suffixes) == 1 else ".*"
    folder = "{folder}/" if any(mask.folder for mask in masks) else ""
    return f"{folder}{before}{core}{after}{suffix}"
