"""Known answers of the losses mgd, spectralkd, freekd, attnfd and of the released form of fam."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from rival_inputs import batch_of, fill, numbers, started, value
from safetensors.torch import save_file
from torch import nn

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.losses import attnfd, fam, freekd, mgd, spectralkd
from freqkd_cli.losses._convolution import shown_cells
from freqkd_cli.losses._fam_released import box


def as_copy(loss) -> None:
    """Let the generation of ``mgd`` copy its input, where that is above -9."""
    for layer, bias in ((loss.generation.first, 9.0), (loss.generation.last, -9.0)):
        nn.init.dirac_(layer.weight)
        nn.init.constant_(layer.bias, bias)


def test_mgd_is_the_sum_of_squares_of_the_masked_cells():
    loss = started(mgd.build, (3, 3), ratio=0.6)
    as_copy(loss)
    maps, batch = numbers(2, 3, 20, 30, seed=1), batch_of(20, 30)
    kept = shown_cells(loss.key, batch, 4, maps, loss.ratio)
    assert kept.shape == (2, 1, 20, 30) and abs(kept.mean().item() - 0.4) < 0.05
    known = ((1 - kept) * maps.square()).sum().item() / 2
    assert value(loss, maps, maps, batch, 4).item() == pytest.approx(known, rel=1e-9)
    student = maps.clone().requires_grad_(True)
    value(loss, student, numbers(2, 3, 20, 30, seed=2), batch, 4).backward()
    assert torch.equal(student.grad.abs().amax(1, keepdim=True) > 0, kept > 0)


def test_mgd_without_a_mask_is_zero_where_the_student_equals_the_teacher():
    loss = started(mgd.build, (3, 3), ratio=0.0)
    as_copy(loss)
    maps = numbers(2, 3, 5, 6, seed=1)
    assert value(loss, maps, maps, batch_of(5, 6)).item() < 1e-20


def test_mgd_draws_a_mask_in_each_step_and_a_checkpoint_keeps_its_key():
    loss = started(mgd.build, (3, 4))
    maps, batch = numbers(2, 3, 5, 6, seed=1), batch_of(5, 6)

    def kept(loss, step: int) -> torch.Tensor:
        return shown_cells(loss.key, batch, step, maps, loss.ratio)

    assert not torch.equal(kept(loss, 1), kept(loss, 2))
    other = copy.deepcopy(loss)
    other.key.add_(1)
    assert not torch.equal(kept(loss, 1), kept(other, 1))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(kept(loss, 1), kept(other, 1))


@pytest.mark.parametrize(("wave", "share"), [((0, 0), 1.0), ((1, 2), 0.25), ((0, 4), 1.0)])
def test_spectralkd_of_a_wave(wave, share):
    """A wave of amplitude 2 lies in one bin; at DC and Nyquist it has twice the amplitude there."""
    rows, columns = np.arange(6)[:, None] / 6, np.arange(8)[None, :] / 8
    map_ = 2.0 * np.cos(2 * math.pi * (wave[0] * rows + wave[1] * columns))
    student = torch.from_numpy(map_).expand(2, 3, -1, -1)
    loss = started(spectralkd.build, (3, 3))
    known = share * 4.0 * 48 / (6 * 5 * 2)
    got = value(loss, student, torch.zeros_like(student), batch_of(6, 8))
    assert got.item() == pytest.approx(known, rel=1e-9)


def test_spectralkd_averages_neighboring_channels_of_the_teacher():
    teacher = numbers(2, 6, 5, 6, seed=1)
    student = teacher.unflatten(1, (3, 2)).mean(2)
    assert value(started(spectralkd.build, (3, 6)), student, teacher, batch_of(5, 6)) < 1e-20


def test_spectralkd_refuses_a_wider_student():
    with pytest.raises(RecipeError) as caught:
        started(spectralkd.build, (6, 3))
    assert "6 channels" in str(caught.value) and "at most 3" in str(caught.value)
    assert caught.value.key == "student"


@pytest.mark.parametrize(("bands", "known"), [("high", 20.0), ("all", 20.0 + 16.0)])
def test_freekd_of_a_constant_error(bands, known):
    """Details of a constant are 0, its mean square is 4, its low band is 8 times as large."""
    loss = started(freekd.build, (3, 3), bands=bands)
    fill(loss.adapter.weight, torch.eye(3))
    teacher = numbers(2, 3, 16, 24, seed=1)
    got = value(loss, teacher + 2.0, teacher, batch_of(16, 24))
    assert got.item() == pytest.approx(known, rel=1e-9)


def test_freekd_of_stripes_of_one_row():
    """Rows of +1 and -1 are horizontal details of level 1: 2 there, 0 in the other two."""
    loss = started(freekd.build, (3, 3), mse=0.0)
    fill(loss.adapter.weight, torch.eye(3))
    stripes = torch.tensor([1.0, -1.0]).double().repeat(8)[:, None].expand(2, 3, 16, 24)
    got = value(loss, stripes, torch.zeros_like(stripes), batch_of(16, 24))
    assert got.item() == pytest.approx(2 / 3, rel=1e-9)


def test_prompts_of_zeros_halve_the_details_of_freekd(tmp_path):
    save_file({"prompts": torch.zeros(4, 2, 3)}, tmp_path / "prompts.safetensors")
    student, teacher = numbers(2, 3, 16, 24, seed=1), numbers(2, 3, 16, 24, seed=2)
    values = []
    for prompts in (None, str(tmp_path / "prompts.safetensors")):
        loss = started(freekd.build, (3, 3), bands="all", mse=0.0, prompts=prompts)
        fill(loss.adapter.weight, torch.eye(3))
        values.append(value(loss, student, teacher, batch_of(16, 24)).item())
    assert values[1] == pytest.approx(values[0] / 2, rel=1e-9)


def test_freekd_refuses_prompts_that_do_not_fit(tmp_path):
    with pytest.raises(WeightsMissing, match=r"the file of prompts is missing\n  got  nowhere"):
        started(freekd.build, (3, 3), prompts="nowhere.safetensors")
    file = tmp_path / "prompts.safetensors"
    for tensors, got in (
        ({"prompts": torch.zeros(3, 2, 3)}, "shape"),
        ({"a": torch.zeros(1)}, "a"),
    ):
        save_file(tensors, file)
        with pytest.raises(RecipeError) as caught:
            started(freekd.build, (3, 3), prompts=str(file))
        assert got in str(caught.value) and "[4, any number, 3]" in str(caught.value)
    file.write_bytes(b"{}")
    with pytest.raises(RecipeError, match="is not a safetensors file"):
        started(freekd.build, (3, 3), prompts=str(file))


def test_the_attention_of_a_constant_map_in_attnfd():
    """Mean and max are equal: x1 = c sigmoid(2 c), then x1 sigmoid(2 x1)."""
    c = 0.7
    first = c / (1 + math.exp(-2 * c))
    known = first / (1 + math.exp(-2 * first))
    got = attnfd.plain_attention(torch.full((1, 3, 4, 5), c, dtype=torch.float64))
    torch.testing.assert_close(got, torch.full_like(got, known))


def test_attnfd_is_two_less_two_cosines():
    student, teacher = numbers(2, 3, 6, 8, seed=1), numbers(2, 4, 6, 8, seed=2)
    values = {}
    for norm in ("batch", "image"):
        torch.manual_seed(0)
        loss = started(attnfd.build, (3, 4), norm=norm)
        refined = loss.norm(loss.connector(loss.attention(student)))
        values[norm] = value(loss, student, teacher, batch_of(6, 8)).item()
    sides = refined, attnfd.plain_attention(teacher)
    cosine = torch.cosine_similarity(*(x.flatten() for x in sides), dim=0)
    assert values["batch"] == pytest.approx((2 - 2 * cosine.item()) / 2, rel=1e-9)
    cosines = torch.cosine_similarity(*(x.flatten(1) for x in sides), dim=1)
    assert values["image"] == pytest.approx((2 - 2 * cosines).mean().item(), rel=1e-9)


def test_attnfd_is_zero_where_the_refined_maps_are_parallel():
    loss = started(attnfd.build, (3, 3), batch_norm=False)
    for layer in (loss.attention.reduce, loss.attention.expand, loss.attention.spatial):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)  # so both gates are 1/2 everywhere
    fill(loss.connector.weight, torch.eye(3))
    teacher = numbers(2, 3, 6, 8, seed=1)
    student = 5.0 * attnfd.plain_attention(teacher)
    assert value(loss, student, teacher, batch_of(6, 8)).item() < 1e-20


@pytest.mark.parametrize("grid", [(24, 32), (64, 50), (33, 47), (12, 16)])
def test_the_box_of_fam_is_the_one_around_the_centre_of_the_shifted_plane(grid):
    known = np.zeros(grid, bool)
    centre = [int(n / 2) for n in grid]
    reach = [int(0.1 * c) for c in centre]
    rows, columns = (slice(c - r, c + r) for c, r in zip(centre, reach, strict=True))
    known[rows, columns] = True
    np.testing.assert_array_equal(box(grid, 0.1), np.fft.ifftshift(known))


def test_the_released_form_of_fam_refuses_another_grid_and_another_band():
    loss = started(fam.build, (3, 4), form="released", grid=(6, 8))
    loss.check_grids({"s": (6, 8)}, {"t": (12, 16)})
    with pytest.raises(RecipeError) as caught:
        loss.check_grids({"s": (12, 16)}, {"t": (12, 16)})
    assert "grid: [12, 16]" in str(caught.value) and caught.value.key == "grid"
    with pytest.raises(RecipeError, match="the released filter starts as random numbers"):
        fam.build(student="s", teacher="t", form="released", band="low")
