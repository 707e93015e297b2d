"""Draw ``losses/NAME.png``: what each loss reacts to.

The student is the embedded teacher itself, with its taps blurred, shifted or mixed with noise, on
four scenes. A curve shows the value of the loss over the strength of the change. Names of losses as
arguments draw only these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli import registry
from freqkd_cli.datasets import scenes
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.losses.attnfd import plain_attention
from freqkd_cli.models import segformer
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import whole_batches

HERE = Path(__file__).parent
SIZE = (192, 256)
PAIR = {"student": "stage3", "teacher": "stage3"}
ARGUMENTS: dict[str, dict[str, object]] = {
    "af_dcd": {**PAIR, "pool": 1, "mask_ratio": 0.0},
    "attnfd": {**PAIR, "norm": "image", "batch_norm": False},
    "bpkd": {},
    "freekd": PAIR,
    "mgd": {**PAIR, "ratio": 0.0},
    "spectralkd": PAIR,
    "attention": {"student": "decoder", "teacher": "decoder", "reduce": "sum"},
    "band (low)": {"student": "stage3", "teacher": "stage3", "band": "low", "cutoff": 0.25},
    "band (high)": {"student": "stage3", "teacher": "stage3", "band": "high", "cutoff": 0.25},
    "cirkd": {**PAIR, "pixel": 0.0, "region": 0.0},
    "cross_entropy": {},
    "cwd": {},
    "cwd (feature)": PAIR,
    "dice": {},
    "dist": {},
    "dist (feature)": PAIR,
    "fam": {"student": "stage3", "teacher": "stage3", "cutoff": 0.0, "output": "linear"},
    "feature": {"student": "stage3", "teacher": "stage3"},
    "focal": {},
    "graph_band": {"student": "stage3", "teacher": "stage3", "band": "low"},
    "graph_basis": {"student": "stage3", "teacher": "stage3"},
    "graph_laplacian": {"student": "stage3", "teacher": "stage3"},
    "graph_lowrank": {"student": "stage3", "teacher": "stage3", "scaling": "none"},
    "graph_match": {"student": "stage3", "teacher": "stage3", "groups": 1, "scaling": "none"},
    "graph_spectrum": {"student": "stage3", "teacher": "stage3"},
    "ifvd": PAIR,
    "logit_kl": {},
    "lovasz": {},
    "octave_kl": {},
    "skd_pairwise": {**PAIR, "cells": 2},
}


def blurred(x: Tensor, cells: float) -> Tensor:
    """Gaussian blur with a standard deviation in cells."""
    if cells == 0:
        return x
    reach = torch.arange(-8, 9, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (reach / cells) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (8, 8, 8, 8), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=x.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=x.shape[1])


def noisy(x: Tensor, share: float) -> Tensor:
    """White noise, its standard deviation as a share of that of each channel."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return x + share * x.std((-2, -1), keepdim=True) * noise


def shifted(x: Tensor, cells: float) -> Tensor:
    """A shift to the right by whole cells, wrapped around."""
    return torch.roll(x, round(cells), dims=-1)


CHANGES: dict[str, tuple[Callable[[Tensor, float], Tensor], list[float]]] = {
    "blur, cells": (blurred, [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4]),
    "noise, share of the deviation": (noisy, [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4]),
    "shift, cells": (shifted, [0, 1, 2, 3, 4]),
}


def with_identity(loss: nn.Module) -> nn.Module:
    """The loss with adapters, 1x1 convolutions and generators that change nothing."""
    with torch.no_grad():
        for module in loss.modules():
            if isinstance(module, Adapter):
                module.weight.copy_(torch.eye(*module.weight.shape))
            elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                module.weight.copy_(torch.eye(*module.weight.shape[:2])[:, :, None, None])
                if module.bias is not None:
                    module.bias.zero_()
        if hasattr(loss, "generation"):  # of mgd and af_dcd: copies what is above -99
            for layer, bias in ((loss.generation[0], 99.0), (loss.generation[2], -99.0)):
                nn.init.dirac_(layer.weight)
                nn.init.constant_(layer.bias, bias)
    if hasattr(loss, "attention"):  # of attnfd: the same on both sides
        loss.attention = Plain()
    return loss


class Plain(nn.Module):
    """The attention of attnfd without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return plain_attention(x)


def curves(name: str, arguments: dict[str, object], taps: dict[str, Tensor], batch: Batch):
    """Change -> (strengths, values of the loss)."""
    specs = {tap.name: tap for tap in segformer.taps(classes=12, weights="embedded")}
    loss = registry.find("losses", name.partition(" ")[0]).build(**arguments)
    student, teacher = loss.student_taps(specs), loss.teacher_taps(specs)
    loss.start({key: specs[key] for key in student}, {key: specs[key] for key in teacher}, 12)
    with_identity(loss)
    grids = {key: tuple(taps[key].shape[-2:]) for key in student}
    target = loss.target({key: taps[key] for key in teacher}, batch, grids)
    lines = {}
    for label, (change, strengths) in CHANGES.items():
        changed = [{key: change(taps[key], size) for key in student} for size in strengths]
        lines[label] = strengths, [float(loss(maps, target, batch, 0)) for maps in changed]
    return lines


@torch.no_grad()
def main() -> None:
    dataset = scenes.build(split="val", size=SIZE)
    batch = next(iter(whole_batches(dataset, 4, 0, indices=range(4))))
    model = segformer.build(classes=12, weights="embedded").eval()
    taps = model.float()(batch.images, taps=["stage3", "decoder"])
    wanted = sys.argv[1:] or ARGUMENTS
    for name, arguments in ((name, ARGUMENTS[name]) for name in wanted):
        figure, axis = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
        for label, (strengths, values) in curves(name, arguments, taps, batch).items():
            axis.plot(strengths, values, marker="o", markersize=3, label=label)
        axis.set_xlabel("strength of the change")
        axis.set_ylabel("loss")
        axis.set_title(name, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
        file = name.replace(" (", "_").removesuffix(")")
        figure.savefig(HERE / "losses" / f"{file}.png", dpi=90)
        plt.close(figure)


if __name__ == "__main__":
    main()
