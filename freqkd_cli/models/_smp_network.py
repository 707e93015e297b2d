"""Networks of segmentation-models-pytorch, created by name, with our error messages."""

from __future__ import annotations

import torch
from torch import nn

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.registry import did_you_mean


def unfilled(arch: str, encoder: str, classes: int) -> tuple[nn.Module, str]:
    """Return the network without storage, and its device.

    Where an encoder reads numbers while it is built, the network has storage, and the global
    generator is left as it was.
    """
    try:
        with torch.device("meta"):
            return create(arch, encoder, classes), "meta"
    except RecipeError:
        with torch.random.fork_rng(devices=[]):
            return create(arch, encoder, classes), "cpu"


def create(arch: str, encoder: str, classes: int, encoder_weights: str | None = None) -> nn.Module:
    """Create a network of the library.

    Raises:
        RecipeError: no such architecture or encoder, or they do not go together.
        WeightsMissing: the encoder's weights could not be fetched.
    """
    import segmentation_models_pytorch as library

    _check_names(arch, encoder)
    # Otherwise a vision transformer accepts one size only.
    sizes = {"dynamic_img_size": True} if arch.lower() == "dpt" else {}
    try:
        return library.create_model(
            arch,
            encoder_name=encoder,
            encoder_weights=encoder_weights,
            in_channels=3,
            classes=classes,
            **sizes,
        )
    except OSError as error:  # the hub's errors are OSErrors
        raise WeightsMissing(
            f"encoder weights {encoder_weights!r} for {encoder} could not be fetched",
            got=_line(error),
            tip="encoder_weights: null",
            key="encoder_weights",
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
            f"smp cannot build {arch} with encoder {encoder}", got=_line(error)
        ) from error


def _check_names(arch: str, encoder: str) -> None:
    import segmentation_models_pytorch as library

    known = library.MODEL_ARCHITECTURES_MAPPING
    if arch.lower() not in known:
        raise RecipeError(
            f"smp has no arch {arch!r}{did_you_mean(arch, known)}",
            need=f"one of {', '.join(known)}",
            key="arch",
        )
    offered = library.encoders.get_encoder_names()
    if not encoder.startswith(("tu-", "timm-")) and encoder not in offered:
        hint = did_you_mean(encoder, offered)
        raise RecipeError(
            f"smp has no encoder {encoder!r}{hint}",
            need="one of its encoders, or tu- and a timm name",
            key="encoder",
        )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
