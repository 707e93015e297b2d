"""Two processes under torchrun give the results of one: scores, cached tensors and weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cache_fakes import bytes_of
from safetensors.torch import load_file

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import Interrupted, UsageError
from freqkd_cli.runtime import launch
from freqkd_cli.runtime.processes import ALONE, join
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump import _TeacherPass
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train import estimate
from freqkd_cli.train.distillation import distill

SCRIPT = Path(__file__).with_name("many_processes.py")
ROOT = Path(__file__).parents[2]

RECIPE = """
version: 1
data: {name: scenes, size: [64, 64], length: 12, held_out: 9, workers: 0, views: 2,
  augment: {flip: true, isolate: 0.5}}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn, width: 0.25, dropout: 0.0}
losses:
  - {name: cross_entropy, class_weights: [1, 2, 1, 1, 1, 1, 1, 1, 3, 1, 1, 1]}
  - {name: logit_kl, weight: 0.5}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, cutoff: 0.4, weight: 0.5}
train: {steps: 4, batch_size: 4, lr: 0.02, optimizer: sgd, clip: 5.0, ema: 0.9,
  freeze_norm: true, precision: float32, metrics: [boundary_f, calibration]}
"""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
)


def two_processes(
    *words: str, cwd: Path, launcher: tuple[str, ...] = TORCHRUN
) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", *launcher]
    return subprocess.run(
        [*start, *words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=1800
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """One process."""
    subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        timeout=1800,
    )


@pytest.fixture(scope="module")
def launched(folder, alone):
    """Two processes on the same recipe; one process starts a dump and two resume it."""
    with pytest.MonkeyPatch.context() as patch:
        report = _TeacherPass._report

        def stopping(self, number):
            report(self, number)
            if self.done >= 12:
                self.stop.append(15)

        patch.setattr(_TeacherPass, "_report", stopping)
        options = DumpOptions(Form(dtype="fp32"), shard_bytes=100_000)
        with pytest.raises(Interrupted):
            dump_recipe(
                recipes.load(folder / "recipe.yaml"), folder / "cache-cut", Silent(), options
            )
    assert (
        list((folder / "cache-cut").glob("shard-*"))
        and not (folder / "cache-cut/index.json").exists()
    )
    return two_processes(str(SCRIPT), str(folder), cwd=folder)


def codes(folder: Path) -> list[dict[str, int]]:
    return [json.loads((folder / f"codes-{rank}.json").read_text()) for rank in range(2)]


def test_eval_counts_the_same_integers(folder, launched):
    (matrix, tables, values), (one, tables_of_one, values_of_one) = (
        torch.load(folder / f"matrix-{n}.pt") for n in (2, 1)
    )
    assert (
        matrix.dtype == torch.int64
        and torch.equal(matrix, one)
        and matrix.sum() > 9 * 64 * 64 * 0.9
    )
    assert (matrix.sum(0) > 0).sum() > 5, "the teacher should predict many classes"
    assert values == values_of_one and values["boundary_iou"] > 0.1
    assert len(tables) > 5 and all(map(torch.equal, tables, tables_of_one))
    masks = [sorted((folder / f"masks-{n}").glob("*.png")) for n in (1, 2)]
    assert len(masks[0]) == 9 and [path.name for path in masks[0]] == [
        path.name for path in masks[1]
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*masks, strict=True))


@pytest.mark.parametrize("made", ["cache-2", "cache-cut"])
def test_dump_holds_the_same_tensors(folder, launched, made):
    whole, shared = bytes_of(folder / "cache-1"), bytes_of(folder / made)
    assert whole.keys() == shared.keys() and len(whole) > 3
    for name in whole:
        if name.startswith("shard-"):
            two, one = load_file(folder / made / name), load_file(folder / "cache-1" / name)
            assert two.keys() == one.keys()
            assert all((two[key] - one[key]).abs().max() <= 1e-5 * one[key].std() for key in one)


def test_distill_comes_to_the_same_weights(folder, launched):
    """At the same global batch: frozen batch norm, no dropout, unequal void, weighted classes."""
    shares = [json.loads((folder / f"shares-{rank}.json").read_text()) for rank in range(2)]
    assert max(abs(a - b) for a, b in zip(*shares, strict=True)) > 0.1, "the void should be unequal"
    assert all(a + b == pytest.approx(2.0) for a, b in zip(*shares, strict=True))
    two, one = (load_file(folder / f"run-{n}/state/step-00000004.safetensors") for n in (2, 1))
    before = load_file(folder / "run-1/state/step-00000003.safetensors")
    assert two.keys() == one.keys()
    assert max((two[name].double() - one[name].double()).abs().max() for name in one) < 1e-5
    learned = max((two[name].double() - before[name].double()).abs().max() for name in one)
    assert learned > 1e-3


def test_logged_terms_are_those_of_the_whole_batch(folder, launched):
    (last, _), (of_one, _) = (
        [json.loads(line) for line in (folder / f"run-{n}/metrics.jsonl").read_text().splitlines()]
        for n in (2, 1)
    )
    assert last["raw"] == pytest.approx(of_one["raw"], rel=1e-5) and last["total"] == pytest.approx(
        of_one["total"], rel=1e-5
    )


def test_a_signal_to_one_process_stops_all_and_they_go_on(folder, launched):
    assert [code["stopped"] for code in codes(folder)] == [75, 75] and [
        code["resumed"] for code in codes(folder)
    ] == [0, 0]
    assert (
        "stopped at step 2 of 4" in launched.stderr and "resuming at step 2 of 4" in launched.stderr
    )
    whole, cut = (
        load_file(folder / f"{run}/last/model.safetensors") for run in ("run-2", "run-cut")
    )
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
    assert (folder / "run-cut/metrics.jsonl").read_bytes() == (
        folder / "run-2/metrics.jsonl"
    ).read_bytes()


def test_requested_metrics_of_two_processes_are_those_of_one(folder, launched, freqkd):
    summary = json.loads((folder / "run-2/summary.json").read_text())
    words = ("--metrics", "boundary_f,calibration", "--json", "-q")
    document = json.loads(freqkd("eval", folder / "run-2", *words)[1])
    # Other batches change the last bits of probabilities, and no label.
    assert summary["metrics"] == pytest.approx(
        {name: document[name] for name in summary["metrics"]}, abs=1e-9
    )
    assert summary["metrics"]["miou"] == summary["miou"] and 0 < summary["metrics"]["ece"] < 1


def test_the_first_process_scores_the_teacher_for_all(folder, launched):
    one, two = (json.loads((folder / f"run-{n}/summary.json").read_text()) for n in (1, 2))
    assert one["teacher_miou"] == two["teacher_miou"] > 0.1 and two["teacher_images"] == 9
    runs = 5  # distill, stopped, resumed, live norms, and one that fails
    assert launched.stderr.count("teacher on 9 images of val") == runs


def test_live_batch_norm_leaves_one_student_and_is_logged(folder, launched):
    first, second = (json.loads((folder / f"student-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert launched.stderr.count("batch norm is per process") == 1


def test_only_the_first_process_prints_results(folder, launched):
    assert all(
        code["dump"] == code["eval"] == code["distill"] == code["dump resumed"] == code["zoo"] == 0
        for code in codes(folder)
    )
    documents, rest = [], launched.stdout.strip()
    while rest:
        document, end = json.JSONDecoder().raw_decode(rest)
        documents.append(document)
        rest = rest[end:].strip()
    *shared, zoo = documents
    assert [next(iter(document)) for document in shared] == [
        "cache",
        "source",
        "run",
        "cache",
        "run",
        "run",
    ]
    assert isinstance(zoo, list) and launched.stderr.count("shards for 2 processes") == 2
    assert (
        launched.stderr.count("global batch 4: 2 on each of 2 processes") == 5
    )  # distill, stopped, resumed, live norms, nan


def test_all_processes_measure_equally_many_steps():
    """Each took one more step by its own clock, and waited in it for those that did not."""
    steps = []
    loop = SimpleNamespace(
        setting=SimpleNamespace(length=SimpleNamespace(steps=9), device=torch.device("cpu")),
        batches=lambda: (batch for batch in ()),
        step=lambda batches: steps.append(1),
        processes=SimpleNamespace(any=lambda flag: flag or len(steps) == 2),  # the other is slow
    )
    assert estimate._step_seconds(loop) < estimate.PROBE_SECONDS
    assert len(steps) == 2


def test_a_batch_that_cannot_be_shared(folder, launched):
    assert [code["uneven"] for code in codes(folder)] == [2, 2]
    for rank in range(2):
        assert f"[rank {rank}] error: the processes cannot share a batch equally" in launched.stderr
    tips = "--set 'train.batch_size=4', or --set 'train.batch_size=6', or start fewer processes"
    assert tips in launched.stderr and not (folder / "run-uneven").exists()


def test_a_loss_that_is_not_finite_in_one_process_ends_all(folder, launched):
    assert launched.returncode == 1
    pattern = r"^\[rank 1\] error: .*not finite at step 1$"
    assert len(re.findall(pattern, launched.stderr, re.MULTILINE)) == 1
    assert "gloo" not in launched.stderr.lower()
    assert not (folder / "run-nan/summary.json").exists()


def test_the_console_under_torchrun(folder):
    done = two_processes(
        "-m",
        "freqkd_cli",
        "eval",
        "recipe.yaml",
        "--teacher",
        "--limit",
        "3",
        "--min-miou",
        "99.9",
        cwd=folder,
    )
    assert done.returncode == 1 and done.stdout == ""  # a launcher has an exit code of its own
    assert (
        done.stderr.count("] error: ") == 2  # of each process, with its rank
        and "below --min-miou" in done.stderr
        and re.search(r"exitcode *: 3", done.stderr)
    )


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(TORCHRUN, id="torchrun"),
        pytest.param(ACCELERATE, id="accelerate", marks=pytest.mark.slow),
    ],
)
def test_two_processes_print_one_table(folder, launcher):
    if launcher == ACCELERATE:
        pytest.importorskip("accelerate")
    done = two_processes(
        "-m",
        "freqkd_cli",
        "eval",
        "recipe.yaml",
        "--teacher",
        "--limit",
        "3",
        cwd=folder,
        launcher=launcher,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters") == 1 and "Traceback" not in done.stderr


@pytest.mark.slow
def test_four_processes_come_to_the_results_of_one(folder, alone):
    words = (*TORCHRUN[:-1], "4")
    done = two_processes(str(SCRIPT), str(folder), cwd=folder, launcher=words)
    assert done.returncode == 0, done.stderr
    four, one = (torch.load(folder / f"matrix-{n}.pt") for n in (4, 1))
    assert torch.equal(four[0], one[0]) and four[2] == one[2]
    whole, shared = bytes_of(folder / "cache-1"), bytes_of(folder / "cache-4")
    assert whole.keys() == shared.keys()
    for name in (name for name in whole if name.startswith("shard-")):
        many, single = (load_file(folder / f"cache-{n}" / name) for n in (4, 1))
        assert all((many[k] - single[k]).abs().max() <= 1e-5 * single[k].std() for k in single)
    many, single = (load_file(folder / f"run-{n}/state/step-00000004.safetensors") for n in (4, 1))
    assert max((many[k].double() - single[k].double()).abs().max() for k in single) < 1e-5


def test_passes_of_one_step_are_one_batch(folder, tmp_path):
    recipe = ("train.steps=2", "train.ema=0.0")
    for name, *sets in (
        ("one", "train.batch_size=8"),
        ("two", "train.batch_size=4", "train.accumulate=2"),
    ):
        distill(
            recipes.load(folder / "recipe.yaml", [*recipe, *sets, "data.length=16"]),
            tmp_path / name,
            Silent(),
        )
    one, two = (load_file(tmp_path / name / "last/model.safetensors") for name in ("one", "two"))
    assert max((one[name].double() - two[name].double()).abs().max() for name in one) < 1e-5


def test_one_process_forms_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("cpu").number == 1 and not torch.distributed.is_initialized()
    assert launch.rank() == 0 and ALONE.first
    assert ALONE.share(3) == 3 and ALONE.gather(3) == [3] and not ALONE.any(False)


ONE_SIDED = """
import os, sys, time
from datetime import timedelta
import torch.distributed.distributed_c10d as distributed
distributed.default_pg_timeout = timedelta(seconds=3)  # of torch, instead of 30 minutes
from freqkd_cli.runtime.processes import join
processes = join("cpu")
if processes.first:
    time.sleep(7)
elif sys.argv[1] == "ends":
    os._exit(1)
sys.stdout.write(processes.share("shared") + "\\n")  # print makes two writes, which may mix
"""


def one_sided(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    (folder / "one_sided.py").write_text(ONE_SIDED)
    return two_processes("one_sided.py", what, cwd=folder)


def test_processes_wait_for_long_work_of_one(tmp_path):
    done = one_sided(tmp_path, "works")
    assert (done.returncode, done.stdout) == (0, "shared\n" * 2), done.stderr


def test_no_process_waits_for_one_that_ended(tmp_path):
    started = time.monotonic()
    done = one_sided(tmp_path, "ends")
    assert (done.returncode, done.stdout) == (1, "") and time.monotonic() - started < 300


def test_each_process_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--device cpu:0"):
        join("cpu:0")
