"""The cost of a run before it starts: steps, operations, bytes, seconds on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from freqkd_cli.runtime.operations import forward_flops, parameters
from freqkd_cli.runtime.progress import Silent
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
PROBE_STEPS, PROBE_SECONDS = 4, 4.0
"""Steps that are measured after the first one, fewer where they take longer than this time."""
LARGE_STEP = 100e9
"""Operations of a step that are too many to try on a CPU; there one image is measured."""


def cost(loop: Loop, done: int = 0) -> dict[str, Any]:
    """Return what a run that is ready to start would cost. The loop cannot be used afterwards.

    Args:
        done: steps that the run in the folder has behind it.
    """
    train, out, length = loop.train, loop.setting.out, loop.setting.length
    student, size = loop.training.objective.student, loop.setting.checked.view_spec.size
    weights = 4 * sum(p.numel() for p in student.parameters())
    student_flops = _flops(student, size)
    model = loop.source.model if isinstance(loop.source, LiveTeacher) else None
    # Saved outputs have no forward pass, and the operations of an ONNX file are not counted.
    teacher_flops = 0 if model is None or hasattr(model, "of_batch") else _flops(model, size)
    per_step = train.batch_size * train.accumulate
    # A backward pass costs about two forward passes.
    step_flops = per_step * (3 * student_flops + teacher_flops)
    steps = length.steps - done
    seconds = _seconds(loop, steps, student_flops, step_flops)
    bands = loop.setting.checked.bands
    return {
        "run": str(out),
        **loop.setting.numbers_of_images,
        "steps": steps,
        "bands": [f"{id} {band}" for id, cells in bands.items() for band in cells] or None,
        "views_seen": steps * per_step,
        "student_parameters": parameters(student),
        "student_gflops": round(student_flops / 1e9, 3),
        "teacher_gflops": round(teacher_flops / 1e9, 3),
        "step_gflops": round(step_flops / 1e9, 2),
        "seconds": round(seconds, 1),
        "time": f"about {duration(seconds)} on this machine",
        "bytes": {"model": weights, "state": 2 * (3 + bool(train.ema)) * weights},
        "writes": [str(out / name) for name in WRITTEN],
    }


def duration(seconds: float) -> str:
    """Return a time as one rough number: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Return the operations of a forward pass, counted on a copy without storage."""
    with torch.device("meta"):
        empty = copy.deepcopy(model).to("meta")
        empty.__dict__.pop("train", None)  # a live teacher's: it returns the teacher itself
        return forward_flops(empty, size)


def _seconds(loop: Loop, steps: int, student_flops: int, step_flops: int) -> float:
    """Return the time of the last ``steps`` steps: measured ones and scores, times their number."""
    length, every = loop.setting.length, loop.train.eval_every
    epochs = length.epochs_after(steps - 1)
    evaluations = 1 + (epochs // every if every else 0) + bool(loop.train.metrics)
    image = _image_seconds(loop)
    if step_flops > LARGE_STEP and loop.setting.device.type == "cpu":
        step = image * step_flops / student_flops
    else:
        step = _step_seconds(loop)
    return step * steps + evaluations * loop.evaluation.images * image


def _step_seconds(loop: Loop) -> float:
    """Return the median time of a few real steps.

    The first one does not count if others follow: it may compile kernels.
    """
    times: list[float] = []
    loop.progress = Silent()
    with closing(loop.batches()) as batches:
        for _ in range(min(1 + PROBE_STEPS, loop.setting.length.steps)):
            started = time.monotonic()
            loop.step(batches)
            _wait(loop.setting.device)
            times.append(time.monotonic() - started)
            # A step waits for all processes, and their clocks differ.
            if loop.processes.any(sum(times[1:]) > PROBE_SECONDS):
                break
    return statistics.median(times[1:] or times)


@torch.inference_mode()
def _image_seconds(loop: Loop) -> float:
    """Return the time of the student's forward pass on one image, the second of two."""
    student, size = loop.training.objective.student, loop.setting.checked.view_spec.size
    image = loop.setting.compute.layout(torch.rand(1, 3, *size, device=loop.setting.device))
    student.eval()
    started = time.monotonic()
    for _ in range(2):
        started = time.monotonic()
        student(image)
        _wait(loop.setting.device)
    return time.monotonic() - started


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
