"""What a folder of weights is: a model, a trainer's output, or a form that is not read.

The forms that are not read are named, with the command that makes a folder that is.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from freqkd_cli.errors import WeightsMissing, some
from freqkd_cli.runtime.json_file import object_or_none

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)
"""Lists of the files that a large model is split into."""
_CONFIG = "config.json"
_FILES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
_TRAINER_FILES = ("optimizer", "scheduler", "scaler", "training_args", "rng_state", "adapter_model")
"""Beginnings of files that a trainer writes beside the weights."""
_SHOWN = 5
_CLASS = "SegformerForSemanticSegmentation"
_OTHER_FORMS = {
    "Manifest.json": "a Core ML graph",
    "*.onnx": "an ONNX graph",
    "*.tflite": "a TensorFlow Lite graph",
    "openvino_model.xml": "an OpenVINO graph",
    "*.mlpackage": "a Core ML graph",
    "*.engine": "a TensorRT engine",
    "saved_model.pb": "a TensorFlow SavedModel",
}
"""Pattern of a file -> what it is; nothing converts it back to the weights of a SegFormer."""


def has_weights(folder: Path) -> bool:
    """Whether a folder has the weight files of transformers, whole or split."""
    return any((folder / name).is_file() for name in (*WEIGHT_FILES, *INDEX_FILES))


def described_folder(place: Path) -> Path:
    """Return the folder of a ``model.safetensors`` beside a ``config.json``, else ``place``.

    The file alone has no class names and no mean and std of the images.
    """
    folder = place.parent
    described = place.name == WEIGHT_FILES[0] and (folder / _CONFIG).is_file()
    return folder if described and place.is_file() else place


def model_folder(folder: Path) -> Path:
    """Return the folder of the model: ``folder``, or the only checkpoint of a trainer's output.

    Raises:
        WeightsMissing: it has several checkpoints, a form of weights that is not read, or neither
            weights nor a description.
    """
    if has_weights(folder):
        return folder
    refuse_other_forms(folder)
    checkpoints = sorted(
        (path for path in folder.glob("checkpoint-*") if has_weights(path)), key=_step
    )
    if len(checkpoints) == 1:
        log.warning("%s is a trainer's output: its %s is read", folder, checkpoints[0].name)
        return checkpoints[0]
    if checkpoints:
        return _best(folder, checkpoints)
    if not (folder / _CONFIG).is_file() or _weight_files(folder):
        raise _no_model(folder)
    return folder


def source_folder(folder: Path) -> Path:
    """Return :func:`model_folder` of a folder that is an argument of a command.

    Raises:
        WeightsMissing: the same; its tip names another argument, in place of a recipe's key.
    """

    def as_argument(match: re.Match[str]) -> str:
        path = match[1]
        is_file = path.endswith(_FILES)
        return f"a recipe with teacher.weights: {path}" if is_file else f"{path} in its place"

    try:
        return model_folder(folder)
    except WeightsMissing as error:
        error.tip = error.tip and re.sub(r"--set 'weights=([^']+)'", as_argument, error.tip)
        error.key = None
        raise


def _weight_files(folder: Path) -> list[str]:
    """Return the files that may have weights under other names than those of transformers."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _FILES)
    return [name for name in names if not name.startswith(_TRAINER_FILES)]


def _step(path: Path) -> tuple[int, str]:
    step = path.name.rpartition("-")[2]
    return (int(step) if step.isdecimal() else -1, path.name)


def _best(folder: Path, checkpoints: list[Path]) -> Path:
    """Return the checkpoint that the trainer recorded as the best on its validation split.

    Raises:
        WeightsMissing: it recorded none.
    """
    last = checkpoints[-1]
    recorded = (object_or_none(last / "trainer_state.json") or {}).get("best_model_checkpoint")
    names = [path.name for path in checkpoints]
    best = Path(recorded).name if isinstance(recorded, str) else None
    if best in names:
        others = ", ".join(name for name in names if name != best)
        log.warning("%s: its best checkpoint %s is read, not %s", folder, best, others)
        return folder / best
    raise WeightsMissing(
        f"{folder} is a trainer's output with {len(names)} checkpoints",
        got=some(reversed(names), _SHOWN),
        need="the folder of one checkpoint",
        tip=f"--set 'weights={last}' (the last)",
        key="weights",
    )


