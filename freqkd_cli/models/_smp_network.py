"""Networks of segmentation-models-pytorch, created by name, with our error messages."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from freqkd_cli.errors import RecipeError, WeightsMissing, quoted
from freqkd_cli.registry import did_you_mean
from freqkd_cli.weights.config import read_config
from freqkd_cli.weights.hub import quiet_hub

_FIXED = ("encoder_name", "encoder_weights", "in_channels", "classes")
"""Arguments of the library's classes that are set from other keys."""

_OLD_NORMS = {"decoder_use_batchnorm", "psp_use_batchnorm"}
"""Names of ``decoder_use_norm`` in folders of the library before version 0.5."""

_NO_EFFECT = ("activation", "aux_params", "upsampling")
"""Arguments that only concern what follows the logits, or a head beside them."""


@dataclass(frozen=True)
class Network:
    """What defines a network of the library, beside its classes.

    Attributes:
        arch, encoder: names of the library.
        options: further arguments of its class; those that equal the defaults are left out.
    """

    arch: str = "unet"
    encoder: str = "mobilenet_v2"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.arch, self.encoder, repr(sorted(self.options.items()))))

    def arguments(self) -> dict[str, Any]:
        """Return the recipe's arguments for this network."""
        options = {"options": dict(self.options)} if self.options else {}
        return {"arch": self.arch, "encoder": self.encoder, **options}


def network_of(
    arch: str | None, encoder: str | None, options: Mapping[str, Any] | None, folder: Path | None
) -> Network:
    """Return the network of a recipe's arguments, or of the folder of its weights.

    Args:
        folder: holds a ``config.json`` of the library or of this program; None without weights.

    Raises:
        RecipeError: an argument is unknown, or contradicts the folder's description.
        WeightsMissing: the description is of another model, or its images have no three channels.
    """
    described = _described(folder / "config.json") if folder is not None else None
    if described is None:
        plain = Network()
        chosen, name = arch or plain.arch, encoder or plain.encoder
        return Network(chosen, name, _checked(chosen, options or {}))
    for key, given, own in (
        ("arch", arch, described.arch),
        ("encoder", encoder, described.encoder),
        ("options", options, described.options),
    ):
        given = _checked(described.arch, given) if key == "options" and given else given
        if given is not None and given != own:
            raise RecipeError(
                f"{key} is not that of the weights",
                got=given,
                need=f"{own}, as in {folder}/config.json",
                tip=f"leave {key} out",
                key=key,
            )
    return described


def _described(path: Path) -> Network | None:
    """Return the network that a ``config.json`` describes; None where there is no such file."""
    if not path.is_file():
        return None
    config = read_config(path)
    if config.of_smp:
        return _of_library(path, config.content)
    if config.section.model is None:
        return None
    if config.section.model != "smp":
        raise WeightsMissing(
            f"{path} describes another model", got=config.section.model, need="a network of smp"
        )
    arguments = config.section.arguments or {}
    keys = {key: arguments[key] for key in ("arch", "encoder", "options") if key in arguments}
    return Network(**keys)


def _of_library(path: Path, content: Mapping[str, Any]) -> Network:
    """Return the network that ``save_pretrained`` of the library described."""
    import segmentation_models_pytorch as library

    by_class = {part.__name__: arch for arch, part in library.MODEL_ARCHITECTURES_MAPPING.items()}
    name = str(content.get("_model_class"))
    if name not in by_class:
        raise WeightsMissing(
            f"{path} describes a class that this version of smp lacks",
            got=name,
            need=f"one of {', '.join(by_class)}",
        )
    if content.get("in_channels", 3) != 3:
        raise WeightsMissing(
            f"the network of {path} does not take RGB images",
            got=f"in_channels {content['in_channels']}",
            need="3 channels",
            tip="train one on RGB images; gray images are read as RGB",
        )
    arch = by_class[name]
    dropped = (*_FIXED, *_NO_EFFECT, "_model_class", "dynamic_img_size")
    options = {key: value for key, value in content.items() if key not in dropped}
    for key in _OLD_NORMS & options.keys():
        norm = options.pop(key)
        options["decoder_use_norm"] = {True: "batchnorm", False: "identity"}.get(norm, norm)
    return Network(arch, str(content.get("encoder_name")), _checked(arch, options))


