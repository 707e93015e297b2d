"""The contract of a model: RGB in [0, 1] goes in, ``logits`` and named taps come out."""

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
    from freqkd_cli.weights.quantization import Quantization

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module, ABC):
    """Base of the models: normalisation, the check of tap names, and facts to build it again.

    A subclass implements :meth:`run`, which returns at least ``logits`` and the given taps.

    Attributes:
        one_size: an exported graph of it (an ONNX file) takes images of one size alone.
        classes: K of the logits.
        recipe_arguments: arguments of ``build`` for the same architecture, as JSON values; they
            name no weights.
        id2label: class number -> name, or None where the names are unknown.
        license: the license of the weights, or None where it is not known.
        quantization: the ranges of weights that were trained in simulated int8, or None.
        model_name: its name in recipes, which is that of its file.
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
        self.quantization: Quantization | None = None
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
        """Set mean and standard deviation, three numbers each, in units of [0, 1].

        Raises:
            ValueError: numbers that are not finite, or a deviation that is not positive.
        """
        if not all(abs(x) < math.inf for x in (*mean, *std)) or min(std) <= 0:
            raise ValueError(
                f"mean {list(mean)}, std {list(std)}: finite numbers, std above 0, are needed"
            )
        for name, numbers in (("mean", mean), ("std", std)):
            tensor = torch.tensor(list(numbers), dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor, taps: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the logits and the named taps.

        Args:
            images: ``[B, 3, H, W]`` RGB in [0, 1], any H and W that the model can reduce.
            taps: names; an alias keeps its name in the result. Auxiliary logits are returned in
                training mode alone.

        Returns:
            ``"logits"`` at the model's own stride, and each tap, ``[B, C, h, w]``.

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
        outputs = self.run(self.normalise(images), frozenset(taps))
        return {name: outputs[name] for name in ("logits", *taps) if name in outputs}

    def ready(self, device: torch.device) -> None:  # noqa: B027 - most models need nothing
        """Prepare for ``device`` and log the chosen kernels; called once, before the first image.

        Raises:
            FreqKDError: it cannot run there.
        """

    def normalise(self, images: Tensor) -> Tensor:
        """Return ``(images - mean) / std`` in the type of the weights (may be half)."""
        return ((images - self.mean) / self.std).to(self.mean.dtype)

    @abstractmethod
    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        """Run the network on normalised images. ``taps`` are known names."""

    def portable_state(self) -> dict[str, Tensor]:
        """Return the weights under the names of other libraries, which files have too."""
        return self.state_dict()

    def load_portable(self, state: Mapping[str, Tensor], where: str) -> None:
        """Load weights under the names of :meth:`portable_state`; none may be missing.

        Raises:
            WeightsMissing: a key is missing or unexpected, or its shape differs.
        """
        from freqkd_cli.weights.state_dict import load_exact

        load_exact(self, state, where=where)

    def portable_config(self) -> dict[str, Any]:
        """Return keys of ``config.json`` for other libraries; empty for most models."""
        return {}
