"""``train.compile``: torch.compile of the student and of a live teacher, where it works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from freqkd_cli.errors import quoted
from freqkd_cli.teacher.live import LiveTeacher

if TYPE_CHECKING:
    from freqkd_cli.teacher.targets import Source
    from freqkd_cli.train.setting import Setting
    from freqkd_cli.train.training_state import Training

log = logging.getLogger(__name__)


def compile_models(setting: Setting, training: Training, source: Source) -> None:
    """Compile the forward pass of the student and of a live teacher, in place.

    Names of tensors stay the same. Each pass is tried on a batch of black images. One that cannot
    be compiled runs as it is, with a warning that gives the reason. With ``train.quantize`` nothing
    is compiled, since black images would change the ranges. A teacher in lanes is not compiled.
    """
    if setting.checked.recipe.train.quantize:
        log.warning("train.compile has no effect together with train.quantize")
        return
    objective, number = training.objective, setting.processes.number
    size = (setting.checked.recipe.train.batch_size // number, 3, *setting.checked.view_spec.size)
    images = torch.zeros(size, device=setting.device)

    def train_student() -> None:
        with objective.autocast:
            taps = objective.student(setting.compute.layout(images), taps=objective.wanted)
        outputs = [tap.float().mean() for tap in taps.values() if tap.requires_grad]
        if outputs:
            torch.stack(outputs).sum().backward()

    _compile(objective.student, "the student", train_student)
    if isinstance(source, LiveTeacher) and source.wanted:
        _compile_teacher(source, images)


def _compile_teacher(source: LiveTeacher, images: Tensor) -> None:
    """Compile a live teacher as steps run it: without gradients, which a graph depends on.

    Lanes on a CPU run copies of the model, which are not compiled.
    """
    if source.lanes.lanes_for(len(images)) > 1:
        log.info("train.compile: the teacher runs in several threads on this CPU, not compiled")
        return
    names = [name for name in source.wanted if name != "logits"]

    def run(model: nn.Module, part: slice) -> None:
        model(images[part], taps=names)

    _compile(source.model, "the teacher", lambda: source.lanes.each(len(images), run))


def _compile(model: nn.Module, name: str, run: Callable[[], object]) -> None:
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.compile()
    try:
        run()
    except Exception as error:  # of the compiler, or of a part of torch that it uses
        model._compiled_call_impl = None
        log.warning("train.compile: %s runs without it: %s", name, quoted(error))
    finally:
        model.load_state_dict(state)
        model.zero_grad(set_to_none=True)


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run a model as it was written for a while: scores do not depend on ``train.compile``."""
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        yield
    finally:
        model._compiled_call_impl = compiled
