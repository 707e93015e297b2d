"""The contract of a model, for every file of the drawer; new files are tested automatically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import freqkd_cli
from freqkd_cli import registry
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import UnknownName
from freqkd_cli.features.taps import Tap

CLASSES = 4
SIZES = [(64, 64), (97, 130)]

# Smaller than the defaults where those take long; other models are tested with their defaults.
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "fast_scnn": [{}, {"width": 0.5, "auxiliary": True}],
    "segformer": [
        {"channels": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder": 16},
        {"variant": "mini"},
    ],
    "smp": [
        {"encoder": "tu-mobilenetv3_small_100"},
        {"arch": "fpn", "encoder": "tu-mobilenetv3_small_100"},
    ],
    "vmamba": [{"variant": "nano"}, {"variant": "nano", "head": "upernet"}],
}
CASES = [
    pytest.param(name, arguments, id=f"{name}-{number}")
    for name in registry.names("models")
    if not registry.teacher_only(name)  # those have tests of their own
    for number, arguments in enumerate(ARGUMENTS.get(name, [{}]))
]


def made(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Tap]]:
    torch.manual_seed(0)
    part = registry.find("models", name)
    listed = part.taps(classes=CLASSES, **arguments)
    table = {tap.name: tap for tap in listed}
    assert len(table) == len(listed), "two taps of one name"
    torch.manual_seed(0)
    return part.build(classes=CLASSES, **arguments), table


def images_of(size: tuple[int, int], batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(5))


def shape_of(tap: Tap, size: tuple[int, int]) -> tuple[int, ...]:
    rows, columns = tap.grid(*size)
    if tap.kind == "graph":
        return (tap.heads, rows * columns, rows * columns)
    return (
        (tap.heads, rows * columns, tap.channels // tap.heads)
        if tap.kind == "nodes"
        else (tap.channels, rows, columns)
    )


def test_the_drawer_is_not_empty() -> None:
    assert {"fast_scnn", "segformer", "smp"} <= set(registry.names("models"))


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_taps_describe_the_models_output(name: str, arguments: dict[str, Any]) -> None:
    model, listed = made(name, arguments)
    auxiliary = {tap.name for tap in listed.values() if tap.kind == "auxiliary"}
    for training in (True, False):
        model.train(training)
        for size in SIZES:
            outputs = model(images_of(size), list(listed))
            assert set(outputs) == set(listed) - (set() if training else auxiliary)
            for tap in listed.values():
                if tap.name in outputs:
                    assert tuple(outputs[tap.name].shape) == (2, *shape_of(tap, size)), (tap, size)
    assert listed["logits"].kind == "logits"
    assert listed["logits"].channels == model.classes == CLASSES
    assert {"encoder", "decoder"} <= set(listed)
    for tap in listed.values():
        if tap.alias:
            assert torch.equal(outputs[tap.name], outputs[tap.alias])
            assert (tap.stride, tap.channels) == (
                listed[tap.alias].stride,
                listed[tap.alias].channels,
            )


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_asking_for_taps_changes_no_bit_and_logits_always_come(
    name: str, arguments: dict[str, Any]
) -> None:
    model, listed = made(name, arguments)
    model.eval()
    images = images_of((97, 130))
    plain = model(images)
    assert set(plain) == {"logits"}
    assert torch.equal(plain["logits"], model(images, list(listed))["logits"])
    assert torch.equal(plain["logits"], model(images)["logits"]), "a call leaves nothing behind"
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model(images, list(listed))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_rows_are_independent_in_eval_mode(name: str, arguments: dict[str, Any]) -> None:
    model, listed = made(name, arguments)
    model.eval()
    images = images_of((64, 96), batch=3)
    together = model(images, list(listed))
    for i in range(3):
        for key, value in model(images[i : i + 1], list(listed)).items():
            torch.testing.assert_close(value[0], together[key][i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_every_parameter_learns(name: str, arguments: dict[str, Any]) -> None:
    model, listed = made(name, arguments)
    model.train()
    images = images_of((96, 128))
    outputs = model(
        images, [tap.name for tap in listed.values() if tap.kind in ("logits", "auxiliary")]
    )
    sum(x.square().mean() for x in outputs.values()).backward()
    idle = [
        key
        for key, p in model.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    assert not idle
    assert sum(float(p.grad.abs().sum()) > 0 for p in model.parameters()) > 0.9 * len(
        list(model.parameters())
    )


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_it_normalises_inside(name: str, arguments: dict[str, Any]) -> None:
    model, _ = made(name, arguments)
    model.eval()
    assert model.mean.shape == model.std.shape == (1, 3, 1, 1)
    assert not {"mean", "std"} & set(model.state_dict())
    images = images_of((64, 64))
    with torch.no_grad():
        before = model(images)["logits"]
        model.set_normalisation([0.0] * 3, [1.0] * 3)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        torch.testing.assert_close(
            model((images - mean) / std)["logits"], before, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_an_unknown_tap_is_named(name: str, arguments: dict[str, Any]) -> None:
    model, _ = made(name, arguments)
    with pytest.raises(UnknownName, match="did you mean 'decoder'"):
        model(images_of((64, 64)), ["decodr"])


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_folder_gives_the_same_bits(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    model, listed = made(name, arguments)
    model.train()
    model(images_of((96, 128), batch=4))  # so that the running statistics are no longer 0 and 1
    model.eval()
    model.set_normalisation([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    save_model(tmp_path, model, name, {i: f"class {i}" for i in range(CLASSES)})
    loaded = freqkd_cli.load(tmp_path)
    assert not loaded.training
    images = images_of((97, 130))
    before, after = model(images, list(listed)), loaded(images, list(listed))
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (loaded.classes, loaded.id2label) == (CLASSES, {i: f"class {i}" for i in range(CLASSES)})
    assert loaded.recipe_arguments == model.recipe_arguments


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_recipe_arguments_are_json_and_rebuild_the_taps(
    name: str, arguments: dict[str, Any]
) -> None:
    model, listed = made(name, arguments)
    arguments_again = json.loads(json.dumps(model.recipe_arguments))
    assert arguments_again == model.recipe_arguments
    assert arguments_again["classes"] == CLASSES
    part = registry.find("models", name)
    assert {tap.name: tap for tap in part.taps(**arguments_again)} == listed
    shapes = [
        {key: value.shape for key, value in each.state_dict().items()}
        for each in (model, part.build(**arguments_again))
    ]
    assert shapes[0] == shapes[1]
    accepted = {
        key: value
        for key, value in arguments_again.items()
        if key not in registry.FILLED_IN["models"]
    }
    registry.arguments("models", name)(**accepted)


@pytest.mark.parametrize("name", registry.names("models"))
def test_build_and_taps_take_the_same_keywords(name: str) -> None:
    import inspect

    part = registry.find("models", name)
    build, taps = inspect.signature(part.build).parameters, inspect.signature(part.taps).parameters
    assert [(key, p.default) for key, p in build.items()] == [
        (key, p.default) for key, p in taps.items()
    ]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in (*build.values(), *taps.values()))
    assert registry.first_line(part)


@torch.no_grad()
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_half_precision_weights_and_channels_last(name: str, arguments: dict[str, Any]) -> None:
    model, listed = made(name, arguments)
    model.eval()
    images = images_of((64, 96))
    plain = model(images, list(listed))
    last = model.to(memory_format=torch.channels_last)(
        images.to(memory_format=torch.channels_last), list(listed)
    )
    for key in plain:
        torch.testing.assert_close(last[key], plain[key], atol=1e-4, rtol=1e-4)
    assert model.to(torch.bfloat16)(images)["logits"].dtype == torch.bfloat16
