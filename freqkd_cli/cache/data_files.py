"""``files.json``: the hashes of the images and label images that a cache was made from.

The fingerprint has one hash over all files. This listing names the files that changed. A cache is
complete without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freqkd_cli.runtime.files import write_synced
from freqkd_cli.runtime.json_file import object_or_none

FILES = "files.json"

Listing = Mapping[str, Any]
"""``data`` and, where there is a pool, ``pool`` -> ``sha256`` of the fingerprint and ``files``:
name of an image -> hashes of the image and of its label image (None without one), in the order of
the images' numbers."""


def write_files(folder: Path, listing: Listing) -> None:
    """Write the listing of a cache."""
    text = json.dumps(listing, separators=(",", ":")) + "\n"
    write_synced(folder / FILES, lambda file: file.write(text.encode()))


def changed_files(folder: Path, fingerprint: Mapping[str, Any], now: Listing) -> list[str]:
    """Return the files that changed since a cache was made, each as a few words, in order of names.

    Empty where the cache lists no files, or where its listing belongs to other images.
    """
    changed: list[str] = []
    for before, after in _listings(folder, fingerprint, now):
        changed += _changed(before, after)
    return changed


def moved_image(
    folder: Path, fingerprint: Mapping[str, Any], now: Listing
) -> tuple[int, str, str] | None:
    """Return the first image that has another number than in a cache, of the same files.

    Returns:
        The number, the name in the cache and the name now; None where no order changed.
    """
    for before, after in _listings(folder, fingerprint, now):
        for number, (old, new) in enumerate(zip(before, after, strict=False)):
            if old != new:
                return number, old, new
    return None


def _listings(
    folder: Path, fingerprint: Mapping[str, Any], now: Listing
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the files that a cache lists and those of now, in the order of their numbers."""
    stored = object_or_none(folder / FILES) or {}
    for key in ("data", "pool"):
        before, after = stored.get(key), now.get(key)
        if not isinstance(before, dict) or after is None:
            continue
        if before.get("sha256") == (fingerprint.get(key) or {}).get("sha256"):
            yield before.get("files") or {}, after["files"]


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in sorted({*before, *after}):
        if name not in after:
            lines.append(f"{name} (missing)")
        elif name not in before:
            lines.append(f"{name} (new)")
        else:
            pairs = zip(("image", "label image"), before[name], after[name], strict=False)
            lines += [f"{name} ({kind})" for kind, old, new in pairs if old != new]
    return lines
