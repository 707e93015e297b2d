"""What tests share: one torch thread, and where CamVid lies, if it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors on many threads are slower than on one, and results then depend on the thread count."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The folder of CamVid: $FREQKD_CAMVID, else shared/data/camvid beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "camvid"
    root = Path(os.environ.get("FREQKD_CAMVID", beside))
    if not (root / "train").is_dir():
        pytest.skip(f"CamVid is not at {root}; set FREQKD_CAMVID to its folder")
    return root
