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
from torch import Tensor

from freqkd_cli.errors import RecipeError, ShapeError, WeightsMissing, quoted
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._smp_encoder import encoder_file, file_normalisation, load_encoder
from freqkd_cli.models._smp_exportable import make_exportable
from freqkd_cli.models._smp_guess import with_tip
from freqkd_cli.models._smp_network import Network, create, network_of, unfilled
from freqkd_cli.models._smp_parts import divisor_of, run_parts
from freqkd_cli.models._smp_weights import (
    ONE_ROW_NAMES,
    SMPTensors,
    encoder_normalisation,
    normalisation_of,
    read_tensors,
    warn_of_sigmoids,
)
from freqkd_cli.weights.config import read_config
from freqkd_cli.weights.folder_kinds import described_folder
from freqkd_cli.weights.state_dict import load_exact

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
        encoder_weights: pretrained weights of the encoder: a safetensors file or state dict in
            timm's or the library's names (give mean and std with it), or a published name such as
            ``imagenet``, fetched from the hub with its mean and std.
        weights: a file or folder with the whole model's tensors, as the library, a training
            framework or freqkd saves them. The ``config.json`` of a folder decides arch, encoder
            and options. A head with one row (a sigmoid) becomes two classes.
        mean: mean of the training images in [0, 1], one number per channel; that of the weights by
            default, else ImageNet's.
        std: standard deviation of the training images, with the same default.

    Raises:
        RecipeError: no such architecture or encoder, or they do not go together, or the encoder
            takes images of one size or in patches that do not divide padded images.
        WeightsMissing: the weights do not exist or do not fit.
    """
    place = described_folder(Path(weights).expanduser()) if weights else None
    network = network_of(arch, encoder, options, place)
    file = encoder_file(encoder_weights, weights)
    tensors = read_tensors(place, network) if place else None
    model = SMP(
        classes=tensors.classes if tensors else classes,
        network=network,
        encoder_weights=None if file else encoder_weights,
    )
    if tensors and place:
        _fill(model, tensors, place, network)
    if file:
        load_encoder(model.net.encoder, file, network)
        if not (mean and std):
            model.set_normalisation(*file_normalisation(file, network))
    if mean or std:
        own = model.mean.flatten().tolist(), model.std.flatten().tolist()
        model.set_normalisation(mean or own[0], std or own[1])
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
    encoder_file(encoder_weights, weights)
    place = described_folder(Path(weights).expanduser()) if weights else None
    network = network_of(arch, encoder, options, place)
    here = place is not None and place.exists()
    return _measured(network, read_tensors(place, network).classes if place and here else classes)


def _fill(model: SMP, tensors: SMPTensors, place: Path, network: Network) -> None:
    """Load the tensors; take class names, license, mean and std, where the weights have them."""
    path = place / "config.json"
    config = read_config(path) if path.is_file() else None
    try:
        model.load_portable(tensors.state, where=str(place))
    except WeightsMissing as error:
        raise error if config else with_tip(error, tensors.state, network) from error
    if config and config.section.model == "smp":
        model.take(config.section)
        return
    if tensors.one_row:
        model.id2label = dict(ONE_ROW_NAMES)
    normalisation = normalisation_of(tensors, config, network, str(place))
    if normalisation:
        model.set_normalisation(*normalisation)
    if config:
        warn_of_sigmoids(config, str(place))


@lru_cache(maxsize=32)
def _measured(network: Network, classes: int) -> tuple[Tap, ...]:
    net, device = unfilled(network, classes)
    side = 8 * divisor_of(net)
    try:
        with torch.no_grad():
            images = torch.zeros(1, 3, side, side, device=device)
            stages, decoder, logits = run_parts(net.eval(), images)
    except AssertionError as error:  # how encoders of timm refuse a size
        raise RecipeError(
            f"{network.arch} with {network.encoder} does not run on images of {side}x{side}",
            got=quoted(error),
            need=f"an encoder for all sizes that are multiples of {divisor_of(net)}",
            tip="another encoder, such as one with patches of 16 pixels instead of 14",
            key="encoder",
        ) from error
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
        # PAN halves the deepest map three times; other networks run on any padded image.
        pooled = hasattr(self.net.decoder, "fpa")
        self.smallest = 8 * self.strides[self.deepest] - divisor_of(self.net) + 1 if pooled else 1
        make_exportable(self.net)
        if encoder_weights is not None:
            self.set_normalisation(*encoder_normalisation(network.encoder, encoder_weights))

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        if not torch.compiler.is_exporting() and min(height, width) < self.smallest:
            raise ShapeError(
                f"images are too small for {self.recipe_arguments['arch']}",
                got=(height, width),
                need=f"at least {self.smallest} a side",
            )
        divisor = divisor_of(self.net)
        right = _cells(width, divisor) * divisor - width
        below = _cells(height, divisor) * divisor - height
        # Zero after the normalisation is the mean color.
        padded = F.pad(images, (0, right, 0, below))
        stages, decoder, logits = run_parts(self.net, padded)
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
