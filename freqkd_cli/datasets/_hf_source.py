"""Open a Hugging Face data set: a folder of ``save_to_disk``, parquet files, or a hub id.

No code of a data set is run: versions of the library from 4.0 on cannot run any.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from freqkd_cli.datasets._folder_split import check_share
from freqkd_cli.errors import DataBroken, DataMissing, UsageError, WeightsMissing, quoted, some
from freqkd_cli.images.dataset import SPLITS, Split
from freqkd_cli.images.pairs import ROOT_TIP
from freqkd_cli.weights.hub import hub_file, quiet_hub

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

LAYOUT = (
    "a folder that save_to_disk of Hugging Face datasets wrote, or parquet files; "
    "or a data set of the hub: data.repo: OWNER/NAME"
)
LOOSE_FILES = "for loose files of images and masks, use the data set folder (data.name: folder)"
USUAL: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""Names of splits elsewhere, the most frequent first."""

ID2LABEL = "id2label.json"


@dataclass(frozen=True)
class Source:
    """Where a data set is: in a folder or a file, else in a repository of the hub.

    Attributes:
        config: the subset of a data set that has several.
    """

    root: Path | None
    repo: str | None
    revision: str | None
    config: str | None

    def __str__(self) -> str:
        if self.root is not None:
            return str(self.root)
        parts = (("@", self.revision), (" ", self.config))
        return f"{self.repo}{''.join(sign + part for sign, part in parts if part)}"

    @property
    def local(self) -> Path | None:
        """The path, which must exist; None for the hub.

        Raises:
            DataMissing: there is neither, or no such path.
        """
        if self.root is None and self.repo is None:
            raise DataMissing(
                "the data set 'hf' needs a folder, or an id of the hub",
                need=LAYOUT,
                tip=f"{ROOT_TIP}, or --set 'data.repo=OWNER/NAME'",
                key="root",
            )
        if self.root is not None and not self.root.exists():
            absent = find_spec("datasets") is None
            tip = f"{ROOT_TIP}; pip install 'freqkd[hf]' as well" if absent else ROOT_TIP
            raise DataMissing(f"there is no {self.root}", need=LAYOUT, tip=tip, key="root")
        return self.root

    @property
    def folder(self) -> Path | None:
        """The folder of local data, also where root is a file; None for the hub."""
        return self.root.parent if self.root and self.root.is_file() else self.root


def library() -> ModuleType:
    """Import the library ``datasets``.

    Raises:
        UsageError: it is not installed, or too old to be safe.
    """
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "the data set 'hf' needs the library datasets, which is not installed",
            got=error,
            need="the extra hf",
            tip="pip install 'freqkd[hf]'",
            key="name",
        ) from error
    if int(datasets.__version__.split(".")[0]) < 4:
        raise UsageError(
            "this version of the library datasets may run code of a data set",
            got=f"datasets {datasets.__version__}",
            need="datasets 4.0 or later",
            tip="pip install --upgrade 'freqkd[hf]'",
            key="name",
        )
    datasets.disable_progress_bars()
    return datasets


def open_splits(source: Source) -> Mapping[str, datasets.Dataset]:
    """Return every split of a data set by its own name.

    Raises:
        UsageError: the library is not installed.
        DataMissing: it is not there, or the hub cannot be reached.
        DataBroken: the library cannot read it.
    """
    local, hub = source.local, library()  # a folder that is missing comes first, as elsewhere
    try:
        if local is None:
            with quiet_hub():
                loaded: Any = hub.load_dataset(source.repo, source.config, revision=source.revision)
        elif local.is_dir() and any(
            (local / name).is_file() for name in ("dataset_dict.json", "state.json")
        ):
            loaded = hub.load_from_disk(str(local))
        elif local.is_file():
            loaded = hub.load_dataset("parquet", data_files=str(local))
        else:
            loaded = hub.load_dataset(str(local.absolute()), source.config)
    except Exception as error:  # the library raises errors of many types
        raise _unreadable(source, error) from error
    if isinstance(loaded, hub.Dataset):
        loaded = {str(loaded.split or "train"): loaded}
    return loaded


