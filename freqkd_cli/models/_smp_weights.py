"""The tensors of a network of segmentation-models-pytorch, and what lies beside them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from freqkd_cli.models._smp_network import Network, unfilled
from freqkd_cli.weights.config import ModelConfig
from freqkd_cli.weights.key_groups import fitting
from freqkd_cli.weights.single_output import with_background_row
from freqkd_cli.weights.state_dict import read_state

log = logging.getLogger(__name__)

ONE_ROW_NAMES = {0: "background", 1: "foreground"}
"""Class names of a network with one output row."""

Normalisation = tuple[list[float], list[float]]
"""Mean and standard deviation, three numbers each, in units of [0, 1]."""

_HEAD = "segmentation_head."
_BUFFER = re.compile(r"(^|\.)((pixel|image|img|norm)_)?(?P<kind>mean|std)$")
_BYTES = 2.0
"""A mean or deviation above this is of values in 0..255."""
_OTHER_MEANS = ("inception", "xception", "dpn")
"""Encoders whose pretrained weights have another mean and std than ImageNet's."""


@dataclass(frozen=True)
class SMPTensors:
    """The tensors of one network.

    Attributes:
        state: under the library's names; a head of one row has a row of zeros before it.
        classes: K of the head, at least 2.
        normalisation: that of the images, where the file has it beside the network.
    """

    state: Mapping[str, Tensor]
    classes: int
    one_row: bool
    normalisation: Normalisation | None


def read_tensors(place: Path, network: Network) -> SMPTensors:
    """Return the tensors of a network in a file or folder, whatever prefix their names have.

    Raises:
        WeightsMissing: the file cannot be read, or several networks in it fit.
    """
    everything = read_state(place)
    state = fitting(everything, unfilled(network, 1)[0].state_dict(), str(place))
    head = sorted(key for key in state if key.startswith(_HEAD))
    layer = head[-1].rpartition(".")[0] if head else None
    last = [key for key in head if key.rpartition(".")[0] == layer]
    rows = len(state[last[-1]]) if last and state[last[-1]].ndim else 0
    return SMPTensors(
        with_background_row(state, *last),
        max(rows, 2),
        one_row=rows == 1,
        normalisation=_buffers(everything),
    )


def _buffers(state: Mapping[str, Tensor]) -> Normalisation | None:
    """Return the only mean and std of three channels that a training script keeps as tensors.

    A mean of 0 and a std of 1 do nothing: the images were normalised elsewhere, or not at all.
    """
    values: dict[str, list[Tensor]] = {"mean": [], "std": []}
    for key, x in state.items():
        match = _BUFFER.search(key)
        if match and x.numel() == 3 and x.is_floating_point():
            values[match["kind"]].append(x.double().flatten())
    if [len(tensors) for tensors in values.values()] != [1, 1]:
        return None
    mean, std = values["mean"][0], values["std"][0]
    unit = 255 if max(float(mean.max()), float(std.max())) > _BYTES else 1
    if float(std.min()) <= 0 or (not mean.any() and bool((std == 1).all())):
        return None
    rounded = [[round(x / unit, 7) for x in tensor.tolist()] for tensor in (mean, std)]
    return rounded[0], rounded[1]


def normalisation_of(
    tensors: SMPTensors, config: ModelConfig | None, network: Network, where: str
) -> Normalisation | None:
    """Return mean and std of the training images, or None where ImageNet's are as likely.

    They are tensors beside the network, or those of a pretrained encoder of timm. Others have
    theirs on the hub alone, and nothing is downloaded.
    """
    if tensors.normalisation:
        log.info("%s: mean and std of the images are taken from its tensors", where)
        return tensors.normalisation
    pretrained = config.content.get("encoder_weights") if config else None
    if not isinstance(pretrained, str):
        return None
    if network.encoder.startswith("tu-"):
        with suppress(ValueError):
            return encoder_normalisation(network.encoder, pretrained)
    if network.encoder.startswith(_OTHER_MEANS) or pretrained == "advprop":
        log.warning(
            "%s: its encoder %s (%s) may have been trained with another mean and std than "
            "ImageNet's, which are used; give mean and std if so",
            where,
            network.encoder,
            pretrained,
        )
    return None


def encoder_normalisation(encoder: str, encoder_weights: str) -> tuple[list[float], list[float]]:
    """Return mean and std of an encoder's pretrained weights; the library may ask the hub."""
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    parameters = get_preprocessing_params(encoder, pretrained=encoder_weights)
    return parameters["mean"], parameters["std"]


def warn_of_sigmoids(config: ModelConfig, where: str) -> None:
    """Warn of a network whose classes are independent of each other."""
    rows = config.content.get("classes")
    if config.content.get("activation") == "sigmoid" and isinstance(rows, int) and rows > 1:
        log.warning(
            "%s ends in a sigmoid for each of its %d classes; here the largest of them is the "
            "class of a pixel, also where all are below one half",
            where,
            rows,
        )
