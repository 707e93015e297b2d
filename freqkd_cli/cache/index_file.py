"""``index.json``, which describes a finished cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from freqkd_cli.cache.checksum import AGAIN_WHOLE
from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.cache.teacher_facts import TeacherFacts
from freqkd_cli.errors import CacheDamaged, Missing, UsageError
from freqkd_cli.recipe.value_problems import need_of
from freqkd_cli.runtime.files import write_synced

FORMAT, VERSION = "freqkd-cache", 2
"""Version 1 has no 8-bit numbers and all class scores; caches of that kind are still written so."""

INDEX, JOURNAL = "index.json", "journal.jsonl"
MAX_BYTES = 2**28
"""Largest index that is read. A shard takes about 500 bytes in it, and 10 for each of its items."""

Item = tuple[int, int]
"""(number of the image, number of the view); view -1 is the view ``whole``."""

Dtype = Literal["F16", "BF16", "F32", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL"]
Batches = tuple[tuple[Item, ...], ...]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=False, extra="ignore")


class StoredTensor(_Strict):
    """How the tensors of one name are stored.

    ``shape`` has no batch axis, and None where sizes differ between items. Complex numbers have a
    last axis of 2.
    """

    dtype: Dtype
    shape: tuple[Annotated[int, Field(ge=0, le=2**31)] | None, ...]
    complex: bool = False


class FingerprintFields(BaseModel):
    """The fields of a fingerprint that programs read; it may have more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    content: Literal["taps", "targets"]
    storage: Literal["float16", "bfloat16", "float32", "int8"]
    scores: Annotated[int, Field(gt=0)] | None = None
    teacher: dict[str, Any]
    taps: list[str]
    images: Annotated[int, Field(ge=0)]
    views: dict[str, Any]
    data: dict[str, Any]
    targets: dict[str, Any] = {}
    pool: dict[str, Any] = {}
    versions: dict[str, Any] = {}


class Shard(_Strict):
    """One finished shard; ``items`` are in the order in which they were stored."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5,8}\.safetensors$")]
    bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    items: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1)]], ...]
    tensors: dict[str, StoredTensor]


class Index(_Strict):
    """The content of ``index.json``, without its checksum."""

    format: Literal["freqkd-cache"]
    version: Literal[1, 2]
    fingerprint: FingerprintFields
    teacher: TeacherFacts | None = None
    tensors: dict[str, StoredTensor]
    shards: tuple[Shard, ...]

    @property
    def full_fingerprint(self) -> Fingerprint:
        return Fingerprint(self.fingerprint.model_dump(exclude_unset=True))


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def tensor_key(item: Item, name: str) -> str:
    """Return the name of one item's tensor in its shard."""
    return f"{item[0]}/{'whole' if item[1] < 0 else item[1]}/{name}"


def write_index(
    folder: Path,
    fingerprint: Fingerprint,
    shards: Sequence[Shard],
    teacher: TeacherFacts | None = None,
) -> None:
    """Write ``index.json``, the last file of a dump, which makes the cache a finished one."""
    descriptions = merge_descriptions(shards)
    body = {
        "format": FORMAT,
        "version": _version_of(fingerprint),
        "fingerprint": fingerprint.fields,
        **({"teacher": teacher.model_dump(mode="json")} if teacher else {}),
        "tensors": {name: tensor.model_dump() for name, tensor in descriptions.items()},
        "shards": [shard.model_dump() for shard in shards],
    }
    text = json.dumps({**body, "sha256": seal(body)}, separators=(",", ":")) + "\n"
    write_synced(folder / INDEX, lambda file: file.write(text.encode()))


def _version_of(fingerprint: Fingerprint) -> int:
    """Return the oldest version that can express a cache, so that older readers may read it."""
    return 2 if fingerprint.storage == "int8" or fingerprint.fields.get("scores") else 1


def merge_descriptions(shards: Sequence[Shard]) -> dict[str, StoredTensor]:
    """Return one description per tensor name for all shards.

    Raises:
        CacheDamaged: two shards disagree on a dtype or on the number of axes.
    """
    merged: dict[str, StoredTensor] = {}
    for shard in shards:
        for name, tensor in shard.tensors.items():
            before = merged.get(name, tensor)
            kinds = [(t.dtype, t.complex, len(t.shape)) for t in (before, tensor)]
            if kinds[0] != kinds[1]:
                raise CacheDamaged(
                    f"{shard.file} stores {name} in another form than the shards before it",
                    got=tensor,
                    need=before,
                )
            sizes = zip(before.shape, tensor.shape, strict=True)
            shape = tuple(a if a == b else None for a, b in sizes)
            merged[name] = before.model_copy(update={"shape": shape})
    return merged


def seal(body: dict[str, Any]) -> str:
    """Return the checksum of a JSON object."""
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def read_index(folder: Path) -> Index:
    """Return the index of a finished cache.

    Raises:
        Missing: there is no cache.
        UsageError: it is unfinished, or its format is newer.
        CacheDamaged: the index is not readable, was edited, or names an item twice.
    """
    path = folder / INDEX
    if not path.is_file():
        if (folder / JOURNAL).is_file():
            raise UsageError(
                f"the cache {folder} is unfinished",
                tip="rerun its `freqkd teacher-dump` command with --resume",
            )
        raise Missing(
            f"there is no cache in {folder}",
            need=f"a folder with {INDEX}",
            tip="freqkd teacher-dump RECIPE --out DIR makes one",
        )
    raw = _read_raw(path)
    version = raw.get("version") if isinstance(raw, dict) else None
    if version and raw.get("format") == FORMAT and isinstance(version, int) and version > VERSION:
        raise UsageError(
            f"the cache {folder} was made by a newer freqkd",
            got=f"version {version}",
            need=f"version {VERSION}",
        )
    try:
        index = Index.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place, got = ".".join(map(str, first["loc"])), str(first["input"])[:100]
        raise _damaged(path, place, got=got, need=need_of(first)) from error
    items = [item for shard in index.shards for item in shard.items]
    files = [shard.file for shard in index.shards]
    if len(set(items)) != len(items) or len(set(files)) != len(files):
        raise _damaged(path, "an item or a shard occurs twice")
    if raw.pop("sha256", None) != seal(raw):
        raise _damaged(path, "it was changed after it was written")
    return index


def _read_raw(path: Path) -> Any:
    """Return the JSON value of an index file."""
    if path.is_symlink():
        raise _damaged(path, "it is a symbolic link", need="a plain file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _damaged(path, "it is too large", got=f"{size} bytes", need=f"{MAX_BYTES}")
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, problem: str, **parts: Any) -> CacheDamaged:
    return CacheDamaged(f"{path} is not the index of a cache: {problem}", tip=AGAIN_WHOLE, **parts)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key occurs twice")
    return unique
