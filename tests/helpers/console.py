"""Run the command line in the process of a test, with its output as a user would see it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from freqkd_cli import app


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


def console(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs a command line; worker processes write to the same streams."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["freqkd", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        return Result(ended.value.code, *capfd.readouterr())

    return run
