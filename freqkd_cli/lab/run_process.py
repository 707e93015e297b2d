"""A run of a study in a process of its own, so that a crash ends this run alone."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from freqkd_cli.errors import Interrupted
from freqkd_cli.lab.plan import StudyPlan, sets_of
from freqkd_cli.lab.study import FAILED, Run
from freqkd_cli.runtime.launcher import child_command

POLL = 0.5
"""Seconds between two looks at a run."""


def distill_words(plan: StudyPlan, run: Run, cache: Path | None, device: str | None) -> list[str]:
    """Return the words of the ``freqkd distill`` command of a run."""
    words = ["distill", run.row.recipe]
    for text in sets_of(plan, run.row):
        words += ["--set", text]
    words += ["--seed", str(run.seed), "--out", str(run.folder), "--resume"]
    words += ["--cache", str(cache)] if cache else []
    return words + (["--device", device] if device else [])


def execute(
    run: Run, words: Sequence[str], stop: Sequence[int], look: Callable[[], None]
) -> str | None:
    """Run a command, its stderr in the log of the run; return why it failed, or None.

    None is returned too where the run was stopped by ``stop`` and saved its state.

    Args:
        stop: gets a signal when this process is asked to stop; it is passed on.
        look: called while the command runs.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with open(run.log, "wb") as log:
        process = subprocess.Popen(
            child_command(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C comes from here alone, once
        )
        try:
            code = _wait(process, stop, look)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code == 0 or (stop and code in (Interrupted.exit_code, -signal.SIGTERM)):
        return None
    return note_failure(run, _reason(code, run.log))


def note_failure(run: Run, reason: str) -> str:
    """Write at the end of a run's log why it failed, for other workers; return the reason."""
    with open(run.log, "a", encoding="utf-8") as log:
        log.write(f"\n{FAILED}{reason}\n")
    return reason


def _wait(process: subprocess.Popen, stop: Sequence[int], look: Callable[[], None]) -> int:
    asked = False
    while True:
        if stop and not asked:
            asked = True
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=POLL)
        except subprocess.TimeoutExpired:
            look()


def _reason(code: int, log: Path) -> str:
    """Return in one line why a command failed: its error, else its exit code.

    What to try is left in the log, since it is about that command and not about the study.
    """
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", usually out of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        error = [" ".join(line.split()) for line in lines[starts[-1] :]]
        facts = [line for line in error if line and not line.startswith("try ")]
        return f"exit code {code}: {'; '.join(facts).removeprefix('error: ')}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    return f"exit code {code}: {last}"


def check_stop(stop: Sequence[int], study: Path) -> None:
    """
    Raises:
        Interrupted: a signal asked to stop.
    """
    if stop:
        raise Interrupted(
            f"stopped in the study {study}; everything is saved",
            tip="the same command again continues",
        )


def pause(stop: Sequence[int], seconds: float) -> None:
    """Wait, but not after a signal."""
    end = time.monotonic() + seconds
    while not stop and time.monotonic() < end:
        time.sleep(min(POLL, seconds))
