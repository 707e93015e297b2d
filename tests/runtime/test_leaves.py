"""Nested values as flat ones."""

from __future__ import annotations

from freqkd_cli.runtime.leaves import leaves

TREE = {
    "train": {"lr": 0.1, "size": [2, 3], "extend": []},
    "augment": {},
    "losses": [{"name": "a", "inner": {"x": None}}, {}],
    "mixed": [1, {"y": 2}],
}


def test_sections_of_lists_are_numbered_and_other_lists_are_leaves():
    assert list(leaves(TREE)) == [
        ("train.lr", 0.1),
        ("train.size", [2, 3]),
        ("train.extend", []),
        ("augment", {}),
        ("losses.0.name", "a"),
        ("losses.0.inner.x", None),
        ("losses.1", {}),
        ("mixed", [1, {"y": 2}]),
    ]


def test_every_list_may_be_a_leaf():
    assert dict(leaves(TREE, "r.", numbered=False))["r.losses"] == TREE["losses"]
