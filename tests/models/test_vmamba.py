"""VMamba: equal to the authors' code, strict about their checkpoints, any size."""

from __future__ import annotations

import logging
import sys
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from freqkd_cli.errors import ShapeError, WeightsMissing
from freqkd_cli.models import vmamba
from freqkd_cli.models._vmamba_blocks import Backbone
from freqkd_cli.models._vmamba_names import load_backbone
from freqkd_cli.models._vmamba_sizes import VARIANTS, VMambaSize
from freqkd_cli.runtime.lanes import Lanes
from freqkd_cli.scan.affinity import evenly_spaced, raw_affinity
from freqkd_cli.scan.backends import BACKENDS
from freqkd_cli.scan.selective import step_sizes
from freqkd_cli.weights.state_dict import read_state

# Classification form, as the authors' classes count them (MzeroMiko/VMamba, commit 2ed52ea).
PARAMETERS = {
    "tiny": 30_249_064,
    "tiny_s2l5": 30_705_832,
    "small": 50_147_752,
    "small_s1l20": 49_012_840,
    "vanilla_tiny": 22_893_448,
    "vanilla_small": 44_417_416,
}

NARROW = VMambaSize((1, 1, 2, 1), (16, 32, 64, 128), state=1, ratio=1, drop_path=0.2, decoder=16)
SIZES = {
    "narrow_s1": NARROW,
    "narrow_s2": replace(NARROW, ratio=2),
    "narrow_vanilla": replace(NARROW, ratio=2, state=16, vanilla=True),
    **{name: VARIANTS[name] for name in ("tiny", "small", "vanilla_tiny")},
}


@dataclass(frozen=True)
class Golden:
    """Per stage after its norm: channel 1 at (h // 2, w // 3), mean of |x|; then four logits."""

    size: tuple[int, int]
    cells: list[float]
    means: list[float]
    logits: list[float]


# MzeroMiko/VMamba at commit 2ed52ead062a51a64521ed3871d52914bf532876, classification/models/
# vmamba.py: Backbone_VSSM and VSSM with selective_scan_torch, float32 on a CPU, weights and image
# by `noise`. Narrow: depths 1 1 2 1, dims 16, 10 classes; else 1000 classes.
GOLDEN = {
    "narrow_s1": Golden(
        (68, 100),
        [-1.515497, -0.7313148, 0.5289932, 0.4169341],
        [0.7430223, 0.82597, 0.8129362, 0.8192911],
        [0.166804, 0.6394804, 0.7546067, 0.7937455],
    ),
    "narrow_s2": Golden(
        (77, 50),
        [0.3051831, 1.347943, -0.1129227, -0.3274215],
        [0.7534503, 0.8234465, 0.8023731, 0.8022244],
        [-0.652218, 0.2386473, 0.215685, 0.7217364],
    ),
    "narrow_vanilla": Golden(
        (68, 100),
        [1.614759, -1.566002, 0.03169192, -0.9007204],
        [0.7496542, 0.8327658, 0.8141195, 0.8179674],
        [-0.3367683, 0.7924137, -0.6183481, 0.6150835],
    ),
    "tiny": Golden(
        (64, 96),
        [-1.613337, 2.105409, 0.6043231, 0.7007023],
        [0.8056034, 0.8272755, 0.807368, 0.8102959],
        [-1.088421, 0.8579807, -0.6134149, 0.08370481],
    ),
    "small": Golden(
        (64, 96),
        [-1.728874, -0.1079758, -0.04615793, 0.4205044],
        [0.8062755, 0.8255973, 0.8005451, 0.8148466],
        [-0.1684997, -0.3709661, 0.3405368, -0.0845141],
    ),
    "vanilla_tiny": Golden(
        (64, 96),
        [-0.8009164, -0.354353, 0.4057411, -0.08441345],
        [0.790431, 0.8250414, 0.8044732, 0.8020474],
        [0.4700904, 0.3555827, -0.8434293, 0.09607689],
    ),
}


def noise(name: str, *shape: int) -> Tensor:
    """Return numbers in [-1, 1): an integer hash of the index and the tensor's name."""
    count = torch.Size(shape).numel()
    x = (
        torch.arange(1, count + 1, dtype=torch.int64) + zlib.crc32(name.encode())
    ) * 2654435761 & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 2246822519) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 3266489917) & 0xFFFFFFFF
    return ((x ^ (x >> 16)).double() / 2**31 - 1).float().reshape(shape)


