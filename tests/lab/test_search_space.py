"""``--search KEY=VALUES``: ranges, choices, and one message for each mistake."""

from __future__ import annotations

import pytest

from freqkd_cli.errors import UsageError
from freqkd_cli.lab.search_space import read_searches


def read(text: str):
    return read_searches([text])[0]


def test_ranges():
    search = read("losses.kl.weight=0.3..10:log")
    assert (search.key, search.low, search.high) == ("losses.kl.weight", 0.3, 10.0)
    assert search.log and not search.integer and search.probes == (0.3, 10.0)
    assert search.values == "0.3..10:log"
    for text in ("train.epochs=2..8:int", "train.epochs= 2 .. 8 : int"):
        assert read(text).integer and read(text).probes == (2, 8)
        assert all(isinstance(end, int) for end in read(text).probes)
    both = read("train.steps=10..1000:int:log")
    assert both.log and both.integer
    assert read("a=1e-4..1e-2:log").probes == (1e-4, 1e-2)
    assert read("a=-1..1").probes == (-1.0, 1.0)


def test_numbers_are_rounded_and_stay_in_the_range():
    search = read("a=0.3..9.99999:log")
    assert search.value(2.3147839284) == 2.315
    assert search.value(9.99999) == 9.99999 and search.value(0.3) == 0.3
    assert search.setting(2.315) == "a=2.315" and search.setting(1e-5) == "a=1e-05"
    whole = read("a=123456..999999:int")
    assert whole.value(654321) == 654321


def test_choices_are_values_of_a_recipe():
    search = read("train.optimizer=adamw,sgd")
    assert search.choices == search.labels == ("adamw", "sgd")
    assert read("data.augment.flip=true, false").choices == (True, False)
    mixed = read("a=1, 1.0, true, null, '1'")
    assert [mixed.value(label) for label in mixed.labels] == [1, 1.0, True, None, "1"]
    assert [type(mixed.value(label)) for label in mixed.labels][:3] == [int, float, bool]
    lists = read("data.augment.scale=[0.5, 1], [0.8, 1.2]")
    assert lists.labels == ("[0.5, 1]", "[0.8, 1.2]")
    assert lists.value("[0.8, 1.2]") == [0.8, 1.2]
    assert lists.setting([0.8, 1.2]) == "data.augment.scale=[0.8, 1.2]"
    assert read("student.weights=runs/a,../b").choices == ("runs/a", "../b")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("losses.kl.weight", "cannot be read"),
        ("=1..2", "cannot be read"),
        ("a=", "cannot be read"),
        ("a=1..2:lin", "got  :lin"),
        ("a=x..2", "got  x"),
        ("a=true..2", "got  true"),
        ("a=1..", "at least two"),
        ("a=.inf..2", "need two numbers"),
        ("a=2..2", "is empty"),
        ("a=10..0.3:log", "is empty"),
        ("a=0..1:log", "is not positive"),
        ("a=-2..-1:log", "is not positive"),
        ("a=0.5..2:int", "not whole"),
        ("a=3", "at least two"),
        ("a=3,3", "at least two"),
        ("a=[1,2", "cannot be read"),
        ("a={x: 1,", "cannot be read"),
    ],
)
def test_mistakes(text, what):
    with pytest.raises(UsageError) as raised:
        read(text)
    assert what in str(raised.value) and f"--search {text}" in str(raised.value)
    assert raised.value.exit_code == 2


def test_one_key_twice():
    with pytest.raises(UsageError, match="two --search options have the key a"):
        read_searches(["a=1..2", "b=1..2", "a=3..4"])
