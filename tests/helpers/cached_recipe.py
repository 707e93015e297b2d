"""A recipe with a small SegFormer as teacher, for trainings from a cache."""

from __future__ import annotations

from pathlib import Path

import torch

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build.saved import save_model

RECIPE = """
version: 1
data: {data}
teacher: {{name: segformer, weights: {weights}}}
student: {{name: fast_scnn, width: 0.25}}
losses:
  - {{name: cross_entropy}}
  - {{name: logit_kl}}
  - {{id: low, name: band, student: encoder16, teacher: stage2, cutoff: 0.5}}
train: {{epochs: 1, batch_size: 3, lr: 0.001}}
"""
SCENES = "{name: scenes, size: [64, 96], length: 6, views: 2, workers: 0}"
SIZES = {"channels": [8, 16, 16, 16], "depths": [1] * 4, "heads": [1, 1, 2, 2], "decoder": 16}


def make_weights(folder: Path, names: tuple[str, ...], seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = registry.find("models", "segformer").build(classes=len(names), **SIZES).eval()
    model.id2label = dict(enumerate(names))
    save_model(folder, model)
    return folder


def scenes() -> tuple[str, ...]:
    return tuple(registry.find("datasets", "scenes").classes())


def load(weights: Path, *sets: str, data: str = SCENES) -> recipes.Recipe:
    return recipes.loads(RECIPE.format(weights=weights, data=data), "test.yaml", sets)
