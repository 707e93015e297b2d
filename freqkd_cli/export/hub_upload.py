"""Upload an export to a repository of the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from freqkd_cli.errors import FreqKDError, UsageError, quoted
from freqkd_cli.export.target import FOLDER_FILES
from freqkd_cli.weights.hub import quiet_hub

log = logging.getLogger(__name__)

CARD = "README.md"


def check_push(repository: str | None, public: bool) -> None:
    """Check, before the export, that it can be uploaded; nothing is changed on the hub.

    Args:
        repository: OWNER/NAME; None where nothing is uploaded.

    Raises:
        UsageError: no such name is possible, or there is no valid token.
        FreqKDError: the hub cannot be reached.
    """
    if repository is None:
        if public:
            raise UsageError("--public has no effect without --push", tip="--push OWNER/NAME")
        return
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", repository):
        raise UsageError(
            "--push is not the name of a repository",
            got=f"--push {repository}",
            need="OWNER/NAME, such as me/street-student",
            key="push",
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        with quiet_hub():
            HfApi().whoami()
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise UsageError(
            "--push needs a token of the Hugging Face hub",
            got=quoted(error),
            need="a token that may write",
            tip="hf auth login, or set HF_TOKEN",
            key="push",
        ) from error
    except Exception as error:  # of the connection, whose library may change
        raise FreqKDError(
            "the Hugging Face hub cannot be reached, so nothing is exported",
            got=quoted(error),
            tip="leave out --push, and upload the export later: hf upload OWNER/NAME FOLDER",
            key="push",
        ) from error


def upload(target: Path, repository: str, *, public: bool = False) -> str:
    """Upload an exported file or folder in one commit; return the address of the repository.

    A folder may hold other files, which stay here. A file is uploaded with its model card.

    Raises:
        FreqKDError: the hub refuses it; the export is kept.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = _files(target)
    log.info("uploading %d files to %s", len(files), repository)
    try:
        with quiet_hub():
            api = HfApi()
            address = api.create_repo(repository, private=not public, exist_ok=True)
            operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
            message = f"Upload {target.name} with freqkd"
            api.create_commit(repository, operations, commit_message=message)
    except Exception as error:  # of the hub or the connection
        raise FreqKDError(
            f"the export is written to {target}, but was not uploaded",
            got=quoted(error),
            tip=f"hf upload {repository} {target}",
            key="push",
        ) from error
    return str(address)


def _files(target: Path) -> dict[str, Path]:
    """Return name in the repository -> file."""
    if target.is_dir():
        return {name: target / name for name in FOLDER_FILES if (target / name).is_file()}
    card = target.with_name(f"{target.name}.md")
    return {target.name: target} | ({CARD: card} if card.is_file() else {})
