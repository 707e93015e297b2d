"""SegFormer folders as transformers, trainers and scripts leave them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import freqkd_cli
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.models import segformer
from freqkd_cli.models._segformer_names import to_hub_names

SIZES = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 2, 3, 4],
    "decoder_hidden_size": 16,
}


def network(rows: int = 2, **more: Any) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(num_labels=rows, **SIZES, **more)
    net = SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.fixture(scope="module")
def net() -> Any:
    return network()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def folder_of(path: Path, net: Any, edit: Callable[[dict[str, Any]], None] | None = None) -> Path:
    net.save_pretrained(path)
    if edit is not None:
        config = json.loads((path / "config.json").read_text())
        edit(config)
        (path / "config.json").write_text(json.dumps(config))
    return path


def changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """An edit that sets keys, or removes those that are ``...``."""

    def edit(config: dict[str, Any]) -> None:
        for key in ("id2label", "label2id", "num_labels"):
            config.pop(key, None)
        config.update(changes)
        for key in [key for key, value in config.items() if value is ...]:
            del config[key]

    return edit


def logits_of(net: Any, images: Tensor, model: segformer.SegFormer) -> Tensor:
    with torch.no_grad():
        return net(model.normalise(images)).logits


# --- numbers and names of the classes ---


@pytest.mark.parametrize(
    ("changes", "names", "line"),
    [
        (
            {"id2label": {"1": "background", "2": "crack"}},
            ["background", "crack"],
            "row 0 is background (1), row 1 is crack (2)",
        ),
        (
            {"id2label": {"5": "crack", "0": "background"}},
            ["background", "crack"],
            "row 0 is background (0), row 1 is crack (5)",
        ),
        (
            {"id2label": {"10": "crack", "9": "wall"}},
            ["wall", "crack"],
            "row 0 is wall (9), row 1 is crack (10)",
        ),
        ({"id2label": ["background", "crack"]}, ["background", "crack"], None),
        ({"id2label": {"1": "crack", "0": "background"}}, ["background", "crack"], None),
        ({"id2label": None, "num_labels": 2}, None, None),
        ({"id2label": None, "label2id": None, "num_labels": None}, None, None),
        ({"num_labels": 2}, None, None),
        ({}, None, None),
        ({"id2label": {"0": None, "1": "crack"}}, ["LABEL_0", "crack"], None),
    ],
)
def test_class_names_in_every_form(
    tmp_path: Path,
    net: Any,
    images: Tensor,
    changes: dict[str, Any],
    names: list[str] | None,
    line: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = str(folder_of(tmp_path / "w", net, changed(**changes)))
    with caplog.at_level(logging.WARNING):
        model = segformer.build(classes=9, weights=folder).eval()
    assert model.classes == 2
    assert model.id2label == (dict(enumerate(names)) if names else None)
    torch.testing.assert_close(
        model(images)["logits"], logits_of(net, images, model), atol=1e-5, rtol=1e-5
    )
    assert line in caplog.text if line else "row 0" not in caplog.text
    taps = {tap.name: tap for tap in segformer.taps(classes=9, weights=folder)}
    assert taps["logits"].channels == 2
    assert freqkd_cli.load(folder).id2label == model.id2label


def test_without_names_or_number_the_classifier_decides(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path / "w", network(rows=5), changed()))
    assert segformer.build(classes=9, weights=folder).classes == 5
    taps = {tap.name: tap for tap in segformer.taps(classes=9, weights=folder)}
    assert taps["logits"].channels == 5


@pytest.mark.parametrize(
    ("changes", "got"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "3 classes in id2label: a, b, c"),
        ({"id2label": ["a"]}, "1 classes in id2label: a"),
        ({"num_labels": 7}, "7 classes in num_labels"),
    ],
)
def test_other_numbers_of_names_and_rows_are_refused(
    tmp_path: Path, net: Any, changes: dict[str, Any], got: str
) -> None:
    folder = str(folder_of(tmp_path / "w", net, changed(**changes)))
    with pytest.raises(WeightsMissing) as caught:
        segformer.build(classes=2, weights=folder)
    assert caught.value.got == got and caught.value.need.startswith("2 classes")
    assert segformer.build(classes=4, weights=folder, head="new").classes == 4


# --- odd fields ---


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "SegformerForSemanticSegmentation"},
        {"model_type": "SegFormer"},
        {"model_type": ...},
        {"decoder_hidden_size": 16.0, "hidden_sizes": [8.0, 16.0, 24.0, 32.0]},
        {"mlp_ratios": 4},
        {"reshape_last_stage": False},
        {"id2label": None, "label2id": None, "num_labels": 2.0},
    ],
)
def test_odd_fields_are_read(
    tmp_path: Path, net: Any, images: Tensor, changes: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path / "w", net, changed(**changes))
    model = segformer.build(classes=9, weights=str(folder)).eval()
    torch.testing.assert_close(
        model(images)["logits"], logits_of(net, images, model), atol=1e-5, rtol=1e-5
    )
    if changes.get("model_type", "") is not ...:
        assert freqkd_cli.load(folder).classes == 2


def test_a_class_that_the_training_ignored_is_named(
    tmp_path: Path, net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"0": "void", "1": "crack"}
    edit = changed(semantic_loss_ignore_index=0, id2label=names)
    with caplog.at_level(logging.WARNING):
        segformer.build(classes=2, weights=str(folder_of(tmp_path / "w", net, edit)))
    assert "semantic_loss_ignore_index 0, so class 0 (void) was void there" in caplog.text


def test_four_bands_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="num_channels 4") as caught:
        segformer.build(classes=2, weights=str(folder_of(tmp_path / "w", network(num_channels=4))))
    assert "other bands are not supported" in caught.value.need
    with pytest.raises(WeightsMissing, match="num_channels 4"):  # without the config as well
        file = tmp_path / "file"
        file.mkdir()
        (tmp_path / "w" / "model.safetensors").rename(file / "model.safetensors")
        segformer.build(classes=2, weights=str(file), heads=[1, 2, 3, 4])


def test_quantised_weights_are_named_with_the_command(tmp_path: Path, net: Any) -> None:
    edit = changed(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    folder = folder_of(tmp_path / "w", net, edit)
    with pytest.raises(WeightsMissing, match="has quantised weights") as caught:
        segformer.build(classes=2, weights=str(folder))
    assert "bitsandbytes" in caught.value.got and ".dequantize()" in caught.value.tip


def test_bfloat16_weights_are_cast(tmp_path: Path, images: Tensor) -> None:
    net = network().bfloat16()
    model = segformer.build(classes=2, weights=str(folder_of(tmp_path / "w", net))).eval()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(
        model(images)["logits"], logits_of(net.float(), images, model), atol=1e-5, rtol=1e-5
    )


# --- folders of trainers and of other forms ---


def test_the_only_checkpoint_of_a_trainer_is_read(
    tmp_path: Path, net: Any, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").mkdir()
    folder_of(tmp_path / "checkpoint-500", net)
    with caplog.at_level(logging.WARNING):
        model = segformer.build(classes=2, weights=str(tmp_path)).eval()
    assert "its checkpoint-500 is read" in caplog.text
    expected = logits_of(net, images, model)
    torch.testing.assert_close(model(images)["logits"], expected, atol=1e-5, rtol=1e-5)
    loaded = freqkd_cli.load(tmp_path)
    torch.testing.assert_close(loaded(images)["logits"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recorded", [None, "out/checkpoint-20", "elsewhere/checkpoint-7"])
def test_of_several_checkpoints_the_recorded_best_is_read_else_all_are_listed(
    tmp_path: Path, net: Any, recorded: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (100, 20, 3):
        folder_of(tmp_path / f"checkpoint-{step}", net)
    state = {"best_model_checkpoint": recorded, "best_metric": 0.7}
    (tmp_path / "checkpoint-100" / "trainer_state.json").write_text(json.dumps(state))
    if recorded == "out/checkpoint-20":
        segformer.taps(classes=2, weights=str(tmp_path))
        assert "checkpoint-20 is read, not checkpoint-3, checkpoint-100" in caplog.text
        return
    with pytest.raises(WeightsMissing, match="3 checkpoints") as caught:
        segformer.taps(classes=2, weights=str(tmp_path))
    assert caught.value.got == "checkpoint-100, checkpoint-20, checkpoint-3"
    assert f"--set 'weights={tmp_path}/checkpoint-100' (the last)" in caught.value.tip


def test_tips_for_an_argument_of_a_command_name_arguments(tmp_path: Path, net: Any) -> None:
    """They named a key of a recipe: --set 'weights=...' of eval is an unknown key."""
    for step in (10, 20):
        folder_of(tmp_path / "out" / f"checkpoint-{step}", net)
    with pytest.raises(WeightsMissing, match="2 checkpoints") as caught:
        freqkd_cli.load(tmp_path / "out")
    assert caught.value.tip == f"{tmp_path}/out/checkpoint-20 in its place (the last)"
    (tmp_path / "own").mkdir()
    torch.save(net.state_dict(), tmp_path / "own" / "best.pth")
    with pytest.raises(WeightsMissing, match="holds no model") as caught:
        freqkd_cli.load(tmp_path / "own")
    assert caught.value.tip == f"a recipe with teacher.weights: {tmp_path}/own/best.pth"


def test_a_final_model_comes_before_checkpoints(tmp_path: Path, net: Any) -> None:
    folder_of(tmp_path, net)
    folder_of(tmp_path / "checkpoint-1", network(rows=5))
    folder_of(tmp_path / "checkpoint-2", network(rows=5))
    assert segformer.build(classes=2, weights=str(tmp_path)).classes == 2


def test_an_adapter_is_named_with_the_command_that_merges_it(tmp_path: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "nvidia/mit-b0"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    name = "base_model.model.decode_head.classifier.weight"
    save_file({name: torch.zeros(7, 8, 1, 1)}, tmp_path / "adapter_model.safetensors")
    for read in (
        lambda: segformer.build(classes=2, weights=str(tmp_path)),
        lambda: segformer.taps(classes=2, weights=str(tmp_path)),
        lambda: freqkd_cli.load(tmp_path),
    ):
        with pytest.raises(WeightsMissing, match="is a LORA adapter, not a whole model") as caught:
            read()
        assert "S.from_pretrained('nvidia/mit-b0', num_labels=7" in caught.value.tip
        code = caught.value.tip.split('python -c "')[1].split('"')[0]
        compile(code, "tip", "exec")
        assert f"'{tmp_path}').merge_and_unload()" in code


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tf_model.h5", "has TensorFlow weights"),
        ("flax_model.msgpack", "has Flax weights"),
        ("model.onnx", "has an ONNX graph"),
    ],
)
def test_other_forms_are_named(tmp_path: Path, net: Any, name: str, text: str) -> None:
    folder = folder_of(tmp_path / "w", net)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x89HDF")
    for read in (lambda: segformer.build(classes=2, weights=str(folder)),):
        with pytest.raises(WeightsMissing, match=text) as caught:
            read()
        assert caught.value.tip and caught.value.got == name


@pytest.mark.parametrize("described", [True, False])
def test_weight_files_of_other_names_are_listed_to_be_named(
    tmp_path: Path, net: Any, described: bool
) -> None:
    for name in ("best.pth", "last.pth", "training_args.bin", "optimizer.pt"):
        torch.save(net.state_dict(), tmp_path / name)
    if described:
        net.config.save_pretrained(tmp_path)
    lack = "has no model.safetensors" if described else "config.json is missing"
    with pytest.raises(WeightsMissing, match=lack) as caught:
        segformer.build(classes=2, weights=str(tmp_path))
    assert caught.value.got == "best.pth, last.pth"
    best = tmp_path / "best.pth"
    assert f"--set 'weights={best}'" in caught.value.tip
    heads = None if described else [1, 2, 3, 4]
    assert segformer.build(classes=9, weights=str(best), heads=heads).classes == 2


# --- files without a description ---


def test_the_sizes_of_a_file_come_from_its_tensors(
    tmp_path: Path, net: Any, images: Tensor
) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pth")
    weights = str(tmp_path / "net.pth")
    with pytest.raises(WeightsMissing, match="do not fix the attention heads") as caught:
        segformer.build(classes=9, weights=weights)
    assert "channels [8, 16, 24, 32]" in caught.value.got and "heads=[" in caught.value.tip
    model = segformer.build(classes=9, weights=weights, heads=[1, 2, 3, 4]).eval()
    torch.testing.assert_close(
        model(images)["logits"], logits_of(net, images, model), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(WeightsMissing, match="another depths"):
        segformer.build(classes=9, weights=weights, heads=[1, 2, 3, 4], depths=[1, 1, 1, 1])


@pytest.mark.parametrize("variant", ["mini", "b0"])
def test_published_sizes_need_no_word(tmp_path: Path, variant: str) -> None:
    torch.manual_seed(0)
    start = segformer.build(classes=4, variant=variant)
    state = to_hub_names(start.net.state_dict())
    torch.save({"model": {f"module.{k}": x for k, x in state.items()}}, tmp_path / "net.pth")
    loaded = segformer.build(classes=9, weights=str(tmp_path / "net.pth"))
    assert loaded.recipe_arguments == start.recipe_arguments
    assert torch.equal(
        loaded.net.decode_head.linear_fuse.weight, start.net.decode_head.linear_fuse.weight
    )


def test_channels_do_not_decide_the_heads_of_weights(tmp_path: Path, net: Any) -> None:
    """Heads were guessed from them, so that attention was another without a message."""
    start = segformer.build(classes=4, variant="mini")
    torch.save(start.net.state_dict(), tmp_path / "net.pth")
    loaded = segformer.build(
        classes=4, weights=str(tmp_path / "net.pth"), channels=[24, 48, 96, 160]
    )
    assert loaded.recipe_arguments["heads"] == start.recipe_arguments["heads"] == [1, 2, 3, 5]
    torch.save(net.state_dict(), tmp_path / "net.pth")
    with pytest.raises(WeightsMissing, match="do not fix the attention heads"):
        segformer.build(classes=2, weights=str(tmp_path / "net.pth"), channels=[8, 16, 24, 32])
    folder = folder_of(tmp_path / "net", net)
    assert segformer.build(classes=2, weights=str(folder), channels=[8, 16, 24, 32]).classes == 2


def test_a_model_of_another_library_is_named(tmp_path: Path) -> None:
    state = {"encoder.patch_embed1.proj.weight": torch.zeros(8, 3, 7, 7)}
    state |= {"segmentation_head.0.weight": torch.zeros(2, 8, 1, 1)}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsMissing, match="no weights of a SegFormer") as caught:
        segformer.build(classes=2, weights=str(tmp_path / "net.pth"))
    assert "name=smp" in caught.value.tip


def test_the_averaged_network_of_several_is_read(
    tmp_path: Path, net: Any, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    state = {f"model.{key}": torch.zeros_like(x) for key, x in net.state_dict().items()}
    state |= {f"ema_model.{key}": x for key, x in net.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(2)}}, tmp_path / "net.ckpt")
    with caplog.at_level(logging.WARNING):
        model = segformer.build(
            classes=2, weights=str(tmp_path / "net.ckpt"), heads=[1, 2, 3, 4]
        ).eval()
    assert "that of ema_model. is used" in caplog.text and "criterion.weight" in caplog.text
    torch.testing.assert_close(
        model(images)["logits"], logits_of(net, images, model), atol=1e-5, rtol=1e-5
    )


def test_two_networks_are_refused_and_the_only_whole_one_is_read(tmp_path: Path, net: Any) -> None:
    """The first of two was read, whichever that was; docs/recipes.md has always said refused."""
    own, path = net.state_dict(), str(tmp_path / "net.ckpt")
    changed_ones = {key: x + 1 if x.is_floating_point() else x for key, x in own.items()}

    def read(**networks: dict[str, Tensor]) -> Tensor:
        keys = {f"{prefix}.{key}": x for prefix, net in networks.items() for key, x in net.items()}
        torch.save({"state_dict": keys}, path)
        built = segformer.build(classes=2, weights=path, heads=[1, 2, 3, 4])
        return built.net.decode_head.classifier.weight

    with pytest.raises(WeightsMissing, match=r"(?s)several networks that fit.*teacher\., semantic"):
        read(teacher=own, semantic=changed_ones)
    classifier = own["decode_head.classifier.weight"]
    assert torch.equal(read(a=own, bb=own), classifier)
    encoder = {key: x for key, x in changed_ones.items() if key.startswith("segformer.")}
    assert torch.equal(read(e=encoder, model=own), classifier)
