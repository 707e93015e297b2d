"""What frequency attention gains over its controls: other maps of weights of the same mean.

``FREQKD_CONTROL_SEEDS`` lists the seeds, ``FREQKD_CONTROL_CACHE`` is a cache of taps of the recipe,
``FREQKD_CONTROL_RECIPE`` another recipe with a line ``logit_kl``. Run it with ``-m slow``.
"""

from __future__ import annotations

import json
import os

import attention_controls
import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch

RECIPE = os.environ.get("FREQKD_CONTROL_RECIPE", "fastscnn_attention")
SEEDS = os.environ.get("FREQKD_CONTROL_SEEDS", "0,1,2").split(",")
CACHE = os.environ.get("FREQKD_CONTROL_CACHE")
KL = "losses.logit_kl"
CONTROLS = {
    "attention": (),
    "plain": (f"{KL}.attention=none",),
    "low": (f"{KL}.attention=low",),
    "shuffled": (f"{KL}.name=logit_kl_shuffled",),
    "label edges": (f"{KL}.name=logit_kl_label_edges",),
    "weighted labels": (f"{KL}.attention=none", "losses.cross_entropy.attention=high"),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    attention_controls.register(monkeypatch.setattr)


def distilled(freqkd, out, sets, *words) -> float:
    """Train a run and return its mIoU in percent."""
    options = [word for text in sets for word in ("--set", text)]
    code, text, err = freqkd("distill", RECIPE, "--out", out, "--json", "-q", *options, *words)
    assert code == 0, err
    return 100 * json.loads(text)["miou"]


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_miou_of_a_control(control, freqkd, tmp_path, record_property):
    cache = ("--cache", CACHE) if CACHE else ()
    scores = [
        distilled(freqkd, tmp_path / seed, CONTROLS[control], "--seed", seed, *cache)
        for seed in SEEDS
    ]
    line = f"{control:16s} {sum(scores) / len(scores):.1f}  {', '.join(f'{s:.2f}' for s in scores)}"
    record_property("study", (f"controls of {RECIPE}", line, True, line))


@pytest.mark.parametrize("control", CONTROLS)
def test_a_short_run_of_a_control(control, freqkd, tmp_path):
    sizes = ("data.size=[64,64]", "data.length=4", "data.views=1", "data.workers=0")
    steps = ("train.batch_size=2", "train.epochs=1", "data.held_out=2", "student.width=0.25")
    assert distilled(freqkd, tmp_path / "run", (*CONTROLS[control], *sizes, *steps)) >= 0


def targets(name: str, labels: torch.Tensor, valid: torch.Tensor) -> tuple[dict, dict]:
    """The target of ``logit_kl`` with attention and that of a control."""
    teacher = {"logits": torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))}
    numbers = torch.arange(2)
    batch = Batch(torch.zeros(2, 3, 24, 32), labels, valid, numbers, numbers)
    made = []
    for loss_name in ("logit_kl", name):
        loss = registry.find("losses", loss_name).build(attention="high", cutoff=0.5)
        tap = {"logits": Tap("logits", 4, 3, "logits")}
        loss.start(tap, tap, 3)
        made.append(loss.target(teacher, batch, {"logits": (6, 8)}))
    return made[0], made[1]


def test_a_shuffled_map_has_the_weights_of_the_inside_cells_in_another_order():
    valid = torch.ones(2, 24, 32, dtype=torch.bool)
    valid[1, :, 16:] = False
    plain, control = targets("logit_kl_shuffled", torch.zeros(2, 24, 32, dtype=torch.long), valid)
    assert torch.equal(plain["logits"], control["logits"])
    a, b = plain["emphasis"], control["emphasis"]
    assert not torch.equal(a, b) and not torch.equal(a[1, :, :4], b[1, :, :4])
    for row, columns in ((0, 8), (1, 4)):
        ordered = (x[row, :, :columns].flatten().sort().values for x in (a, b))
        assert torch.equal(*ordered)
    assert b[1, :, 4:].eq(1).all()


def test_edges_of_labels_lie_beside_the_edge_and_void_is_no_class():
    labels = torch.zeros(2, 24, 32, dtype=torch.long)
    labels[0, :, 12:20] = 1
    labels[1] = 255
    _, control = targets("logit_kl_label_edges", labels, torch.ones_like(labels).bool())
    columns = control["emphasis"][0].mean(0)
    assert set(columns.topk(2).indices.tolist()) <= {2, 3, 4, 5} and columns[0] < 1
    assert control["emphasis"][1].eq(1).all()
