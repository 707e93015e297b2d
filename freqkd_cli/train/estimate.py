"""What a run would cost, before it starts: steps, GFLOPs, bytes. Seconds are not guessed; they come after the first real batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from freqkd_cli.runtime.operations import forward_flops, parameters
from freqkd_cli.teacher.live import LiveTeacher

if TYPE_CHECKING:
    from freqkd_cli.train.loop import Loop

WRITTEN = (
    "recipe.yaml",
    "model.safetensors",
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "state/",
)


def _flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Counted on a model that forgets its weights, so that nothing is computed."""
    with torch.device("meta"):
        return forward_flops(model.to("meta"), size)


def distillation(loop: Loop) -> dict[str, Any]:
    """What the run that is ready to begin would cost."""
    train, out = loop.train, loop.setting.out
    images, steps, size = (
        len(loop.setting.dataset),
        loop.setting.total_steps,
        loop.setting.plan.view_spec.size,
    )
    student = loop.training.objective.student
    weights = 4 * sum(p.numel() for p in student.parameters())
    student_flops = _flops(student, size)
    teacher_flops = _flops(loop.source.model, size) if isinstance(loop.source, LiveTeacher) else 0
    per_step = train.batch_size * train.accumulate
    return {
        "run": str(out),
        "images": images,
        "steps": steps,
        "views_seen": steps * per_step,
        "student_parameters": parameters(student),
        "student_gflops": round(student_flops / 1e9, 3),
        "teacher_gflops": round(teacher_flops / 1e9, 3),
        # A backward pass costs about two forward passes.
        "step_gflops": round(per_step * (3 * student_flops + teacher_flops) / 1e9, 2),
        "bytes": {"model": weights, "state": 2 * (3 + bool(train.ema)) * weights},
        "writes": [str(out / name) for name in WRITTEN],
    }
