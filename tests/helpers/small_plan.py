"""A plan of small recipes, and a child process that only writes a run folder."""

from __future__ import annotations

import sys
from pathlib import Path

DATA = "data: {name: scenes, size: [64, 64], length: 8, held_out: 4, views: 1, workers: 0}"
REST = "student: {name: fast_scnn, width: 0.25}"
TRAIN = "train: {steps: 2, batch_size: 4, previews: false}"
LABELS = f"version: 1\n{DATA}\n{REST}\nlosses:\n  - {{name: cross_entropy}}\n{TRAIN}\n"
SCORES = f"""version: 1
{DATA}
teacher: {{name: segformer, weights: embedded, min_iou: 0}}
{REST}
losses:
  - {{name: cross_entropy}}
  - {{id: kl, name: logit_kl}}
{TRAIN}
"""
FEATURES = SCORES.replace(
    "id: kl, name: logit_kl", "name: feature, student: decoder, teacher: decoder"
)

# Writes what a sweep looks at. FAIL names rows that fail, SLOW is the time of a run in seconds.
CHILD = """
import json, os, pathlib, sys, time
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
(out / "state").mkdir(parents=True, exist_ok=True)
if out.parent.name in os.environ.get("FAIL", "").split():
    print("error: the loss is not finite", file=sys.stderr)
    print("  try  a smaller learning rate", file=sys.stderr)
    raise SystemExit(1)
if out.parent.name in os.environ.get("CRASH", "").split():
    os.kill(os.getpid(), 9)
(out / "starts").open("a").write(f"{os.getppid()}\\n")
time.sleep(float(os.environ.get("SLOW", 0)))
summary = {"miou": 0.5, "steps": 2, "words": words}
(out / "summary.json").write_text(json.dumps(summary))
"""


def write_plan(folder: Path, text: str = "") -> Path:
    """Write the recipes ``labels``, ``scores`` and ``features`` and a plan of them."""
    for name, recipe in (("labels", LABELS), ("scores", SCORES), ("features", FEATURES)):
        (folder / f"{name}.yaml").write_text(recipe)
    plan = folder / "plan.yaml"
    plan.write_text(text or "version: 1\nrecipes: [labels.yaml, scores.yaml]\nseeds: [0, 1]\n")
    return plan


def fake_child(words: list[str]) -> list[str]:
    """Return a command that writes a finished run folder in milliseconds."""
    return [sys.executable, "-S", "-E", "-c", CHILD, *words]
