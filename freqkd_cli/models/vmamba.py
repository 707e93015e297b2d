"""VMamba: four stages of selective scans over the map, with a light all-MLP head or UPerNet, any input size from 32 pixels a side.

Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166); variants, names and numbers as in the authors' code,
MzeroMiko/VMamba. Departures: the vanilla variants keep the pixels at the lower and right edge that 4 does not divide (theirs drop them),
and the light head, which is this project's default. ``nano`` and ``micro`` are this project's own, for real time and for a CPU.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from freqkd_cli.errors import ShapeError, WeightsMissing
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._vmamba_blocks import Backbone
from freqkd_cli.models._vmamba_heads import MLPHead, UPerHead
from freqkd_cli.models._vmamba_names import load_backbone
from freqkd_cli.models._vmamba_sizes import VARIANTS, Size
from freqkd_cli.scan.backends import choose
from freqkd_cli.weights.state_dict import read_state

log = logging.getLogger(__name__)

Variant = Literal[
    "nano", "micro", "tiny", "tiny_s2l5", "small", "small_s1l20", "vanilla_tiny", "vanilla_small"
]
Head = Literal["mlp", "upernet"]
Scan = Literal["auto", "mamba-ssm", "numba", "parallel", "torch"]

SMALLEST = 32
"""Pixels a side of the smallest image: one cell of the last stage."""


def build(
    *,
    classes: int,
    variant: Variant = "tiny",
    encoder_weights: str | None = None,
    head: Head = "mlp",
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    scan: Scan = "auto",
) -> VMamba:
    """A VMamba, from scratch or on an official backbone.

    Args:
        classes: K.
        variant: ``tiny`` is the authors' s1l8 and ``small`` their s2l15.
        encoder_weights: a checkpoint of the authors, for classification or from mmsegmentation; the head is drawn anew.
        head: ``mlp``, or ``upernet`` as in the published segmentation results (many times the work of a small backbone).
        drop_path: rate of stochastic depth at the last block, linear from 0 at the first; the variant's unless said.
        dropout: before the last 1x1 convolution.
        scan: what computes the selective scan: mamba-ssm on CUDA, numba on a CPU, or torch alone (``parallel``, or step by step).

    Raises:
        WeightsMissing: no such weights, or they are of another variant.
    """
    size = VARIANTS[variant]
    rate = size.drop_path if drop_path is None else drop_path
    model = VMamba(
        classes=classes, variant=variant, head=head, drop_path=rate, dropout=dropout, scan=scan
    )
    if encoder_weights is not None:
        load_backbone(
            model.backbone, read_state(Path(encoder_weights).expanduser()), encoder_weights
        )
    return model


def taps(
    *,
    classes: int,
    variant: Variant = "tiny",
    encoder_weights: str | None = None,
    head: Head = "mlp",
    drop_path: float | None = None,
    dropout: float = 0.1,
    scan: Scan = "auto",
) -> tuple[Tap, ...]:
    """The named places, from the arguments alone."""
    size = VARIANTS[variant]
    return (
        *(Tap(f"stage{i}", 2 << i, dim) for i, dim in enumerate(size.dims, start=1)),
        Tap("decoder", 4, _decoder(size, head)),
        Tap("logits", 4, classes, "logits"),
        Tap("encoder", 32, size.dims[3], alias="stage4"),
        *(Tap(f"affinity{i}", 32, 1, "graph") for i in (1, 2, 3, 4)),
    )


def fetch(*, encoder_weights: str | None = None, **_: Any) -> None:
    """Find out at once whether the checkpoint is there; it is read when the model is built.

    Raises:
        WeightsMissing: it is not.
    """
    if encoder_weights is not None and not Path(encoder_weights).expanduser().exists():
        raise WeightsMissing(
            f"no weights at {encoder_weights}",
            need="a checkpoint of VMamba on this machine",
            tip="github.com/MzeroMiko/VMamba/releases has the authors', and encoder_weights: null starts from scratch",
        )


def _decoder(size: Size, head: Head) -> int:
    return size.decoder if head == "mlp" else 2 * size.decoder


class VMamba(Segmenter):
    """Taps: ``stage1`` to ``stage4`` after the norm behind the stage, ``decoder`` (before dropout) and ``logits``, both at 1/4.

    ``affinity1`` to ``affinity4`` are graphs between the cells of 1/32: the hidden attention of the last scan of each stage. What
    they cost grows with the stage's cells (with their square in the vanilla variants), so a loss should read 3 and 4; 1 and 2 are for
    looking (``freqkd spectrum --graph``).
    """

    one_size = True  # the halvings of a scan in a graph are as many as its length says

    def __init__(
        self,
        *,
        classes: int,
        variant: Variant,
        head: Head,
        drop_path: float,
        dropout: float,
        scan: Scan,
    ) -> None:
        arguments = {"variant": variant, "head": head, "drop_path": drop_path, "dropout": dropout}
        super().__init__(
            classes=classes,
            arguments=arguments,
            tap_names=[tap.name for tap in taps(classes=classes, **arguments)],
        )
        size = VARIANTS[variant]
        channels = _decoder(size, head)
        self.scan = scan
        self.backbone = Backbone(size, drop_path=drop_path, backend=scan)
        self.head = (MLPHead if head == "mlp" else UPerHead)(size.dims, channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        if (
            not torch.compiler.is_exporting() and min(height, width) < SMALLEST
        ):  # sizes are symbols while exporting
            raise ShapeError(
                "images are too small for VMamba",
                got=(height, width),
                need=f"at least {SMALLEST} a side",
            )
        stages, graphs = self.backbone(
            images, [stage for stage in range(4) if f"affinity{stage + 1}" in taps]
        )
        decoder = self.head(stages)
        found = {f"stage{i}": x for i, x in enumerate(stages, start=1)} | {
            f"affinity{i + 1}": x for i, x in graphs.items()
        }
        return found | {
            "encoder": stages[3],
            "decoder": decoder,
            "logits": self.classifier(self.dropout(decoder)),
        }

    def ready(self, device: torch.device) -> None:
        """Say what computes the scans.

        Raises:
            UsageError: what the recipe names cannot run there.
        """
        choice = choose(self.scan, device.type, torch.float32)
        log.info("selective scan on %s: %s (%s)", device.type, choice.name, choice.reason)
