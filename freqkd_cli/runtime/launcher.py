"""``--nproc``: start a command in several processes of this machine, and end as one of them.

The processes get the environment variables of torchrun. torchrun itself is not used: it turns every
exit code into 1, sends a second Ctrl-C, and prints a report of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.runtime import launch, streams

GRACE = 5.0
"""Seconds after the first failure in which other processes may end by themselves."""

_POLL = 0.1


def child_command(words: Sequence[str]) -> list[str]:
    """Return the command line of a ``freqkd`` command that ends with this process."""
    return [sys.executable, "-m", "freqkd_cli.runtime.child_process", str(os.getpid()), *words]


def check(number: int, device: str | None) -> None:
    """Check that this machine can run so many processes.

    Raises:
        UsageError: there are fewer GPUs or CPU cores, or a launcher started this process.
    """
    if launch.processes() > 1:
        raise UsageError(
            "--nproc starts the processes, and a launcher has started this one",
            got=f"--nproc {number} in one of {launch.processes()} processes",
            tip="leave out --nproc, or the launcher",
        )
    import torch

    from freqkd_cli.runtime.threads import cores

    gpus = torch.cuda.device_count() if device is None or device.startswith("cuda") else 0
    available, what = (gpus, "GPU") if gpus else (cores(), "CPU core")
    if number > available:
        raise UsageError(
            f"--nproc needs a {what} for each process",
            got=f"--nproc {number}, and {available} {what}{'s' * (available != 1)}",
            need=f"at most {available}",
            tip=f"--nproc {available}" if available > 1 else "leave out --nproc",
        )


def start(number: int, words: Sequence[str]) -> int:
    """Run ``freqkd WORDS`` in several processes; return the exit code of the first that failed.

    The error of that process is printed, and no other. Where it was killed, the code is 1. SIGINT
    and SIGTERM are passed on to all processes.
    """
    import torch.distributed as dist

    # The port is open before the processes exist, so that no other program can take it.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    text = sys.stdin.buffer.read() if "-" in words else b""
    with tempfile.TemporaryDirectory(prefix="freqkd-") as errors:
        children: list[subprocess.Popen] = []
        signals: list[int] = []
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def pass_on(received: int, _frame: object) -> None:
            signals.append(received)
            for child in children:
                if child.poll() is None:
                    child.send_signal(received)

        try:
            for received in before:
                signal.signal(received, pass_on)
            for rank in range(number):
                children.append(_child(words, _environment(rank, number, store.port, errors), text))
            first, killed = _wait(children)
        finally:
            for child in children:
                child.kill()
            for received, handler in before.items():
                signal.signal(received, handler)
        if signals and all(child.returncode < 0 for child in children):  # before any work
            streams.print_error("interrupted")
            return 130
        return _end(children, first, killed, Path(errors))


def _environment(rank: int, number: int, port: int, errors: str) -> dict[str, str]:
    """Return the environment of a process: the variables of torchrun, and its share of cores."""
    from freqkd_cli.runtime.threads import cores  # imports torch

    own = {"OMP_NUM_THREADS": str(max(1, cores() // number)), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    sizes = {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # The store is in the parent, as in torchrun.
    agent = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    return {**own, **os.environ, **ranks, **sizes, **address, **agent, launch.ERRORS: errors}


def _child(words: Sequence[str], environment: Mapping[str, str], text: bytes) -> subprocess.Popen:
    """Start a process; ``text`` is its standard input. Ctrl-C comes from the parent alone, once."""
    child = subprocess.Popen(
        child_command(words), env=environment, stdin=subprocess.PIPE, start_new_session=True
    )
    assert child.stdin is not None
    try:
        child.stdin.write(text)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it has ended, which is noticed later
    return child


def _wait(children: Sequence[subprocess.Popen]) -> tuple[list[int], set[int]]:
    """Wait until all have ended; return the ranks in that order, and those that were killed here.

    Some time after one has failed, the others are killed: they may wait for it forever.
    """
    ended: list[int] = []
    killed: set[int] = set()
    deadline = None
    while len(ended) < len(children):
        time.sleep(_POLL)
        new = [k for k, child in enumerate(children) if k not in ended and child.poll() is not None]
        ended += new
        if deadline is None and any(children[k].returncode for k in new):
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            for rank, child in enumerate(children):
                if child.poll() is None:
                    child.kill()
                    killed.add(rank)
    return ended, killed


def _end(
    children: Sequence[subprocess.Popen], ended: Sequence[int], killed: set[int], errors: Path
) -> int:
    """Print the error of the first process that failed by itself; return its exit code.

    Args:
        ended: the ranks in the order in which they ended.
        killed: those that were killed here. One without an error of its own is not the cause.
        errors: the folder of the errors of the processes.
    """
    failed = [rank for rank in ended if children[rank].returncode]
    if not failed:
        return 0
    paths = {rank: errors / str(rank) for rank in failed}
    texts = {
        rank: path.read_text(encoding="utf-8", errors="surrogateescape")
        for rank, path in paths.items()
        if path.exists()
    }
    peers = {rank for rank, text in texts.items() if launch.PEER_ENDED in text}
    causes = [rank for rank in failed if rank not in peers | (killed - texts.keys())]
    rank = (causes or failed)[0]
    code = children[rank].returncode
    if rank in texts:
        streams.print_error(texts[rank].rstrip("\n"))
    elif code < 0:
        streams.print_error(f"error: {_killed(rank, len(children), code)}")
    elif rank:  # the first one has printed a message of its own
        streams.print_error(f"error: process {rank + 1} of {len(children)} ended early")
    return code if code > 0 else 1


def _killed(rank: int, number: int, code: int) -> FreqKDError:
    name = signal.Signals(-code).name
    reason = " (usually the system, out of memory)" if name == "SIGKILL" else ""
    return FreqKDError(
        f"process {rank + 1} of {number} was killed, so all have ended",
        got=f"{name}{reason}",
        tip="fix this, then continue distill or teacher-dump with --resume",
    )
