"""Model folders: what transformers reads, what is refused, and that a half-written one cannot be taken for whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import freqkd_cli
from freqkd_cli.build.saved import load_model, load_state, save_model
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.models import fast_scnn, segformer, smp

TINY: dict[str, Any] = {"channels": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder": 16}
NAMES = {0: "road", 1: "car", 2: "pole"}


def rewritten(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
def test_transformers_reads_a_segformer_as_its_own(tmp_path: Path) -> None:
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    model = segformer.build(classes=3, **TINY).eval()
    model.set_normalisation([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    save_model(tmp_path, model, "segformer", NAMES)
    theirs, report = SegformerForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label == NAMES
    pixels = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    given = SegformerImageProcessor.from_pretrained(tmp_path)(images=pixels, return_tensors="pt")[
        "pixel_values"
    ]
    assert given.shape == (1, 3, 64, 96)
    torch.testing.assert_close(
        theirs.eval()(given).logits, model(pixels[None] / 255)["logits"], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_a_folder_that_transformers_wrote_is_loaded(tmp_path: Path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    sizes = {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 3, 4],
        "decoder_hidden_size": 16,
    }
    unusual = {"sr_ratios": [4, 2, 2, 1], "mlp_ratios": [2, 2, 3, 3]}
    theirs = SegformerForSemanticSegmentation(
        SegformerConfig(num_labels=3, **sizes, **unusual)
    ).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = freqkd_cli.load(tmp_path / "theirs")
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(
        ours(images)["logits"], theirs(ours.normalise(images)).logits, atol=1e-5, rtol=1e-5
    )
    assert (ours.classes, ours.id2label) == (3, None)
    save_model(
        tmp_path / "again", ours
    )  # what our arguments do not name survives a round trip all the same
    assert torch.equal(load_model(tmp_path / "again")(images)["logits"], ours(images)["logits"])


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    model = fast_scnn.build(classes=3, width=0.5)
    save_model(tmp_path, model, id2label=NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "model": "fast_scnn",
        "arguments": {"classes": 3, "width": 0.5, "dropout": 0.1, "auxiliary": False},
        "id2label": {"0": "road", "1": "car", "2": "pole"},
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "licence_note": None,
        "format": 1,
    }
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_mean"] == [
        0.485,
        0.456,
        0.406,
    ]


def test_half_precision_on_disk_and_float32_in_memory(tmp_path: Path) -> None:
    model = fast_scnn.build(classes=3, width=0.25)
    save_model(tmp_path, model, dtype=torch.float16)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 - not a dictionary
    assert kinds == {torch.float16, torch.int64}
    loaded = load_model(tmp_path)
    for mine, read in zip(model.parameters(), loaded.parameters(), strict=True):
        assert read.dtype == torch.float32
        assert torch.equal(read, mine.half().float())


def test_a_channels_last_model_is_saved_whole(tmp_path: Path) -> None:
    model = fast_scnn.build(classes=3, width=0.25).to(memory_format=torch.channels_last)
    save_model(tmp_path, model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), load_model(tmp_path).parameters(), strict=True)
    )


def test_the_licence_note_goes_along(tmp_path: Path) -> None:
    model = segformer.build(classes=3, **TINY)
    model.licence_note = segformer.LICENCE_NOTE
    save_model(tmp_path, model)
    assert load_model(tmp_path).licence_note == segformer.LICENCE_NOTE


def test_an_interrupted_write_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    first, second = fast_scnn.build(classes=3, width=0.25), fast_scnn.build(classes=3, width=0.25)
    save_model(tmp_path, first)

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path, second)
    monkeypatch.undo()
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.parameters(), load_model(tmp_path).parameters(), strict=True)
    )


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="no folder"):
        freqkd_cli.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="config.json is not there"):
        load_model(tmp_path / "empty")
    folder = tmp_path / "model"
    save_model(folder, fast_scnn.build(classes=3, width=0.25))
    rewritten(folder, format=2)
    with pytest.raises(WeightsMissing, match="another format"):
        load_model(folder)
    rewritten(folder, format=1, model="fast_scn")
    with pytest.raises(WeightsMissing, match="did you mean 'fast_scnn'"):
        load_model(folder)
    rewritten(folder, model="fast_scnn", arguments={"classes": 4, "width": 0.25})
    with pytest.raises(WeightsMissing, match="of another shape"):
        load_model(folder)
    rewritten(folder, arguments={"classes": 3, "width": 0.25})
    load_model(folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(WeightsMissing, match="cannot be read"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsMissing):
        load_model(folder)
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsMissing, match="names no model"):
        load_model(tmp_path / "empty")


def test_a_student_starts_from_a_trained_one(tmp_path: Path) -> None:
    trained = fast_scnn.build(classes=3, width=0.25)
    save_model(tmp_path / "plain", trained)
    save_model(tmp_path / "heads", fast_scnn.build(classes=3, width=0.25, auxiliary=True))
    fresh = fast_scnn.build(classes=3, width=0.25, auxiliary=True)
    drawn = fresh.auxiliary["aux1"][0].weight.clone()
    load_state(tmp_path / "plain", fresh)
    assert torch.equal(fresh.classifier[3].weight, trained.classifier[3].weight)
    assert torch.equal(fresh.auxiliary["aux1"][0].weight, drawn), (
        "a head that the trained model lacks stays as drawn"
    )
    load_state(tmp_path / "heads", fresh)
    assert not torch.equal(fresh.auxiliary["aux1"][0].weight, drawn)
    load_state(tmp_path / "heads", trained)
    other = fast_scnn.build(classes=5, width=0.25)
    before = other.classifier[3].weight.clone()
    with pytest.raises(WeightsMissing, match="of another shape"):
        load_state(tmp_path / "plain", other)
    assert torch.equal(other.classifier[3].weight, before)
    with pytest.raises(WeightsMissing, match="no folder"):
        load_state(tmp_path / "nowhere", other)


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0.2, float("nan"), 0.2]},
        {"std": [0.2, 0.0, 0.2]},
        {"mean": [float("-inf"), 0.5, 0.5]},
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda: fast_scnn.build(classes=3, width=0.25),
        lambda: smp.build(classes=3, encoder="mobilenet_v2"),
    ],
)
def test_a_normalisation_that_makes_no_numbers_is_refused(tmp_path: Path, make, changes) -> None:
    model = make()
    save_model(tmp_path, model)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(
        WeightsMissing, match="(?s)config.json describes no model.*got  (mean|std) .*three of them"
    ) as caught:
        load_model(tmp_path)
    assert (
        str(next(iter(changes.values()))).replace("nan", "NaN").replace("-inf", "-Infinity")
        in caught.value.got
    )
    if model.model_name == "smp":
        with pytest.raises(WeightsMissing, match="(?s)config.json.*three of them"):
            smp.build(classes=3, weights=str(tmp_path))
