"""``train.compile`` compiles a teacher for the calls of the steps, and only where these use it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from freqkd_cli.features.taps import Tap
from freqkd_cli.losses import logit_kl
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.train import compilation

BATCH = 4


@pytest.fixture
def graphs(monkeypatch) -> list[torch.fx.GraphModule]:
    """The graphs that torch.compile makes; they run as they are."""
    made: list[torch.fx.GraphModule] = []
    compiled = nn.Module.compile

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled(self, backend=backend))
    yield made
    torch.compiler.reset()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images, taps=()):
        return {"logits": self.layer(images)}


def compile_teacher() -> LiveTeacher:
    """Compile a student and a teacher; return the source of the teacher's targets."""
    losses = {"kl": logit_kl.build()}
    source = LiveTeacher(Small(), losses, {"logits": Tap("logits", 1, 4, "logits")})
    train = SimpleNamespace(quantize=None, batch_size=BATCH)
    checked = SimpleNamespace(
        recipe=SimpleNamespace(train=train), view_spec=SimpleNamespace(size=(8, 8))
    )
    setting = SimpleNamespace(
        checked=checked,
        processes=SimpleNamespace(number=1),
        device=torch.device("cpu"),
        compute=SimpleNamespace(layout=lambda images: images),
    )
    objective = SimpleNamespace(student=Small(), autocast=nullcontext(), wanted=())
    compilation.compile_models(setting, SimpleNamespace(objective=objective), source)
    return source


def test_a_teacher_is_compiled_once_and_for_the_steps(graphs):
    source = compile_teacher()
    assert len(graphs) == 2  # with one thread: of the student and of the teacher
    images = torch.zeros(BATCH, 3, 8, 8)
    source.lanes.each(BATCH, lambda model, part: model(images[part], taps=[]))
    assert len(graphs) == 2


@pytest.mark.usefixtures("three_threads")
def test_a_teacher_whose_lanes_run_copies_is_not_compiled(graphs):
    source = compile_teacher()
    assert len(graphs) == 1 and source.model._compiled_call_impl is None
