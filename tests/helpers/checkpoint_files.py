"""Write checkpoints in the forms of libraries, training scripts and other programs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from small_models import (
    NAMES,
    SIZES,
    MMSegmentationHead,
    mmsegmentation_state,
    network,
    shared,
)
from torch import Tensor, nn

SMP_FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "fpn": ("fpn", {}),
    "unet scse": ("unet", {"decoder_attention_type": "scse"}),
    "unet depth 4": ("unet", {"encoder_depth": 4, "decoder_channels": (64, 32, 16, 8)}),
    "unet auxiliary head": ("unet", {"aux_params": {"classes": 3}}),
    "unet narrow decoder": ("unet", {"decoder_channels": (64, 48, 32, 16, 8)}),
    "fpn cat": ("fpn", {"decoder_merge_policy": "cat", "decoder_pyramid_channels": 64}),
    "fpn depth 4": ("fpn", {"encoder_depth": 4}),
}
"""Name -> architecture and arguments of a network that ``save_pretrained`` saves."""


def saved(
    kind: str, content: Callable[[nn.Module], Any], name: str = "weights.pth"
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(content(shared(kind)), folder / name)
        return folder / name

    return write


def file_of(content: bytes, name: str = "weights.pth") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


# --- folders of transformers ---


def pretrained(folder: Path, **options: Any) -> Path:
    shared("segformer").save_pretrained(folder / "hf", **options)
    return folder / "hf"


def config_with(
    change: Callable[[dict[str, Any]], Any], *, rows: int = 3
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = pretrained(folder)
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))
        return path

    return write


def labels_as(names: Any, **more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(id2label=names, **more)


def without_names(config: dict[str, Any]) -> None:
    config.pop("id2label")
    config.pop("label2id")


def sharded_pickle(folder: Path) -> Path:
    """Write two pickled shards and their index, as transformers up to 4 does."""
    path = pretrained(folder)
    (path / "model.safetensors").unlink()
    state = shared("segformer").state_dict()
    keys = sorted(state)
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
        torch.save({key: state[key] for key in part}, path / name)
    places = {key: names[k % 2] for k, key in enumerate(keys)}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return path


def shard_missing(folder: Path) -> Path:
    path = pretrained(folder, max_shard_size="60KB")
    sorted(path.glob("model-*.safetensors"))[1].unlink()
    return path


def trainer(*steps: int, best: int | None = None) -> Callable[[Path], Path]:
    """Write a trainer's folder; the checkpoints have weights of different seeds."""

    def write(folder: Path) -> Path:
        for seed, step in enumerate(steps):
            inner = folder / "out" / f"checkpoint-{step}"
            shared("segformer", seed).save_pretrained(inner)
            torch.save({"state": {}, "param_groups": []}, inner / "optimizer.pt")
            state = {"global_step": step, "best_model_checkpoint": None}
            if best is not None:
                state["best_model_checkpoint"] = f"out/checkpoint-{best}"
            (inner / "trainer_state.json").write_text(json.dumps(state))
        (folder / "out" / "runs").mkdir()
        return folder / "out"

    return write


def replaced(name: str, content: bytes, *, remove: bool = True) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = pretrained(folder)
        if remove:
            (path / "model.safetensors").unlink()
        (path / name).write_bytes(content)
        return path

    return write


def adapter(folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / "lora"
    path.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "nvidia/mit-b0", "r": 8}
    (path / "adapter_config.json").write_text(json.dumps(config))
    key = "base_model.model.segformer.encoder.block.0.0.attention.self.query.lora_A.weight"
    save_file({key: torch.zeros(8, 16)}, path / "adapter_model.safetensors")
    return path


def merged_keys_of_adapter(folder: Path) -> Path:
    """Write a whole model saved while its adapter was on it."""
    state = {f"base_model.model.{k}": x for k, x in shared("segformer").state_dict().items()}
    old = "base_model.model.segformer.stages.0.blocks.0.attention.q_proj."
    for end in ("weight", "bias"):
        state[f"{old}base_layer.{end}"] = state.pop(f"{old}{end}")
    state[f"{old}lora_A.default.weight"] = torch.ones(4, 16)
    state[f"{old}lora_B.default.weight"] = torch.ones(16, 4)
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


def eight_bits(folder: Path) -> Path:
    from safetensors.torch import save_file

    path = pretrained(folder)
    state = {}
    for key, x in shared("segformer").state_dict().items():
        linear = x.ndim == 2
        state[key] = (x * 100).round().to(torch.int8) if linear else x.clone()
        if linear:
            state[key.replace(".weight", ".SCB")] = torch.full((len(x),), 1.27)
    save_file(state, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (path / "config.json").write_text(json.dumps(config))
    return path


def dynamic(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(network("segformer"), {nn.Linear})
        torch.save(quantised.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


# --- averaged copies ---


def two_tables(raw: str, averaged: str) -> Callable[[Path], Path]:
    states = shared("fpn"), shared("fpn", 1)
    content = {raw: states[0].state_dict(), averaged: states[1].state_dict(), "epoch": 9}
    return lambda folder: write_table(folder, content)


def two_prefixes(first: str, second: str) -> Callable[[Path], Path]:
    table: dict[str, Tensor] = {}
    for seed, prefix in enumerate((first, second)):
        table |= {prefix + key: x for key, x in shared("fpn", seed).state_dict().items()}
    return lambda folder: write_table(folder, {"state_dict": table})


def write_table(folder: Path, content: Mapping[str, Any]) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def smp_folder(arch: str, options: dict[str, Any], classes: int = 3) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        network(arch, classes=classes, **options).save_pretrained(folder / "smp")
        return folder / "smp"

    return write


def freqkd_folder(folder: Path, **options: Any) -> Path:
    from freqkd_cli.build.saved import save_model

    names = dict(enumerate(NAMES))
    save_model(folder / "run", shared("fast_scnn"), "fast_scnn", names, **options)
    return folder / "run"


class OneRow(nn.Module):
    """A network of one row as two classes: background at 0 and the row."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def two(self, row: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(row), row], 1)


def without_config(folder: Path) -> Path:
    path = pretrained(folder)
    (path / "config.json").unlink()
    return path / "model.safetensors"


def mmsegmentation(folder: Path) -> Path:
    net = shared("segformer")
    state = mmsegmentation_state(net, MMSegmentationHead(net.segformer))
    return write_table(folder, {"meta": {"CLASSES": NAMES}, "state_dict": state, "message_hub": {}})


def optimizer(net: nn.Module) -> dict[str, Any]:
    return {"optimizer": torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9).state_dict()}


def classifier(folder: Path) -> Path:
    from transformers import SegformerConfig, SegformerForImageClassification

    torch.manual_seed(0)
    SegformerForImageClassification(SegformerConfig(**SIZES, num_labels=5)).save_pretrained(
        folder / "hf"
    )
    return folder / "hf"


def config_alone(folder: Path) -> Path:
    path = pretrained(folder)
    (path / "model.safetensors").unlink()
    return path
