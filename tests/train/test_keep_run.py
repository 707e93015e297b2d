"""A run keeps its bits with ``data.keep``, and may be resumed with another value of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cache_fakes import Notes

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import Interrupted, UsageError
from freqkd_cli.images import keep
from freqkd_cli.images.keep import FOLDER
from freqkd_cli.runtime.processes import ALONE
from freqkd_cli.train import loop
from freqkd_cli.train.distillation import distill
from freqkd_cli.train.preparation import make_loop

RECIPE = """
version: 1
data: {name: scenes, size: [32, 64], length: 8, held_out: 2, workers: 1, augment: {color: 0.2}}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
train: {epochs: 2, batch_size: 4, lr: 1.0e-3, eval_every: 1}
"""


@pytest.fixture(autouse=True)
def disk(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept"


def run(out: Path, *sets: str) -> Notes:
    notes = Notes()
    distill(recipes.loads(RECIPE, sets=sets), out, notes, resume=True)
    return notes


def weights(out: Path) -> bytes:
    return (out / "last/model.safetensors").read_bytes()


def test_memory_and_disk_change_no_bit_of_a_run(tmp_path, disk):
    run(tmp_path / "none")
    for where in ("memory", "disk", "disk"):
        out = tmp_path / f"{where}{len(list(tmp_path.iterdir()))}"
        notes = run(out, f"data.keep={where}")
        assert weights(out) == weights(tmp_path / "none")
        (text,) = [text for text in notes.said if text.startswith(f"data.keep {where}: 10 decoded")]
    assert len(list(disk.glob("*/*.decoded"))) == 10
    assert "0 B of it new" in text


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_images_that_are_held_out_are_kept_once(tmp_path, where):
    notes = Notes()
    recipe = recipes.loads(RECIPE, sets=["data.hold_out=0.25", f"data.keep={where}"])
    loop = make_loop(recipe, tmp_path / "run", notes, ALONE, None)
    assert len(loop.evaluation.dataset) == 2
    (text,) = [text for text in notes.said if text.startswith("data.keep")]
    assert text.startswith(f"data.keep {where}: 8 decoded images take")
    whole = loop.setting.images
    read = [whole.kept.read(whole, index) for index in range(len(whole)) for _ in range(2)]
    assert all((image == whole.read(k // 2)[0]).all() for k, (image, _) in enumerate(read))


def test_a_run_is_resumed_with_another_keep(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    step, taken = loop.Loop.step, []

    def stopping(self, batches):
        step(self, batches)
        taken.append(1)
        if len(taken) == 2:
            raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "step", stopping)
        with pytest.raises(Interrupted):
            run(tmp_path / "half", "data.keep=memory")
    run(tmp_path / "half", "data.keep=disk")
    assert weights(tmp_path / "half") == weights(tmp_path / "whole")


def test_a_keep_that_does_not_fit_stops_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(keep, "free_memory", lambda: 2**20)
    with pytest.raises(UsageError, match="do not fit in memory"):
        run(tmp_path / "run", "data.keep=memory")
    assert not (tmp_path / "run/metrics.jsonl").exists()
