"""Controls of frequency attention as losses: a shuffled map, and the edges of the labels.

``register()`` adds them to the losses of this process. As a program it is ``freqkd`` with them::

    python tests/helpers/attention_controls.py distill fastscnn_attention \\
        --set losses.logit_kl.name=logit_kl_shuffled --out runs/shuffled

The cache must hold taps: targets are those of the original loss up to the weights of cells.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli import registry
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.views.batch import Batch

BASES = ("logit_kl", "dist", "cwd", "octave_kl")

Target = Callable[..., dict[str, Tensor]]


def shuffled(
    loss: Loss,
    original: Target,
    teacher: Mapping[str, Tensor],
    batch: Batch,
    grids: Mapping[str, Grid],
) -> dict[str, Tensor]:
    """Return the target with the weights of each image's cells in a random order.

    The order depends on the image and the view alone. A padded image mixes inside cells with
    themselves only.
    """
    target = original(teacher, batch, grids)
    emphasis = target["emphasis"].flatten(1).clone()
    within = F.interpolate(batch.valid[:, None].float(), target["emphasis"].shape[-2:])
    for row, cells in enumerate(within.flatten(1) > 0):
        seed = 1_000_003 * int(batch.indices[row]) + int(batch.views[row]) % 1_000_003
        generator = torch.Generator().manual_seed(seed)
        values = emphasis[row, cells]
        order = torch.randperm(len(values), generator=generator)
        emphasis[row, cells] = values[order.to(values.device)]
    return target | {"emphasis": emphasis.view_as(target["emphasis"])}


def label_edges(
    loss: Loss,
    original: Target,
    teacher: Mapping[str, Tensor],
    batch: Batch,
    grids: Mapping[str, Grid],
) -> dict[str, Tensor]:
    """Return the target with the band of the labels instead of that of the teacher.

    The labels are shares of the classes in each cell of the compared grid; void pixels are 0.
    """
    target = original(teacher, batch, grids)
    assert batch.labels is not None, "the control needs labels"
    logits = target["logits"]
    classes = batch.labels.masked_fill(~batch.labelled, logits.shape[1])
    shares = F.one_hot(classes, logits.shape[1] + 1)[..., :-1].movedim(-1, 1).to(logits.dtype)
    shares = F.adaptive_avg_pool2d(shares, logits.shape[-2:])
    return target | {"emphasis": loss.weighting.relative(shares, batch)}


CONTROLS = {"shuffled": shuffled, "label_edges": label_edges}
NAMES = tuple(f"{base}_{control}" for base in BASES for control in CONTROLS)


def module(base: str, control: str) -> types.ModuleType:
    """Return the file of a control: the loss ``base`` with another map of weights."""
    original = registry.find("losses", base)
    made = types.ModuleType(f"freqkd_cli.losses.{base}_{control}", original.__doc__)

    @functools.wraps(original.build)
    def build(**arguments) -> Loss:
        loss = original.build(**arguments)
        loss.target = functools.partial(CONTROLS[control], loss, loss.target)
        return loss

    made.build = build
    return made


def register(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Add the controls to the losses that recipes can name.

    Args:
        replace: sets an attribute, such as ``monkeypatch.setattr``.
    """
    names = registry.names
    for base in BASES:
        for control in CONTROLS:
            made = module(base, control)
            sys.modules[made.__name__] = made
    replace(registry, "names", lambda drawer: names(drawer) + (NAMES if drawer == "losses" else ()))


if __name__ == "__main__":
    from freqkd_cli.app import main

    register()
    main()
