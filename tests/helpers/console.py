"""The console entry run in a test's process: what a stranger would see."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from freqkd_cli import app


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str


def console(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Runs a command line; worker processes write to the same captured streams."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["freqkd", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        return Said(ended.value.code, *capfd.readouterr())

    return run
