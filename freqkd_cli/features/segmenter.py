"""What every model is: RGB in [0, 1] goes in, ``logits`` and the asked taps come out by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from freqkd_cli.errors import UnknownName
from freqkd_cli.registry import did_you_mean

if TYPE_CHECKING:
    from freqkd_cli.weights.config import License, ModelSection

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module, ABC):
    """Base of the models: the normalisation, the check of tap names, and what is needed to build the same model again.

    A subclass writes :meth:`run`; it gives at least the taps that were asked for, and ``logits``. ``one_size`` says that a graph of it
    (an ONNX file) takes images of one size alone.

    Attributes:
        classes: K of the logits.
        recipe_arguments: JSON-able arguments of ``build`` that give the same architecture again; they name no weights.
        id2label: class number -> name, or None where nobody said.
        license: the license of the weights, or None where it is not known.
        model_name: what recipes call it, the name of its file.
        mean, std: ``[1, 3, 1, 1]``, applied inside; not in the state dict.
    """

    one_size: ClassVar[bool] = False

    def __init__(
        self, *, classes: int, arguments: Mapping[str, Any], tap_names: Collection[str]
    ) -> None:
        super().__init__()
        self.classes = classes
        self.recipe_arguments: dict[str, Any] = {"classes": classes, **arguments}
        self.id2label: dict[int, str] | None = None
        self.license: License | None = None
        self.tap_names = tuple(tap_names)
        self.model_name = type(self).__module__.rpartition(".")[2]
        self.set_normalisation(IMAGENET_MEAN, IMAGENET_STD)

    def take(self, section: ModelSection) -> None:
        """Take class names, license and normalisation from the model's own ``config.json``."""
        self.id2label = dict(section.id2label) if section.id2label else None
        self.license = section.license
        if section.mean and section.std:
            self.set_normalisation(section.mean, section.std)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Use another mean and standard deviation, three numbers each, in units of [0, 1].

        Raises:
            ValueError: numbers that are not finite, or a deviation that is not positive.
        """
        if not all(abs(x) < math.inf for x in (*mean, *std)) or min(std) <= 0:
            raise ValueError(
                f"mean {list(mean)}, std {list(std)}: finite numbers, std above 0, are needed"
            )
        self.register_buffer(
            "mean", torch.tensor(list(mean), dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(list(std), dtype=torch.float32).view(1, 3, 1, 1), persistent=False
        )

    def forward(self, images: Tensor, taps: Collection[str] = ()) -> dict[str, Tensor]:
        """Logits and the asked taps.

        Args:
            images: ``[B, 3, H, W]`` RGB in [0, 1], any H and W that the model can reduce.
            taps: names; aliases come back under the name that was asked. Auxiliary logits are given in training mode alone.

        Returns:
            ``"logits"`` at the model's own stride, and each asked tap, ``[B, C, h, w]``.

        Raises:
            UnknownName: the model has no such tap.
        """
        unknown = [name for name in taps if name not in self.tap_names]
        if unknown:
            hint = did_you_mean(unknown[0], self.tap_names)
            raise UnknownName(
                f"the model has no tap {unknown[0]!r}{hint}",
                need=f"one of {', '.join(self.tap_names)}",
            )
        found = self.run(self.normalise(images), frozenset(taps))
        return {name: found[name] for name in ("logits", *taps) if name in found}

    def ready(self, device: torch.device) -> None:  # noqa: B027 - most models have nothing to say
        """Called once, before the first image: what the model has to say about how it will run on ``device``.

        Raises:
            FreqKDError: it cannot run there.
        """

    def normalise(self, images: Tensor) -> Tensor:
        """``(images - mean) / std`` in the type of the weights (a teacher may be kept in half precision)."""
        return ((images - self.mean) / self.std).to(self.mean.dtype)

    @abstractmethod
    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        """The network on normalised images. ``taps`` are known names."""

    def portable_state(self) -> dict[str, Tensor]:
        """The weights under the names that the world outside knows. Files are written with these."""
        return self.state_dict()

    def load_portable(self, state: Mapping[str, Tensor], where: str) -> None:
        """Take weights under the names of :meth:`portable_state`, every one of them.

        Raises:
            WeightsMissing: a key is missing, unexpected or of another shape.
        """
        from freqkd_cli.weights.state_dict import load_exact

        load_exact(self, state, where=where)

    def portable_config(self) -> dict[str, Any]:
        """What another library wants to read in ``config.json`` beside ours; empty for most."""
        return {}
