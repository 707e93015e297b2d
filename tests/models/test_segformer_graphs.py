"""SegFormer's attention through its taps, against transformers' own eager attention."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cache_fakes import SPEC, Copy, Images, make_job
from safetensors.torch import save_file
from torch import Tensor, nn

from freqkd_cli import registry
from freqkd_cli.cache.fingerprint import Fingerprint, teacher_identity
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import CheckFailed, RecipeError, WeightsMissing
from freqkd_cli.features.taps import Tap
from freqkd_cli.models import _segformer_graphs, segformer
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump import dump
from freqkd_cli.teacher.dump_plan import rows
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.verification import verify
from freqkd_cli.views.loader import Loader

SIZES = {"channels": [8, 16, 24, 32], "heads": [1, 2, 3, 4], "depths": [1, 2, 1, 2], "decoder": 16}
STAGES = (1, 2, 3, 4)
NAMES = [
    tap.name
    for tap in segformer.taps(classes=5, **SIZES)
    if tap.name[:-1] in _segformer_graphs.READS
]


def sharpened(model: segformer.SegFormer) -> segformer.SegFormer:
    """Make attention far from uniform, so that a wrong query, key or order of nodes shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for stage in model.net.segformer.stages:
            for projection in (
                stage.blocks[-1].attention.q_proj,
                stage.blocks[-1].attention.k_proj,
            ):
                projection.weight.normal_(std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> segformer.SegFormer:
    torch.manual_seed(0)
    return sharpened(segformer.build(classes=5, **SIZES))


@pytest.fixture(scope="module")
def wide(model: segformer.SegFormer) -> segformer.SegFormer:
    """In float64: fused and eager attention round differently, which sharp attention amplifies."""
    return copy.deepcopy(model).double()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def eager(model: segformer.SegFormer, images: Tensor) -> dict[int, dict[str, Tensor]]:
    """Stage -> attention of its last block ``[B, heads, queries, keys]``, and its projections."""
    net = copy.deepcopy(model.net)
    net.set_attn_implementation("eager")
    seen: dict[tuple[int, str], Tensor] = {}
    for i, stage in enumerate(net.segformer.stages, start=1):
        for part in ("q_proj", "k_proj", "v_proj"):
            getattr(stage.blocks[-1].attention, part).register_forward_hook(
                lambda m, x, out, key=(i, part): seen.__setitem__(key, out)
            )
    every = net(model.normalise(images), output_attentions=True).attentions
    depths = net.config.depths
    assert len(every) == sum(depths)
    return {
        i: {
            "attention": every[sum(depths[:i]) - 1],
            **{p: seen[i, p] for p in ("q_proj", "k_proj", "v_proj")},
        }
        for i in STAGES
    }


def split(tokens: Tensor, heads: int) -> Tensor:
    """``[B, N, C] -> [B, heads, N, d]``, written another way than in the model."""
    return torch.stack(tokens.chunk(heads, dim=-1), dim=1)


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 128), (64, 96)])
def test_attention_is_transformers_pooled_onto_the_key_grid(
    wide: segformer.SegFormer, size: tuple[int, int]
) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    reference, taps = eager(wide, images), wide(images, NAMES)
    grid = (size[0] // 32, size[1] // 32)
    for i in STAGES:
        probabilities = reference[i]["attention"]
        number, heads, queries, nodes = probabilities.shape
        assert queries == grid[0] * grid[1] * (32 // 2 ** (i + 1)) ** 2
        by_place = probabilities.transpose(-2, -1).reshape(
            number * heads, nodes, size[0] // 2 ** (i + 1), size[1] // 2 ** (i + 1)
        )
        pooled = (
            F.adaptive_avg_pool2d(by_place, grid)
            .flatten(2)
            .transpose(-2, -1)
            .reshape(number, heads, nodes, nodes)
        )
        torch.testing.assert_close(taps[f"attention{i}"], pooled, atol=1e-6, rtol=0)
        assert float(pooled.amax(-1).mean()) > 1.5 / nodes, "a uniform attention would prove little"
        torch.testing.assert_close(
            taps[f"attention{i}"].sum(-1),
            torch.ones(number, heads, nodes).double(),
            atol=1e-6,
            rtol=0,
        )


@torch.no_grad()
def test_keys_are_the_projections_output_by_head(wide: segformer.SegFormer, images: Tensor) -> None:
    reference, taps = eager(wide, images), wide(images, NAMES)
    for i, heads in zip(STAGES, SIZES["heads"], strict=True):
        torch.testing.assert_close(
            taps[f"keys{i}"], split(reference[i]["k_proj"], heads), atol=1e-6, rtol=0
        )
    # Stage 4 reduces nothing: its queries are its nodes, so its own attention checks the heads.
    queries = split(reference[4]["q_proj"], 4)
    scores = queries @ taps["keys4"].transpose(-2, -1) / queries.shape[-1] ** 0.5
    torch.testing.assert_close(scores.softmax(-1), reference[4]["attention"], atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 128), (97, 130)])
