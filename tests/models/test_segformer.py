"""SegFormer: equal to transformers', strict about weights, any spelling of their names."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.errors import RecipeError, ShapeError, WeightsMissing
from freqkd_cli.models import _segformer_weights, segformer
from freqkd_cli.models._segformer_names import authors_to_hub, to_hub_names, to_module_names

TINY = {"channels": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "decoder": 16}


@pytest.fixture(scope="module")
def model() -> segformer.SegFormer:
    torch.manual_seed(0)
    model = segformer.build(classes=5, **TINY).eval()
    with torch.no_grad():  # so that no norm is an identity and no bias is zero
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.net.decode_head.batch_norm.running_mean.normal_(0, 0.1)
        model.net.decode_head.batch_norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 97, 130, generator=torch.Generator().manual_seed(1))


def folder_of(
    path: Path, model: segformer.SegFormer, state: dict[str, Tensor], **config: object
) -> Path:
    path.mkdir(exist_ok=True)
    save_file(
        {key: value.contiguous().clone() for key, value in state.items()},
        path / "model.safetensors",
        {"format": "pt"},
    )
    (path / "config.json").write_text(
        json.dumps(model.portable_config() | config), encoding="utf-8"
    )
    return path


@torch.no_grad()
def test_logits_and_stages_are_those_of_transformers(
    model: segformer.SegFormer, images: Tensor
) -> None:
    reference = model.net(model.normalise(images), output_hidden_states=True)
    outputs = model(images, ["stage1", "stage2", "stage3", "stage4", "encoder"])
    assert len(reference.hidden_states) == 4
    for i, hidden in enumerate(reference.hidden_states, start=1):
        assert torch.equal(outputs[f"stage{i}"], hidden)
    assert torch.equal(outputs["encoder"], outputs["stage4"])
    # The decoder multiplies its two linear maps first, so equal up to rounding.
    torch.testing.assert_close(outputs["logits"], reference.logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoder_tap_is_what_transformers_gives_its_dropout(
    model: segformer.SegFormer, images: Tensor
) -> None:
    seen: list[Tensor] = []
    handle = model.net.decode_head.activation.register_forward_hook(
        lambda module, given, out: seen.append(out)
    )
    try:
        model.net(model.normalise(images))
    finally:
        handle.remove()
    decoder = model(images, ["decoder"])["decoder"]
    torch.testing.assert_close(decoder, seen[0], atol=1e-5, rtol=1e-5)
    assert decoder.min() == 0


def test_gradients_are_those_of_transformers(model: segformer.SegFormer, images: Tensor) -> None:
    gradients = torch.autograd.grad(
        model(images)["logits"].square().mean(), list(model.parameters())
    )
    expected = torch.autograd.grad(
        model.net(model.normalise(images)).logits.square().mean(), list(model.parameters())
    )
    for (name, _), actual, reference in zip(
        model.named_parameters(), gradients, expected, strict=True
    ):
        torch.testing.assert_close(
            actual, reference, atol=1e-6, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("b0", 3.72), ("b1", 13.68), ("b2", 27.36), ("b3", 47.24), ("b4", 64.01), ("b5", 84.61)],
)
def test_variants_have_the_published_sizes(variant: str, millions: float) -> None:
    with torch.device("meta"):
        model = segformer.build(classes=19, variant=variant)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("spelling", ["now", "hub"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_spellings_and_half_precision_load(
    tmp_path: Path, model: segformer.SegFormer, images: Tensor, spelling: str, dtype: torch.dtype
) -> None:
    state = model.net.state_dict() if spelling == "now" else to_hub_names(model.net.state_dict())
    assert any(key.startswith("segformer.encoder.block.") for key in state) == (spelling == "hub")
    state = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()
    }
    loaded = segformer.build(
        classes=99, weights=str(folder_of(tmp_path / "w", model, state))
    ).eval()
    assert loaded.classes == 5
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(images)["logits"],
            model(images)["logits"],
            atol=0 if dtype == torch.float32 else 2e-2,
            rtol=0,
        )


def test_the_hub_spelling_is_what_transformers_itself_writes(
    tmp_path: Path, model: segformer.SegFormer
) -> None:
    from safetensors import safe_open

    model.net.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(model.portable_state())


def test_names_go_there_and_back(model: segformer.SegFormer) -> None:
    state = model.net.state_dict()
    there = to_hub_names(state)
    assert len(set(there) & set(state)) < len(state) / 2
    assert set(to_module_names(there)) == set(state)
    assert set(to_module_names(state)) == set(state)


def test_the_authors_spelling_loads(model: segformer.SegFormer) -> None:
    """A block with a reduction, a block without, and the head; keys and values are one tensor."""
    hub = to_hub_names(model.net.state_dict())
    block, last = "segformer.encoder.block.0.0", "segformer.encoder.block.3.0"
    kv = torch.cat(
        [hub[f"{block}.attention.self.key.weight"], hub[f"{block}.attention.self.value.weight"]]
    )
    authors = {
        "backbone.patch_embed1.proj.weight": "segformer.encoder.patch_embeddings.0.proj.weight",
        "backbone.patch_embed1.norm.bias": "segformer.encoder.patch_embeddings.0.layer_norm.bias",
        "backbone.block1.0.norm1.weight": f"{block}.layer_norm_1.weight",
        "backbone.block1.0.attn.q.bias": f"{block}.attention.self.query.bias",
        "backbone.block1.0.attn.sr.weight": f"{block}.attention.self.sr.weight",
        "backbone.block1.0.attn.norm.weight": f"{block}.attention.self.layer_norm.weight",
        "backbone.block4.0.attn.proj.weight": f"{last}.attention.output.dense.weight",
        "backbone.block4.0.mlp.fc1.weight": f"{last}.mlp.dense1.weight",
        "backbone.block4.0.mlp.dwconv.dwconv.bias": f"{last}.mlp.dwconv.dwconv.bias",
        "backbone.norm3.weight": "segformer.encoder.layer_norm.2.weight",
        "decode_head.linear_c2.proj.weight": "decode_head.linear_c.1.proj.weight",
        "decode_head.linear_fuse.conv.weight": "decode_head.linear_fuse.weight",
        "decode_head.linear_fuse.bn.running_var": "decode_head.batch_norm.running_var",
        "decode_head.linear_pred.bias": "decode_head.classifier.bias",
    }
    given = {name: hub[hub_name] for name, hub_name in authors.items()}
    given |= {"backbone.block1.0.attn.kv.weight": kv, "decode_head.conv_seg.weight": torch.zeros(1)}
    renamed = authors_to_hub(given)
    wanted = {
        *authors.values(),
        f"{block}.attention.self.key.weight",
        f"{block}.attention.self.value.weight",
    }
    assert set(renamed) == wanted
    assert all(torch.equal(renamed[key], hub[key]) for key in wanted)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_are_an_error(
    tmp_path: Path, model: segformer.SegFormer, fault: str
) -> None:
    state = dict(model.portable_state())
    key = "segformer.encoder.layer_norm.2.bias"
    if fault == "missing":
        del state[key]
    elif fault == "unexpected":
        state["segformer.encoder.extra.bias"] = torch.zeros(3)
    else:
        state[key] = torch.zeros(7)
    with pytest.raises(WeightsMissing) as caught:
        segformer.build(classes=5, weights=str(folder_of(tmp_path / "w", model, state)))
    assert caught.value.exit_code == 4
    assert {"missing": "1 missing", "unexpected": "1 unexpected", "shape": "1 of another shape"}[
        fault
    ] in str(caught.value)


def test_arguments_that_contradict_the_weights_are_an_error(
    tmp_path: Path, model: segformer.SegFormer
) -> None:
    folder = folder_of(tmp_path / "w", model, model.portable_state())
    with pytest.raises(WeightsMissing, match="hidden_sizes"):
        segformer.taps(classes=5, weights=str(folder), variant="b2")
    with pytest.raises(RecipeError, match="heads"):
        segformer.taps(classes=5, channels=[8, 16, 24, 33], heads=[1, 2, 3, 4])


def test_class_names_and_a_new_head(tmp_path: Path, model: segformer.SegFormer) -> None:
    names = {str(i): name for i, name in enumerate(["road", "car", "pole", "sky", "tree"])}
    folder = str(folder_of(tmp_path / "w", model, model.portable_state(), id2label=names))
    kept = segformer.build(classes=11, weights=folder)
    assert (kept.classes, kept.id2label) == (5, {int(i): name for i, name in names.items()})
    assert {t.name: t.channels for t in segformer.taps(classes=11, weights=folder)}["logits"] == 5
    new = segformer.build(classes=11, weights=folder, head="new")
    assert (new.classes, new.id2label) == (11, None)
    assert {t.name: t.channels for t in segformer.taps(classes=11, weights=folder, head="new")}[
        "logits"
    ] == 11
    started, kept = new.net.state_dict(), model.net.state_dict()
    assert all(
        torch.equal(started[key], kept[key])
        for key in started
        if not key.startswith("decode_head.classifier.")
    )


def test_an_encoder_for_image_classification_starts_a_segmenter(
    tmp_path: Path, model: segformer.SegFormer
) -> None:
    state = {
        key: value for key, value in model.portable_state().items() if key.startswith("segformer.")
    }
    state |= {"classifier.weight": torch.zeros(1000, 32), "classifier.bias": torch.zeros(1000)}
    folder = str(folder_of(tmp_path / "w", model, state))
    started = segformer.build(classes=7, weights=folder, head="new")
    assert torch.equal(
        started.net.segformer.stages[3].layer_norm.weight,
        model.net.segformer.stages[3].layer_norm.weight,
    )
    with pytest.raises(WeightsMissing, match="no segmentation head"):
        segformer.build(classes=7, weights=folder)


def test_mean_and_std_come_from_the_folder(tmp_path: Path, model: segformer.SegFormer) -> None:
    folder = folder_of(tmp_path / "w", model, model.portable_state())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]})
    )
    loaded = segformer.build(classes=5, weights=str(folder))
    torch.testing.assert_close(loaded.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(loaded.std.flatten(), torch.tensor([0.5, 0.6, 0.7]))


def test_mean_and_std_of_a_run_do_not_need_its_preprocessor(tmp_path: Path) -> None:
    """Without preprocessor_config.json they were those of ImageNet, without a message."""
    model = segformer.build(classes=3, variant="mini")
    model.set_normalisation([0.5] * 3, [0.25] * 3)
    save_model(tmp_path, model)
    (tmp_path / "preprocessor_config.json").unlink()
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.mean, model.mean) and torch.equal(loaded.std, model.std)


def test_a_pickle_is_read_as_tensors_alone(tmp_path: Path, model: segformer.SegFormer) -> None:
    folder = folder_of(tmp_path / "w", model, model.portable_state())
    (folder / "model.safetensors").unlink()
    torch.save(model.portable_state(), folder / "pytorch_model.bin")
    loaded = segformer.build(classes=5, weights=str(folder))
    assert torch.equal(
        loaded.net.decode_head.classifier.weight, model.net.decode_head.classifier.weight
    )
    by_file = segformer.build(classes=5, weights=str(folder / "pytorch_model.bin"))
    assert torch.equal(
        by_file.net.decode_head.classifier.weight, model.net.decode_head.classifier.weight
    )
    torch.save({"weight": _Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsMissing, match="no table of tensors"):
        segformer.build(classes=5, weights=str(folder))
    assert not _Trap.sprung


class _Trap:
    sprung = False

    def __reduce__(self) -> tuple[object, ...]:
        return (_spring, ())


def _spring() -> int:
    _Trap.sprung = True
    return 0


def test_weights_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (str(tmp_path / "nowhere"), "just-a-word"):
        with pytest.raises(WeightsMissing, match="no weights at"):
            segformer.fetch(weights=name)
        assert segformer.taps(classes=3, weights=name) == segformer.taps(
            classes=3
        )  # to come; checked without them
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="config.json"):
        segformer.taps(classes=3, weights=str(tmp_path / "empty"))
    monkeypatch.setattr(_segformer_weights, "EMBEDDED", tmp_path / "gone")
    with pytest.raises(WeightsMissing, match="embedded"):
        segformer.build(classes=3, weights="embedded")


def test_hub_ids_go_through_the_hub_cache_and_carry_their_license(
    tmp_path: Path,
    model: segformer.SegFormer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import huggingface_hub.constants as constants

    root, snapshot = tmp_path / "models--nvidia--segformer-tiny", "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(snapshot)
    (root / "snapshots").mkdir()
    folder_of(root / "snapshots" / snapshot, model, model.portable_state())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.WARNING):
        loaded = segformer.build(classes=5, weights="nvidia/segformer-tiny")
    assert torch.equal(
        loaded.net.decode_head.classifier.weight, model.net.decode_head.classifier.weight
    )
    assert loaded.license == segformer.NVIDIA_LICENSE
    assert loaded.license.noncommercial
    assert segformer.NVIDIA_LICENSE.note in caplog.text
    assert "preprocessor_config.json is not in the hub's cache" in caplog.text  # not a word before
    with pytest.raises(WeightsMissing, match="could not be fetched"):
        segformer.build(classes=5, weights="nvidia/segformer-absent")


def test_images_too_small_are_refused_with_the_size_needed(model: segformer.SegFormer) -> None:
    assert model(torch.rand(1, 3, 29, 29))["logits"].shape[-2:] == (8, 8)
    with pytest.raises(ShapeError, match="at least 29"):
        model(torch.rand(1, 3, 28, 64))


def test_drop_rates_reach_the_network() -> None:
    model = segformer.build(classes=3, **TINY, drop_path=0.3, dropout=0.25)
    assert model.net.decode_head.dropout.p == 0.25
    assert model.net.segformer.stages[3].blocks[0].drop_path.drop_prob == pytest.approx(0.3)
    assert isinstance(model.net.segformer.stages[0].blocks[0].drop_path, torch.nn.Identity)


def test_depthwise_convolutions_start_as_the_authors_draw_them() -> None:
    torch.manual_seed(0)
    model = segformer.build(classes=3, variant="b0")
    weight = model.net.segformer.stages[3].blocks[0].mlp.dwconv.dwconv.weight
    assert float(weight.detach().std()) == pytest.approx((2 / 9) ** 0.5, rel=0.05)
