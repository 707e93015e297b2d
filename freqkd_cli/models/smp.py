"""Any architecture and encoder of segmentation-models-pytorch, as student or teacher.

Departures from that library's own forward pass: images whose sides its encoder cannot divide are padded at the bottom and right (with the
mean colour) and every output is cropped to the cells of the picture; the head's last upsampling is left out, so logits come at the
decoder's own stride, as from every model here.
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

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._pooling import make_exportable
from freqkd_cli.registry import did_you_mean
from freqkd_cli.weights.config import read_config
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
    arch: str = "unet",
    encoder: str = "mobilenet_v2",
    encoder_weights: str | None = None,
    weights: str | None = None,
    mean: Three | None = None,
    std: Deviations | None = None,
) -> SMP:
    """A model of segmentation-models-pytorch.

    Args:
        classes: K of a model without weights; with them, their head decides.
        arch: unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet, segformer or dpt.
        encoder: one of the library's names, or ``tu-`` and a timm name.
        encoder_weights: pretrained weights of the encoder, such as ``imagenet``, fetched from the hub; their mean and std are then used.
        weights: a file or folder with the whole model's tensors, as the library, a training framework or this program saves them.
        mean: of the training pictures in [0, 1], one number a channel; that of the weights, else ImageNet's.
        std: the same for the standard deviation.

    Raises:
        RecipeError: no such architecture or encoder, or they do not go together.
        WeightsMissing: weights that are not there, or do not fit.
    """
    state = None if weights is None else read_state(Path(weights).expanduser())
    model = SMP(
        classes=_classes(state) or classes,
        arch=arch,
        encoder=encoder,
        encoder_weights=encoder_weights,
    )
    if state is not None:
        model.load_portable(state, where=str(weights))
        _describe(model, Path(str(weights)).expanduser() / "config.json")
    if mean or std:
        model.set_normalisation(
            mean or model.mean.flatten().tolist(), std or model.std.flatten().tolist()
        )
    return model


def taps(
    *,
    classes: int,
    arch: str = "unet",
    encoder: str = "mobilenet_v2",
    encoder_weights: str | None = None,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Tap, ...]:
    """The named places, measured on a model without storage (the ``meta`` device). Of weights that are here, the head is counted."""
    place = Path(weights).expanduser() if weights else None
    return _measured(
        arch, encoder, _classes(read_state(place) if place and place.exists() else None) or classes
    )


def _classes(state: Mapping[str, Tensor] | None) -> int | None:
    """K of a state dict: the rows of its head's last layer."""
    head = sorted(key for key in state or () if key.startswith("segmentation_head."))
    return len(state[head[-1]]) if state and head and state[head[-1]].ndim else None


def _describe(model: SMP, config: Path) -> None:
    """Class names, mean and std, where this program saved the folder."""
    said = read_config(config).ours if config.is_file() else None
    if said is not None and said.model == "smp":
        model.take(said)