def _no_model(folder: Path) -> WeightsMissing:
    names, described = _weight_files(folder), (folder / _CONFIG).is_file()
    lack = f"has no {' or '.join(WEIGHT_FILES)}" if described else f"its {_CONFIG} is missing"
    return WeightsMissing(
        f"{folder} holds no model: {'it ' if described else ''}{lack}",
        got=some(names, _SHOWN) or "no weight file",
        need=f"a folder with {_CONFIG} and {' or '.join(WEIGHT_FILES)}, or a weight file by name",
        tip=" or ".join(f"--set 'weights={folder / name}'" for name in names[:2]) or None,
        key="weights",
    )


def _refuse_adapter(folder: Path) -> None:
    adapter = object_or_none(folder / "adapter_config.json")
    if adapter is None:
        return
    base, kind = adapter.get("base_model_name_or_path"), adapter.get("peft_type") or "PEFT"
    rows = _adapter_rows(folder)
    sizes = f", num_labels={rows}, ignore_mismatched_sizes=True" if rows else ""
    raise WeightsMissing(
        f"{folder} is a {kind} adapter, not a whole model",
        got=f"changes to the weights of {base or 'a model that it does not name'}",
        need="the base model with the adapter merged into it",
        tip='with peft installed: python -c "from peft import PeftModel; from transformers import '
        f"{_CLASS} as S; PeftModel.from_pretrained(S.from_pretrained('{base or 'BASE'}'{sizes}), "
        f"'{folder}').merge_and_unload().save_pretrained('{folder}-merged')\", and then "
        f"--set 'weights={folder}-merged'",
        key="weights",
    )


def _adapter_rows(folder: Path) -> int | None:
    """Return the rows of the classifier that was trained with an adapter, or None without one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    rows = [shape[0] for key, shape in shapes.items() if key.endswith("classifier.weight")]
    return rows[0] if len(rows) == 1 else None


def refuse_other_forms(folder: Path) -> None:
    """Refuse a folder that holds a model in a form that is not read.

    Raises:
        WeightsMissing: names the form and the command that converts it.
    """
    _refuse_adapter(folder)
    _refuse_distributed(folder)
    for name, form, library, option in (
        ("tf_model.h5", "TensorFlow", "tensorflow", "from_tf"),
        ("flax_model.msgpack", "Flax", "flax", "from_flax"),
    ):
        if not (folder / name).is_file():
            continue
        raise WeightsMissing(
            f"{folder} has {form} weights",
            got=name,
            need=" or ".join(WEIGHT_FILES),
            tip=f'in an environment with "transformers<5", torch and {library}: python -c "from '
            f"transformers import {_CLASS} as S; S.from_pretrained('{folder}', {option}=True)"
            f".save_pretrained('{folder}-torch')\", and then --set 'weights={folder}-torch'",
            key="weights",
        )
    for pattern, form in _OTHER_FORMS.items():
        names = sorted(path.name for path in folder.glob(pattern))
        if names:
            raise WeightsMissing(
                f"{folder} has {form}, not the weights that it was made from",
                got=names[0],
                need=" or ".join(WEIGHT_FILES),
                tip="use the folder of the PyTorch model that it was exported from",
            )


def _refuse_distributed(folder: Path) -> None:
    """Refuse the parts that several processes wrote."""
    for patterns, form, command in (
        (
            ("zero_to_fp32.py", "*mp_rank_*_states.pt", "*/*mp_rank_*_states.pt"),
            "a DeepSpeed checkpoint",
            "in that folder: python zero_to_fp32.py . pytorch_model.bin (a script that DeepSpeed "
            "writes there; also deepspeed/utils/zero_to_fp32.py)",
        ),
        (
            ("*.distcp",),
            "a distributed checkpoint of torch",
            'python -c "from torch.distributed.checkpoint.format_utils import dcp_to_torch_save as '
            f"f; f('{folder}', '{folder}.pth')\", and then --set 'weights={folder}.pth'",
        ),
    ):
        if any(next(folder.glob(pattern), None) for pattern in patterns):
            raise WeightsMissing(
                f"{folder} holds the parts of several processes",
                got=form,
                need=" or ".join(WEIGHT_FILES),
                tip=command,
                key="weights",
            )
