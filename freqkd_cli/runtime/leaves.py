"""Nested values as flat ones: the leaves of a tree with the dotted names of their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(
    tree: Mapping[str, Any], path: str = "", *, numbered: bool = True
) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every leaf, such as ``("train.lr", 0.1)``.

    An empty section is a leaf. So is a list, except one of sections.

    Args:
        path: the start of every name.
        numbered: the sections of a list have their numbers from 0 as names; else it is a leaf.
    """
    for key, value in tree.items():
        if numbered and isinstance(value, list) and value:
            if all(isinstance(item, Mapping) for item in value):
                value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.", numbered=numbered)
        else:
            yield f"{path}{key}", value
