"""Shared fixtures: one torch thread, the command line in this process, and the CamVid folder."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Before torch is imported: on small tensors many threads are slower than one, and they change the
# last bits.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub for anything
os.environ["FREQKD_CACHE"] = tempfile.mkdtemp(prefix="freqkd-tests-")  # not the user's own
atexit.register(shutil.rmtree, os.environ["FREQKD_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The folder of CamVid: $FREQKD_CAMVID, else shared/data/camvid beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
    root = Path(os.environ.get("FREQKD_CAMVID", beside))
    if not (root / "train").is_dir():
        pytest.skip(f"CamVid is not at {root}; set FREQKD_CAMVID to its folder")
    return root


@pytest.fixture
def freqkd(capsys):
    """Run a command line in this process: exit code, standard output, standard error."""
    from freqkd_cli.app import main

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return (ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def three_threads():
    """Three torch threads on any machine; the test must not change their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 3


@pytest.fixture(autouse=True)
def unchanged_log():
    """A command sets level and handlers of the program's log; no test sees those of another.

    Fixtures of a module run commands too, outside the tests.
    """
    logger = logging.getLogger("freqkd_cli")
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()
    yield
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()
