"""Files of the Hugging Face hub, downloaded or from its local cache."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from freqkd_cli.errors import WeightsMissing, quoted

log = logging.getLogger(__name__)


def is_hub_id(name: str) -> bool:
    """Whether ``name`` is written ``owner/name`` and is not a path on this machine."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name)) and not Path(name).exists()


def is_path(name: str) -> bool:
    """Whether ``name`` is written as a path, with a slash or a suffix, or is a file here.

    Names of published weights, such as ``imagenet``, are neither, also beside a folder of the name.
    """
    path = Path(name)
    return "/" in name or "\\" in name or bool(path.suffix) or path.is_file()


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence the hub library, which logs every attempt; one message at the end is enough."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def hub_folder(repository: str, patterns: Sequence[str], revision: str | None) -> Path:
    """Return the folder with those files of a hub repository that match one of the patterns.

    They are downloaded, or taken from the local hub cache.

    Raises:
        WeightsMissing: there is no such repository or revision, or it cannot be reached and nothing
            is cached.
    """
    from huggingface_hub import snapshot_download

    try:
        with quiet_hub():
            return Path(
                snapshot_download(repository, revision=revision, allow_patterns=list(patterns))
            )
    except Exception as error:  # of the connection as well, whose library may change
        raise WeightsMissing(
            f"{repository} is not a folder here and could not be fetched from the hub",
            got=quoted(error),
            need="such a repository and revision, and a connection or a filled hub cache",
            tip="download it on a machine with a connection and use the folder",
        ) from error


@cache
def _announce(repository: str) -> None:
    """Log once that the hub is asked: without a connection this takes half a minute."""
    log.info("looking for %s on the Hugging Face hub (not with HF_HUB_OFFLINE=1)", repository)


def is_unreachable(error: WeightsMissing) -> bool:
    """Whether :func:`hub_file` failed without an answer of the hub, which may have the file."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cause = error.__cause__
    return isinstance(cause, LocalEntryNotFoundError) or not isinstance(cause, EntryNotFoundError)


def hub_file(
    repository: str,
    names: Collection[str],
    *,
    offline: bool = False,
    revision: str | None = None,
    kind: Literal["model", "dataset"] = "model",
) -> Path:
    """Return the first of ``names`` that the hub repository has.

    It is downloaded (unless ``offline``) or taken from the local hub cache.

    Args:
        revision: branch, tag or commit; the main branch by default.
        kind: of the repository.

    Raises:
        WeightsMissing: the hub has none of them, or cannot be reached and nothing is cached.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    trouble: Exception | None = None
    for name in names:
        try:
            with quiet_hub():
                cached = try_to_load_from_cache(repository, name, revision=revision, repo_type=kind)
                if not (offline or constants.HF_HUB_OFFLINE or isinstance(cached, str)):
                    _announce(repository)
                return Path(
                    hf_hub_download(
                        repository,
                        name,
                        repo_type=kind,
                        revision=revision,
                        local_files_only=offline,
                    )
                )
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError that means: no connection
            trouble, offline = error, True  # the hub is not asked for the next name
        except EntryNotFoundError as error:
            trouble = trouble or error
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
            trouble = error
            break
    raise WeightsMissing(
        f"{repository} is not a folder here and could not be fetched from the hub",
        got=quoted(trouble),
        need=f"{' or '.join(names)} in that repository, and a connection or a filled hub cache",
        tip="download it on a machine with a connection and use the folder as weights",
    ) from trouble
