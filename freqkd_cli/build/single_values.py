"""Batch norms that a training step would give one value per channel, which has no variance."""

from __future__ import annotations

import copy
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from freqkd_cli import registry
from freqkd_cli.errors import FreqKDError, RecipeError

if TYPE_CHECKING:
    from freqkd_cli.build.assemble import CheckedRecipe

OF_WEIGHTS = ("weights", "encoder_weights")
"""Arguments of models that name files, which the check of a recipe does not read."""


def norms_of_one_value(
    student: nn.Module, size: tuple[int, int], taps: Collection[str]
) -> list[str]:
    """Return the names of the batch norms that see one value per channel of a single image.

    A forward pass in training mode on a copy without storage. Two images never give one value.

    Args:
        size: height and width of the image.
        taps: those that the losses read, since some layers run for their taps alone.
    """
    with torch.device("meta"):
        copied = copy.deepcopy(student).to("meta").train()
        image = torch.empty(1, 3, *size)
    names: list[str] = []

    def watch(name: str, norm: _BatchNorm) -> None:
        def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if module.training and inputs[0].numel() == inputs[0].shape[1]:
                names.append(name)
                module.eval()  # so that the forward pass goes on to the next one

        norm.register_forward_pre_hook(before)

    for name, module in copied.named_modules():
        if isinstance(module, _BatchNorm):
            watch(name, module)
    # Where a layer does not run without storage, or on so small an image, training reports it.
    with torch.no_grad(), suppress(RuntimeError, NotImplementedError):
        copied(image, taps=taps)
    return names


def check_norms(
    checked: CheckedRecipe,
    student: nn.Module,
    taps: Collection[str],
    *,
    processes: int = 1,
    synchronised: bool = False,
    images: int | None = None,
) -> None:
    """Refuse a student whose batch norms would have to train on single values.

    Args:
        processes: the number of processes that share a batch.
        synchronised: batch norm takes the images of all processes together.
        images: number of training images, where it is known.

    Raises:
        RecipeError: one image at a time, and a layer that sees one value per channel of it.
    """
    train, size = checked.recipe.train, checked.view_spec.size
    at_a_time = train.batch_size if synchronised else train.batch_size // processes
    if at_a_time > 1 or train.freeze_norm or train.freeze_student:
        return
    names = norms_of_one_value(student, size, taps)
    if not names:
        return
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    shared = f" for {processes} processes" if processes > 1 else ""
    larger = 2 * processes
    tips = ["--set 'train.freeze_norm=true' (best with a student that starts from trained weights)"]
    if images is None or images >= larger:
        tips.insert(0, f"--set 'train.batch_size={larger}'")
    raise RecipeError(
        "batch norm cannot train on one value per channel",
        got=f"train.batch_size {train.batch_size}{shared}, data.size {list(size)}, "
        f"layer {names[0]}{more}",
        need=f"train.batch_size of at least {larger}, or train.freeze_norm, "
        "which uses the running statistics",
        tip=", or ".join(tips),
        key="train.batch_size",
    )


def check_unbuilt(checked: CheckedRecipe) -> None:
    """Run :func:`check_norms` on the student of a recipe, without its weights.

    A student that cannot be built without them is checked by ``freqkd distill``.

    Raises:
        RecipeError: as :func:`check_norms`, with its place in the recipe.
    """
    recipe = checked.recipe
    if recipe.train.batch_size > 1:
        return
    arguments = {k: v for k, v in recipe.student.arguments.items() if k not in OF_WEIGHTS}
    try:
        with torch.random.fork_rng(devices=[]):
            student = registry.find("models", recipe.student.name).build(
                classes=len(checked.classes), **arguments
            )
    except FreqKDError:
        return
    try:
        check_norms(checked, student, checked.student_taps)
    except RecipeError as error:
        raise recipe.error([("train.batch_size", error.line)]) from error
