"""Checkpoint files as training scripts save them: read, or named with the command that converts."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.key_groups import fitting
from freqkd_cli.weights.state_dict import load_exact, read_state


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        OrderedDict(encoder=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Conv2d(4, 2, 1))
    )


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator).to(value.dtype)
        for key, value in network().state_dict().items()
    }


def prefixed(prefix: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in state(seed).items()}


def check(path: Path, seed: int = 0) -> None:
    """Load the file into a new network and compare every tensor."""
    net = network()
    load_exact(net, read_state(path), where=str(path))
    for key, value in state(seed).items():
        assert torch.equal(net.state_dict()[key], value), key


def saved(tmp_path: Path, content: object, name: str = "w.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


WRAPPERS = [
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights",
    "params", "module", "student", "generator", "ema", "ema_state_dict", "model_ema",
]  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "module.", "student.net."])
def test_the_table_of_a_training_script_is_read_under_any_name_and_prefix(tmp_path, name, prefix):
    optimizer = torch.optim.AdamW(network().parameters())
    content = {"epoch": 3, "loss": 0.5, "optimizer": optimizer.state_dict(), "rng": torch.rand(9)}
    check(saved(tmp_path, content | {name: prefixed(prefix)}))


@pytest.mark.parametrize("name", ["checkpoint", "a"])
def test_two_tables_deep_is_read_as_well(tmp_path, name):
    check(saved(tmp_path, {name: {"net": state(), "epoch": 1}}))


def test_keys_beside_the_network_are_left_out_and_listed(tmp_path, caplog):
    beside = {"mean": torch.zeros(3), "std": torch.ones(3), "criterion.weight": torch.ones(2)}
    path = saved(
        tmp_path, {"state_dict": beside | prefixed("model."), "hyper_parameters": {"a": 1}}
    )
    with caplog.at_level("INFO"):
        check(path)
    assert "left out: mean (1), std (1), criterion (1)" in caplog.text
    with pytest.raises(WeightsMissing, match="1 unexpected .neck.weight."):
        check(saved(tmp_path, state() | {"neck.weight": torch.ones(2)}))


@pytest.mark.parametrize("form", ["tables", "prefixes"])
def test_averaged_weights_are_read_before_plain_ones_with_a_warning(tmp_path, caplog, form):
    if form == "tables":
        content = {"model": state(0), "ema": state(1)}
    else:
        content = {"state_dict": prefixed("model.", 0) | prefixed("ema_model.module.", 1)}
    check(saved(tmp_path, content), seed=1)
    assert "the averaged weights of" in caplog.text


@pytest.mark.parametrize("form", ["tables", "prefixes"])
def test_two_networks_that_fit_are_refused_with_a_command_that_works(tmp_path, form):
    if form == "tables":
        content = {"student": state(0), "teacher": state(1)}
    else:
        content = prefixed("student.", 0) | prefixed("teacher.", 1)
    path = saved(tmp_path, content)
    with pytest.raises(WeightsMissing, match="several networks that fit") as error:
        check(path)
    assert "student." in str(error.value) and "teacher." in str(error.value)
    assert f"--set 'weights={tmp_path / 'w-chosen.pth'}'" in error.value.tip
    program = error.value.tip.removeprefix('python -c "').partition('" (p is')[0]
    exec(program, {})
    check(tmp_path / "w-chosen.pth", seed=0)
    exec(program.replace("'student.'", "'teacher.'"), {})
    check(tmp_path / "w-chosen.pth", seed=1)


def test_the_network_of_the_right_shapes_is_read_and_equal_ones_are_one(tmp_path):
    wide = {key: torch.cat([value, value]) for key, value in state(1).items() if value.ndim}
    wide |= {key: value for key, value in state(1).items() if not value.ndim}
    check(saved(tmp_path, {"student": state(0), "teacher": wide}))
    check(saved(tmp_path, {"net": state(0), "model": state(0)}))


def test_a_file_of_another_model_lists_its_entries_or_its_keys(tmp_path):
    with pytest.raises(WeightsMissing, match=r"the entries epoch \(int\), names \(list of 2\)"):
        read_state(saved(tmp_path, {"epoch": 1, "names": ["a", "b"]}))
    with pytest.raises(WeightsMissing, match="6 missing|7 missing|8 missing|9 missing"):
        check(saved(tmp_path, {"layer.weight": torch.ones(2), "layer.bias": torch.ones(2)}))


def test_other_objects_beside_the_tensors_do_not_matter(tmp_path):
    content = {
        "model": state(),
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "path": Path("somewhere"),
    }
    check(saved(tmp_path, content))
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    check(tmp_path / "old.pth")


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['FREQKD_TEST_PLACE']}/run",)


@pytest.mark.parametrize("new_format", [True, False])
def test_nothing_in_a_pickle_is_run(tmp_path, monkeypatch, new_format):
    monkeypatch.setenv("FREQKD_TEST_PLACE", str(tmp_path))
    path = tmp_path / "w.pth"
    content = {"model": state(), "x": Evil()}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    try:
        check(path)
    except WeightsMissing as error:
        assert "code" in str(error)
    assert not (tmp_path / "run").exists()


def test_a_whole_module_is_named_with_its_class_and_a_command(tmp_path):
    for content in (network(), {"model": network(), "epoch": 1}):
        with pytest.raises(WeightsMissing) as error:
            read_state(saved(tmp_path, content))
        text = str(error.value)
        assert "Sequential" in text and ("state_dict" in text or "entries" in text)


FOREIGN = {
    "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "page.pth": (b"<!DOCTYPE html><html></html>", "a web page"),
    "empty.pth": (b"", "an empty file"),
    "zeros.pth": (b"\0" * 900, "zeros"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "Keras or TensorFlow"),
    "graph.onnx": (b"\x08\x07\x12\x07pytorch", "an ONNX graph"),
    "lite.tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 99, "TensorFlow Lite"),
    "flax.msgpack": (b"\x82\xa6params", "a Flax file"),
    "a.npz": (b"PK\x03\x04", "a NumPy archive"),
    "a.npy": (b"\x93NUMPY\x01\0", "a NumPy array"),
    "a.gguf": (b"GGUF\x03\0\0\0", "GGUF"),
    "a.engine": (b"ptrt", "TensorRT"),
    "a.tar.gz": (b"\x1f\x8b\x08\0", "a compressed file"),
    "a.json": (b'{"a": 1}', "a text file"),
    "words.pth": (b"epoch 1\n", "a text file"),
    "noise.pth": (bytes(range(40, 200)) * 9, "a damaged file, or one of another format"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_kinds_are_named(tmp_path, name):
    content, kind = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsMissing) as error:
        read_state(tmp_path / name)
    text = str(error.value)
    assert kind in text and error.value.tip and all(c.isprintable() or c == "\n" for c in text)


def test_torchscript_and_other_archives_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", b"")
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("photos/a.jpg", b"1")
    for name, kind in (
        ("script.pt", "a TorchScript program"),
        ("z.pth", "a zip archive of photos"),
    ):
        with pytest.raises(WeightsMissing, match=kind):
            read_state(tmp_path / name)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_damaged(tmp_path, cut):
    path = saved(tmp_path, state())
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(WeightsMissing, match="damaged file"):
        read_state(path)


FOLDERS = {
    "tf_model.h5": "TensorFlow weights",
    "flax_model.msgpack": "Flax weights",
    "saved_model.pb": "a TensorFlow SavedModel",
    "zero_to_fp32.py": "a DeepSpeed checkpoint",
    "__0_0.distcp": "a distributed checkpoint",
    "model.onnx": "an ONNX graph",
    "notes.txt": "contains no weights\n  got  notes.txt",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_other_kinds_are_named(tmp_path, name):
    (tmp_path / name).write_text("1")
    with pytest.raises(WeightsMissing, match=FOLDERS[name]):
        read_state(tmp_path)


def shards(folder: Path) -> dict[str, str]:
    names = {}
    for number, (key, value) in enumerate(prefixed("model.").items()):
        names[key] = f"model-{number}.safetensors"
        save_file({key: value}, folder / names[key])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return names


def test_a_folder_with_an_index_is_read_from_its_parts(tmp_path):
    names = shards(tmp_path)
    check(tmp_path)
    first = tmp_path / next(iter(names.values()))
    content = first.read_bytes()
    first.unlink()
    with pytest.raises(WeightsMissing, match=f"not beside it\n  got  {first.name}"):
        read_state(tmp_path)
    first.write_bytes(content)
    outside = {"weight_map": names | {"x": "../w.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(outside))
    with pytest.raises(WeightsMissing, match=r"got  \.\./w.safetensors"):
        read_state(tmp_path)
    absent = {"weight_map": names | {"gone.weight": first.name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(absent))
    with pytest.raises(WeightsMissing, match="1 missing .gone.weight."):
        read_state(tmp_path)


def test_a_file_is_read_by_its_content_and_not_by_its_name(tmp_path):
    save_file(state(), tmp_path / "w.bin")
    check(tmp_path / "w.bin")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_cast(tmp_path, dtype):
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    net = network()
    load_exact(net, read_state(saved(tmp_path, cast)), where="w")
    torch.testing.assert_close(net.encoder.weight, state()["encoder.weight"], atol=5e-3, rtol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_networks_are_named(tmp_path):
    quantized = torch.quantize_per_tensor(torch.rand(4, 4), 0.1, 0, torch.qint8)
    for content in (
        {"a.weight": quantized, "b.bias": torch.ones(2)},
        {"a.weight": torch.ones(2, 2, dtype=torch.int8), "a.SCB": torch.ones(2)},
    ):
        with pytest.raises(WeightsMissing, match="a quantized network"):
            read_state(saved(tmp_path, content))


def test_a_message_of_another_library_has_no_control_characters(tmp_path):
    stream = io.BytesIO()
    pickle.dump({"a\x1b[31m\x00": 1}, stream)
    (tmp_path / "w.pth").write_bytes(stream.getvalue())
    (tmp_path / "w.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{\x1b[3}")
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(WeightsMissing) as error:
            read_state(tmp_path / name)
        assert all(c.isprintable() or c == "\n" for c in str(error.value))


def test_the_group_with_the_most_names_is_reported_where_none_fits():
    given = {"model.encoder.weight": torch.ones(1), "model.norm.bias": torch.ones(1)}
    group = fitting(given, network().state_dict(), "w")
    assert set(group) == {"encoder.weight", "norm.bias"}
    assert fitting({"x": torch.ones(1)}, network().state_dict(), "w") == {"x": torch.ones(1)}


@pytest.mark.parametrize("name", ["weights.pt", "model.safetensors"])
def test_weights_that_are_not_numbers_are_refused(name, tmp_path):
    """Before, a training started with them and failed in its first step."""
    state = {"mask": torch.tensor([-torch.inf]), "head.weight": torch.ones(2)}
    save = save_file if name.endswith("safetensors") else torch.save
    save(state, tmp_path / name)
    assert len(read_state(tmp_path / name)) == 2
    state["head.weight"][0] = torch.nan
    save(state, tmp_path / name)
    with pytest.raises(WeightsMissing, match=r"(?s)not numbers.*1 of its tensors \(head.weight\)"):
        read_state(tmp_path / name)
