"""The argument groups of the graph losses: flat keys, defaults, and errors that name a key."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from freqkd_cli import registry
from freqkd_cli.errors import BandError, FreqKDError, RecipeError
from freqkd_cli.features.taps import Tap
from freqkd_cli.registry import flattened

GRAPH_LOSSES = [name for name in registry.names("losses") if name.startswith("graph_")]


@dataclass(frozen=True)
class Pair:
    first: int = 1
    second: str = "b"


OTHER = Pair(first=7)


def test_the_fields_of_a_group_are_arguments_in_its_place():
    @flattened
    def build(*, before: int, pair: Pair, after: float = 0.5) -> tuple[object, ...]:
        return before, pair, after

    signature = inspect.signature(build)
    assert list(signature.parameters) == ["before", "first", "second", "after"]
    assert signature.parameters["first"].default == 1
    assert build(before=3) == (3, Pair(), 0.5)
    assert build(before=3, second="x", after=2.0) == (3, Pair(1, "x"), 2.0)
    for wrong in ({}, {"before": 1, "third": 2}, {"before": 1, "pair": Pair()}):
        with pytest.raises(TypeError):
            build(**wrong)


def test_the_default_of_a_group_sets_the_defaults_of_its_fields():
    @flattened
    def build(*, first: Pair = OTHER) -> Pair:
        return first

    assert build() == OTHER and build(second="c") == Pair(7, "c")
    assert inspect.signature(build).parameters["first"].default == 7


@pytest.mark.parametrize("name", GRAPH_LOSSES)
def test_recipes_stay_flat(name):
    fields = registry.arguments("losses", name).model_fields
    assert {"student", "teacher", "k", "gram"} <= set(fields)
    assert not {"edges", "low_rank", "teacher_heads", "student_graph"} & set(fields)
    given = registry.arguments("losses", name)(student="s", teacher="t").model_dump()
    registry.find("losses", name).build(**given)


def test_defaults_that_differ_between_losses():
    def default(name: str, key: str) -> object:
        return registry.arguments("losses", name).model_fields[key].default

    assert [default(name, "groups") for name in ("graph_match", "graph_lowrank")] == [4, 1]
    assert [default(name, "scaling") for name in ("graph_basis", "graph_lowrank")] == [
        "none",
        "cass",
    ]
    assert [default(name, "heads") for name in ("graph_spectrum", "graph_basis")] == [
        "mean_spectrum",
        "mean_graph",
    ]


def start(name: str, *, kinds=("features", "features"), grid=(6, 8), **arguments: object) -> None:
    loss = registry.find("losses", name).build(**{"student": "s", "teacher": "t"} | arguments)
    taps = [{"s": Tap("s", 8, 6, kinds[0])}, {"t": Tap("t", 8, 8, kinds[1], heads=2)}]
    student, teacher = (
        read(side) for read, side in zip((loss.student_taps, loss.teacher_taps), taps, strict=True)
    )
    loss.start({n: taps[0][n] for n in student}, {n: taps[1][n] for n in teacher}, 5)
    loss.check_grids(dict.fromkeys(student, grid), dict.fromkeys(teacher, grid))


@pytest.mark.parametrize(
    ("key", "name", "arguments"),
    [
        ("student", "feature", {"student": "s2"}),
        ("teacher", "graph_lowrank", {"teacher": "t2"}),
        ("basis", "graph_band", {"basis": "t2"}),
        ("adapter", "band", {"adapter": False}),
        ("cutoff", "band", {"cutoff": 30.0}),
        ("cutoff_cycles", "band", {"cutoff_cycles": 3.0}),
        ("cutoff_cycles", "band", {"cutoff": 0.2, "cutoff_cycles": 0.02}),
        ("teacher", "attention", {"kinds": ("features", "nodes")}),
        ("heads", "graph_lowrank", {"heads": [2], "kinds": ("features", "nodes")}),
        ("k", "graph_lowrank", {"k": 50}),
        ("groups", "graph_match", {"groups": 4}),
        ("kernel", "graph_laplacian", {"gram": "raw", "k": 2}),
        ("graph", "graph_lowrank", {"graph": "state_affinity"}),
        ("student", "graph_laplacian", {"compare": "smoothness", "kinds": ("graph", "graph")}),
    ],
)
def test_an_error_names_the_key_that_it_is_about(key, name, arguments):
    with pytest.raises(FreqKDError) as error:
        start(name, **arguments)
    assert error.value.key == key
    assert isinstance(error.value, (RecipeError, BandError))
