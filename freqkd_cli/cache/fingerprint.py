"""What a cache was made from, as plain JSON, compared field by field."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from freqkd_cli.errors import CacheMismatch
from freqkd_cli.views.view import ViewSpec

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "segmentation-models-pytorch",
    "numpy",
    "pillow",
)

# Where a model's weights came from does not matter: their hash does.
_PLACES = frozenset({"weights", "encoder_weights"})


@dataclass(frozen=True)
class Fingerprint:
    """The fields that decide a cache's numbers.

    ``fields`` is a tree of JSON values. Compared strictly, but a cache may hold more than is wanted: further taps, further loss targets,
    further images. ``versions`` only warn.
    """

    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "fields", json.loads(json.dumps(dict(self.fields)))
        )  # tuples become lists, as after reading

    @property
    def content(self) -> str:
        return str(self.fields.get("content"))

    @property
    def storage(self) -> str:
        return str(self.fields.get("storage"))

    def differences(self, wanted: Fingerprint) -> list[str]:
        """One line for each field in which this cache cannot serve ``wanted``: the field, cached and wanted value."""
        return [
            f"{field}: cached {_short(cached)}, wanted {_short(want)}"
            for field, cached, want in self._compare(wanted)
            if not field.startswith("versions.")
        ]

    def warnings(self, wanted: Fingerprint) -> list[str]:
        """The same for fields that do not forbid the use: library versions."""
        return [
            f"{field}: cached {_short(cached)}, here {_short(want)}"
            for field, cached, want in self._compare(wanted)
            if field.startswith("versions.")
        ]

    def _compare(self, wanted: Fingerprint) -> Iterator[tuple[str, Any, Any]]:
        mine, theirs = dict(_leaves(self.fields)), dict(_leaves(wanted.fields))
        for field in dict.fromkeys([*theirs, *mine]):
            cached, want = mine.get(field), theirs.get(field)
            if not (cached == want and (field in mine) == (field in theirs)) and not _serves(
                field, cached, want, wanted.fields
            ):
                yield field, cached, want

    def require(self, wanted: Fingerprint, *, where: Path, command: str) -> list[str]:
        """Check that this cache fits; gives the warnings.

        Args:
            command: the command that makes the right cache, for the message.

        Raises:
            CacheMismatch: with every field that differs.
        """
        wrong = self.differences(wanted)
        if wrong:
            raise CacheMismatch(
                "\n".join(
                    [
                        f"the cache {where} was made for something else; these fields differ:",
                        *(f"  {line}" for line in wrong),
                    ]
                ),
                tip=command,
            )
        return self.warnings(wanted)


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _serves(field: str, cached: Any, want: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether a cache may have more in this field than is wanted."""
    if field == "taps" and isinstance(cached, list) and isinstance(want, list):
        return all(tap in cached for tap in want)
    if field == "images" and isinstance(cached, int) and isinstance(want, int):
        return want <= cached
    parts = field.split(".")
    return (
        parts[0] == "targets"
        and len(parts) > 1
        and not any(field.startswith(f"targets.{id}.") for id in wanted.get("targets", {}))
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def versions() -> dict[str, str]:
    """Versions of the libraries that a teacher's numbers may depend on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of the model's state, in the order of the names."""
    from torch import uint8

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(flat.view(uint8).numpy().data)
    return digest.hexdigest()


def teacher_identity(model: nn.Module, *, name: str, dtype: str) -> dict[str, Any]:
    """Architecture, arguments, preprocessing and the hash of the weights. Call it before the weights are cast to ``dtype``."""
    arguments = {
        key: value
        for key, value in dict(getattr(model, "recipe_arguments", {})).items()
        if key not in _PLACES
    }
    preprocessing = {
        name: getattr(model, name).detach().float().flatten().tolist()
        for name in ("mean", "std")
        if hasattr(model, name)
    }
    return {
        "name": name,
        "arguments": arguments,
        "weights_sha256": weights_sha256(model),
        **preprocessing,
        "dtype": dtype,
    }


def views_identity(spec: ViewSpec, *, view_seed: int, stored: int) -> dict[str, Any]:
    """The stored views: K of them for each image, or ``stored`` = 0 for the view ``whole`` alone."""
    if stored == 0:
        return {"kind": "whole", "teacher_sees": spec.teacher_sees}
    fields = asdict(spec)
    if spec.teacher_sees == "clean":  # these never reach the teacher, and do not move the geometry
        fields.pop("color")
        fields.pop("blur")
    return {"kind": "drawn", "stored": stored, "view_seed": view_seed, **fields}


def loss_identity(
    name: str,
    arguments: Mapping[str, Any],
    target_arguments: Sequence[str],
    taps: Sequence[str],
    grids: Mapping[str, tuple[int, int]],
    file_arguments: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what shapes one loss's targets.

    Args:
        file_arguments: names of the arguments that are files; the file's bytes stand for them.
    """
    kept = {
        key: _content(arguments[key]) if key in file_arguments else arguments[key]
        for key in target_arguments
        if key in arguments
    }
    return {
        "name": name,
        "arguments": kept,
        "taps": list(taps),
        "grids": {tap: list(grid) for tap, grid in sorted(grids.items())},
    }


def _content(file: str | Path | None) -> str | None:
    """Return the hash of a file's bytes; the name itself where there is no such file."""
    if file is None or not Path(file).is_file():
        return None if file is None else str(file)
    return f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()}"


def dump_command(
    recipe: str,
    out: str,
    *,
    sets: Sequence[str] = (),
    options: Mapping[str, str] = MappingProxyType({}),
    content: str = "taps",
    dtype: str = "fp16",
    split: str = "train",
) -> str:
    """The ``freqkd teacher-dump`` line that makes a cache, ready to be pasted; ``options`` are further ones by name."""
    words = ["freqkd", "teacher-dump", recipe, "--out", out]
    for assignment in sets:
        words += ["--set", assignment]
    for option, value in options.items():
        words += [option, value]
    for option, value, default in (
        ("--content", content, "taps"),
        ("--dtype", dtype, "fp16"),
        ("--split", split, "train"),
    ):
        if value != default:
            words += [option, value]
    return shlex.join(words)
