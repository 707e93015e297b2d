"""Losses of features, wavelets, spectra and edges equal the code of their authors.

The golden values come from that code, run in float64 on the tensors of ``rival_inputs``. Each test
names repository, path and commit.
"""

from __future__ import annotations

import pytest
import torch
from rival_inputs import batch_of, blocks, fill, numbers, started, tap, value
from safetensors.torch import save_file

from freqkd_cli.losses import attnfd, bpkd, fam, freekd, mgd, spectralkd

MGD = 65957.47221813297
SPECTRALKD = {3: 0.742675871506849, 7: 0.47919017498645183}
FREEKD = {0.0: 1.441363510007225, 5.0: 11.498976440132072}
ATTNFD = 0.9434168006589181
BPKD = {"body": 6.000165894270134, "edge": 23.555378133226554}
FAM = 1.0564885662134595


def test_mgd_equals_the_released_code():
    """yzd-v/MGD, seg/mmseg/distillation/losses/mgd.py, 2c9da0b: get_dis_loss, on this mask."""
    loss = started(mgd.build, (3, 4))
    for parameter, seed in zip(loss.parameters(), range(3, 9), strict=True):
        fill(parameter, numbers(*parameter.shape, seed=seed))
    loss.key.fill_(12345)
    student, teacher = numbers(2, 3, 5, 6, seed=1), numbers(2, 4, 5, 6, seed=2)
    assert value(loss, student, teacher, batch_of(5, 6), 7).item() == pytest.approx(MGD, rel=1e-9)


@pytest.mark.parametrize("channels", [3, 7])
def test_spectralkd_equals_the_released_code(channels):
    """thy960112/SpectralKD, losses.py, 968be0e: layer_fft_loss."""
    loss = started(spectralkd.build, (3, channels))
    student, teacher = numbers(2, 3, 5, 6, seed=1), numbers(2, channels, 5, 6, seed=2)
    known = SPECTRALKD[channels]
    assert value(loss, student, teacher, batch_of(5, 6)).item() == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize("mse", [0.0, 5.0])
def test_freekd_equals_the_released_code(mse, tmp_path):
    """Gumpest/FreeKD, mmrazor/models/losses/freekd.py and mse.py, e0874f5, with 6 prompts."""
    save_file({"prompts": 0.5 * numbers(4, 6, 4, seed=3)}, tmp_path / "prompts.safetensors")
    file = str(tmp_path / "prompts.safetensors")
    loss = started(freekd.build, (4, 4), mse=mse, prompts=file)
    loss.prompts = 0.5 * numbers(4, 6, 4, seed=3)  # files are read as float32
    fill(loss.adapter.weight, torch.eye(4))
    student, teacher = numbers(2, 4, 12, 20, seed=1), numbers(2, 4, 12, 20, seed=2)
    known = FREEKD[mse]
    assert value(loss, student, teacher, batch_of(12, 20)).item() == pytest.approx(known, rel=1e-6)


def test_attnfd_equals_the_released_code():
    """AmirMansurian/AttnFD, distiller.py and cbam.py, f090bbe; teacher: CBAM(model='teacher')."""
    loss = started(attnfd.build, (32, 5))
    attention = loss.attention
    filled = [
        *(attention.reduce.weight, attention.reduce.bias),
        *(attention.expand.weight, attention.expand.bias),
        *(attention.spatial.weight, attention.norm.weight, attention.norm.bias),
        *(loss.connector.weight, loss.norm.weight, loss.norm.bias),
    ]
    for seed, parameter in enumerate(filled, start=3):
        fill(parameter, numbers(*parameter.shape, seed=seed))
    student, teacher = numbers(2, 32, 6, 8, seed=1), numbers(2, 5, 6, 8, seed=2)
    assert value(loss, student, teacher, batch_of(6, 8)).item() == pytest.approx(ATTNFD, rel=1e-9)


@pytest.mark.parametrize("parts", [(1.0, 0.0), (0.0, 1.0), (20.0, 50.0)])
def test_bpkd_equals_the_formula_as_written_out_by_others(parts):
    """lamnmh05/Semantic-Segmentation-with-Knowledge-Distilled-SegFormer, src/distillers/bpkd.py,
    3109a51: bpkd_loss. The authors' repository has no training code.
    """
    loss = bpkd.build(body=parts[0], edge=parts[1])
    loss.start({"logits": tap("logits", 5, 4)}, {"logits": tap("logits", 5, 4)}, 5)
    student, teacher = numbers(2, 5, 12, 16, seed=1), numbers(2, 5, 12, 16, seed=2)
    batch = batch_of(48, 64, blocks(2, 6, 8, 8, classes=5, seed=3))
    target = loss.target({"logits": 3 * teacher}, batch, {"logits": (12, 16)})
    got = loss({"logits": 3 * student}, target, batch, 0).item()
    assert got == pytest.approx(parts[0] * BPKD["body"] + parts[1] * BPKD["edge"], rel=1e-6)


def test_fam_in_its_released_form_equals_the_released_code():
    """cuong-pv/FAM-KD, distillers/FAM_KD.py, 121cc2b: FAM_Module, norm, ReLU, mse_loss."""
    arguments = {"form": "released", "output": "norm_relu", "normalize": "none"}
    loss = started(fam.build, (3, 4), grid=(24, 24), **arguments)
    released, norm, _ = loss.module
    dense = torch.stack([numbers(3, 4, 24, 24, seed=seed) for seed in (3, 4)], dim=-1)
    fill(released.filter, dense.permute(2, 3, 0, 1, 4).flatten(0, 1))
    fill(released.gamma, torch.tensor([0.7, 0.4]))
    parameters = (released.local.weight, released.local.bias, norm.weight, norm.bias)
    for seed, parameter in enumerate(parameters, start=5):
        fill(parameter, numbers(*parameter.shape, seed=seed))
    student, teacher = numbers(2, 3, 24, 24, seed=1), numbers(2, 4, 24, 24, seed=2)
    assert value(loss, student, teacher, batch_of(24, 24)).item() == pytest.approx(FAM, rel=1e-9)
