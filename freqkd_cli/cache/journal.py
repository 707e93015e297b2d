"""``journal.jsonl``, from which a killed dump is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli.cache.data_files import Listing
from freqkd_cli.cache.fingerprint import Difference, Fingerprint
from freqkd_cli.cache.index_file import JOURNAL, Batches, Item, Shard, seal
from freqkd_cli.cache.teacher_facts import TeacherFacts
from freqkd_cli.errors import CacheMismatch
from freqkd_cli.runtime.files import write_synced


@dataclass(frozen=True)
class CachePlan:
    """The content of a cache, decided before the first image is read.

    ``shards`` consist of batches of items, so a batch never crosses a shard. ``teacher`` and
    ``files`` describe where the numbers come from, and decide none.
    """

    fingerprint: Fingerprint
    shards: tuple[Batches, ...]
    teacher: TeacherFacts | None = None
    files: Listing | None = None

    def items(self, number: int) -> tuple[Item, ...]:
        """Return the items of one shard, in order."""
        return tuple(item for batch in self.shards[number] for item in batch)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the first line of the journal."""
        batches = [len(batch) for shard in self.shards for batch in shard]
        layout = {
            "batch_size": max(batches),
            "batches": len(batches),
            "items": sum(batches),
            "shards": len(self.shards),
        }
        return {
            **self.fingerprint.fields,
            "layout": {**layout, "items_in_first_shard": len(self.items(0))},
        }


class Journal:
    """One line for the plan, then one synced line for each finished shard."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def start(self, plan: dict[str, Any]) -> None:
        """Write a journal without shards."""
        line = json.dumps({"plan": plan}).encode() + b"\n"
        write_synced(self.path, lambda file: file.write(line))

    def add(self, number: int, shard: Shard) -> None:
        """Append one finished shard."""
        row = {"number": number, "shard": shard.model_dump(mode="json")}
        # Unbuffered, so that a line is one write and lines of several processes do not mix. The
        # line break comes first as well: a line cut short by a full disk must not swallow this one.
        with open(self.path, "ab", buffering=0, opener=_no_link) as file:
            file.write(b"\n" + json.dumps({**row, "sha256": seal(row)}).encode() + b"\n")
            os.fsync(file.fileno())

    def read(self) -> tuple[dict[str, Any] | None, dict[int, Shard]]:
        """Return the plan, or None, and the finished shards; damaged lines are skipped."""
        plan, shards = None, {}
        for row in self._rows():
            if isinstance(row.get("plan"), dict):
                plan = row["plan"]
            elif row.pop("sha256", None) == seal(row):
                shards[row["number"]] = Shard.model_validate(row["shard"])
        return plan, shards

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.path.is_symlink() or not self.path.is_file():
            return
        for line in self.path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def require_same_plan(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Refuse to resume a dump that was started with another plan.

    Raises:
        CacheMismatch: names every field that differs.
    """
    before, now = Fingerprint(old), Fingerprint(new)
    # In both directions: a dump of more taps writes another cache.
    reverse = (Difference(d.field, d.wanted, d.cached) for d in now.differences(before))
    differences = {d.field: d for d in (*before.differences(now), *reverse)}
    if differences:
        lines = (f"  {difference.line()}" for difference in differences.values())
        raise CacheMismatch(
            "\n".join([f"the cache {folder} was started with other settings:", *lines]),
            tip="use the settings it was started with, or --overwrite",
        )
