"""What tests share: one torch thread, a command line run in this process, and where CamVid lies, if it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: small tensors on many threads are slower than on one, and their last bits depend on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub for anything


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
    """What runs side by side on a CPU, on any machine; the test must leave torch's number of threads as it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    found = torch.get_num_threads()
    torch.set_num_threads(before)
    assert found == 3
