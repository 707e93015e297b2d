"""Checkpoints that must be refused by their name: other programs' files, adapters, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoint_files import (
    adapter,
    classifier,
    config_alone,
    dynamic,
    eight_bits,
    file_of,
    merged_keys_of_adapter,
    optimizer,
    replaced,
    saved,
    shard_missing,
)
from foreign_files import (
    PAGE,
    POINTER,
    cut_file,
    deepspeed,
    distributed,
    numpy_archive,
    onnx_file,
    script_file,
    zipped_folder,
)
from small_models import SECTIONS, shared


def refused_forms() -> list[dict[str, Any]]:
    def row(
        name: str,
        write: Callable[[Path], Path],
        words: str,
        command: str = "",
        model: str = "segformer",
        **more: Any,
    ) -> dict[str, Any]:
        known = {"model": model, "write": write, "refused": words, "command": command}
        return {"name": name} | known | more

    folder = {"section": "name: segformer", "folder": True}
    page, cut = "HTML|web page|page", "damaged|truncated|incomplete|cut"
    whole = "state_dict|save_pretrained|torch.save"
    return [
        row("LoRA adapter", adapter, "LoRA|LORA|PEFT|adapter", "merge|peft", **folder),
        row(
            "model with an adapter on it",
            merged_keys_of_adapter,
            "LoRA|lora|PEFT|adapter",
            "merge|peft",
        ),
        row(
            "TensorFlow",
            replaced("tf_model.h5", b"\x89HDF\r\n\x1a\n"),
            "TensorFlow",
            "from_tf|from_pretrained",
            **folder,
        ),
        row(
            "Flax",
            replaced("flax_model.msgpack", b"\x81\xa6params"),
            "Flax",
            "from_flax|from_pretrained",
            **folder,
        ),
        row(
            "8 bits",
            eight_bits,
            "quanti|8.bit|int8|bitsandbytes",
            "dequantize|from_pretrained|save_pretrained",
            **folder,
        ),
        row("dynamic quantisation", dynamic, "quanti|packed", ""),
        row("whole smp module", saved("fpn", lambda net: net), "module|pickle|whole", whole, "fpn"),
        row(
            "whole SegFormer module",
            saved("segformer", lambda net: net),
            "module|pickle|whole",
            whole,
        ),
        row(
            "whole module in a dict",
            saved("fpn", lambda net: {"model": net, "epoch": 1}),
            "module|pickle|whole",
            whole,
            "fpn",
        ),
        row("TorchScript", script_file, "TorchScript", "state_dict|torch.jit.load", "fpn"),
        row("ONNX", onnx_file, "ONNX", "", "fpn"),
        row("Git LFS pointer", file_of(POINTER), "LFS", "git lfs pull"),
        row(
            "Git LFS pointer in a folder",
            replaced("model.safetensors", POINTER),
            "LFS",
            "git lfs pull",
            **folder,
        ),
        row("page of a host", file_of(PAGE), page),
        row(
            "page of a host as safetensors",
            file_of(PAGE, "model.safetensors"),
            "HTML|web page|page",
        ),
        row(
            "cut pickle",
            cut_file("fpn", "weights.pth"),
            cut,
            "",
            "fpn",
        ),
        row(
            "cut safetensors",
            cut_file("unet", "weights.safetensors"),
            cut,
            "",
            "unet",
        ),
        row("empty file", file_of(b""), "empty|0 bytes", "", "fast_scnn"),
        row(
            "text",
            file_of(b"epoch 1 loss 0.3\nepoch 2 loss 0.2\n"),
            "text|not a|no weight",
            "",
            "unet",
        ),
        row("missing shard", shard_missing, r"model-00002-of|missing", "", **folder),
        row("numpy archive", numpy_archive, r"\.npz|numpy|NumPy", "torch.save|save_file", "unet"),
        row("zip of a folder", zipped_folder, "zip|archive", "unzip|unpack|extract"),
        row(
            "FSDP shards",
            distributed,
            "distributed|FSDP|distcp",
            "dcp_to_torch_save|consolidate|merge",
        ),
        row("DeepSpeed", deepspeed, "DeepSpeed|zero", "zero_to_fp32", "segformer"),
        row("optimizer alone", saved("unet", optimizer), "optimizer|no table|weights", "", "unet"),
        row(
            "another network",
            saved("unet", lambda net: net.state_dict()),
            "unet|missing|fit",
            "",
            "unet",
            section=SECTIONS["fpn"],
            truth=lambda: shared("unet"),
        ),
        row("classifier of ImageNet", classifier, "head", "head", **folder),
        row("config alone", config_alone, "no weights|weights", "", **folder),
    ]
