"""Losses with a memory or random masks train, and resume to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train import loop
from freqkd_cli.train.distillation import distill

RECIPE = """
version: 1
data: {name: scenes, size: [32, 64], length: 8, held_out: 2, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {name: skd_pairwise, student: decoder, teacher: decoder}
  - {name: ifvd, student: decoder, teacher: decoder}
  - {name: cirkd, student: encoder16, teacher: stage3, pixel_memory: 40, region_memory: 5}
  - {name: af_dcd, student: decoder, teacher: decoder, pool: 1}
  - {name: cwd, student: decoder, teacher: decoder}
  - {name: dist, student: decoder, teacher: decoder}
train: {epochs: 2, batch_size: 4, lr: 1.0e-3, clip: 1.0}
"""


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch):
    recipe, whole, half = recipes.loads(RECIPE), tmp_path / "whole", tmp_path / "half"
    distill(recipe, whole, Silent(), resume=False)
    save = loop.Loop._save

    def stopping(self) -> None:
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_save", stopping)
        with pytest.raises(KeyboardInterrupt):
            distill(recipe, half, Silent(), resume=False)
    (first,) = (half / "state").glob("*.safetensors")
    distill(recipe, half, Silent(), resume=True)
    last = sorted((whole / "state").glob("*.safetensors"))[-1].name
    assert first.name < last
    for name in ("model.safetensors", "metrics.jsonl", f"state/{last}"):
        assert (whole / name).read_bytes() == (half / name).read_bytes(), name
    state = load_file(whole / "state" / last)
    places = [x for name, x in state.items() if name.endswith("memories.pixel.place")]
    assert len(places) == 1 and places[0].any()
    assert not any("memories" in name for name in load_file(whole / "model.safetensors"))
