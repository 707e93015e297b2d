"""``folder`` with one class name: the error, and the keys that name its background as well."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from freqkd_cli.datasets._folder_labels import LabelKeys, rule_of
from freqkd_cli.datasets._label_fixes import Fixes
from freqkd_cli.datasets._label_values import as_setting, is_color
from freqkd_cli.errors import DataBroken, UsageError
from freqkd_cli.images.label_trial import Variant, accepted, pasted
from freqkd_cli.images.stored_labels import count_values, read_labels
from freqkd_cli.views.labels import IGNORE

_MASKS = 8
"""Masks that are read to find the keys that fit them."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_YAML_WORDS = frozenset("null true false yes no on off y n".split())


def single_class(keys: LabelKeys, masks: Sequence[Path]) -> UsageError:
    """Return the error for masks with one class name, with a tip that fits their values."""
    name = keys.names[0]
    names = ("other", name) if name.lower() == "background" else ("background", name)
    return UsageError(
        f"one class is no segmentation: every pixel would be {name}",
        got=f"one class, {name}",
        need=f"at least two classes: {names[0]} and {name}",
        tip=_tip(keys, names, masks),
        key="classes",
    )


def _tip(keys: LabelKeys, names: tuple[str, str], masks: Sequence[Path]) -> str:
    classes = f"data.classes=[{', '.join(map(_word, names))}]"
    counts = _counts(masks)
    two = _two_classes(keys, names)
    if not counts or keys.colored:
        return pasted([classes])
    changed = [f"data.ignore={[*two.ignore]}"] if two.ignore != keys.ignore else []
    changed += ["data.zero_label=keep"] if keys.zero_label == "void" else []
    as_is = [as_setting(two.label_map)] if two.label_map else []
    plain = Variant(tuple(as_is), f"0 is {names[0]} and 1 is {names[1]}", rule_of(two))
    options = accepted([plain, *Fixes(two)(counts)], counts) or [plain]
    texts = []
    for option in options:
        other = [setting.split("=")[0] for setting in option.settings]
        rest = [setting for setting in changed if setting.split("=")[0] not in other]
        texts.append(f"{pasted([classes, *rest, *option.settings])} if {option.where}")
    return ", or ".join(texts)


def _two_classes(keys: LabelKeys, names: tuple[str, str]) -> LabelKeys:
    """Return the keys with a background as class 0; what was the class is class 1."""
    void = keys.zero_label == "void"
    label_map = {
        key: IGNORE if number == IGNORE else 1
        for key, number in keys.label_map.items()
        if not is_color(key)
    }
    ignore = tuple(value for value in keys.ignore if value not in (0, 1, IGNORE))
    return replace(
        keys,
        ids=[0, 1],
        names=names,
        ignore=ignore,
        label_map=label_map,
        zero_label="keep" if void else keys.zero_label,
    )


def _counts(masks: Sequence[Path]) -> Counter[float]:
    """Return the values of some masks with their pixels; empty where they hold colors."""
    counts: Counter[float] = Counter()
    step = -(-len(masks) // _MASKS) if masks else 1
    for path in masks[::step]:
        try:
            labels = read_labels(path)
        except DataBroken:
            continue
        if labels.rgb:
            return Counter()
        counts.update(count_values(labels.values))
    return counts


def _word(name: str) -> str:
    """Return a name as it is written in a YAML list."""
    plain = _PLAIN.fullmatch(name) and name.lower() not in _YAML_WORDS
    return name if plain else json.dumps(name, ensure_ascii=False)