@lru_cache(maxsize=32)
def _measured(arch: str, encoder: str, classes: int) -> tuple[Tap, ...]:
    net, device = _unfilled(arch, encoder, classes)
    side = 8 * _divisor(net)
    with torch.no_grad():
        stages, decoder, logits = _pass(net.eval(), torch.zeros(1, 3, side, side, device=device))
    found = [Tap(name, side // x.shape[-1], x.shape[1]) for name, x in stages.items()]
    if not found:
        raise RecipeError(
            f"{arch} with {encoder} has no feature map at 1/4 or below",
            tip="another arch or encoder",
        )
    deepest = found[-1]
    return (
        *found,
        Tap("decoder", side // decoder.shape[-1], decoder.shape[1]),
        Tap("logits", side // logits.shape[-1], classes, "logits"),
        Tap("encoder", deepest.stride, deepest.channels, alias=deepest.name),
    )


def _unfilled(arch: str, encoder: str, classes: int) -> tuple[nn.Module, str]:
    """The network without storage; with it, and with the global generator left as it was, where an encoder reads numbers as it is made."""
    try:
        with torch.device("meta"):
            return _create(arch, encoder, classes), "meta"
    except RecipeError:
        with torch.random.fork_rng(devices=[]):
            return _create(arch, encoder, classes), "cpu"


def _create(arch: str, encoder: str, classes: int, encoder_weights: str | None = None) -> nn.Module:
    import segmentation_models_pytorch as library

    known = library.MODEL_ARCHITECTURES_MAPPING
    if arch.lower() not in known:
        raise RecipeError(
            f"smp has no arch {arch!r}{did_you_mean(arch, known)}",
            need=f"one of {', '.join(known)}",
        )
    offered = library.encoders.get_encoder_names()
    if not encoder.startswith(("tu-", "timm-")) and encoder not in offered:
        hint = did_you_mean(encoder, offered)
        raise RecipeError(
            f"smp has no encoder {encoder!r}{hint}",
            need="one of its encoders, or tu- and a timm name",
        )
    sizes = (
        {"dynamic_img_size": True} if arch.lower() == "dpt" else {}
    )  # a vision transformer is tied to one size otherwise
    try:
        return library.create_model(
            arch,
            encoder_name=encoder,
            encoder_weights=encoder_weights,
            in_channels=3,
            classes=classes,
            **sizes,
        )
    except OSError as error:  # the hub's errors are of this kind
        raise WeightsMissing(
            f"encoder weights {encoder_weights!r} for {encoder} could not be fetched",
            got=_line(error),
            tip="encoder_weights: null",
        ) from error
    except (
        KeyError,
        ValueError,
        RuntimeError,
        AttributeError,
        TypeError,
        NotImplementedError,
    ) as error:
        raise RecipeError(
            f"smp cannot make {arch} with encoder {encoder}", got=_line(error)
        ) from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _divisor(net: nn.Module) -> int:
    """Sides are padded to a multiple of this; the nominal output stride of a dilated encoder is too small for its pooled levels."""
    return max(32, int(getattr(net.encoder, "output_stride", 32)))


def _pass(net: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Stages by name, decoder output, logits before the head's upsampling.

    Level n of an encoder is stage n - 1, so 1/4 is stage 1; a dilated encoder keeps the names and has smaller strides. A vision
    transformer (dpt) gives maps of one stride from four depths, and those are its stages.
    """
    given = net.encoder(images)
    if isinstance(given, tuple):
        features, first = given[0], 0
        decoder = net.decoder(*given)
    else:
        features, first = given, 2
        decoder = net.decoder(given)
    stages = {f"stage{i}": x for i, x in enumerate(features[first:], start=1) if x.shape[1] > 0}
    head = net.segmentation_head
    return stages, decoder, head[0](decoder) if isinstance(head, nn.Sequential) else head(decoder)


class SMP(Segmenter):
    """Taps: ``stage1`` (1/4) to ``stage4`` (1/32) as far as the encoder goes, ``encoder`` (the deepest), ``decoder``, ``logits``."""

    def __init__(
        self, *, classes: int, arch: str, encoder: str, encoder_weights: str | None
    ) -> None:
        listed = _measured(arch, encoder, classes)
        super().__init__(
            classes=classes,
            arguments={"arch": arch, "encoder": encoder},
            tap_names=[tap.name for tap in listed],
        )
        self.strides = {tap.name: tap.stride for tap in listed}
        self.deepest = next(tap.alias for tap in listed if tap.alias)
        self.net = _create(arch, encoder, classes, encoder_weights)
        make_exportable(self.net)
        if encoder_weights is not None:
            self.set_normalisation(*_normalisation(encoder, encoder_weights))

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        divisor = _divisor(self.net)
        right, below = (
            _cells(width, divisor) * divisor - width,
            _cells(height, divisor) * divisor - height,
        )
        # Zero after the normalisation is the mean colour.
        stages, decoder, logits = _pass(self.net, F.pad(images, (0, right, 0, below)))
        found = stages | {"decoder": decoder, "logits": logits, "encoder": stages[self.deepest]}
        return {
            name: _crop(x, _cells(height, self.strides[name]), _cells(width, self.strides[name]))
            for name, x in found.items()
            if name in taps or name == "logits"
        }

    def portable_state(self) -> dict[str, Tensor]:
        """The library's own names."""
        return self.net.state_dict()

    def load_portable(self, state: Mapping[str, Tensor], where: str) -> None:
        load_exact(self.net, state, where=where)


def _cells(pixels: int, stride: int) -> int:
    """Rounded up, without a negative number: ONNX divides those towards zero."""
    return (pixels + stride - 1) // stride


def _crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left."""
    # While a graph is exported, cells are picked: a slice that happens to keep all of them would tie the graph to such sizes.
    if not torch.compiler.is_exporting():
        return x[..., :height, :width]
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def _normalisation(encoder: str, encoder_weights: str) -> tuple[Any, Any]:
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    found = get_preprocessing_params(encoder, pretrained=encoder_weights)
    return found["mean"], found["std"]
