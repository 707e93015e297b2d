"""A model as a folder: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``.

The folder holds no pickle, and enough to build the model again. ``config.json`` has the keys
``{"model", "arguments", "id2label", "mean", "std", "license", "format": 1}``. Where another library
can read the model (SegFormer), its own configuration is at the top and freqkd's under ``freqkd``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli import registry
from freqkd_cli.errors import UnknownName, UsageError, WeightsMissing
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.trained_weights import require_folder
from freqkd_cli.runtime.files import write_synced
from freqkd_cli.weights.checked_safetensors import safetensors_bytes
from freqkd_cli.weights.config import FORMAT, ModelConfig, read_config
from freqkd_cli.weights.folder_kinds import source_folder
from freqkd_cli.weights.hub import hub_folder, is_hub_id
from freqkd_cli.weights.state_dict import read_state

HUB_FILES = ("*.json", "*.safetensors")
"""Files of a repository that are downloaded. Pickles are not."""

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"


def save_model(
    folder: str | Path,
    model: nn.Module,
    model_name: str | None = None,
    id2label: Mapping[int, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the folder; each file is written aside, synced and renamed, the configuration last.

    Args:
        model: one of this program's models, not wrapped.
        model_name: its name in a recipe; the model's own by default.
        id2label: class names; the model's own by default.
        dtype: type of the floating-point tensors on disk, such as ``torch.float16``; the model's
            own by default.
    """
    assert isinstance(model, Segmenter)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if id2label is not None:
        model.id2label = {int(number): str(name) for number, name in id2label.items()}
    state = {key: _on_disk(value, dtype) for key, value in model.portable_state().items()}
    foreign = model.portable_config()
    _write(folder / WEIGHTS, safetensors_bytes(state))
    _write(folder / PREPROCESSOR, _json(_preprocessor(model, foreign)))
    section = _section(model, model_name or model.model_name)
    _write(folder / CONFIG, _json({**foreign, "freqkd": section} if foreign else section))


def load_model(folder: str | Path) -> nn.Module:
    """Return the model of a folder, in eval mode on the CPU, its tensors in float32.

    Folders that transformers wrote for a SegFormer, and segmentation-models-pytorch for any of its
    networks, are read as well, or a trainer's output with one checkpoint.

    Raises:
        WeightsMissing: files are missing, damaged, of a later format, or do not fit each other.
    """
    folder = Path(folder)
    require_folder(folder)
    if not (folder / "recipe.yaml").is_file():
        folder = source_folder(folder)
    config = _config(folder)
    section = config.section
    if config.of_segformer or section.model == "segformer":
        # Built from the other library's configuration, which may hold more than our arguments. The
        # model reads its tensors itself.
        arguments = {"classes": 1} if section.arguments is None else section.arguments
        model = _build("segformer", {**arguments, "weights": str(folder)}, config)
    elif config.of_smp:
        model = _build("smp", {"classes": 1, "weights": str(folder)}, config)
    elif section.model is not None:
        model = _build(section.model, section.arguments or {}, config)
        model.load_portable(read_state(folder / WEIGHTS), where=str(folder))
        model.take(section)
    else:
        keys = ("model", "model_type")
        raise WeightsMissing(
            f"{folder / CONFIG} names no model",
            got=", ".join(f"{key} {config.content.get(key)!r}" for key in keys),
            need="a folder that freqkd wrote, a SegFormer of transformers, or a network of smp",
        )
    model.quantization = section.quantization
    return model.eval()


def load_pretrained(name: str | Path, revision: str | None = None) -> nn.Module:
    """Return the model of a folder, or of a repository of the hub, as :func:`load_model`.

    Args:
        revision: branch, tag or commit of a repository.

    Raises:
        WeightsMissing: there is no such model, or its files do not fit each other.
        UsageError: a revision of a folder.
    """
    is_folder = Path(name).expanduser().exists() or not is_hub_id(str(name))
    if is_folder and revision is not None:
        raise UsageError(
            f"{name} is a folder, which has no revisions",
            got=f"revision {revision}",
            tip="leave out the revision, or name a repository OWNER/NAME",
        )
    if is_folder:
        return load_model(Path(name).expanduser())
    return load_model(hub_folder(str(name), HUB_FILES, revision))


def _config(folder: Path) -> ModelConfig:
    require_folder(folder)
    if not (folder / CONFIG).is_file() and (folder / "recipe.yaml").is_file():
        words = ["freqkd", "distill", f"{folder}/recipe.yaml", "--out", str(folder), "--resume"]
        raise WeightsMissing(
            f"{folder} contains no model yet: its run was stopped before the first evaluation",
            tip=shlex.join(words),
        )
    return read_config(folder / CONFIG)


def _build(name: str, arguments: Mapping[str, Any], config: ModelConfig) -> Segmenter:
    """Build a model from the arguments in its folder, which are checked like those of a recipe."""
    filled_in = registry.FILLED_IN["models"]
    try:
        part = registry.find("models", name)
        registry.arguments("models", name)(
            **{key: value for key, value in arguments.items() if key not in filled_in}
        )
        return part.build(**arguments)
    except (UnknownName, TypeError, ValueError, RuntimeError) as error:
        raise WeightsMissing(
            f"{config.path} does not describe a model of this version", got=error
        ) from error


def _section(model: Segmenter, model_name: str) -> dict[str, Any]:
    """Return freqkd's fields of ``config.json``."""
    names = model.id2label
    simulated = getattr(model, "simulated", None)  # in training: the ranges change
    ranges = simulated[0].ranges() if simulated else model.quantization
    return {
        "model": model_name,
        "arguments": model.recipe_arguments,
        "id2label": {str(number): name for number, name in names.items()} if names else None,
        "mean": _three(model.mean),
        "std": _three(model.std),
        "license": model.license.model_dump() if model.license else None,
        **({"quantization": ranges.model_dump(mode="json")} if ranges else {}),
        "format": FORMAT,
    }


def _preprocessor(model: Segmenter, foreign: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of transformers' image processors.

    Images in 0..255 are rescaled and normalised, not resized.
    """
    processor: dict[str, Any] = (
        {"image_processor_type": "SegformerImageProcessor", "do_reduce_labels": False}
        if foreign
        else {}
    )
    return processor | {
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _three(model.mean),
        "image_std": _three(model.std),
    }


def _three(values: Tensor) -> list[float]:
    """Return three floats with the digits of a float32, so that 0.485 is written as 0.485."""
    return [float(f"{value:.7g}") for value in values.flatten().tolist()]


def _on_disk(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu()
    if dtype is not None and value.is_floating_point():
        value = value.to(dtype)
    # The format refuses tensors that share memory.
    return value.contiguous().clone()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, default=str) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    write_synced(path, lambda file: file.write(content))
