"""Settings of a launcher (torchrun, ``accelerate launch``), read from environment variables.

Without a launcher there is one process, of rank 0.
"""

from __future__ import annotations

import os


def processes() -> int:
    """Return the number of processes of this job, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Return the rank of this process; rank 0 owns stdout and the files that exist once."""
    return int(os.environ.get("RANK", 0)) if processes() > 1 else 0


def local_rank() -> int:
    """Return the number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if processes() > 1 else 0
