"""Files below the root of a data set; every folder is listed once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from freqkd_cli.datasets._folder_names import role

LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
"""Formats of masks that are preferred where a mask exists in two formats."""


class File(NamedTuple):
    """A file below a base folder.

    Attributes:
        base: the folder that was listed.
        folder: subfolder of ``base``, with ``/`` at its end, or the empty string.
        group: ``folder`` without parts that mean images or masks; equal for an image and its mask.
        stem, suffix: the two parts of the name.
    """

    base: Path
    folder: str
    group: str
    stem: str
    suffix: str

    @property
    def name(self) -> str:
        return self.stem + self.suffix

    @property
    def path(self) -> Path:
        return self.base / f"{self.folder}{self.name}"

    @property
    def title(self) -> str:
        """Its unique name below ``base``, without a suffix and without ``/``."""
        return f"{self.group}{self.stem}".replace("/", "__")


class Tree:
    """The folders and files below the root of a data set, without hidden ones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[Path, tuple[dict[str, None], list[str]]] = {}
        self._indexed: dict[tuple[Path, Any], dict[str, str | None]] = {}

    def files(self, folder: Path) -> dict[str, None]:
        """Return the names of the files in a folder, sorted; none where there is no folder.

        Broken links are included: reading them reports the error.
        """
        return self._list(folder)[0]

    def folders(self, folder: Path) -> list[str]:
        """Return the names of the subfolders of a folder, sorted."""
        return self._list(folder)[1]

    def has(self, path: Path) -> bool:
        """Return whether a file exists."""
        return path.name in self.files(path.parent)

    def indexed(
        self, folder: Path, form: Any, index: Callable[[Iterable[str], Any], dict[str, str | None]]
    ) -> dict[str, str | None]:
        """Return ``index(names of the files in a folder, form)``, made once."""
        if (folder, form) not in self._indexed:
            self._indexed[folder, form] = index(self.files(folder), form)
        return self._indexed[folder, form]

    def find(self, base: Path, suffixes: Sequence[str], *, masks: bool = False) -> list[File]:
        """Return the files of these suffixes below a folder, sorted by folder and name.

        Subfolders are read only if the folder itself has no such file.

        Args:
            masks: the files in subfolders whose names mean masks, instead of all others.
        """
        direct = [] if masks else self._files(base, "", suffixes)
        return direct or self._below(base, suffixes, masks)

    def passed_over(self, base: Path, suffixes: Sequence[str]) -> list[File]:
        """Return the files in subfolders that :meth:`find` leaves out."""
        files = self._below(base, suffixes, masks=False)
        return [file for file in files if file.folder] if any(not f.folder for f in files) else []

    def _below(self, base: Path, suffixes: Sequence[str], masks: bool) -> list[File]:
        files: list[File] = []
        seen: set[tuple[int, int]] = set()
        waiting = [("", False)]
        while waiting:
            folder, in_masks = waiting.pop(0)
            if in_masks == masks:
                files += self._files(base, folder, suffixes)
            for name in self.folders(base / folder):
                inner = f"{folder}{name}/"
                status = (base / inner).stat()
                if (status.st_dev, status.st_ino) not in seen:  # links may lead in a circle
                    seen.add((status.st_dev, status.st_ino))
                    waiting.append((inner, in_masks or role(name).kind == "mask"))
        return files

    def _files(self, base: Path, folder: str, suffixes: Sequence[str]) -> list[File]:
        group = "".join(f"{part}/" for part in folder.split("/") if part and not role(part).kind)
        files = []
        for name in self.files(base / folder):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes:
                files.append(File(base, folder, group, stem, suffix))
        return files

    def _list(self, folder: Path) -> tuple[dict[str, None], list[str]]:
        if folder not in self._listed:
            files, folders = [], []
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if not entry.name.startswith((".", "__MACOSX")):
                            (folders if entry.is_dir() else files).append(entry.name)
            self._listed[folder] = (dict.fromkeys(sorted(files)), sorted(folders))
        return self._listed[folder]
