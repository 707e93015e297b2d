"""Files that freqkd wrote into an output folder: a listing protects all other files.

The listing is ``.freqkd.sha256`` in that folder, in the format of ``sha256sum``. A file is replaced
only if it is listed and its content still is what freqkd wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from freqkd_cli.errors import UsageError, some
from freqkd_cli.runtime.files import sha256, write_aside

LISTING = ".freqkd.sha256"


class WrittenFiles:
    """The files of freqkd in ``folder`` and its subfolders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: Path, body: Callable[[BinaryIO], Any]) -> None:
        """Write a file aside, list it, and give it its name; makes its folder.

        Raises:
            OSError: as :func:`freqkd_cli.runtime.files.write_aside`.
        """

        def write_and_list(file: BinaryIO) -> None:
            body(file)
            file.flush()
            self._list(path, sha256(Path(file.name)))

        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, write_and_list)

    def check(self, option: str, targets: Iterable[Path], overwrite: bool) -> None:
        """Refuse an output folder that is a file, or whose files must not be replaced.

        Raises:
            UsageError: the folder is a file, is not empty and ``overwrite`` is off, or some of
                ``targets`` are there and freqkd did not write them; links count as such.
        """
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{option} {folder} is a file", need="a folder", key=_key(option))
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        if not overwrite:
            raise UsageError(
                f"{option} {folder} is not empty",
                need="a new or an empty folder",
                tip="--overwrite replaces files that freqkd wrote, and no others",
                key=_key(option),
            )
        others = self.others(targets)
        if others:
            raise UsageError(
                f"{option} would replace files that freqkd did not write",
                got=some(others),
                need="another folder",
                tip="remove these files if you do not need them",
                key=_key(option),
            )

    def others(self, targets: Iterable[Path]) -> list[Path]:
        """Those of ``targets`` that are there, but not as freqkd wrote them."""
        listed = self._listed()
        return [path for path in targets if os.path.lexists(path) and not self._own(path, listed)]

    def _own(self, path: Path, listed: set[tuple[str, bytes]]) -> bool:
        if path.is_symlink() or not path.is_file():
            return False
        return (sha256(path), self._name(path)) in listed

    def _listed(self) -> set[tuple[str, bytes]]:
        """(hash, name) of every file that was ever written here."""
        try:
            lines = (self.folder / LISTING).read_bytes().splitlines()
        except OSError:
            return set()
        parts = (line.partition(b"  ") for line in lines)
        return {(digest.decode("ascii", "replace"), name) for digest, _, name in parts}

    def _list(self, path: Path, digest: str) -> None:
        line = digest.encode() + b"  " + self._name(path) + b"\n"
        with open(self.folder / LISTING, "ab") as listing:
            listing.write(line)

    def _name(self, path: Path) -> bytes:
        return os.fsencode(path.relative_to(self.folder))


def _key(option: str) -> str:
    return option.removeprefix("--")
