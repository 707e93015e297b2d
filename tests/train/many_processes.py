"""Several commands one after another in one process of torchrun, for ``test_processes.py``.

``python many_processes.py FOLDER`` runs in FOLDER, which contains ``recipe.yaml``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from freqkd_cli import app
from freqkd_cli.runtime import launch
from freqkd_cli.score import scored_split
from freqkd_cli.teacher import dump_recipe
from freqkd_cli.train import whole_batch
from freqkd_cli.train.loop import Loop

SHARD = 100_000
"""Bytes of a shard: about five views."""

RANK = launch.rank()
codes: dict[str, int] = {}


def command(name: str, *words: str) -> None:
    """Run a command as the console does, and keep its exit code under ``name``."""
    try:
        app.main(list(words))
    except SystemExit as end:
        codes[name] = int(end.code or 0)
    sys.stderr.flush()


def after_step(number: int, act):
    """Call ``act(loop)`` in this process after a step; return a function that undoes this."""
    step = Loop.step

    def acting(self, *args):
        step(self, *args)
        if self.training.step == number:
            act(self)

    Loop.step = acting
    return lambda: setattr(Loop, "step", step)


def keep_scores() -> None:
    """Write the integers of every evaluation of the first process to ``matrix.pt``, and scores."""
    score = scored_split.score

    def keeping(*args, **kwargs):
        result = score(*args, **kwargs)
        if RANK == 0:
            torch.save(
                (
                    result.tally.metrics["iou"].counts.matrix,
                    [counts.table for counts in result.tally.counts],
                    result.values,
                ),
                f"matrix-{launch.processes()}.pt",
            )
        return result

    scored_split.score = keeping


def keep_shares() -> None:
    """Keep this process's shares of cross_entropy."""
    shares = whole_batch.shares

    def keeping(*args):
        parts = shares(*args)
        seen.extend(float(part[0]) for part in parts if part is not None)
        return parts

    whole_batch.shares = keeping


seen: list[float] = []


def student_sum(loop: Loop) -> None:
    total = sum(
        float(tensor.double().sum()) for tensor in loop.training.objective.state_dict().values()
    )
    Path(f"student-{RANK}.json").write_text(json.dumps(total))


def main(folder: str) -> None:
    os.chdir(folder)
    dump_recipe.DumpOptions = partial(dump_recipe.DumpOptions, shard_bytes=SHARD)
    keep_scores()
    many = f"-{launch.processes()}"
    command(
        "dump",
        "teacher-dump",
        "recipe.yaml",
        "--out",
        f"cache{many}",
        "--dtype",
        "fp32",
        "--verify",
        "2",
        "--json",
    )
    words = ("--teacher", "--masks", f"masks{many}", "--metrics", "all", "--json")
    command("eval", "eval", "recipe.yaml", *words)
    keep_shares()
    command("distill", "distill", "recipe.yaml", "--out", f"run{many}", "--json")
    if launch.processes() != 2:
        Path(f"codes{many}-{RANK}.json").write_text(json.dumps(codes))
        return
    Path(f"shares-{RANK}.json").write_text(json.dumps(seen))
    command(
        "dump resumed",
        "teacher-dump",
        "recipe.yaml",
        "--out",
        "cache-cut",
        "--dtype",
        "fp32",
        "--resume",
        "--json",
    )
    # Only one process is asked to stop, after its second step.
    undo = after_step(2, lambda _: os.kill(os.getpid(), signal.SIGTERM) if RANK == 1 else None)
    command("stopped", "distill", "recipe.yaml", "--out", "run-cut")
    undo()
    command("resumed", "distill", "recipe.yaml", "--out", "run-cut", "--resume", "--json")
    undo = after_step(2, student_sum)
    live = ("--set", "train.freeze_norm=false", "--set", "train.steps=2")
    command("live norms", "distill", "recipe.yaml", "--out", "run-live", *live, "--json")
    undo()
    command(
        "uneven", "distill", "recipe.yaml", "--out", "run-uneven", "--set", "train.batch_size=5"
    )
    command("zoo", "zoo", "--json")
    Path(f"codes-{RANK}.json").write_text(json.dumps(codes))
    if RANK == 1:
        shares = whole_batch.shares  # which all processes call
        whole_batch.shares = lambda *parts: [share * torch.nan for share in shares(*parts)]
    command("nan", "distill", "recipe.yaml", "--out", "run-nan")


if __name__ == "__main__":
    main(sys.argv[1])
    sys.exit(max(codes.values()))
