"""Any architecture and encoder of segmentation-models-pytorch, as student or teacher.

Source: the library segmentation-models-pytorch, imported as ``smp``.

Taps: ``stage1`` (1/4) to ``stage4`` (1/32) as far as the encoder goes, ``encoder`` (the deepest
stage), ``decoder``, ``logits``.

Departures from the library's own forward pass:

- images whose sides the encoder cannot divide are padded at the bottom and right with the mean
  color, and every output is cropped to the cells of the image;
- the head's last upsampling is left out, so logits have the decoder's own stride, as in all models
  of this drawer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._pooling import make_exportable
from freqkd_cli.models._smp_network import Network, create, network_of, unfilled
from freqkd_cli.weights.config import read_config
from freqkd_cli.weights.key_groups import fitting
from freqkd_cli.weights.single_output import with_background_row
from freqkd_cli.weights.state_dict import load_exact, read_state

Three = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=3, max_length=3)
]
Deviations = Annotated[
    list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=3, max_length=3)
]


def build(
    *,
    classes: int,
    arch: str | None = None,
    encoder: str | None = None,
    options: dict[str, Any] | None = None,
    encoder_weights: str | None = None,
    weights: str | None = None,
    mean: Three | None = None,
    std: Deviations | None = None,
) -> SMP:
    """Build a model of segmentation-models-pytorch.

    Args:
        classes: K of a model without weights; with weights, their head decides.
        arch: unet (the default), unetplusplus, manet, linknet, fpn, pspnet, deeplabv3,
            deeplabv3plus, pan, upernet, segformer or dpt.
        encoder: one of the library's names (mobilenet_v2 by default), or ``tu-`` and a timm name.
        options: further arguments of the library's class, such as
            {decoder_attention_type: scse, encoder_depth: 4}.
        encoder_weights: pretrained weights of the encoder, such as ``imagenet``, fetched from the
            hub; their mean and std are then used.
        weights: a file or folder with the whole model's tensors, as the library, a training
            framework or freqkd saves them. The ``config.json`` of a folder decides arch, encoder
            and options. A head with one row (a sigmoid) becomes two classes.
        mean: mean of the training images in [0, 1], one number per channel; that of the weights by
            default, else ImageNet's.
        std: standard deviation of the training images, with the same default.

    Raises:
        RecipeError: no such architecture or encoder, or they do not go together.
        WeightsMissing: the weights do not exist or do not fit.
    """
    place = Path(weights).expanduser() if weights else None
    network = network_of(arch, encoder, options, place)
    state = _state(place, network) if place else None
    model = SMP(
        classes=_classes(state) or classes, network=network, encoder_weights=encoder_weights
    )
    if state is not None and place is not None:
        model.load_portable(state, where=str(weights))
        _describe(model, place / "config.json")
        if _one_row(place, network):
            model.id2label = {0: "background", 1: "foreground"}
    if mean or std:
        model.set_normalisation(
            mean or model.mean.flatten().tolist(), std or model.std.flatten().tolist()
        )
    return model


def taps(
    *,
    classes: int,
    arch: str | None = None,
    encoder: str | None = None,
    options: Mapping[str, Any] | None = None,
    encoder_weights: str | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Tap, ...]:
    """Return the taps, measured on a model without storage (the ``meta`` device).

    Where the weights are on this machine, their head decides the classes.
    """
    place = Path(weights).expanduser() if weights else None
    network = network_of(arch, encoder, options, place)
    state = _state(place, network) if place and place.exists() else None
    return _measured(network, _classes(state) or classes)


def _state(place: Path, network: Network) -> dict[str, Tensor]:
    """Return the network's tensors in a file or folder; a head of one row gets a second one."""
    state = _fitting(place, network)
    return with_background_row(state, *_last_layer(state))


def _fitting(place: Path, network: Network) -> dict[str, Tensor]:
    names = unfilled(network, 1)[0].state_dict()
    return fitting(read_state(place), names, str(place))


def _one_row(place: Path, network: Network) -> bool:
    return _classes(_fitting(place, network)) == 1


