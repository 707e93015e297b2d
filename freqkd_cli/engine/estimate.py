"""What a run would cost, before it starts: steps, GFLOPs, bytes. Seconds are not guessed; they come after the first real batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from freqkd_cli import registry
from freqkd_cli.engine import assemble, run_folder
from freqkd_cli.engine.distill import held_out, look_at_labels
from freqkd_cli.engine.operations import forward_flops, parameters
from freqkd_cli.engine.progress import Silent
from freqkd_cli.engine.schedule import run_length
from freqkd_cli.engine.source import open_source


def _on_meta(name: str, arguments: dict[str, Any], classes: int) -> nn.Module:
    """The architecture without memory and without weights."""
    bare = {key: value for key, value in arguments.items() if key not in ("weights", "encoder_weights")}
    if arguments.get("weights"):
        return registry.find("models", name).build(classes=classes, **arguments)
    with torch.device("meta"):
        return registry.find("models", name).build(classes=classes, **bare)


def distillation(plan: assemble.Plan, out: Path, cache: Path | None, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """The dry run of ``distill``: nothing is written and nothing is trained.

    Raises:
        DataMissing, DataBroken, WeightsMissing, CacheMismatch, UsageError: what a real run would be refused for at its start.
    """
    recipe, train = plan.recipe, plan.recipe.train
    run_folder.check(out, recipe, resume=resume, overwrite=overwrite)
    dataset = assemble.build_dataset(recipe, "train")
    images = len(dataset)
    lines = assemble.build_lines(plan)
    assemble.check_labels(plan, lines, dataset)
    if cache is not None:
        open_source(plan, lines, cache, dataset, "cpu")
    look_at_labels(dataset, held_out(recipe, Silent()), Silent())
    _, steps = run_length(images, train)
    student = _on_meta(recipe.student.name, recipe.student.arguments, len(plan.classes))
    student_flops = forward_flops(student, plan.view_spec.size)
    teacher_flops = 0
    if recipe.teacher and cache is None and any(line.teacher_taps for line in lines):
        teacher_flops = forward_flops(_on_meta(recipe.teacher.name, recipe.teacher.arguments, len(plan.classes)), plan.view_spec.size)
    weights = 4 * sum(p.numel() for p in student.parameters())
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
        "writes": [
            str(out / name) for name in ("recipe.yaml", "model.safetensors", "config.json", "metrics.jsonl", "summary.json", "state/")
        ],
    }
