"""The folder of a cache: whether a dump may write to it, and what it may remove there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from freqkd_cli.cache.data_files import FILES
from freqkd_cli.cache.index_file import INDEX, JOURNAL
from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.runtime.files import SUFFIX
from freqkd_cli.runtime.lock import LOCK, WriteLock

Mode = Literal["new", "resume", "overwrite"]

_SHARD = re.compile(r"shard-\d{5,8}\.safetensors(\.part)?")


def check_folder(folder: Path, mode: Mode) -> None:
    """Check that a writer may start in ``folder``, before anything costly is done.

    Raises:
        UsageError: it is not empty, contains other files, or another process writes to it.
    """
    with disk_errors(folder):
        if (folder / LOCK).is_file():
            # The message about a running writer is the more useful one.
            WriteLock(folder, f"the cache {folder}").release()
        refuse_other_content(folder, mode)


_DUMP_TIP = (
    "--resume to complete it, --overwrite to replace it, --verify N to check it, or another --out"
)


def refuse_other_content(folder: Path, mode: Mode, tip: str = _DUMP_TIP) -> None:
    """Refuse a folder with other files in it, and in mode ``new`` also one with a cache.

    Args:
        tip: what can be done with a cache.

    Raises:
        UsageError: it contains such files.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file", need="a folder", tip="give another --out")
    names = [path.name for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []
    known = [name for name in names if name in (INDEX, JOURNAL) or name.startswith("shard-")]
    if names and not known:
        raise UsageError(
            f"--out {folder} contains files that teacher-dump did not write",
            got=", ".join(sorted(names)[:5]),
            tip="give another --out",
        )
    if known and mode == "new":
        state = "a finished cache" if INDEX in known else "an unfinished cache"
        raise UsageError(
            f"--out {folder} is not empty: it contains {state}",
            tip=tip,
        )


def remove_dump(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of a dump but those named in ``keep``. Links are removed, never followed.

    The index goes first, so that a kill leaves no finished cache without its shards.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name != INDEX):
        name = path.name.removesuffix(SUFFIX)
        shard = name.startswith("shard-") and name.endswith(".safetensors")
        if (shard or name in (INDEX, JOURNAL, FILES)) and path.name not in keep:
            path.unlink()


def shard_files(folder: Path) -> list[Path]:
    """Return the shards in a folder by number, finished or not, listed in its index or not."""
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


RESUME_TIP = "fix this, then rerun the same command with --resume: finished shards are kept"


@contextlib.contextmanager
def disk_errors(folder: Path, tip: str = RESUME_TIP) -> Iterator[None]:
    """Turn an error of the disk into one message.

    Raises:
        FreqKDError: the disk is full, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        raise FreqKDError(
            f"the cache {folder} cannot be written: {error.strerror or error}",
            tip=tip,
        ) from error
