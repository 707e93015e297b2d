"""Files that hold no tensors of torch: what they are, and how to convert them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from freqkd_cli.errors import WeightsMissing

_OWN_TRUST = "run this only on a file that you trust"
_ORIGINAL = "use the checkpoint that it was made from, or save that one's state_dict()"
_FROM_NUMPY = (
    'python -c "import numpy, torch; torch.save({{k: torch.from_numpy(v) for k, v in '
    "numpy.load({file!r}).items()}}, {out!r})\", and then --set 'weights={out}'"
)
_UNPACK = "unpack it, and name the file or folder inside"


_TEXT = frozenset((*range(32, 127), *b"\t\r\n"))


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what it is, in words.
        tip: how to make weights of it; ``{file}`` and ``{out}`` stand for paths.
        suffixes: endings of its name.
        start: its first bytes, after ``at`` others; any of these.
    """

    name: str
    tip: str = _ORIGINAL
    suffixes: tuple[str, ...] = ()
    start: tuple[bytes, ...] = ()
    at: int = 0

    def fits(self, path: Path, head: bytes) -> bool:
        by_name = path.name.lower().endswith(self.suffixes) if self.suffixes else False
        text = head[self.at :].lstrip().lower() if not self.at else head[self.at :]
        return by_name or any(text.startswith(start) for start in self.start)


_TENSORFLOW = (
    "convert it with transformers before version 5 and tensorflow installed: python -c "
    '"from transformers import SegformerForSemanticSegmentation as S; '
    'S.from_pretrained({folder!r}, from_tf=True).save_pretrained({out!r})"'
)
_FLAX = _TENSORFLOW.replace("tensorflow", "flax").replace("from_tf", "from_flax")

_BY_CONTENT = (
    Kind(
        "a pointer of Git LFS, not the file itself",
        "git lfs pull, or download the file from its page",
        start=(b"version https://git-lfs",),
    ),
    Kind(
        "a web page, saved in place of the file",
        "download the file itself",
        start=(b"<!doctype html", b"<html", b"<head", b"<?xml"),
    ),
    Kind("a Keras or TensorFlow file (HDF5)", _TENSORFLOW, start=(b"\x89hdf",)),
    Kind("a TensorFlow Lite graph", start=(b"TFL3",), at=4),
    Kind("a GGUF file with quantized tensors", start=(b"gguf",)),
    Kind("a NumPy array", start=(b"\x93numpy",)),
    Kind("a compressed file", _UNPACK, start=(b"\x1f\x8b", b"bzh", b"7z\xbc\xaf", b"rar!")),
    Kind("a tar archive", _UNPACK, start=(b"ustar",), at=257),
)
_BY_NAME = (
    Kind("an ONNX graph", suffixes=(".onnx",)),
    Kind("a Keras file", _TENSORFLOW, suffixes=(".keras", ".h5", ".hdf5")),
    Kind("a TensorFlow graph", suffixes=(".pb", ".tflite")),
    Kind("a Flax file", _FLAX, suffixes=(".msgpack",)),
    Kind("a NumPy archive", _FROM_NUMPY, suffixes=(".npz", ".npy")),
    Kind("a TensorRT engine", suffixes=(".engine", ".trt", ".plan")),
    Kind("a Core ML model", suffixes=(".mlmodel", ".mlpackage")),
    Kind("an exported program of torch", suffixes=(".pt2", ".pte")),
    Kind("a text file", suffixes=(".json", ".yaml", ".yml", ".txt", ".md", ".py", ".csv")),
)


