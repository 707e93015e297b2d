"""One image a step: batch norms that would see one value per channel are refused, not run."""

from __future__ import annotations

import re

import pytest
import torch
from console import console

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.single_values import check_norms, check_unbuilt, norms_of_one_value
from freqkd_cli.errors import RecipeError, UsageError
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.train.distillation import distill
from freqkd_cli.views.steps import Steps

RECIPE = """
version: 1
data: {name: scenes, size: [96, 128], length: 4, held_out: 2, workers: 0}
student: {name: smp, arch: ARCH, encoder: resnet18}
losses: [{name: cross_entropy}]
train: {steps: 1, batch_size: 1, previews: false}
"""
POOLING = ("deeplabv3", "deeplabv3plus", "pan", "upernet")
OTHERS = ("pspnet", "unet", "unetplusplus", "fpn", "linknet", "manet")


def load(arch: str, *sets: str):
    return recipes.loads(RECIPE.replace("ARCH", arch), sets=sets)


@pytest.mark.parametrize("arch", [*POOLING, *OTHERS])
def test_what_is_found_on_the_meta_device_is_what_a_step_would_raise(arch):
    student = assemble.build_student(assemble.check(load(arch))).train()
    names = norms_of_one_value(student, (128, 160), ())
    assert bool(names) == (arch in POOLING) and student.training
    if names:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            student(torch.rand(1, 3, 128, 160))
        assert set(names) <= {name for name, _ in student.named_modules()}
    else:
        student(torch.rand(1, 3, 128, 160))


def test_a_run_is_refused_before_its_folder_is_made_and_every_tip_works(tmp_path):
    with pytest.raises(RecipeError, match="one value per channel") as caught:
        distill(load("deeplabv3"), tmp_path / "run", Silent())
    assert caught.value.key == "train.batch_size" and not (tmp_path / "run").exists()
    tips = re.findall(r"--set '([^']+)'", caught.value.tip)
    assert tips == ["train.batch_size=2", "train.freeze_norm=true"]
    for number, tip in enumerate(tips):
        assert distill(load("deeplabv3", tip), tmp_path / str(number), Silent())["steps"] == 1


def test_no_tip_asks_for_more_images_than_there_are(tmp_path):
    with pytest.raises(RecipeError) as caught:
        distill(load("deeplabv3", "data.length=1"), tmp_path / "run", Silent())
    assert "batch_size=2" not in caught.value.tip and "freeze_norm=true" in caught.value.tip


def test_recipe_check_refuses_it_too(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    freqkd = console(monkeypatch, capfd)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("ARCH", "deeplabv3").lstrip())
    result = freqkd("recipe", "check", "r.yaml")
    assert result.code == 2 and not result.out
    assert "r.yaml:5:31 train.batch_size: batch norm cannot train on one value" in result.err
    for tip in re.findall(r"--set '([^']+)'", result.err):
        assert freqkd("recipe", "check", "r.yaml", "--set", tip).code == 0


@pytest.mark.parametrize(("size", "refused"), [("[32, 32]", True), ("[64, 64]", False)])
def test_fast_scnn_is_refused_only_where_its_map_has_one_cell(size, refused):
    """Its pooling to one cell uses the running statistics by itself."""
    text = RECIPE.replace("{name: smp, arch: ARCH, encoder: resnet18}", "{name: fast_scnn}")
    plan = assemble.check(recipes.loads(text, sets=[f"data.size={size}"]))
    if refused:
        with pytest.raises(RecipeError, match="one value per channel"):
            check_unbuilt(plan)
    else:
        check_unbuilt(plan)


def test_a_frozen_student_needs_no_second_value():
    check_unbuilt(assemble.check(load("deeplabv3", "train.freeze_student=true")))
    check_unbuilt(assemble.check(load("deeplabv3", "train.batch_size=2")))


def test_tips_about_batches_name_sizes_that_fit():
    def tips(length: int, batch_size: int, processes: int) -> list[str]:
        with pytest.raises(UsageError) as caught:
            Steps(length, batch_size, 0, 0, 1, processes=processes)
        return re.findall(r"train.batch_size=(\d+)", caught.value.tip)

    assert tips(3, 8, 1) == ["3"] and tips(3, 8, 2) == ["2"] and tips(1, 8, 2) == []
    assert tips(9, 5, 2) == ["4", "6"] and tips(5, 5, 2) == ["4"] and tips(3, 3, 4) == []


def test_a_batch_is_counted_per_process_unless_batch_norm_is_synchronised():
    plan = assemble.check(load("deeplabv3", "train.batch_size=2"))
    student = assemble.build_student(plan)
    check_norms(plan, student, ())
    check_norms(plan, student, (), processes=2, synchronised=True)
    with pytest.raises(RecipeError, match="train.batch_size 2 for 2 processes") as caught:
        check_norms(plan, student, (), processes=2)
    assert "--set 'train.batch_size=4'" in caught.value.tip
