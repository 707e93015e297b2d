"""The network of segmentation-models-pytorch that tensors without a description are of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.models._smp_network import Network, unfilled

_HEAD = "segmentation_head."


def with_tip(error: WeightsMissing, state: Mapping[str, Tensor], given: Network) -> WeightsMissing:
    """Return the error of weights that do not fit, with the arguments that fit as its tip."""
    network = _fitting(state, given)
    if network is None:
        return error
    tips = [
        f"--set '{key}={json.dumps(value) if key == 'options' else value}'"
        for key, value in network.arguments().items()
        if value != given.arguments().get(key)
    ]
    return WeightsMissing(
        error.what, got=error.got, need=error.need, tip=" ".join(tips) or error.tip
    )


def encoder_families() -> list[list[str]]:
    """Return the encoders of the library by family, without timm's."""
    import segmentation_models_pytorch as library

    families: dict[type, list[str]] = {}
    for name, entry in library.encoders.encoders.items():
        families.setdefault(entry["encoder"], []).append(name)
    return list(families.values())


def _fitting(state: Mapping[str, Tensor], given: Network) -> Network | None:
    """Return the first network with these tensors, the head's rows aside."""
    import segmentation_models_pytorch as library

    encoder = next((x for x in _encoders(state, given) if _fits(state, given, x)), None)
    if encoder is None:
        return None
    seen = _options(state)
    candidates = (
        Network(arch, encoder, {**given.options, **options})
        for arch in (given.arch, *library.MODEL_ARCHITECTURES_MAPPING)
        for options in ({}, seen)
    )
    return next((network for network in candidates if _shapes(state) == _expected(network)), None)


def _encoders(state: Mapping[str, Tensor], given: Network) -> Iterator[str]:
    """Yield the given encoder, then all of the families whose tensors have such names."""
    yield given.encoder
    for members in encoder_families():  # the first shows how the tensors of a family are called
        names = _expected(Network(given.arch, members[0], given.options), "encoder.").keys()
        if len(names & state.keys()) > len(names) / 2:
            yield from members


def _fits(state: Mapping[str, Tensor], given: Network, encoder: str) -> bool:
    expected = _expected(Network(given.arch, encoder, given.options), "encoder.")
    return bool(expected) and _shapes(state, "encoder.") == expected


def _expected(network: Network, start: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network; none where its parts do not go together."""
    try:
        return _shapes(unfilled(network, 1)[0].state_dict(), start)
    except RecipeError:
        return {}


def _shapes(state: Mapping[str, Tensor], start: str = "") -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors whose names begin so, without the head's rows."""
    return {
        key: tuple(x.shape)[1:] if key.startswith(_HEAD) else tuple(x.shape)
        for key, x in state.items()
        if key.startswith(start)
    }


def _options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of a U-Net's decoder, as its tensors show them."""
    blocks = {
        int(match[1]): len(x)
        for key, x in state.items()
        if (match := re.fullmatch(r"decoder\.blocks\.(\d+)\.conv2\.0\.weight", key))
    }
    channels = [blocks[number] for number in sorted(blocks)]
    options: dict[str, Any] = {}
    if channels and channels != [256, 128, 64, 32, 16]:
        options |= {"encoder_depth": len(channels), "decoder_channels": channels}
    if any(".attention1.attention.cSE" in key for key in state):
        options["decoder_attention_type"] = "scse"
    return options
