"""The fingerprint of a cache: the fields that decide its numbers, and their comparison.

A cache is refused here, in :meth:`Fingerprint.require`. The fields that a recipe needs come from
``teacher/recipe_cache.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.errors import CacheMismatch
from freqkd_cli.runtime.files import sha256
from freqkd_cli.runtime.leaves import leaves

if TYPE_CHECKING:  # `cache info` reads fingerprints without torch
    from torch import nn

    from freqkd_cli.views.view import ViewSpec

LIBRARIES = (
    *("torch", "torchvision", "transformers", "segmentation-models-pytorch", "numpy", "pillow"),
)

# The origin of a model's weights does not matter, because their hash is compared.
_WEIGHT_SOURCES = frozenset({"weights", "encoder_weights"})

_NOT_COMPARED = "teacher.license"
"""It says how the weights may be used; their hash is compared."""

_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """One field in which two fingerprints differ, by its dotted name; None where it is missing."""

    field: str
    cached: Any
    wanted: Any

    def line(self, place: str = "wanted") -> str:
        """Return the difference as one line of a message."""
        return f"{self.field}: cached {_short(self.cached)}, {place} {_short(self.wanted)}"


@dataclass(frozen=True)
class Fingerprint:
    """The fields that decide a cache's numbers, as a tree of JSON values.

    A cache may contain more than a recipe needs: more taps, more targets, more images, a pool.
    Every other difference refuses the cache, but library versions only warn.
    """

    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        # Tuples become lists, as after reading from a file.
        object.__setattr__(self, "fields", json.loads(json.dumps(dict(self.fields))))

    @property
    def content(self) -> str:
        return str(self.fields.get("content"))

    @property
    def storage(self) -> str:
        return str(self.fields.get("storage"))

    def differences(self, wanted: Fingerprint) -> list[Difference]:
        """Return the fields in which this cache cannot serve ``wanted``, without versions."""
        return [
            difference
            for difference in self._compare(wanted)
            if not difference.field.startswith("versions.")
        ]

    def warnings(self, wanted: Fingerprint) -> list[str]:
        """Return one line for each library version that differs."""
        return [
            difference.line("here")
            for difference in self._compare(wanted)
            if difference.field.startswith("versions.")
        ]

    def _compare(self, wanted: Fingerprint) -> Iterator[Difference]:
        cached_fields, wanted_fields = dict(leaves(self.fields)), dict(leaves(wanted.fields))
        stored = self.fields.get("targets", {})
        for id, loss in wanted.fields.get("targets", {}).items():
            if stored and id not in stored:  # one line for a loss, and not one for each argument
                own = f"targets.{id}."
                wanted_fields = {k: x for k, x in wanted_fields.items() if not k.startswith(own)}
                yield Difference(f"targets.{id}", None, loss.get("name"))
        for field in dict.fromkeys([*wanted_fields, *cached_fields]):
            cached = cached_fields.get(field, _MISSING)
            need = wanted_fields.get(field, _MISSING)
            if field == _NOT_COMPARED or cached == need:
                continue
            if not _serves(field, cached, need, wanted.fields):
                yield Difference(field, *(None if x is _MISSING else x for x in (cached, need)))

    def require(self, wanted: Fingerprint, *, where: Path, command: str) -> list[str]:
        """Check that this cache serves ``wanted``; return warnings.

        Args:
            command: the command that makes the right cache, for the message.

        Raises:
            CacheMismatch: names every field that differs.
        """
        differences = self.differences(wanted)
        if differences:
            lines = (f"  {difference.line()}" for difference in differences)
            raise CacheMismatch(
                "\n".join([f"the cache {where} does not fit: these fields differ:", *lines]),
                tip=command,
            )
        return self.warnings(wanted)


def _serves(field: str, cached: Any, need: Any, wanted: Mapping[str, Any]) -> bool:
    """Return whether the cache only has more in this field than is needed."""
    if field == "taps" and isinstance(cached, list) and isinstance(need, list):
        return set(need) <= set(cached)
    if field.startswith("pool.") and "pool" not in wanted:
        return True  # its images come after those of the data
    if field.startswith("class_map.") and "logits" not in wanted.get("taps", ()):
        return True  # only class scores are mapped
    if field in ("images", "views.stored") and isinstance(cached, int) and isinstance(need, int):
        return need <= cached  # view v of an image does not depend on the number of views
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
    """Return the versions of the libraries that a teacher's numbers may depend on."""
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of names, shapes, dtypes and bytes of the model's state, by name."""
    from torch import uint8

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(flat.view(uint8).numpy().data)
    return digest.hexdigest()


def teacher_identity(model: nn.Module, *, name: str, dtype: str) -> dict[str, Any]:
    """Return architecture, arguments, normalization, weight hash and licence note of a teacher.

    Call it before the weights are cast to ``dtype``. The licence note is only there where the model
    has one.
    """
    arguments = _without_sources(getattr(model, "recipe_arguments", {}))
    normalization = {
        name: getattr(model, name).detach().float().flatten().tolist()
        for name in ("mean", "std")
        if hasattr(model, name)
    }
    terms = getattr(model, "license", None)
    return {
        "name": name,
        "arguments": arguments,
        "weights_sha256": weights_sha256(model),
        **normalization,
        "dtype": dtype,
        **({"license": terms.name} if terms else {}),
    }


def _without_sources(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model, and of an ensemble's members, that name no weights."""
    kept = {key: value for key, value in arguments.items() if key not in _WEIGHT_SOURCES}
    if "members" in kept:
        kept["members"] = [_without_sources(member) for member in kept["members"]]
    return kept


def views_identity(spec: ViewSpec, *, view_seed: int, stored: int) -> dict[str, Any]:
    """Return the stored views: ``stored`` per image, or the view ``whole`` where it is 0."""
    if stored == 0:
        return {"kind": "whole", "teacher_sees": spec.teacher_sees}
    fields = asdict(spec)
    if spec.teacher_sees == "clean":  # colors never reach the teacher, nor move the geometry
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
    """Return what shapes the targets of one loss.

    Args:
        file_arguments: names of the arguments that are files; they count by their bytes.
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
    """Return the hash of a file's bytes, or its name where there is no such file."""
    if file is None or not Path(file).is_file():
        return None if file is None else str(file)
    return f"sha256:{sha256(Path(file))}"
