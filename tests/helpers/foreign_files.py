"""Files of other programs, and damaged ones."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from checkpoint_files import pretrained
from checkpoint_forms import cast
from small_models import (
    shared,
)


def script_file(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(shared("fpn"), torch.zeros(1, 3, 64, 96), check_trace=False)
        traced.save(folder / "weights.pt")
    return folder / "weights.pt"


def onnx_file(folder: Path) -> Path:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", 1, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [result])
    onnx.save(onnx.helper.make_model(graph), folder / "model.onnx")
    return folder / "model.onnx"


def cut_file(kind: str, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        if name.endswith(".safetensors"):
            from safetensors.torch import save_file

            save_file(cast(shared(kind).state_dict(), "float32"), path)
        else:
            torch.save(shared(kind).state_dict(), path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return path

    return write


def numpy_archive(folder: Path) -> Path:
    state = {key: x.numpy() for key, x in shared("unet").state_dict().items()}
    np.savez(folder / "weights.npz", **state)
    return folder / "weights.npz"


def zipped_folder(folder: Path) -> Path:
    path = pretrained(folder)
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        for file in path.iterdir():
            archive.write(file, file.name)
    shutil.rmtree(path)
    return folder / "model.zip"


def distributed(folder: Path) -> Path:
    path = folder / "fsdp"
    path.mkdir()
    (path / ".metadata").write_bytes(b"\x80\x04")
    (path / "__0_0.distcp").write_bytes(b"\0" * 64)
    return path


def deepspeed(folder: Path) -> Path:
    inner = folder / "ds" / "global_step5"
    inner.mkdir(parents=True)
    (folder / "ds" / "latest").write_text("global_step5")
    torch.save({"optimizer_state_dict": {}}, inner / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return folder / "ds"


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 15083004\n"
)
PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan warning</title></head></html>"
)
