"""Run folders without training: the files that are compared, with scores that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECIPE = """version: 1
data:
  name: {data}
  root: {root}
  size: [192, 256]
  views: {views}
  view_seed: 0
  teacher_sees: same
  workers: 1
  augment: {{scale: [1.0, 1.0], flip: true, color: 0.2, blur: 0.0, isolate: 0.0}}
  seed: 0
  length: {length}
  held_out: 200
  labelled: null
{teacher}student:
  name: fast_scnn
  width: 0.5
  dropout: 0.1
  auxiliary: false
losses:
  - name: cross_entropy
    id: cross_entropy
    weight: 1.0
    warmup: 0.0
{losses}train:
  steps: {steps}
  batch_size: 8
  accumulate: 1
  lr: {lr}
  seed: {seed}
"""
TEACHER = """teacher:
  name: segformer
  dtype: float32
  weights: {weights}
"""
KL = """  - name: logit_kl
    id: kl
    weight: {weight}
    warmup: 0.0
"""
CLASSES = ("road", "pole")


def recipe(
    *,
    seed: int = 0,
    kl: float | None = None,
    data: str = "scenes",
    root: Path | str = "null",
    views: int = 4,
    length: int = 1024,
    steps: int = 100,
    lr: float = 0.002,
    weights: str = "embedded",
) -> str:
    """A resolved recipe; ``kl`` is the weight of a loss with the teacher, None for labels alone."""
    return RECIPE.format(
        **{"data": data, "root": root, "views": views, "length": length, "lr": lr},
        teacher="" if kl is None else TEACHER.format(weights=weights),
        losses="" if kl is None else KL.format(weight=kl),
        steps=steps,
        seed=seed,
    )


def run(
    folder: Path,
    miou: float | None,
    *,
    seed: int = 0,
    ms: float = 100.0,
    summary: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    per_class: Mapping[str, float] | None = None,
    finished: bool = True,
    **values: Any,
) -> Path:
    """Write a run folder and return it.

    Args:
        ms: milliseconds of a step.
        values: of the recipe.
    """
    folder.mkdir(parents=True)
    steps = values.get("steps", 100)
    (folder / "recipe.yaml").write_text(recipe(seed=seed, **values), encoding="utf-8")
    libraries = {"torch": "2.14.1"}
    facts = {"freqkd": "0.1.0", "device": "cpu", "compute": "float32, x", "libraries": libraries}
    (folder / "environment.json").write_text(json.dumps({**facts, **(environment or {})}))
    iou = dict.fromkeys(CLASSES, miou) if per_class is None else per_class
    val = {"miou": miou, "pixel_accuracy": None if miou is None else miou + 0.1}
    rows = [
        {"step": steps // 2, "total": 2.0, "raw": {}, "weighted": {}},
        {"step": steps // 2, "val": {"miou": 0.1, "pixel_accuracy": 0.2}},
        {"step": steps, "val": val, "per_class": {"iou": iou}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not finished:
        (folder / "state").mkdir()
        (folder / "state" / f"step-{steps // 2:08d}.json").write_text("{}")
        return folder
    facts = {"run": str(folder), "steps": steps, "miou": miou, "best_step": steps}
    facts |= {"last_miou": miou, "val_images": 200, "images": values.get("length", 1024)}
    facts |= {"seconds": steps * ms / 1000, "images_per_second": 8000 / ms, "source": "none"}
    (folder / "summary.json").write_text(json.dumps({**facts, **(summary or {})}))
    return folder


def seeds(folder: Path, name: str, scores: Mapping[int, float | None], **values: Any) -> list[Path]:
    """Write one run per seed as ``NAME_sN`` and return them."""
    return [
        run(folder / f"{name}_s{seed}", miou, seed=seed, **values) for seed, miou in scores.items()
    ]


def study(folder: Path, rows: Mapping[str, Mapping[int, float]], **plan: Any) -> Path:
    """Write a study of ``row -> seed -> mIoU`` and return it; the rows differ in the KL weight."""
    for number, (name, scores) in enumerate(rows.items()):
        for seed, miou in scores.items():
            place = folder / "runs" / name / f"seed-{seed}"
            run(place, miou, seed=seed, kl=number or None)
    every = sorted({seed for scores in rows.values() for seed in scores})
    recipes = [{"recipe": "fastscnn_ce", "name": name} for name in rows]
    text = json.dumps({"version": 1, "recipes": recipes, "seeds": every, **plan})
    (folder / "plan.yaml").write_text(text)
    return folder
