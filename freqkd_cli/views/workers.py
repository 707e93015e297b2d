"""The worker processes of a loader: how they treat signals, and the error when one is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader

from freqkd_cli.errors import FreqKDError

_REASONS = {
    "SIGKILL": "usually the system, out of memory",
    "SIGBUS": "usually shared memory that is full (/dev/shm)",
    "SIGSEGV": "a crash in a library that decodes images",
}
_TIP = (
    "set data.workers to a smaller number or to 0; "
    "then continue distill or teacher-dump with --resume"
)


class Watched:
    """An iteration over a DataLoader in which a killed worker is one :class:`FreqKDError`.

    torch raises a RuntimeError from its handler of SIGCHLD, at whatever instruction the main
    process happens to be: in the middle of a training step, in another loader, in a destructor.
    Here the handler may raise only while :meth:`next` waits for a batch. A worker that is killed
    between two batches is reported by the next call.
    """

    _all: weakref.WeakSet[Watched] = weakref.WeakSet()
    _waiting = False

    def __init__(self, loader: DataLoader) -> None:
        _defer_sigchld()
        try:
            self._batches = iter(loader)
        except OSError as error:
            got = error.strerror or str(error)
            raise FreqKDError(
                "cannot start data loading processes", got=got, tip=_TIP, key="workers"
            ) from error
        _defer_sigchld()  # the first iteration of a process installs torch's handler
        # torch offers no public list. A comparison of active_children() before and after misses
        # a worker that was killed in between.
        self._workers: tuple[BaseProcess, ...] = tuple(getattr(self._batches, "_workers", ()))
        Watched._all.add(self)

    def next(self) -> Any:
        """Return the next batch, None after the last.

        Raises:
            FreqKDError: a worker of this or another loader was killed.
        """
        # torch notices a worker that was killed between two calls only after five seconds.
        if (code := _exit_code_of_killed([self], patience=0.0)) is not None:
            raise killed(code)
        try:
            Watched._waiting = True
            try:
                return next(self._batches, None)
            finally:
                Watched._waiting = False
        # What torch raises for a lost worker depends on when it was killed.
        except (RuntimeError, OSError, EOFError) as error:
            Watched._waiting = False
            if (code := _exit_code_of_killed(Watched._all, patience=2.0)) is None:
                raise
            raise killed(code) from error


def _exit_code_of_killed(loaders: Iterable[Watched], patience: float) -> int | None:
    """Return the exit code of a worker that did not end by itself, None where there is none.

    A worker's connections close a moment before its exit code is known, so this waits for up to
    ``patience`` seconds.
    """
    workers = [worker for watched in loaders for worker in watched._workers]
    deadline = time.monotonic() + (patience if workers else 0.0)
    while True:
        codes = [worker.exitcode for worker in workers]
        bad = [code for code in codes if code]
        if bad or time.monotonic() >= deadline:
            return bad[0] if bad else None
        time.sleep(0.02)


def killed(exit_code: int) -> FreqKDError:
    """The error of a worker that ended with this code; negative for a signal, as in Python."""
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        return FreqKDError(
            "a data loading process ended early",
            got=f"exit code {exit_code}",
            tip=_TIP,
            key="workers",
        )
    reason = f" ({_REASONS[name]})" if name in _REASONS else ""
    return FreqKDError(
        "a data loading process was killed",
        got=f"{name}{reason}",
        tip=_TIP,
        key="workers",
    )


class _Deferred:
    """A handler of SIGCHLD that calls torch's only while a loader waits for a batch."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if Watched._waiting:
            self.handler(number, frame)


def _defer_sigchld() -> None:
    """Put :class:`_Deferred` in front of the current handler of SIGCHLD, where there is one."""
    if threading.current_thread() is not threading.main_thread():
        return
    if not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and not isinstance(handler, _Deferred):
        signal.signal(signal.SIGCHLD, _Deferred(handler))


def prepare_worker(worker: int) -> None:
    """Limit a worker to one torch thread, and let only its main process end it.

    Ctrl-C and a SIGTERM to the whole process group are left to the main process, which saves its
    state before it ends the workers. Only ``sigwaitinfo`` shows who sent a signal, hence the
    thread. Where the system lacks it (macOS), workers end at once.
    """
    torch.set_num_threads(1)
    sys.excepthook = _without_lost_connections
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _without_lost_connections(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an uncaught error of a thread, except that the main process closed a connection.

    It does so in the middle of a message where another worker was killed.
    """
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