def weight(name: str, shape: torch.Size) -> Tensor:
    """Return the tensor called ``name`` of the network of the golden numbers."""
    x, leaf = noise(name, *shape), name.rpartition(".")[2]
    if leaf == "A_logs":
        return torch.arange(1, shape[1] + 1).log() + 0.3 * x
    if leaf in ("x_proj_weight", "dt_projs_weight"):
        return x * shape[-1] ** -0.5
    if leaf == "dt_projs_bias":
        return 2 * x - 2
    if leaf == "Ds":
        return 1 + 0.5 * x
    if x.ndim > 1:
        return x * (3 / x[0].numel()) ** 0.5
    return 1 + 0.3 * x if leaf == "weight" else 0.3 * x


def authors(backbone: Backbone) -> dict[str, Tensor]:
    """The state dict of the authors' backbone for mmsegmentation."""
    merging = ".downsample.reduction." if backbone.size.vanilla else ".downsample.2."
    names = {key: key.replace(".downsample.2.", merging) for key in backbone.state_dict()}
    if backbone.size.vanilla:
        names = {
            key: name.replace(".downsample.1.", ".downsample.norm.") for key, name in names.items()
        }
    return {name: weight(name, backbone.state_dict()[key].shape) for key, name in names.items()}


def classifier(backbone: Backbone, classes: int) -> dict[str, Tensor]:
    width = backbone.outnorm3.weight.shape
    shapes = {
        "norm.weight": width,
        "norm.bias": width,
        "head.weight": torch.Size([classes, *width]),
        "head.bias": torch.Size([classes]),
    }
    return {
        f"classifier.{key}": weight(f"classifier.{key}", shape) for key, shape in shapes.items()
    }


