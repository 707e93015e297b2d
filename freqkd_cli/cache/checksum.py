"""Check the files of a cache against its index."""

from __future__ import annotations

from pathlib import Path

from freqkd_cli.errors import CacheDamaged
from freqkd_cli.runtime.files import sha256

AGAIN = "rerun its `freqkd teacher-dump` command with --resume: only damaged shards are made again"
AGAIN_WHOLE = "rerun its `freqkd teacher-dump` command with --overwrite"


def checked_path(folder: Path, name: str, size: int) -> Path:
    """Return the path of a shard that is a plain file of ``size`` bytes inside ``folder``.

    Raises:
        CacheDamaged: it is missing, a symbolic link, outside the folder, or has another size.
    """
    path = folder / name
    if Path(name).name != name or path.is_symlink():
        raise CacheDamaged(
            "a shard is outside its cache", got=name, need=f"a plain file in {folder}"
        )
    if not path.is_file():
        raise CacheDamaged("a shard of the cache is missing", need=path, tip=AGAIN)
    if path.stat().st_size != size:
        raise CacheDamaged(
            f"the size of the shard {path} does not match the index",
            got=f"{path.stat().st_size} bytes",
            need=f"{size} bytes",
            tip=AGAIN,
        )
    return path


def check_file(folder: Path, name: str, size: int, checksum: str) -> None:
    """Check the path and size of a shard as :func:`checked_path` does, and its SHA-256.

    Raises:
        CacheDamaged: the file differs from the one that was written.
    """
    path = checked_path(folder, name, size)
    if sha256(path) != checksum:
        raise CacheDamaged(f"{path} does not match its checksum", tip=AGAIN)
