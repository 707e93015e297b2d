"""What is written beside a cache's shards: ``index.json`` of a finished cache, ``journal.jsonl`` of one in the making."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from freqkd_cli.cache.fingerprint import Fingerprint
from freqkd_cli.errors import CacheDamaged, CacheMismatch, UsageError
from freqkd_cli.runtime.files import write_synced

FORMAT, VERSION = "freqkd-cache", 1
INDEX, JOURNAL = "index.json", "journal.jsonl"
MAX_BYTES = 2**28
"""Of an index; a shard takes about 500 bytes in it, and 10 for each of its items."""

Item = tuple[int, int]
"""(index of the image, number of the view); view -1 is the view ``whole``."""

Dtype = Literal["F16", "BF16", "F32", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL"]
Batches = tuple[tuple[Item, ...], ...]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=False, extra="ignore")


class StoredTensor(_Strict):
    """How one name is stored: shape without the batch, None where it differs between items; complex numbers have a last axis of 2."""

    dtype: Dtype
    shape: tuple[Annotated[int, Field(ge=0, le=2**31)] | None, ...]
    complex: bool = False


class Made(BaseModel):
    """The fields of a fingerprint that programs read; it may say more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    content: Literal["taps", "targets"]
    storage: Literal["float16", "bfloat16", "float32"]
    teacher: dict[str, Any]
    taps: list[str]
    images: Annotated[int, Field(ge=0)]
    views: dict[str, Any]
    data: dict[str, Any]
    targets: dict[str, Any] = {}
    versions: dict[str, Any] = {}


class Shard(_Strict):
    """One finished shard and the items in it, in order."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5,8}\.safetensors$")]
    bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    items: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=-1)]], ...]
    tensors: dict[str, StoredTensor]


class Index(_Strict):
    """The whole of ``index.json``, without its own checksum."""

    format: Literal["freqkd-cache"]
    version: Literal[1]
    fingerprint: Made
    tensors: dict[str, StoredTensor]
    shards: tuple[Shard, ...]

    @property
    def made_from(self) -> Fingerprint:
        return Fingerprint(self.fingerprint.model_dump(exclude_unset=True))


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def key(item: Item, name: str) -> str:
    """The name of one item's tensor in its shard."""
    return f"{item[0]}/{'whole' if item[1] < 0 else item[1]}/{name}"


def write_index(folder: Path, fingerprint: Fingerprint, shards: Sequence[Shard]) -> None:
    """The last file of a dump: with it the cache is finished."""
    body = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint.fields,
        "tensors": {name: tensor.model_dump() for name, tensor in merged(shards).items()},
        "shards": [shard.model_dump() for shard in shards],
    }
    text = json.dumps({**body, "sha256": _seal(body)}, separators=(",", ":")) + "\n"
    write_synced(folder / INDEX, lambda file: file.write(text.encode()))


def merged(shards: Sequence[Shard]) -> dict[str, StoredTensor]:
    """One description per name for all shards.

    Raises:
        CacheDamaged: two shards disagree on a dtype or on the number of axes.
    """
    found: dict[str, StoredTensor] = {}
    for shard in shards:
        for name, tensor in shard.tensors.items():
            before = found.get(name, tensor)
            if (before.dtype, before.complex, len(before.shape)) != (
                tensor.dtype,
                tensor.complex,
                len(tensor.shape),
            ):
                raise CacheDamaged(
                    f"{shard.file} stores {name} otherwise than the shards before",
                    got=tensor,
                    need=before,
                )
            shape = tuple(
                a if a == b else None for a, b in zip(before.shape, tensor.shape, strict=True)
            )
            found[name] = before.model_copy(update={"shape": shape})
    return found


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def read_index(folder: Path) -> Index:
    """The index of a finished cache.

    Raises:
        UsageError: there is no cache, or it is unfinished.
        CacheDamaged: the index is no index, was edited, or names the same item twice.
    """
    path = folder / INDEX
    if not path.is_file():
        if (folder / JOURNAL).is_file():
            raise UsageError(
                f"the cache {folder} is unfinished",
                tip="run its `freqkd teacher-dump` command again with --resume",
            )
        raise UsageError(
            f"there is no cache in {folder}",
            need=f"a folder with {INDEX}",
            tip="make one with `freqkd teacher-dump`",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CacheDamaged(
                f"{path} is too large for the index of a cache",
                got=f"{path.stat().st_size} bytes",
                need=f"{MAX_BYTES}",
            )
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
        if (
            isinstance(raw, dict)
            and raw.get("format") == FORMAT
            and isinstance(raw.get("version"), int)
            and raw["version"] > VERSION
        ):
            raise UsageError(
                f"the cache {folder} was made by a newer freqkd",
                got=f"version {raw['version']}",
                need=f"version {VERSION}",
            )
        index = Index.model_validate(raw)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CacheDamaged(
            f"{path} is not the index of a cache: {place}: {first['msg']}",
            got=str(first["input"])[:100],
        ) from error
    except (ValueError, RecursionError) as error:
        raise CacheDamaged(f"{path} is not the index of a cache: {error}") from error
    items = [item for shard in index.shards for item in shard.items]
    if len(set(items)) != len(items) or len({shard.file for shard in index.shards}) != len(
        index.shards
    ):
        raise CacheDamaged(f"{path} names an item or a shard twice")
    if raw.pop("sha256", None) != _seal(raw):
        raise CacheDamaged(
            f"{path} was changed after it was written", tip="make the cache again with --overwrite"
        )
    return index


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is written twice")
    return found


class Journal:
    """One line for the plan, then one for each finished shard, synced; what a killed dump is taken up from."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def start(self, plan: dict[str, Any]) -> None:
        write_synced(
            self.path, lambda file: file.write(json.dumps({"plan": plan}).encode() + b"\n")
        )

    def add(self, number: int, shard: Shard) -> None:
        # Unbuffered, so that a line is one write and those of several processes cannot mix.
        with open(self.path, "ab", buffering=0) as file:
            # The line break comes first as well: a line that a full disk cut short must not swallow this one.
            row = {"number": number, "shard": shard.model_dump(mode="json")}
            file.write(b"\n" + json.dumps({**row, "sha256": _seal(row)}).encode() + b"\n")
            os.fsync(file.fileno())

    def read(self) -> tuple[dict[str, Any] | None, dict[int, Shard]]:
        """The plan (None where there is none) and the shards written so far; lines cut short or changed are passed over."""
        plan, shards = None, {}
        for row in self._rows():
            if isinstance(row.get("plan"), dict):
                plan = row["plan"]
            elif row.pop("sha256", None) == _seal(row):
                shards[row["number"]] = Shard.model_validate(row["shard"])
        return plan, shards

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def same_plan(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a dump that was started with another plan.

    Raises:
        CacheMismatch: with every field that differs.
    """
    before, now = Fingerprint(old), Fingerprint(new)
    # In both directions: a started cache with more taps would be another cache.
    wrong = dict.fromkeys(
        [*before.differences(now), *(_turned(line) for line in now.differences(before))]
    )
    if wrong:
        raise CacheMismatch(
            "\n".join(
                [
                    f"the unfinished cache {folder} was started with other settings:",
                    *(f"  {line}" for line in wrong),
                ]
            ),
            tip="give the settings it was started with, or --overwrite to begin again",
        )


def _turned(line: str) -> str:
    field, _, rest = line.partition(": cached ")
    cached, _, wanted = rest.rpartition(", wanted ")
    return f"{field}: cached {wanted}, wanted {cached}"
