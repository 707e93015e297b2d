"""Mask values that were seen, and changed recipe keys of ``folder`` that may read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from freqkd_cli.datasets._folder_labels import LabelKeys, rule_of
from freqkd_cli.datasets._label_values import as_setting, covers
from freqkd_cli.errors import UsageError
from freqkd_cli.images.label_refusal import rejected_values
from freqkd_cli.images.label_rules import LabelRule
from freqkd_cli.images.label_trial import Counts, Variant


@dataclass(frozen=True)
class Seen:
    """The values that were seen, and what the recipe has fixed of them."""

    keys: LabelKeys
    counts: Counts

    @cached_property
    def free(self) -> dict[float, int]:
        """Values of which neither ``label_map`` nor ``ignore`` defines the meaning."""
        keys = self.keys
        return {
            value: pixels
            for value, pixels in sorted(self.counts.items())
            if not covers(keys.label_map, value) and value not in keys.ignore
        }

    @cached_property
    def ids(self) -> list[int]:
        """Ids for which ``label_map`` has no value that was seen."""
        taken = {
            number
            for key, number in self.keys.label_map.items()
            if any(covers({key: 0}, value) for value in self.counts)
        }
        return [number for number in self.keys.ids if number not in taken]

    @cached_property
    def rejected(self) -> list[int]:
        """Whole values that the current rule rejects."""
        return self.rejected_by(rule_of(self.keys))

    def rejected_by(self, rule: LabelRule) -> list[int]:
        return [int(value) for value in rejected_values(self.counts, rule) if value == int(value)]

    def variant(self, where: str, *, usual: bool = False, **changes: object) -> Variant | None:
        """Return changed keys as settings; None where they contradict each other."""
        try:
            rule = rule_of(replace(self.keys, **changes))
        except UsageError:
            return None
        return Variant(tuple(_settings(changes)), where, rule, usual)

    def mapped(self, entries: Mapping[str, int], where: str) -> Variant | None:
        """Return a map with entries added; those that change nothing are left out."""
        plain = rule_of(self.keys)
        places = {number: place for place, number in enumerate(self.keys.ids)}
        places[self.keys.void] = self.keys.void
        needed = {
            key: number
            for key, number in entries.items()
            if "-" in key[1:] or int(plain.table[int(key)]) != places[number]
        }
        label_map = {**self.keys.label_map, **needed}
        return self.variant(where, label_map=label_map) if needed else None

    def strays(self, values: Iterable[int]) -> str:
        """Return stray values that become void, with their pixels, in words."""
        texts = [f"{value} ({self.counts[value]:,} pixels)" for value in values]
        return f", and {', '.join(texts)} {'is' if len(texts) == 1 else 'are'} void" * bool(texts)

    def share(self, value: int) -> str:
        """Return the share of a value in all pixels, in words; empty where it does not occur."""
        pixels = self.counts.get(value, 0)
        return f" ({100 * pixels / sum(self.counts.values()):.2g} % of the pixels)" * bool(pixels)


def _settings(changes: Mapping[str, object]) -> Iterator[str]:
    for key, value in changes.items():
        if key == "label_map":
            yield as_setting(value)  # type: ignore[arg-type]
        elif key == "ignore":
            yield f"data.ignore={[*value]}"  # type: ignore[misc]
        else:
            yield f"data.{key}={value:.6g}" if isinstance(value, float) else f"data.{key}={value}"