@pytest.mark.parametrize("variant", PARAMETERS)
def test_variants_have_the_published_number_of_parameters(variant: str) -> None:
    with torch.device("meta"):
        backbone = Backbone(VARIANTS[variant], drop_path=0.0)
    own = sum(p.numel() for key, p in backbone.named_parameters() if not key.startswith("outnorm"))
    assert own + sum(x.numel() for x in classifier(backbone, 1000).values()) == PARAMETERS[variant]


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if "narrow" in name else pytest.mark.slow) for name in GOLDEN],
)
def test_numbers_are_those_of_the_authors_code(name: str) -> None:
    golden, backbone = GOLDEN[name], Backbone(SIZES[name], drop_path=0.2).eval()
    state = authors(backbone)
    load_backbone(backbone, {f"backbone.{key}": value for key, value in state.items()}, name)
    image = noise("image", 1, 3, *golden.size)
    stages, _ = backbone(image)
    for i, x in enumerate(stages):
        cell = x[0, 1, x.shape[2] // 2, x.shape[3] // 3]
        assert (float(cell), float(x.abs().mean())) == pytest.approx(
            (golden.cells[i], golden.means[i]), abs=1e-4
        )
    head = classifier(backbone, 10 if "narrow" in name else 1000)
    backbone.outnorm3.load_state_dict(
        {key: head[f"classifier.norm.{key}"] for key in ("weight", "bias")}
    )
    logits = (
        backbone(image)[0][3].mean((2, 3)) @ head["classifier.head.weight"].T
        + head["classifier.head.bias"]
    )
    assert logits[0, :4].tolist() == pytest.approx(golden.logits, abs=1e-4)


# --- checkpoints ---


@pytest.fixture
def backbone() -> Backbone:
    return Backbone(NARROW, drop_path=0.0)


def published(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a classification file: no norms after the stages."""
    return {k: v for k, v in authors(backbone).items() if not k.startswith("outnorm")} | classifier(
        backbone, 10
    )


def equal(backbone: Backbone, state: dict[str, Tensor]) -> bool:
    held = backbone.state_dict()
    return all(torch.equal(held[key], value) for key, value in state.items() if key in held)


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first release's names for blocks and head."""
    out = {}
    for key, value in state.items():
        for new, old in ((".norm.", ".ln_1."), (".op.", ".self_attention."), ("classifier.", "")):
            if key.startswith("layers") or new == "classifier.":
                key = key.replace(new, old)
        out[key] = value
    return out


def merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The later release: one axis for the four orders, linear maps as 1x1 convolutions."""
    out = {}
    for key, value in state.items():
        if key.endswith((".x_proj_weight", ".dt_projs_weight")):
            key, value = key.replace("_weight", ".weight"), value.flatten(0, 1)
        elif key.endswith((".in_proj.weight", ".fc1.weight")):
            value = value[:, :, None, None]
        elif key.endswith(".dt_projs_bias"):
            key, value = key.replace("_bias", ".bias"), value.flatten()
        out[key] = value
    return out


SPELLINGS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "as released": dict,
    "older": older,
    "merged": merged,
    "many GPUs": lambda state: {f"module.{key}": value for key, value in state.items()},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("key", ["model", "model_ema"])
def test_every_spelling_of_a_classification_file_loads(
    tmp_path: Path, backbone: Backbone, spelling: str, key: str
) -> None:
    state = published(backbone)
    torch.save({key: SPELLINGS[spelling](state), "epoch": 3}, tmp_path / "w.pth")
    load_backbone(backbone, read_state(tmp_path / "w.pth"), "w.pth")
    assert equal(backbone, state)
    assert torch.equal(backbone.outnorm0.weight, torch.ones(16))


def test_averaged_weights_come_before_the_last_ones(tmp_path: Path, backbone: Backbone) -> None:
    state = published(backbone)
    torch.save(
        {"model": {key: value + 1 for key, value in state.items()}, "model_ema": state},
        tmp_path / "w.pth",
    )
    load_backbone(backbone, read_state(tmp_path / "w.pth"), "w.pth")
    assert equal(backbone, state)


def test_a_file_of_mmsegmentation_loads_and_a_line_is_logged(
    tmp_path: Path, backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    state = authors(backbone)
    heads = {
        "decode_head.conv_seg.weight": torch.ones(3),
        "auxiliary_head.conv_seg.weight": torch.ones(3),
    }
    held = {
        "meta": {"epoch": 1},
        "state_dict": {f"backbone.{key}": value for key, value in merged(state).items()} | heads,
    }
    torch.save(held, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        load_backbone(backbone, read_state(tmp_path / "w.pth"), "w.pth")
    assert equal(backbone, state)
    count, renamed = len(state), 3 * sum(NARROW.depths)
    assert f"loaded {count} tensors of the backbone ({renamed} renamed)" in caplog.text
    assert (
        "left out 2 of heads (auxiliary_head, decode_head); new: the segmentation head\n"
        in caplog.text
    )


@pytest.mark.parametrize("prefix", ["model.", "net.module.", "model.backbone.", "student."])
def test_any_prefix_beside_other_tensors(tmp_path: Path, backbone: Backbone, prefix: str) -> None:
    state = authors(backbone)
    beside = {"criterion.weight": torch.ones(3), "mean": torch.zeros(3)}
    named = {f"{prefix}{key}": value for key, value in merged(state).items()}
    torch.save({"state_dict": beside | named, "epoch": 1}, tmp_path / "w.pth")
    load_backbone(backbone, read_state(tmp_path / "w.pth"), "w.pth")
    assert equal(backbone, state)


def test_settings_beside_the_weights_are_not_in_the_way(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of yacs and a log of mmengine in the file: no library is needed, no code is run."""
    import numpy as np

    def module(name: str, **members: object) -> None:
        made = types.ModuleType(name)
        for key, member in members.items():
            setattr(made, key, member)
        monkeypatch.setitem(sys.modules, name, made)

    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    buffer = type("HistoryBuffer", (), {"__module__": "mmengine.logging.history_buffer"})
    for name in ("yacs", "mmengine", "mmengine.logging"):
        module(name)
    module("yacs.config", CfgNode=node)
    module("mmengine.logging.history_buffer", HistoryBuffer=buffer)
    config, history, state = node(MODEL=node(TYPE="vssm")), buffer(), published(backbone)
    config.__dict__["__immutable__"] = True
    history.values = np.arange(3.0)
    torch.save(
        {"model": state, "config": config, "hub": {"loss": history, "best": np.float64(1)}},
        tmp_path / "w.pth",
    )
    monkeypatch.undo()
    assert set(read_state(tmp_path / "w.pth")) == set(state)


@pytest.mark.parametrize(
    "lost", ["layers.2.blocks.1.op.A_logs", "patch_embed.0.weight", "outnorm2.bias"]
)
def test_a_missing_tensor_is_an_error(backbone: Backbone, lost: str) -> None:
    state = authors(backbone)
    del state[lost]
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(WeightsMissing, match=f"1 missing .{lost}"):
        load_backbone(backbone, state, "w.pth")
    assert equal(backbone, before)


def test_another_variant_is_an_error_that_names_it() -> None:
    with torch.device("meta"):
        tiny, other = (Backbone(VARIANTS[name], drop_path=0.0) for name in ("tiny", "tiny_s2l5"))
        state = {
            key: value for key, value in tiny.state_dict().items() if not key.startswith("outnorm")
        }
    with pytest.raises(WeightsMissing, match=r"(?s)unexpected .layers.2.blocks.5.*variant: tiny, "):
        load_backbone(other, state, "w.pth")


def test_a_transposed_matrix_is_of_another_shape(backbone: Backbone) -> None:
    state = authors(backbone)
    state["layers.0.blocks.0.mlp.fc1.weight"] = state["layers.0.blocks.0.mlp.fc1.weight"].T
    with pytest.raises(
        WeightsMissing, match="1 of another shape .layers.0.blocks.0.mlp.fc1.weight"
    ):
        load_backbone(backbone, state, "w.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.05, 0.3, 0.97])
def test_a_truncated_file_is_one_error(
    tmp_path: Path, backbone: Backbone, share: float, zipped: bool
) -> None:
    torch.save(
        {"model": published(backbone)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped
    )
    data = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsMissing, match="cannot be read"):
        vmamba.build(classes=3, variant="nano", encoder_weights=str(tmp_path / "w.pth"))


def test_build_takes_a_backbone_and_draws_a_head(tmp_path: Path) -> None:
    donor = vmamba.build(classes=3, variant="nano").backbone
    torch.save({"model": published(donor)}, tmp_path / "w.pth")
    model = vmamba.build(classes=3, variant="nano", encoder_weights=str(tmp_path / "w.pth"))
    assert equal(model.backbone, published(donor))
    assert "encoder_weights" not in model.recipe_arguments


# --- the model ---


@pytest.mark.parametrize("size", [(31, 64), (64, 16)])
def test_an_image_under_32_pixels_is_one_clear_error(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="too small for VMamba"):
        vmamba.build(classes=3, variant="nano")(torch.rand(1, 3, *size))


@torch.no_grad()
@pytest.mark.parametrize("name", ["narrow_s1", "narrow_vanilla"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (50, 35)])
def test_grids_are_rounded_up(name: str, size: tuple[int, int]) -> None:
    stages = Backbone(SIZES[name], drop_path=0.0).eval()(torch.rand(1, 3, *size))[0]
    assert [tuple(x.shape[2:]) for x in stages] == [
        (-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)
    ]


@torch.no_grad()
@pytest.mark.parametrize("variant", ["nano", "vanilla_tiny"])
def test_affinities_are_the_hidden_matrices_of_the_last_scans(variant: str) -> None:
    """On the cells of 1/32: at stage 4, the unpooled matrices of all channels, averaged."""
    torch.manual_seed(0)
    model = vmamba.build(classes=3, variant=variant).eval()
    images = torch.rand(2, 3, 70, 100)
    names = ["affinity1", "affinity2", "affinity3", "affinity4"]
    outputs = model(images, names)
    for x in (outputs[name] for name in names):
        assert x.shape == (2, 1, 12, 12)
        torch.testing.assert_close(x.sum(-1), torch.ones(2, 1, 12))
        assert float(x.min()) > 0
    given: list[Tensor] = []
    block = model.backbone.layers[3].blocks[-1]
    handle = block.op.conv2d.register_forward_hook(
        lambda module, inputs, out: given.append(nn.functional.silu(out))
    )
    model(images)
    handle.remove()
    _, delta, A, B, C, _, bias = block.op.operands(given[0])
    raw = raw_affinity(step_sizes(delta, bias), A, B, C, (3, 4)).abs()
    chosen = evenly_spaced(raw.shape[2], 32)
    graph = raw[:, :, chosen].mean(2).sum(1)
    torch.testing.assert_close(outputs["affinity4"][:, 0], graph / graph.sum(-1, keepdim=True))


def test_the_backend_of_the_scan_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    model = vmamba.build(classes=3, variant="nano", scan="torch")
    with caplog.at_level(logging.INFO):
        model.ready(torch.device("cpu"))
        Lanes(model.eval()).each(4, lambda lane, part: lane(torch.rand(2, 3, 32, 32)))
    assert caplog.text.count("selective scan on cpu: torch (named)") == 1


def test_a_scan_that_cannot_run_is_refused_before_the_folder_is_made(
    freqkd, tmp_path: Path
) -> None:
    changes = ["--set", "student.scan=mamba-ssm", "--set", "data.length=8", "--device", "cpu"]
    code, _, err = freqkd("distill", "vmamba_ce", "--out", tmp_path / "a", *changes)
    assert code == 2 and "needs tensors on CUDA" in err and "scan: auto" in err
    assert not (tmp_path / "a").exists()


def test_scans_by_any_name_are_one_model() -> None:
    assert get_args(vmamba.ScanBackend) == BACKENDS
    images, results = torch.rand(1, 3, 64, 96), []
    for scan in ("numba", "parallel", "torch"):
        torch.manual_seed(0)
        model = vmamba.build(classes=3, variant="nano", scan=scan).eval()
        results.append(model(images, ["stage4"])["stage4"])
    for x in results[1:]:
        torch.testing.assert_close(x, results[0], atol=1e-4, rtol=1e-4)


def test_the_start_is_the_authors() -> None:
    torch.manual_seed(0)
    op = (
        Backbone(replace(VARIANTS["vanilla_tiny"], depths=(1, 1, 1, 1)), drop_path=0.0)
        .requires_grad_(False)
        .layers[1]
        .blocks[0]
        .op
    )
    assert torch.allclose(op.A_logs.exp(), torch.arange(1.0, 17.0).expand(4 * 384, 16))
    assert torch.equal(op.Ds, torch.ones(4 * 384))
    step = nn.functional.softplus(op.dt_projs_bias).log10()
    assert -3 <= float(step.min()) < -2.99
    assert -1.01 < float(step.max()) <= -1
    assert float(step.mean()) == pytest.approx(-2, abs=0.05)  # log-uniform
    assert float(op.dt_projs_weight.abs().max()) == pytest.approx(12**-0.5, rel=0.01)
    assert float(op.in_proj.weight.std()) == pytest.approx(0.02, rel=0.05)


def test_only_vanilla_variants_have_convolutions_with_bias() -> None:
    for name, bias in (("narrow_s1", False), ("narrow_vanilla", True)):
        with torch.device("meta"):
            ops = [
                block.op
                for stage in Backbone(SIZES[name], drop_path=0.0).layers
                for block in stage.blocks
            ]
        assert all((op.conv2d.bias is not None) == bias for op in ops)


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = vmamba.build(classes=3, variant="nano", drop_path=0.25).train()
    drop = drop.backbone.layers[3].blocks[-1].drop_path
    dropped = drop(torch.ones(4000, 2, 3))
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert drop.eval()(dropped) is dropped


def test_drop_path_grows_with_depth() -> None:
    with torch.device("meta"):
        layers = Backbone(VARIANTS["tiny"], drop_path=0.2).layers
    rates = [block.drop_path.p for stage in layers for block in stage.blocks]
    assert len(rates) == 14
    assert rates == pytest.approx([0.2 * i / 13 for i in range(14)])


def test_what_sets_the_speed_of_a_state_has_no_weight_decay():
    from freqkd_cli.recipe.sections import Train
    from freqkd_cli.train.training_state import make_optimizer

    model = vmamba.build(classes=3, variant="nano")
    decayed, spared = (
        set(map(id, group["params"]))
        for group in make_optimizer(model, Train(epochs=1, weight_decay=0.1)).param_groups
    )
    block = model.backbone.layers[0].blocks[0].op
    assert {id(block.A_logs), id(block.dt_projs_bias), id(block.Ds)} <= spared and id(
        block.x_proj_weight
    ) in decayed
