"""Settings of a launcher (torchrun, ``accelerate launch``, ``--nproc``), from the environment.

Without a launcher there is one process, of rank 0.
"""

from __future__ import annotations

import os
from pathlib import Path

ERRORS = "FREQKD_ERRORS"
"""Variable with the folder in which ``--nproc`` collects the errors of its processes."""

PEER_ENDED = "another process of this job has ended"
"""The error of a process that waits for one that failed; that one has the error to show."""


def processes() -> int:
    """Return the number of processes of this job, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Return the rank of this process; rank 0 owns stdout and the files that exist once."""
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if processes() > 1 else 0


def error_file() -> Path | None:
    """Return the file for this process's error where ``--nproc`` shows the errors, else None."""
    folder = os.environ.get(ERRORS)
    return Path(folder) / str(rank()) if folder and processes() > 1 else None


def local_processes() -> int:
    """Return the number of processes of this job on this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1))) if processes() > 1 else 1