def refuse_foreign_file(path: Path) -> None:
    """Refuse a file that is known to hold no tensors of torch.

    Raises:
        WeightsMissing: says what it is and how to convert it.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip(b"\0"):
        what = "an empty file" if not head else "a file of zeros, as an interrupted copy leaves it"
        raise _refused(path, Kind(what, "copy or download it again"))
    for kind in (*_BY_CONTENT, *_BY_NAME):
        if kind.fits(path, head):
            raise _refused(path, kind)
    if all(byte in _TEXT for byte in head):
        raise _refused(path, _BY_NAME[-1])
    if zipfile.is_zipfile(path):
        _refuse_archive(path)


def _refuse_archive(path: Path) -> None:
    """Refuse zip files other than those of ``torch.save``."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):  # reading it as a pickle reports the damage
        return
    if any(name.endswith("/constants.pkl") for name in names):
        loaded = "torch.jit.load({file!r}, map_location='cpu').state_dict()"
        raise _by_code(path, "a TorchScript program", loaded)
    if any(name.endswith(".npy") for name in names):
        raise _refused(path, Kind("a NumPy archive", _FROM_NUMPY))
    if any(name.endswith((".onnx", "/archive_format")) for name in names):
        raise _refused(path, Kind("an exported program"))
    if not any(name.endswith("data.pkl") for name in names):
        raise _refused(path, Kind(f"a zip archive of {', '.join(names[:3])}", _UNPACK))


def _refused(path: Path, kind: Kind) -> WeightsMissing:
    ending = "" if "save_pretrained" in kind.tip else ".pth"
    out = str(path.with_name(f"{path.stem}-torch{ending}"))
    tip = kind.tip.format(file=str(path), folder=str(path.parent), out=out)
    return WeightsMissing(
        f"{path} cannot be read as plain tensors",
        got=kind.name,
        need="a .safetensors file, or a state_dict() that torch.save wrote",
        tip=tip,
    )


def _by_code(path: Path, name: str, loaded: str) -> WeightsMissing:
    """Return the error for a file that code must convert; ``loaded`` is what is then saved."""
    code = f'python -c "import torch, pickle; torch.save({loaded}, {{out!r}})"'
    loads = {
        "TORCH": "torch.load({file!r}, map_location='cpu', weights_only=False)",
        "PICKLE": "pickle.load(open({file!r}, 'rb'))",
    }
    for word, load in loads.items():
        code = code.replace(word, load)
    where = " where its packages are installed; " + _OWN_TRUST
    return _refused(path, Kind(name, f"{code}, and then --set 'weights={{out}}',{where}"))


def refuse_module(
    path: Path, class_name: str, entry: str = "", *, entries_listed: bool = True
) -> WeightsMissing:
    """Return the error for a pickle that holds a whole module instead of its tensors.

    Args:
        entry: key of the module in the file; empty where the file is the module itself.
        entries_listed: without it, the module may be the file or any entry.
    """
    module = f"TORCH[{entry!r}]" if entry else "TORCH"
    if not entries_listed:
        entries = "for s in [TORCH] for x in (s.values() if isinstance(s, dict) else [s])"
        module = f"next(x {entries} if hasattr(x, 'state_dict'))"
    name = f"a whole pickled module, {class_name}: it is code, which is never run"
    return _by_code(path, name, f"{module}.state_dict()")


def refuse_protocol(path: Path, protocol: int, by_torch: bool) -> WeightsMissing:
    """Return the error for a pickle of a newer protocol, or that torch.save did not write."""
    arrays = "{{k: torch.as_tensor(v) for k, v in PICKLE.items() if hasattr(v, 'shape')}}"
    return _by_code(path, f"a pickle of protocol {protocol}", "TORCH" if by_torch else arrays)


def refuse_arrays(path: Path, entry: str) -> WeightsMissing:
    """Return the error for a table of numpy's arrays; ``entry`` is its path in the file."""
    part = "".join(f"[{key!r}]" for key in entry.split(".") if key)
    arrays = f"TORCH{part}.items() if hasattr(v, 'shape')"
    return _by_code(path, "arrays of numpy", f"{{{{k: torch.as_tensor(v) for k, v in {arrays}}}}}")


def refuse_adapter(path: Path, key: str) -> WeightsMissing:
    """Return the error for tensors of a network with a LoRA adapter that is not merged."""
    return _refused(
        path,
        Kind(
            f"a network with an adapter on it (LoRA: {key})",
            "merge it where the model was trained with peft: model.merge_and_unload(), then save "
            "its state_dict()",
        ),
    )


def refuse_quantized(path: Path, sign: str) -> WeightsMissing:
    """Return the error for tensors of a quantized network."""
    tip = "use the checkpoint from before the quantization; freqkd export writes small files"
    return _refused(path, Kind(f"a quantized network ({sign})", tip))