def _last_layer(state: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of the head's last layer."""
    head = sorted(key for key in state if key.startswith("segmentation_head."))
    layer = head[-1].rpartition(".")[0] if head else ""
    return [key for key in head if key.rpartition(".")[0] == layer]


def _classes(state: Mapping[str, Tensor] | None) -> int | None:
    """Return K of a state dict: the rows of its head's last layer."""
    head = sorted(key for key in state or () if key.startswith("segmentation_head."))
    return len(state[head[-1]]) if state and head and state[head[-1]].ndim else None


def _describe(model: SMP, config: Path) -> None:
    """Take class names, license, mean and std, where freqkd saved the folder."""
    section = read_config(config).section if config.is_file() else None
    if section is not None and section.model == "smp":
        model.take(section)


@lru_cache(maxsize=32)
def _measured(network: Network, classes: int) -> tuple[Tap, ...]:
    net, device = unfilled(network, classes)
    side = 8 * _divisor(net)
    with torch.no_grad():
        stages, decoder, logits = _pass(net.eval(), torch.zeros(1, 3, side, side, device=device))
    stage_taps = [Tap(name, side // x.shape[-1], x.shape[1]) for name, x in stages.items()]
    if not stage_taps:
        raise RecipeError(
            f"{network.arch} with {network.encoder} has no feature map at 1/4 or below",
            tip="another arch or encoder",
        )
    deepest = stage_taps[-1]
    return (
        *stage_taps,
        Tap("decoder", side // decoder.shape[-1], decoder.shape[1]),
        Tap("logits", side // logits.shape[-1], classes, "logits"),
        Tap("encoder", deepest.stride, deepest.channels, alias=deepest.name),
    )


def _divisor(net: nn.Module) -> int:
    """Return the number that padded sides are multiples of.

    The nominal output stride of a dilated encoder is too small for its pooled levels.
    """
    return max(32, int(getattr(net.encoder, "output_stride", 32)))


def _pass(net: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the stages by name, the decoder's output, and logits before the head's upsampling.

    Level n of an encoder is stage n - 1, so 1/4 is stage 1. A dilated encoder keeps the names and
    has smaller strides. A vision transformer (dpt) gives maps of one stride from four depths, and
    these are its stages.
    """
    encoded = net.encoder(images)
    if isinstance(encoded, tuple):
        features, first = encoded[0], 0
        decoder = net.decoder(*encoded)
    else:
        features, first = encoded, 2
        decoder = net.decoder(encoded)
    stages = {f"stage{i}": x for i, x in enumerate(features[first:], start=1) if x.shape[1] > 0}
    head = net.segmentation_head
    return stages, decoder, head[0](decoder) if isinstance(head, nn.Sequential) else head(decoder)


class SMP(Segmenter):
    """A network of the library (``net``) with the taps that the module's docstring lists."""

    def __init__(self, *, classes: int, network: Network, encoder_weights: str | None) -> None:
        known = _measured(network, classes)
        super().__init__(
            classes=classes,
            arguments=network.arguments(),
            tap_names=[tap.name for tap in known],
        )
        self.strides = {tap.name: tap.stride for tap in known}
        self.deepest = next(tap.alias for tap in known if tap.alias)
        self.net = create(network, classes, encoder_weights)
        make_exportable(self.net)
        if encoder_weights is not None:
            self.set_normalisation(*_normalisation(network.encoder, encoder_weights))

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        divisor = _divisor(self.net)
        right = _cells(width, divisor) * divisor - width
        below = _cells(height, divisor) * divisor - height
        # Zero after the normalisation is the mean color.
        stages, decoder, logits = _pass(self.net, F.pad(images, (0, right, 0, below)))
        outputs = stages | {"decoder": decoder, "logits": logits, "encoder": stages[self.deepest]}
        return {
            name: _crop(x, _cells(height, self.strides[name]), _cells(width, self.strides[name]))
            for name, x in outputs.items()
            if name in taps or name == "logits"
        }

    def portable_state(self) -> dict[str, Tensor]:
        """Return the weights under the library's own names."""
        return self.net.state_dict()

    def load_portable(self, state: Mapping[str, Tensor], where: str) -> None:
        load_exact(self.net, state, where=where)


def _cells(pixels: int, stride: int) -> int:
    """Return the cells, rounded up, without negative numbers: ONNX rounds those towards zero."""
    return (pixels + stride - 1) // stride


def _crop(x: Tensor, height: int, width: int) -> Tensor:
    """Return the top left."""
    # While a graph is exported, cells are selected by index. A slice that keeps all of them would
    # tie the graph to such sizes.
    if not torch.compiler.is_exporting():
        return x[..., :height, :width]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def _normalisation(encoder: str, encoder_weights: str) -> tuple[Any, Any]:
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    parameters = get_preprocessing_params(encoder, pretrained=encoder_weights)
    return parameters["mean"], parameters["std"]