def _checked(arch: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those that equal the defaults.

    Raises:
        RecipeError: the architecture has no such argument.
    """
    import segmentation_models_pytorch as library

    if not options:
        return {}
    check_arch(arch)
    parameters = inspect.signature(library.MODEL_ARCHITECTURES_MAPPING[arch.lower()]).parameters
    known = [key for key in parameters if key not in (*_FIXED, *_NO_EFFECT, "kwargs")]
    for key in options:
        if key not in known:
            raise RecipeError(
                f"smp's {arch} has no option {key!r}{did_you_mean(key, known)}",
                need=f"one of {', '.join(known)}",
                key="options",
            )
    return {
        key: value
        for key, value in options.items()
        if _plain(value) != _plain(parameters[key].default)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def unfilled(network: Network, classes: int) -> tuple[nn.Module, str]:
    """Return the network without storage, and its device.

    Where an encoder reads numbers while it is built, the network has storage, and the global
    generator is left as it was.
    """
    try:
        with torch.device("meta"):
            return create(network, classes), "meta"
    except RecipeError:
        with torch.random.fork_rng(devices=[]):
            return create(network, classes), "cpu"


def create(network: Network, classes: int, encoder_weights: str | None = None) -> nn.Module:
    """Create a network of the library.

    Raises:
        RecipeError: no such architecture or encoder, or they do not go together.
        WeightsMissing: the encoder's weights could not be fetched.
    """
    import segmentation_models_pytorch as library

    check_arch(network.arch)
    _check_encoder(network.encoder)
    # Otherwise a vision transformer accepts one size only.
    sizes = {"dynamic_img_size": True} if network.arch.lower() == "dpt" else {}
    # The library warns of a name for encoders of timm, which have one set of weights.
    pretrained = True if encoder_weights and network.encoder.startswith("tu-") else encoder_weights
    try:
        with quiet_hub():
            return library.create_model(
                network.arch,
                encoder_name=network.encoder,
                encoder_weights=pretrained,
                in_channels=3,
                classes=classes,
                **{**sizes, **network.options},
            )
    except OSError as error:  # the hub's errors are OSErrors
        raise WeightsMissing(
            f"encoder weights {encoder_weights!r} for {network.encoder} could not be fetched",
            got=quoted(error),
            tip="--set 'encoder_weights=FILE' with a file on this machine, or "
            "--set 'encoder_weights=null'",
            key="encoder_weights",
        ) from error
    except (
        LookupError,
        ValueError,
        RuntimeError,
        AttributeError,
        TypeError,
        AssertionError,
    ) as error:
        options = f" and {network.options}" if network.options else ""
        raise RecipeError(
            f"smp cannot build {network.arch} with encoder {network.encoder}{options}",
            got=quoted(error),
        ) from error


def check_arch(arch: str) -> None:
    """
    Raises:
        RecipeError: the library has no such architecture.
    """
    import segmentation_models_pytorch as library

    known = library.MODEL_ARCHITECTURES_MAPPING
    if arch.lower() not in known:
        raise RecipeError(
            f"smp has no arch {arch!r}{did_you_mean(arch, known)}",
            need=f"one of {', '.join(known)}",
            key="arch",
        )


def _check_encoder(encoder: str) -> None:
    import segmentation_models_pytorch as library

    offered = library.encoders.get_encoder_names()
    if not encoder.startswith(("tu-", "timm-")) and encoder not in offered:
        hint = did_you_mean(encoder, offered)
        raise RecipeError(
            f"smp has no encoder {encoder!r}{hint}",
            need="one of its encoders, or tu- and a timm name",
            key="encoder",
        )
