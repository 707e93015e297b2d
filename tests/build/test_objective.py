"""The objective: any id of a loss line, checkpoints of earlier versions, errors, layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.objective import Line, Objective
from freqkd_cli.errors import TrainingFailed
from freqkd_cli.features.loss import Loss
from freqkd_cli.train.training_state import make_optimizer
from freqkd_cli.views.batch import Batch

# Names that a ModuleDict, a module or a file of tensors might use for itself.
IDS = ("keys", "items", "values", "pop", "update", "type", "train", "float", "forward", "a-b", "_")

RECIPE = """\
version: 1
data: {name: scenes, size: [64, 96], length: 4, views: 1, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
LINES
train: {steps: 1, batch_size: 2}
"""
BAND = "  - {id: '%s', name: band, student: encoder, teacher: stage4, cutoff: 0.9}"


def batch_of(number: int = 2, size: tuple[int, int] = (64, 96)) -> Batch:
    generator = torch.Generator().manual_seed(0)
    indices = torch.arange(number)
    return Batch(
        torch.rand(number, 3, *size, generator=generator),
        torch.randint(0, 12, (number, *size), generator=generator),
        torch.ones(number, *size, dtype=torch.bool),
        indices,
        indices,
    )


def objective_of(*lines: str) -> Objective:
    recipe = recipes.loads(RECIPE.replace("LINES", "\n".join(lines)), "test.yaml")
    plan = assemble.check(recipe)
    student = assemble.build_student(plan)
    return Objective(
        student, assemble.build_lines(plan), torch.autocast("cpu", torch.bfloat16, enabled=False)
    )


def targets_of(objective: Objective, batch: Batch) -> dict[str, dict[str, Tensor]]:
    channels = {"stage4": 160, "keys4": 160}
    teacher = {name: torch.randn(len(batch), c, 2, 3) for name, c in channels.items()}
    teacher["keys4"] = teacher["keys4"].flatten(2).unflatten(1, (5, 32)).mT
    grids = {"encoder": (2, 3)}
    return {
        line.id: line.loss.target(teacher, batch, grids)
        for line in objective.lines
        if line.teacher_taps
    }


@pytest.mark.parametrize("id", IDS)
def test_a_line_may_have_any_id(id):
    objective, batch = objective_of(BAND % id), batch_of()
    targets = targets_of(objective, batch)
    total, terms = objective(batch, targets, 0, 1)
    total.backward()
    before = objective.lines[1].loss.adapter.weight.clone()
    make_optimizer(objective, recipes.loads(RECIPE.replace("LINES", ""), "t").train).step()
    assert set(terms) == {"cross_entropy", id} and torch.isfinite(total)
    assert not torch.equal(before, objective.lines[1].loss.adapter.weight)


def test_a_checkpoint_with_ids_in_its_names_is_loaded():
    """Versions before this one wrote ``losses.ID.name``."""
    lines = (
        BAND % "keys_",
        "  - {id: graph, name: graph_lowrank, student: encoder, teacher: keys4, graph: query_key, "
        "k: 4}",
    )
    objective, other = objective_of(*lines), objective_of(*lines)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.normal_()
    state = objective.state_dict()
    earlier = {
        name.replace("line_losses.1.", "losses.keys_.").replace(
            "line_losses.2.student_side.", "losses.graph.ours."
        ): tensor
        for name, tensor in state.items()
    }
    assert {"losses.keys_.adapter.weight", "losses.graph.ours.project"} <= set(earlier)
    other.load_state_dict(earlier)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(RuntimeError, match="line_losses.1.adapter.weight"):
        other.load_state_dict({k: v for k, v in state.items() if "line_losses.1" not in k})


class Failing(Loss):
    def student_taps(self, available):
        return ("encoder",)

    def forward(self, student, target, batch, step):
        raise TrainingFailed("a graph is not finite", tip="a lower train.lr", key="student")


class Student(nn.Module):
    def forward(self, images, taps=()):
        return {name: images * 1.0 for name in ("logits", *taps)}


def test_an_error_of_a_loss_names_its_line_and_taps():
    line = Line("groups", Failing(), 1.0, 0.0, ("encoder",), ())
    objective = Objective(Student(), (line,), torch.autocast("cpu", enabled=False))
    with pytest.raises(TrainingFailed, match="groups, of the student's encoder: a graph") as error:
        objective(batch_of(), {}, 0, 1)
    assert error.value.key == "student" and "train.lr" in str(error.value)


def test_a_frozen_student_has_no_auxiliary_logits_and_trains():
    recipe = RECIPE.replace("LINES", BAND % "low").replace("0.25}", "0.25, auxiliary: true}")
    plan = assemble.check(recipes.loads(recipe, "test.yaml"))
    student = assemble.build_student(plan).eval()
    objective = Objective(
        student, assemble.build_lines(plan), torch.autocast("cpu", torch.bfloat16, enabled=False)
    )
    assert "aux1" in objective.wanted
    objective.student.eval()
    batch = batch_of()
    total, _ = objective(batch, targets_of(objective, batch), 0, 1)
    assert torch.isfinite(total)


def test_the_gradient_of_a_channels_last_tap_has_its_layout():
    seen = []

    class Watched(nn.Module):
        def forward(self, images, taps=()):
            tap = (images * 1.0).contiguous(memory_format=torch.channels_last)
            tap.requires_grad_(True)
            return {"logits": images[:, :1], "encoder": tap}

    class Contiguous(Failing):
        def forward(self, student, target, batch, step):
            tap = student["encoder"]
            seen.append(tap)
            return (tap.contiguous() * torch.rand(tap.shape)).sum()

    line = Line("x", Contiguous(), 1.0, 0.0, ("encoder",), ())
    objective = Objective(Watched(), (line,), torch.autocast("cpu", enabled=False))
    gradients = []
    total, _ = objective(batch_of(), {}, 0, 1)
    seen[0].register_hook(gradients.append)
    total.backward()
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