def _unreadable(source: Source, error: Exception) -> DataMissing | DataBroken:
    log.debug("%s: %r", source, error)
    if source.root is None:
        return DataMissing(
            f"the data set {source.repo} could not be fetched from the hub",
            got=quoted(error),
            need="a data set with columns of images, such as parquet files, and a connection or a "
            "filled hub cache",
            tip="download it on a machine with a connection, and use --data-root DIR; "
            f"{LOOSE_FILES}",
            key="repo",
        )
    return DataBroken(
        f"{source} cannot be read as a Hugging Face data set",
        got=quoted(error),
        need=LAYOUT,
        tip=LOOSE_FILES,
    )


def id2label_file(source: Source) -> Path | None:
    """Return ``id2label.json`` of a repository of the hub; None where there is none."""
    try:
        return hub_file(source.repo, [ID2LABEL], revision=source.revision, kind="dataset")
    except WeightsMissing:
        return None


def name_of_split(split: str, named: Mapping[str, str], names: Mapping[str, Any]) -> str:
    """Return which of the ``names`` is a split of the recipe.

    Args:
        named: ``data.splits`` of the recipe.

    Raises:
        UsageError: two splits are the same one.
        DataMissing: there is none for ``split``.
    """
    if len({*named.values()}) < len(named):
        text = ", ".join(f"{key}: {name}" for key, name in named.items())
        raise UsageError(
            "data.splits gives the same images to two splits",
            got=text,
            need="another split for each",
            key="splits",
        )
    taken = {name for key, name in named.items() if key != split}
    wanted = (named[split],) if split in named else USUAL[split]
    chosen = next((name for name in wanted if name in names and name not in taken), None)
    if chosen is not None:
        return chosen
    tip = f"--set 'data.splits={{{split}: NAME}}'"
    if len(names) == 1 and split in SPLITS[:2]:
        tip = f"--set data.split=0.8 to divide {next(iter(names))!r}"
    raise DataMissing(
        f"the data set has no split {' or '.join(map(repr, wanted))}, for {split}",
        got=some(names, 8) or "no split",
        need=f"the split for {split}",
        tip=tip,
        key="splits",
    )


def rows_of(
    source: Source,
    split: Split,
    named: Mapping[str, str] | None,
    shares: tuple[float, ...] | None,
) -> tuple[Any, str, tuple[float, ...] | None]:
    """Return the rows that a split is taken from, their name in messages, and the shares of train.

    The shares are None for a split that the data set has itself.

    Args:
        named: ``data.splits`` of the recipe.
        shares: of train, val and test in the rows of train, where ``data.split`` divides them.

    Raises:
        DataMissing: there is neither such a split nor a share for it.
        UsageError: ``data.split`` has a share for a split that the data set has itself.
    """
    opened, named = open_splits(source), named or {}
    own = {name: where for name in SPLITS if (where := _own_split(name, named, opened))}
    if shares is None or (split in own and split not in SPLITS[: len(shares)]):
        name = name_of_split(split, named, opened)
        return opened[name], f"{source}:{name}", None
    check_share(split, shares)
    if taken := [own[name] for name in SPLITS[1 : len(shares)] if name in own]:
        raise UsageError(
            "data.split divides the images of train, but the data set is divided already",
            got=f"the splits {', '.join(opened)}",
            need=f"no share for {' and '.join(map(repr, taken))}",
            tip="--set data.split=null",
            key="split",
        )
    name = name_of_split("train", named, opened)
    return opened[name], f"{source}:{name}", shares


def _own_split(split: Split, named: Mapping[str, str], opened: Mapping[str, Any]) -> str | None:
    with contextlib.suppress(DataMissing):
        return name_of_split(split, named, opened)
    return None
