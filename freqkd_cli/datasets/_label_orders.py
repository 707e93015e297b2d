"""Orders in which mask values may stand for classes, some of them for void."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from freqkd_cli.images.label_rules import LISTED
from freqkd_cli.images.label_trial import STRAY
from freqkd_cli.views.labels import IGNORE

_RARER = 0.5
"""A stray value has less than this share of the pixels of any other value."""


def mains(counts: Mapping[int, int], number: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield (values, stray values), both ascending; without stray values first.

    Args:
        number: of classes. There are as many values, or one or two more.
    """
    frequent = sorted(counts, key=lambda value: (-counts[value], value))
    total = sum(counts.values())
    yield sorted(counts), []
    for size in range(number, min(number + 3, len(frequent))):
        main, strays = frequent[:size], frequent[size:]
        rare = sum(counts[value] for value in strays) < STRAY * total
        if main and rare and len(strays) <= LISTED:
            if counts[strays[0]] < _RARER * counts[main[-1]]:
                yield sorted(main), sorted(strays)


def choices(
    values: Sequence[int], ids: Sequence[int], usual: int = IGNORE
) -> Iterator[tuple[tuple[int, ...], dict[int, int]]]:
    """Yield (void values, value -> id in ascending order) for each choice of void values.

    Args:
        usual: the value that is void by default.
    """
    more = len(values) - len(ids)
    options: list[tuple[int, ...]] = []
    if more == 0:
        options.append(())
    elif more == 1:
        first, *middle, last = values
        options += [(usual,)] if usual in values else []
        options += [(first,), (last,)]
        options += [(value,) for value in middle] if len(ids) == 2 else []
    elif more == 2 and usual in values:
        rest = [value for value in values if value != usual]
        options += [(rest[0], usual), (rest[-1], usual)]
    for void in dict.fromkeys(options):
        classes = [value for value in values if value not in void]
        yield void, dict(zip(classes, sorted(ids), strict=True))
