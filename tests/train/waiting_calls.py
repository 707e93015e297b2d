"""Started by ``test_no_waiting.py``: prints which calls wait for a GPU, as JSON.

The device without data must exist before the first backward pass of a process, so this is one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path

import torch
from sync_watch import FAKE, MODE, SyncWatch, fake_gpu, moved

from freqkd_cli import recipe as recipes
from freqkd_cli.runtime.processes import ALONE, Processes
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.tally import Tally
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.train.loop import LOG_EVERY, Loop
from freqkd_cli.train.preparation import make_loop
from freqkd_cli.train.training_state import Average, make_optimizer
from tests.losses.test_every_loss import NAMES, OnLogits, batch_of, grids_of, started, taps_of

VARIANTS = [
    ("band", {"band": "mix", "high_share": 0.3, "attention": "high"}),
    ("band", {"represent": "attention", "distance": "cosine"}),
    ("band", {"distance": "l1", "border": "hann"}),
    ("bpkd", {"edges": "prediction"}),
    ("cross_entropy", {"ohem": 0.25, "ohem_threshold": 0.7, "label_smoothing": 0.1}),
    ("cross_entropy", {"class_weights": [1.0, 2.0, 0.5, 1.0, 1.0], "attention": "high"}),
    (OnLogits("dist"), {"only_where_right": True}),
    ("fam", {"cutoff": 0.3}),
    ("focal", {"class_weights": [1.0, 2.0, 0.5, 1.0, 1.0]}),
    ("graph_laplacian", {"compare": "smoothness"}),
    ("logit_kl", {"attention": "mix"}),
    ("lovasz", {"per_image": True, "classes": "all"}),
    ("octave_kl", {"levels": 1, "weights": [1.0, 2.0]}),
]


RECIPE = """
version: 1
data: {name: scenes, size: [64, 96], length: 8, workers: 0}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, auxiliary: true}
losses:
  - {name: cross_entropy, ohem: 0.25}
  - {name: logit_kl, warmup: 0.5}
  - {name: band, student: decoder, teacher: decoder, cutoff: 0.5}
train: {steps: 100, batch_size: 2, clip: 1.0, ema: 0.9, precision: float32}
"""


def waits(name: str, source: str, **arguments) -> list[str]:
    """The calls of a step that wait for the GPU; after the first one that reads a number, it ends.

    A first step is not watched: it fills the caches of constants.
    """
    loss, (of_student, of_teacher) = started(name, (3, 4), (8, 4), **arguments)
    loss.float()
    on_cpu = batch_of(3)
    student = taps_of(of_student, 3, (6, 8), dtype=torch.float32)
    teacher = taps_of(of_teacher, 3, (12, 16), 4, dtype=torch.float32)
    stored = loss.target(teacher, on_cpu, grids_of(student))
    grids, watch = grids_of(student), SyncWatch()
    with fake_gpu():
        moved(loss)
        batch = dataclasses.replace(on_cpu._each(_fake), host_items=on_cpu._host_items)
        read = {tap: _fake(x).requires_grad_() for tap, x in student.items()}

        def step() -> None:
            with torch.no_grad():
                given = {tap: _fake(x) for tap, x in teacher.items()}
                target = (
                    loss.target(given, batch, grids)
                    if source == "live"
                    else {part: _fake(x) for part, x in stored.items()}
                )
            loss(read, target, batch, 3).backward()

        try:
            step()
            with watch:
                step()
        except Exception:
            with watch:
                _until_it_waits(step, watch)
    return watch.calls


def _until_it_waits(step, watch: SyncWatch) -> None:
    """A number that is read does not exist on this device, so the call that reads it fails."""
    try:
        step()
    except Exception:
        if not watch.calls:
            raise


def _fake(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, device=FAKE)


def on_fake_gpu(loop: Loop) -> Loop:
    """The same loop, with everything on the device without data."""
    training, source = loop.training, loop.source
    assert isinstance(source, LiveTeacher)
    moved(training.objective)
    moved(source.model)
    training.optimizer = make_optimizer(training.objective, loop.train)
    training.average = Average(training.objective.student, loop.train.ema)
    setting = dataclasses.replace(loop.setting, processes=Processes(torch.device(FAKE, 0)))
    return Loop(setting, training, source, Silent(), loop.evaluation)


def of_a_step() -> list[str]:
    loop = make_loop(recipes.loads(RECIPE), Path("run"), Silent(), ALONE, None)
    batches = list(itertools.islice(loop.batches(), 2))
    watch = SyncWatch()
    with fake_gpu():
        batches = [batch._each(MODE.from_tensor) for batch in batches]
        loop = on_fake_gpu(loop)
        assert loop.first_broken.every == LOG_EVERY > 2
        loop.step(iter(batches[:1]))  # it fills the caches of constants
        with watch:
            loop.step(iter(batches[1:]))
    return watch.calls


def of_a_tally() -> list[str]:
    watch = SyncWatch()
    with fake_gpu():
        tally, more = (Tally(5, device=FAKE) for _ in range(2))
        maps = torch.zeros(2, 8, 8, dtype=torch.int64, device=FAKE)
        with watch:
            tally.join(more.add(maps, maps))
    return watch.calls


def of_calls_that_wait() -> list[str]:
    watch = SyncWatch()
    with fake_gpu():
        x, places = torch.ones(3, device=FAKE), torch.tensor([0, 1])
        with watch:
            x.cpu()
            torch.tensor([1.0, 2.0], device=FAKE)
            x[places]
            torch.tensor([1.0, 2.0]).to(FAKE, non_blocking=True)
    return watch.calls


def main() -> None:
    result = {
        "of calls that wait": of_calls_that_wait(),
        "of a step": of_a_step(),
        "of a tally": of_a_tally(),
    }
    for source in ("live", "cached"):
        for name in NAMES:
            result[f"{name} {source}"] = waits(name, source)
        for name, arguments in VARIANTS:
            if source == "cached" or not name.startswith("graph"):
                result[f"{name} {source} {arguments}"] = waits(name, source, **arguments)
    print(json.dumps(result), flush=True)
    # torch keeps a thread for the stand-in device, with which an interpreter at its end may abort.
    os._exit(0)


if __name__ == "__main__":
    main()
