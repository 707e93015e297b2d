"""The README's script, line by line as it stands there, on pictures small enough for a test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SMALL = """version: 1
data: {name: scenes, size: [64, 64], length: 8, held_out: 4, views: 1, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: logit_kl}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4}
train: {epochs: 1, batch_size: 4}
"""


def chain() -> str:
    """The block of the README that is marked as the chain."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- chain -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert found, "the README has lost its chain"
    return found.group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    (folder / "small.yaml").write_text(SMALL)
    script = (
        chain()
        .replace("freqkd ", f"{sys.executable} -m freqkd_cli ")
        .replace(" quickstart ", " small.yaml ")
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return folder


CONTRACT = {
    "dump": {"cache", "items", "views", "bytes", "taps", "seconds", "images_per_second"},
    "distill": {"run", "steps", "miou", "seconds", "images_per_second"},
    "eval": {
        "miou",
        "pixel_accuracy",
        "mean_accuracy",
        "boundary_iou",
        "per_class",
        "parameters",
        "latency_ms",
        "device",
        "images",
        "seconds",
    },
    "spectrum": {"source", "stages"},
    "export": {"file", "format", "bytes", "max_abs_difference", "argmax_agreement"},
}


@pytest.mark.parametrize("name", CONTRACT)
def test_each_command_leaves_one_json_document(folder, name):
    document = json.loads((folder / f"{name}.json").read_text())
    assert CONTRACT[name] <= document.keys()


def test_the_documents_agree_with_each_other(folder):
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in CONTRACT}
    assert read["dump"]["items"] == 8 and read["distill"]["steps"] == 2
    assert set(read["spectrum"]["stages"]) == {"stage3"}
    stage = read["spectrum"]["stages"]["stage3"]
    assert {
        "rho",
        "power",
        "cycles_per_pixel",
        "relative_log_amplitude",
        "low_energy",
        "high_energy",
    } <= stage.keys()
    assert stage["low_energy"] + stage["high_energy"] == pytest.approx(1, abs=1e-5)
    assert read["export"]["argmax_agreement"] >= 0.9999
    assert Path(folder / read["export"]["file"]).stat().st_size == read["export"]["bytes"]
