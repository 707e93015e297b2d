"""A ``freqkd`` command in a process that ends, resumable, when the process that started it ends.

``python -m freqkd_cli.runtime.child_process PARENT distill ...``, where PARENT is a process id.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1


def follow(parent: int) -> None:
    """Ask for SIGTERM when the parent ends, even by SIGKILL; only Linux can do this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before
            raise SystemExit(75)


if __name__ == "__main__":
    follow(int(sys.argv.pop(1)))
    runpy.run_module("freqkd_cli", run_name="__main__", alter_sys=True)
