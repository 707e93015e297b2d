"""What a launcher (torchrun, accelerate launch) says through the environment; without one there is one process, number 0."""

from __future__ import annotations

import os


def processes() -> int:
    """Processes of this job, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number of this process among all of them; 0 owns standard output and every file that there is once."""
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if processes() > 1 else 0
