"""Weights of a trained run, loaded into a model whose arguments name none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from freqkd_cli import registry
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.recipe.resolved import flow
from freqkd_cli.weights.config import ModelSection, read_config
from freqkd_cli.weights.folder_kinds import described_folder
from freqkd_cli.weights.key_groups import fitting
from freqkd_cli.weights.state_dict import read_state


def build_trained(
    name: str, *, classes: int, arguments: Mapping[str, Any], weights: str | None
) -> Segmenter:
    """Build a model of the drawer, with the weights and class names of a run where it is given.

    Args:
        classes: K where the run has no class names.
        arguments: those of the model's ``build``.
        weights: for models whose arguments name none.

    Raises:
        WeightsMissing: as :func:`load_state`, or as the model's ``build``.
    """
    names = class_names_of(weights) if weights else {}
    model = registry.find("models", name).build(classes=len(names) or classes, **arguments)
    if weights:
        load_state(weights, model)
    model.id2label = names or model.id2label
    return model


def trained_classes(weights: str | None, classes: int) -> int:
    """Return K of a run that names its classes; ``classes`` for other weights, or without any.

    Raises:
        WeightsMissing: the ``config.json`` of the run cannot be read.
    """
    return (len(class_names_of(weights)) if weights else 0) or classes


def class_names_of(folder: str | Path) -> dict[int, str]:
    """Return class number -> name of a folder that freqkd wrote; empty where it has no names.

    Raises:
        WeightsMissing: its ``config.json`` cannot be read.
    """
    run = _recorded(described_folder(Path(folder).expanduser()))
    return dict(run.id2label or {}) if run else {}


def names_on_record(name: str, arguments: Mapping[str, Any], weights: str | None) -> dict[int, str]:
    """Return class number -> name of a model's weights on this machine; empty without any names.

    Args:
        arguments: those of the model's ``build``.
        weights: for models whose arguments name none.
    """
    own = getattr(registry.find("models", name), "class_names", None)
    if own:
        return own(**arguments)
    folder = weights or arguments.get("weights")
    return class_names_of(folder) if folder else {}


def _recorded(folder: Path) -> ModelSection | None:
    """Return freqkd's fields in the ``config.json`` of a folder; None where there is none."""
    path = folder / "config.json"
    return read_config(path).section if path.is_file() else None


def load_state(folder: str | Path, model: nn.Module) -> None:
    """Load the weights of a trained model into a new one of the same arguments.

    This is ``student.weights``, a folder or a weight file. Training-only heads may be absent from
    either side: those of the model keep their initial values. License, mean and std of the images
    are those that the folder has.

    Raises:
        WeightsMissing: there are no such weights, or a tensor is missing, unexpected or of another
            shape; the model is unchanged then.
    """
    assert isinstance(model, Segmenter)
    folder = described_folder(Path(folder).expanduser())
    if not folder.is_file():
        require_folder(folder)
    own, state = model.portable_state(), read_state(folder)
    try:
        state = fitting(state, own, str(folder))
        heads = {key for key in state.keys() ^ own.keys() if key.startswith("auxiliary.")}
        given = {key: value for key, value in state.items() if key not in heads} | {
            key: own[key] for key in heads if key in own
        }
        model.load_portable(given, where=str(folder))
    except WeightsMissing as error:
        error.tip = _section_that_fits(folder, model) or error.tip
        raise
    if run := _recorded(folder):
        model.license = run.license or model.license
        if run.mean and run.std:
            model.set_normalisation(run.mean, run.std)


def section_tip(run: ModelSection, folder: Path) -> str:
    """Return a tip with the section of a recipe that has the model and the weights of a run."""
    section = {"name": run.model, **_architecture(run.arguments or {}), "weights": str(folder)}
    return f"--set '{flow(section)}'"


def _section_that_fits(folder: Path, model: Segmenter) -> str | None:
    """Return :func:`section_tip` where the model of the run is another one than ``model``."""
    run = _recorded(folder)
    if run is None or run.model is None:
        return None
    own = (model.model_name, _architecture(model.recipe_arguments))
    fits = own == (run.model, _architecture(run.arguments or {}))
    return None if fits else section_tip(run, folder)


def _architecture(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model that a recipe may have."""
    return {k: x for k, x in arguments.items() if k not in registry.FILLED_IN["models"]}


def in_section(tip: str, section: str) -> str:
    """Return a model's tip with its section: ``--set 'width=1'``, ``--set '{name: smp}'``."""
    tip = re.sub(r"--set '(?=\{)", f"--set '{section}=", tip)
    done = f"student|teacher|{section.partition('.')[0]}"
    return re.sub(rf"--set '(?!(?:{done})[.=])", f"--set '{section}.", tip)


def require_folder(folder: Path) -> None:
    """
    Raises:
        WeightsMissing: it is not a folder.
    """
    if not folder.is_dir():
        what = f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist"
        raise WeightsMissing(what, need="the folder of a run or of an export")
