"""VMamba: four stages of selective scans with an all-MLP head or UPerNet, sides from 32 pixels.

Source: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166). Variants,
names and numbers are those of the authors' code, MzeroMiko/VMamba.

Taps: ``stage1`` to ``stage4`` (1/4 to 1/32) after the norm of the stage, ``encoder`` (=
``stage4``), ``decoder`` (before dropout) and ``logits`` (both 1/4), and the graphs ``affinity1`` to
``affinity4``.

Departures from the authors' code: the vanilla variants keep the pixels at the lower and right edge
that 4 does not divide, and the light head is the default. ``nano`` and ``micro`` are this project's
own, for real time and for CPUs.
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
from freqkd_cli.models._vmamba_sizes import VARIANTS, VMambaSize
from freqkd_cli.scan.backends import choose
from freqkd_cli.weights.state_dict import read_state

log = logging.getLogger(__name__)

VMambaVariant = Literal[
    "nano", "micro", "tiny", "tiny_s2l5", "small", "small_s1l20", "vanilla_tiny", "vanilla_small"
]
VMambaHead = Literal["mlp", "upernet"]
ScanBackend = Literal["auto", "mamba-ssm", "numba", "parallel", "torch"]

SMALLEST = 32
"""Pixels a side of the smallest image: one cell of the last stage."""


def build(
    *,
    classes: int,
    variant: VMambaVariant = "tiny",
    encoder_weights: str | None = None,
    head: VMambaHead = "mlp",
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    scan: ScanBackend = "auto",
) -> VMamba:
    """Build a VMamba, from scratch or on an official backbone.

    Args:
        classes: K.
        variant: ``tiny`` is the authors' s1l8 and ``small`` their s2l15.
        encoder_weights: a checkpoint of the authors, for classification or from mmsegmentation; the
            head starts new.
        head: ``mlp``, or ``upernet`` as in the published segmentation results (many times the work
            of a small backbone).
        drop_path: rate of stochastic depth at the last block, linear from 0 at the first; the
            variant's by default.
        dropout: rate of dropout before the last 1x1 convolution.
        scan: backend of the selective scan: mamba-ssm on CUDA, numba on a CPU, or torch alone
            (``parallel``, or ``torch`` step by step).

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
    variant: VMambaVariant = "tiny",
    encoder_weights: str | None = None,
    head: VMambaHead = "mlp",
    drop_path: float | None = None,
    dropout: float = 0.1,
    scan: ScanBackend = "auto",
) -> tuple[Tap, ...]:
    """Return the taps, from the arguments alone."""
    size = VARIANTS[variant]
    return (
        *(Tap(f"stage{i}", 2 << i, dim) for i, dim in enumerate(size.dims, start=1)),
        Tap("decoder", 4, _decoder(size, head)),
        Tap("logits", 4, classes, "logits"),
        Tap("encoder", 32, size.dims[3], alias="stage4"),
        *(Tap(f"affinity{i}", 32, 1, "graph") for i in (1, 2, 3, 4)),
    )


def fetch(*, encoder_weights: str | None = None, **_: Any) -> None:
    """Check that the checkpoint exists; it is read when the model is built.

    Raises:
        WeightsMissing: it does not exist.
    """
    if encoder_weights is not None and not Path(encoder_weights).expanduser().exists():
        raise WeightsMissing(
            f"no weights at {encoder_weights}",
            need="a checkpoint of VMamba on this machine",
            tip="download one from github.com/MzeroMiko/VMamba, or use encoder_weights: null",
            key="encoder_weights",
        )


def _decoder(size: VMambaSize, head: VMambaHead) -> int:
    return size.decoder if head == "mlp" else 2 * size.decoder


class VMamba(Segmenter):
    """The backbone and its head.

    ``affinity1`` to ``affinity4`` are graphs between the cells of 1/32: the hidden attention of the
    last scan of each stage. Their cost grows with the stage's cells, in the vanilla variants with
    the square of these. Losses should read 3 and 4; 1 and 2 are for ``freqkd spectrum --graph``.
    """

    one_size = True  # the length of a scan fixes the number of its halvings in a graph

    def __init__(
        self,
        *,
        classes: int,
        variant: VMambaVariant,
        head: VMambaHead,
        drop_path: float,
        dropout: float,
        scan: ScanBackend,
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
        exporting = torch.compiler.is_exporting()  # sizes are symbols then
        if not exporting and min(images.shape[-2:]) < SMALLEST:
            raise ShapeError(
                "images are too small for VMamba",
                got=tuple(images.shape[-2:]),
                need=f"at least {SMALLEST} a side",
            )
        stages, graphs = self.backbone(
            images, [stage for stage in range(4) if f"affinity{stage + 1}" in taps]
        )
        decoder = self.head(stages)
        outputs = {f"stage{i}": x for i, x in enumerate(stages, start=1)}
        outputs |= {f"affinity{i + 1}": x for i, x in graphs.items()}
        return outputs | {
            "encoder": stages[3],
            "decoder": decoder,
            "logits": self.classifier(self.dropout(decoder)),
        }

    def ready(self, device: torch.device) -> None:
        """Log the backend of the scans.

        Raises:
            UsageError: the backend of the recipe cannot run there.
        """
        choice = choose(self.scan, device.type, torch.float32)
        log.info("selective scan on %s: %s (%s)", device.type, choice.name, choice.reason)
