"""A model as a folder: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``; no pickle, and enough to build it again.

``config.json`` says ``{"model", "arguments", "id2label", "mean", "std", "licence_note", "format": 1}``. A model that another library can
read (SegFormer) writes that library's own configuration there, and ours under the key ``freqkd``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli import registry
from freqkd_cli.errors import UnknownName, WeightsMissing
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.runtime.files import write_synced
from freqkd_cli.weights.config import FORMAT, Config, read_config
from freqkd_cli.weights.state_dict import read_state

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
        model_name: its name in a recipe; the model's own where None.
        id2label: class names; the model's own where None.
        dtype: type of the floating-point tensors on disk, such as ``torch.float16``; the model's own where None.
    """
    from safetensors.torch import save

    assert isinstance(model, Segmenter)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if id2label is not None:
        model.id2label = {int(number): str(name) for number, name in id2label.items()}
    state = {key: _on_disk(value, dtype) for key, value in model.portable_state().items()}
    foreign = model.portable_config()
    _write(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    _write(folder / PREPROCESSOR, _json(_preprocessor(model, foreign)))
    ours = _description(model, model_name or model.model_name)
    _write(folder / CONFIG, _json({**foreign, "freqkd": ours} if foreign else ours))


def load_model(folder: str | Path) -> nn.Module:
    """The model of a folder, in eval mode on the CPU, its tensors in float32.

    A folder that transformers wrote for a SegFormer is read as well.

    Raises:
        WeightsMissing: files are missing, of a later format, or do not fit each other.
    """
    folder = Path(folder)
    config = _config(folder)
    ours = config.ours
    if config.of_segformer:
        # Built from the other library's configuration, which may say more than our arguments do; it reads its tensors itself.
        said = {"classes": 1} if ours.arguments is None else ours.arguments
        model = _build("segformer", {**said, "weights": str(folder)}, config)
    elif ours.model is not None:
        model = _build(ours.model, ours.arguments or {}, config)
        model.load_portable(read_state(folder / WEIGHTS), where=str(folder))
        model.take(ours)
    else:
        raise WeightsMissing(
            f"{folder / CONFIG} names no model",
            got=", ".join(f"{key} {config.said.get(key)!r}" for key in ("model", "model_type")),
            need="a folder that freqkd wrote, or a SegFormer of transformers",
        )
    return model.eval()


def class_names_of(folder: str | Path) -> dict[int, str]:
    """Class number -> name, as a folder that freqkd wrote says; empty where it says none.

    Raises:
        WeightsMissing: its ``config.json`` cannot be read.
    """
    path = Path(folder) / CONFIG
    return dict(read_config(path).ours.id2label or {}) if path.is_file() else {}


def load_state(folder: str | Path, model: nn.Module) -> None:
    """Give a freshly built model the weights of a trained one of the same arguments (``student.weights``).

    Training-only heads may be absent from either side: those of the model stay as drawn.

    Raises:
        WeightsMissing: there is no such folder, or a tensor is missing, unexpected or of another shape; the model is unchanged then.
    """
    assert isinstance(model, Segmenter)
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsMissing(f"{folder} is no folder", need="the folder of a run or of an export")
    state, own = read_state(folder), model.portable_state()
    heads = {key for key in state.keys() ^ own.keys() if key.startswith("auxiliary.")}
    given = {key: value for key, value in state.items() if key not in heads} | {
        key: own[key] for key in heads if key in own
    }
    model.load_portable(given, where=str(folder))


def _config(folder: Path) -> Config:
    if not folder.is_dir():
        raise WeightsMissing(f"{folder} is no folder", need="the folder of a run or of an export")
    if not (folder / CONFIG).is_file() and (folder / "recipe.yaml").is_file():
        again = f"freqkd distill {folder}/recipe.yaml --out {folder} --resume"
        raise WeightsMissing(
            f"the run in {folder} was stopped before its first score and holds no model yet",
            tip=again,
        )
    return read_config(folder / CONFIG)


def _build(name: str, arguments: Mapping[str, Any], config: Config) -> Segmenter:
    """A model of recipes from the arguments that its folder keeps, which are held to what a recipe may say."""
    try:
        part = registry.find("models", name)
        registry.arguments("models", name)(
            **{
                key: value
                for key, value in arguments.items()
                if key not in registry.FILLED_IN["models"]
            }
        )
        return part.build(**arguments)
    except (UnknownName, TypeError, ValueError, RuntimeError) as error:
        raise WeightsMissing(
            f"{config.path} describes no model that this version knows", got=error
        ) from error


def _description(model: Segmenter, model_name: str) -> dict[str, Any]:
    names = model.id2label
    return {
        "model": model_name,
        "arguments": model.recipe_arguments,
        "id2label": {str(number): name for number, name in names.items()} if names else None,
        "mean": _three(model.mean),
        "std": _three(model.std),
        "licence_note": model.licence_note,
        "format": FORMAT,
    }


def _preprocessor(model: Segmenter, foreign: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' image processors read: pictures in 0..255, rescaled, normalised, not resized."""
    said: dict[str, Any] = (
        {"image_processor_type": "SegformerImageProcessor", "do_reduce_labels": False}
        if foreign
        else {}
    )
    return said | {
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _three(model.mean),
        "image_std": _three(model.std),
    }


def _three(values: Tensor) -> list[float]:
    """Three floats with the digits that a float32 has, so 0.485 is written as 0.485."""
    return [float(f"{value:.7g}") for value in values.flatten().tolist()]


def _on_disk(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu()
    if dtype is not None and value.is_floating_point():
        value = value.to(dtype)
    return value.contiguous().clone()  # tensors that share memory are refused by the format


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, default=str) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    write_synced(path, lambda file: file.write(content))