def test_context_is_the_attentions_output_before_residual_and_mlp(
    wide: segformer.SegFormer, size: tuple[int, int]
) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    reference, taps = eager(wide, images), wide(images, NAMES)
    for tap in segformer.taps(classes=5, **SIZES):
        if tap.name.startswith("context"):
            number = int(tap.name[-1])
            heads = split(reference[number]["v_proj"], SIZES["heads"][number - 1])
            joined = torch.cat((reference[number]["attention"] @ heads).unbind(1), dim=-1)
            projection = wide.net.segformer.stages[number - 1].blocks[-1].attention.o_proj
            by_place = projection(joined).transpose(1, 2).reshape(2, tap.channels, *tap.grid(*size))
            torch.testing.assert_close(taps[tap.name], by_place, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_graphs_of_odd_sizes_are_those_of_the_padded_image(
    model: segformer.SegFormer, caplog: pytest.LogCaptureFixture
) -> None:
    images = torch.rand(2, 3, 97, 130, generator=torch.Generator().manual_seed(4))
    padded = F.pad(images, (0, 160 - 130, 0, 128 - 97), value=0.5)
    _segformer_graphs._warn_of_padding.cache_clear()
    with caplog.at_level(logging.WARNING):
        taps, again = model(images, ["stage4", *NAMES]), model(images, ["attention2"])
    assert caplog.text.count("not multiples of 32") == 1, "once, not for every batch"
    reference, plain = model(padded, NAMES), model(images, ["stage4"])
    for name in NAMES:
        if not name.startswith("context"):
            assert torch.equal(taps[name], reference[name])
            assert taps[name].shape[2] == 4 * 5
    assert torch.equal(again["attention2"], taps["attention2"])
    assert torch.equal(taps["logits"], plain["logits"]) and torch.equal(
        taps["stage4"], plain["stage4"]
    )


@torch.no_grad()
def test_360_x_480_has_one_grid_at_every_stage(model: segformer.SegFormer) -> None:
    taps = model(torch.rand(1, 3, 360, 480), NAMES)
    assert {taps[f"{kind}{i}"].shape[2] for kind in ("attention", "keys") for i in STAGES} == {
        12 * 15
    }


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_teacher_has_graphs_in_float32(
    model: segformer.SegFormer, images: Tensor, dtype: torch.dtype
) -> None:
    # On a CPU with AMX, torch 2.14 computes keys of stages 1 and 2 wrongly in bfloat16; a recipe is
    # refused there (tests/runtime/test_convolutions.py).
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    compared = STAGES if dtype == torch.float16 or not amx else STAGES[2:]
    half = copy.deepcopy(model).to(dtype)
    taps, exact = half(images, NAMES), model(images, NAMES)
    for i in STAGES:
        graph = taps[f"attention{i}"]
        assert (
            graph.dtype == torch.float32
            and taps[f"keys{i}"].dtype == taps[f"context{i}"].dtype == dtype
        )
        torch.testing.assert_close(graph.sum(-1), torch.ones(graph.shape[:-1]), atol=1e-6, rtol=0)
        plain = exact[f"attention{i}"]
        similar = F.cosine_similarity(graph.flatten(), plain.flatten(), dim=0)
        assert i not in compared or similar > 0.99
    with torch.autocast("cpu", torch.bfloat16):
        under = model(images, ["attention3"])["attention3"]
    assert under.dtype == torch.float32
    torch.testing.assert_close(under.sum(-1), torch.ones(under.shape[:-1]), atol=1e-6, rtol=0)


@torch.no_grad()
def test_nothing_is_hooked_or_computed_unless_asked(
    model: segformer.SegFormer, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, fused, graphs = [], [], []
    register, attention, pooled = (
        nn.Module.register_forward_hook,
        F.scaled_dot_product_attention,
        _segformer_graphs.pooled_attention,
    )
    monkeypatch.setattr(
        nn.Module,
        "register_forward_hook",
        lambda self, *inputs, **options: hooked.append(self) or register(self, *inputs, **options),
    )
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda *inputs, **options: fused.append(1) or attention(*inputs, **options),
    )
    monkeypatch.setattr(
        _segformer_graphs, "pooled_attention", lambda *given: graphs.append(1) or pooled(*given)
    )
    plain = model(images, ["stage1", "encoder", "decoder"])
    assert (len(hooked), len(graphs)) == (0, 0) and len(fused) == sum(SIZES["depths"])
    asked = model(images, ["stage1", "encoder", "decoder", "keys4", "attention4", "context2"])
    assert (len(hooked), len(graphs)) == (3, 1), "q and k of stage 4, the output of stage 2"
    assert len(fused) == 2 * sum(SIZES["depths"]), "the fused attention stays on"
    assert all(torch.equal(asked[name], value) for name, value in plain.items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_when_a_pass_fails(
    model: segformer.SegFormer, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*inputs: object, **options: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(model.net.segformer.stages[2], "forward", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        model(images, NAMES)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_student_learns_through_every_tap(model: segformer.SegFormer, images: Tensor) -> None:
    taps = model(images, NAMES)
    queries = model.net.segformer.stages[1].blocks[-1].attention
    for name, parameter in (
        ("context2", queries.o_proj),
        ("attention2", queries.q_proj),
        ("keys2", queries.k_proj),
    ):
        (gradient,) = torch.autograd.grad(
            taps[name].square().sum(), parameter.weight, retain_graph=True
        )
        assert torch.isfinite(gradient).all() and float(gradient.abs().sum()) > 0


def test_taps_are_listed_from_the_table_alone() -> None:
    listed = {tap.name: tap for tap in segformer.taps(classes=19, variant="b0")}
    assert listed["context3"] == Tap("context3", 16, 160)
    assert listed["attention3"] == Tap("attention3", 32, 5, "graph", heads=5)
    assert listed["keys1"] == Tap("keys1", 32, 32, "nodes", heads=1)


def folder_of(path: Path, model: segformer.SegFormer, **config: object) -> str:
    path.mkdir()
    state = {key: value.contiguous().clone() for key, value in model.portable_state().items()}
    save_file(state, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(
        json.dumps(model.portable_config() | config), encoding="utf-8"
    )
    return str(path)


@torch.no_grad()
def test_other_reductions_have_other_grids(tmp_path: Path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    names = {
        "hidden_sizes": SIZES["channels"],
        "num_attention_heads": SIZES["heads"],
        "depths": SIZES["depths"],
    }
    config = SegformerConfig(num_labels=5, decoder_hidden_size=16, sr_ratios=[4, 4, 3, 2], **names)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "other")
    weights = str(tmp_path / "other")
    listed = {tap.name: tap for tap in segformer.taps(classes=5, weights=weights)}
    assert [listed[f"keys{i}"].stride for i in STAGES] == [16, 32, 48, 64]
    model = sharpened(segformer.build(classes=5, weights=weights))
    images = torch.rand(1, 3, 96, 130)
    taps = model(images, NAMES)
    for i in STAGES:
        stride = listed[f"keys{i}"].stride
        rows, columns = listed[f"keys{i}"].grid(96, 130)
        assert taps[f"keys{i}"].shape[2] == taps[f"attention{i}"].shape[2] == rows * columns
        padded = F.pad(images, (0, columns * stride - 130, 0, rows * stride - 96), value=0.5)
        torch.testing.assert_close(
            taps[f"keys{i}"],
            split(eager(model, padded)[i]["k_proj"], SIZES["heads"][i - 1]),
            atol=1e-5,
            rtol=1e-5,
        )


def test_patches_that_add_a_row_are_refused(tmp_path: Path, model: segformer.SegFormer) -> None:
    with pytest.raises(
        WeightsMissing, match=r"patch_sizes \[8, 3, 3, 3\]\n  need patch_sizes\.0: an odd number"
    ):
        segformer.taps(
            classes=5, weights=folder_of(tmp_path / "w", model, patch_sizes=[8, 3, 3, 3])
        )


# --- caches, losses and recipes ---


class Keep(Copy):
    """The target is the tap as it came."""

    def target(self, teacher, batch, grids):
        return {"tap": teacher[self.teacher]}


def job_of(model: segformer.SegFormer, *, views: int, storage: str = "float32"):
    """A dump of graphs, nodes and a context of six pictures, a third of them larger."""
    images = Images(6, mixed=True)
    fake = make_job(views=views, images=images, storage=storage, batch_size=2, spec=SPEC)
    available = {tap.name: tap for tap in segformer.taps(classes=5, **SIZES)}
    losses = {name: Keep(name) for name in ("attention1", "attention4", "keys3", "context2")}
    live = LiveTeacher(copy.deepcopy(model), losses, available)
    fields = {
        **fake.fingerprint.fields,
        "teacher": teacher_identity(model, name="segformer", dtype="float32"),
        "taps": list(live.wanted),
    }
    return dataclasses.replace(fake, teacher=live, fingerprint=Fingerprint(fields))


@pytest.mark.parametrize(("views", "storage"), [(2, "float32"), (0, "float32"), (2, "float16")])
def test_graphs_and_nodes_are_cached_as_they_are_live(
    tmp_path: Path, model: segformer.SegFormer, views: int, storage: str
) -> None:
    """Drawn views, whole images of two sizes, and half floats."""
    job = job_of(model, views=views, storage=storage)
    assert dump(job, tmp_path / "a", Silent())["taps"] == [
        "attention1",
        "attention4",
        "context2",
        "keys3",
    ]
    reader = CacheReader(tmp_path / "a")
    shapes = set()
    for batch, items in zip(Loader(job.dataset, list(job.batches())), job.batches(), strict=True):
        live, cached = rows(job, batch), reader.read(items, reader.names, "cpu")
        for name, tensor in live.items():
            torch.testing.assert_close(
                cached[name], tensor, atol=2e-6 if storage == "float32" else 2e-3, rtol=1e-3
            )
            shapes.add((name, tuple(tensor.shape[1:])))
    assert verify(job, reader, 4, Silent()).items == 4
    assert ("keys3", (3, 2 if views else 15, 8)) in shapes and (
        "attention4",
        (4, 2, 2) if views else (4, 6, 6),
    ) in shapes
    torch.manual_seed(9)
    with pytest.raises(CheckFailed, match="the cache differs from the teacher"):
        verify(
            job_of(sharpened(copy.deepcopy(model)), views=views, storage=storage),
            reader,
            2,
            Silent(),
        )


@pytest.mark.parametrize("name", ["band", "feature", "attention", "fam"])
@pytest.mark.parametrize("tap", ["attention4", "keys4"])
def test_losses_of_maps_refuse_graphs_and_nodes(name: str, tap: str) -> None:
    arguments = {"band": {"band": "low", "cutoff": 0.5}}.get(name, {})
    loss = registry.find("losses", name).build(student="encoder", teacher=tap, **arguments)
    available = {tap.name: tap for tap in segformer.taps(classes=5, **SIZES)}
    with pytest.raises(RecipeError, match=rf"the teacher's tap '{tap}' is a graph and no map"):
        loss.start({"encoder": Tap("encoder", 32, 8)}, {tap: available[tap]}, 5)


@pytest.mark.parametrize(
    ("teacher", "problem"),
    [
        ("keys4", "is a graph and no map"),
        ("atention4", "did you mean 'attention4'"),
        ("keys5", "has no tap 'keys5'"),
    ],
)
def test_a_recipe_is_checked_before_the_run(
    freqkd, tmp_path: Path, teacher: str, problem: str
) -> None:
    text = "version: 1\ndata: {name: scenes, size: [64, 96]}\n"
    text += "teacher: {name: segformer, weights: embedded}\nstudent: {name: fast_scnn}\n"
    text += (
        f"losses: [{{name: feature, student: encoder, teacher: {teacher}}}]\ntrain: {{epochs: 1}}\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    code, out, err = freqkd("recipe", "check", tmp_path / "r.yaml")
    assert (
        code == 2
        and out == ""
        and err.count("error:") == 1
        and problem in err
        and "Traceback" not in err
    )


def test_spectrum_of_a_graph_is_one_message(freqkd) -> None:
    for tap in ("keys4", "attention4"):
        code, out, err = freqkd(
            "spectrum",
            "--tap",
            tap,
            "--limit",
            "1",
            "fastscnn_ce",
            "--set",
            "teacher.name=segformer",
        )
        assert (
            code == 2
            and out == ""
            and f"the tap '{tap}' is not a feature map" in err
            and "context4" in err
        )
