"""``--search KEY=VALUES`` of ``freqkd tune``: what is written becomes a range or a list of choices.

Ranges are ``low..high``, with ``:log`` and ``:int`` behind it. Choices are ``a,b,c``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freqkd_cli.errors import UsageError
from freqkd_cli.recipe.nodes import parse, scalar
from freqkd_cli.recipe.problems import Place
from freqkd_cli.recipe.resolved import flow

DIGITS = 4
"""Significant digits of a tuned number, so that the best recipe can be read."""

_RANGE = re.compile(
    r"(?P<low>[^:,\[\]{}]+?)\s*\.\.\s*(?P<high>[^:,\[\]{}]+?)(?P<flags>(\s*:\s*\w+)*)"
)
_FLAGS = ("log", "int")
_FORMS = "KEY=low..high, KEY=low..high:log, KEY=low..high:int or KEY=a,b,c"
_EXAMPLE = "--search losses.kl.weight=0.3..10:log"


@dataclass(frozen=True)
class Search:
    """A key of a recipe and the values that are tried.

    Attributes:
        text: as given, such as ``losses.kl.weight=0.3..10:log``.
        low, high: ends of a range; None for choices.
        choices: values of the recipe, none for a range.
    """

    text: str
    key: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def values(self) -> str:
        """What is tried, as given."""
        return self.text.partition("=")[2].strip()

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that are checked before anything runs: both ends, or every choice."""
        return self.choices or (self._number(self.low), self._number(self.high))

    @property
    def labels(self) -> tuple[Any, ...]:
        """The choices as a study stores them: plain values, others as JSON."""
        plain = (str, int, float, bool, type(None))
        return tuple(x if isinstance(x, plain) else json.dumps(x) for x in self.choices)

    def value(self, sampled: Any) -> Any:
        """Return the value of the recipe for one that a study sampled or stored."""
        if self.choices:
            labels = self.labels
            same = (type(label) is type(sampled) and label == sampled for label in labels)
            return self.choices[list(same).index(True)]
        assert self.low is not None and self.high is not None
        rounded = sampled if self.integer else float(f"{sampled:.{DIGITS}g}")
        return self._number(min(max(rounded, self.low), self.high))

    def setting(self, value: Any) -> str:
        """Return ``key=value`` as ``--set`` takes it."""
        return f"{self.key}={flow(value)}"

    def _number(self, number: float | None) -> float | int | None:
        return int(number) if self.integer and number is not None else number


def read_searches(texts: Sequence[str]) -> tuple[Search, ...]:
    """Return the searches of a command, in its order.

    Raises:
        UsageError: one cannot be read, or two have the same key.
    """
    searches = tuple(_read(text) for text in texts)
    keys = [search.key for search in searches]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UsageError(
            f"two --search options have the key {twice}",
            got=" and ".join(search.values for search in searches if search.key == twice),
            need="one range or one list of choices per key",
        )
    return searches


def _read(text: str) -> Search:
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not key or not values:
        raise UsageError(f"--search {text} cannot be read", need=_FORMS, tip=_EXAMPLE)
    if match := _RANGE.fullmatch(values):
        return _range(text, key, match)
    return Search(text, key, choices=_choices(text, values))


def _range(text: str, key: str, match: re.Match[str]) -> Search:
    flags = [flag.strip() for flag in match["flags"].split(":")[1:]]
    if unknown := [flag for flag in flags if flag not in _FLAGS]:
        raise UsageError(
            f"--search {text} cannot be read", got=f":{unknown[0]}", need=":log or :int"
        )
    low, high = _end(text, match["low"]), _end(text, match["high"])
    log, integer = "log" in flags, "int" in flags
    if low >= high:
        raise UsageError(
            f"the range of --search {text} is empty",
            got=f"{low:g}..{high:g}",
            need="the smaller end first, and two different ends",
        )
    if log and low <= 0:
        raise UsageError(
            f"--search {text} is not positive", got=f"{low:g}", need="ends above 0 with :log"
        )
    if integer and not (float(low).is_integer() and float(high).is_integer()):
        raise UsageError(
            f"--search {text} has ends that are not whole",
            got=match[0],
            need="whole numbers with :int",
        )
    return Search(text, key, float(low), float(high), log, integer)


def _end(text: str, word: str) -> float:
    try:
        number = scalar(word.strip())
    except ValueError:
        number = None
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        raise UsageError(
            f"--search {text} cannot be read", got=word.strip(), need="two numbers, low..high"
        )
    return float(number)


def _choices(text: str, values: str) -> tuple[Any, ...]:
    node, problems = parse(f"[{values}]", lambda line, column: Place(0, 0, 0, f"--search {text}"))
    if node is None or problems:
        got = problems[0].text if problems else values
        raise UsageError(f"--search {text} cannot be read", got=got, need=_FORMS)
    choices = tuple(node.plain())
    distinct = {json.dumps(choice, sort_keys=True) for choice in choices}
    if len(choices) < 2 or len(distinct) < len(choices):
        raise UsageError(
            f"--search {text} needs at least two different values", got=values, need=_FORMS
        )
    return choices
