"""A cache of a teacher's taps, and the command, for tests of both forms of ``freqkd spectrum``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from freqkd_cli.cache.fingerprint import Fingerprint, teacher_identity
from freqkd_cli.cache.journal import CachePlan
from freqkd_cli.cache.writer import CacheWriter
from freqkd_cli.datasets import scenes
from freqkd_cli.views.loader import whole_batches


def write_cache(
    folder: Path, teacher: nn.Module, names: Sequence[str], size: tuple[int, int] = (96, 128)
) -> None:
    """The whole views of two scenes."""
    dataset = scenes.build(split="val", root=None, size=size)
    fields = {
        "content": "taps",
        "storage": "float32",
        "teacher": teacher_identity(teacher, name="segformer", dtype="float32"),
    }
    fields |= {
        "taps": list(names),
        "images": 2,
        "views": {"kind": "whole", "teacher_sees": "same"},
        "data": dataset.manifest(),
    }
    items = ((0, -1), (1, -1))
    with torch.no_grad():
        views = whole_batches(dataset, 1, indices=range(2))
        taps = [teacher(view.images, taps=names) for view in views]
    with CacheWriter(folder, CachePlan(Fingerprint(fields), ((items,),))) as writer:
        writer.put(0, {name: [tap[name][0].contiguous() for tap in taps] for name in names})
        writer.finish()


def run_command(*words: str, folder: Path, command: str = "spectrum") -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``freqkd COMMAND WORDS`` in a folder."""
    from typer.testing import CliRunner

    from freqkd_cli.app import build_app

    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(build_app(), [command, *words])
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
