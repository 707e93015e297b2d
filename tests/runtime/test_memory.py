"""Freed memory stays with the process, and memory that runs out is recognized."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch

from freqkd_cli.runtime import memory
from freqkd_cli.runtime.memory import free_memory, out_of_memory

FAULTS = """
import resource, sys
from freqkd_cli.runtime.memory import keep_freed_memory
print(keep_freed_memory() if "keep" in sys.argv else False)
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(10_000_000).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def run(*words: str, **environment: str) -> list[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_"))
    }
    given = [sys.executable, "-c", FAULTS, *words]
    return subprocess.run(
        given, env=kept | environment, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.skipif(os.confstr_names.get("CS_GNU_LIBC_VERSION") is None, reason="not glibc")
def test_large_blocks_are_mapped_once():
    (_, before), (done, after) = run("plain"), run("keep")
    # 40 MB are 9,766 pages; each of ten tensors maps them anew.
    assert done == "True" and int(before) > 50_000 and int(after) < 1_000


def test_the_users_own_setting_wins():
    assert run("keep", MALLOC_ARENA_MAX="2")[0] == "False"


@pytest.mark.parametrize("limit, free", [("6000000", 3_500_000), ("1000000", 0)])
def test_pages_of_files_are_free_memory_of_a_container(tmp_path, monkeypatch, limit, free):
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    contents = {"max": limit, "current": "5500000", "stat": "file 4000000\ninactive_file 3000000\n"}
    for name, content in contents.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert free_memory() == free


def test_a_container_without_a_limit_has_the_memory_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 2**20


def test_memory_that_runs_out_on_a_cpu_is_recognized():
    """torch's own error, which has no class of its own on a CPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_other_errors_about_memory_are_recognized():
    assert out_of_memory(MemoryError())
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    wrapped = ValueError("an image cannot be read")
    wrapped.__cause__ = MemoryError()
    assert out_of_memory(wrapped)
    assert not out_of_memory(RuntimeError("shapes do not match")) and not out_of_memory(OSError())
