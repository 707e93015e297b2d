"""Teachers from other sources: folders of transformers, also of old versions, and smp models."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.features.class_names import same_classes
from freqkd_cli.models import fast_scnn, segformer, smp

SMALL = "tu-mobilenetv3_small_100"
IMAGES = torch.rand(2, 3, 70, 101, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
    """A folder as transformers writes it, and its model; of 12 classes, "10" sorts before "2"."""
    from transformers import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
    )

    torch.manual_seed(0)
    names = {i: f"thing {i}" for i in range(12)}
    sizes = {
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1, 1, 2, 2],
        "depths": [1, 1, 1, 1],
        "decoder_hidden_size": 16,
    }
    model = SegformerForSemanticSegmentation(
        SegformerConfig(id2label=names, label2id={n: i for i, n in names.items()}, **sizes)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("transformers")
    model.save_pretrained(folder)
    SegformerImageProcessor(
        image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4], do_resize=False
    ).save_pretrained(folder)
    return folder, model


def old_folder(
    path: Path,
    transformers_folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    **preprocessor: object,
) -> Path:
    """The folder as version 4 wrote it: pickled, classes sorted as words, a feature extractor."""
    path.mkdir()
    state = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in load_file(transformers_folder / "model.safetensors").items()
    }
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in state
    torch.save(state, path / "pytorch_model.bin")
    config = json.loads((transformers_folder / "config.json").read_text())
    config["id2label"] = dict(sorted(config["id2label"].items()))
    assert list(config["id2label"])[:3] == ["0", "1", "10"]
    (path / "config.json").write_text(
        json.dumps(config | {"transformers_version": "4.18.0", "reshape_last_stage": True})
    )
    settings = {
        "feature_extractor_type": "SegformerFeatureExtractor",
        "do_normalize": True,
        "size": 512,
        "do_resize": True,
    }
    settings |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings | preprocessor))
    return path


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_old_folder_gives_the_logits_of_transformers(transformers_folder, tmp_path, dtype):
    folder, model = transformers_folder
    loaded = segformer.build(
        classes=3, weights=str(old_folder(tmp_path / "old", folder, dtype=dtype))
    ).eval()
    mean, std = (torch.tensor(side).view(1, 3, 1, 1) for side in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    reference = model(pixel_values=(IMAGES - mean) / std).logits
    slack = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype] * float(
        reference.abs().max()
    )
    torch.testing.assert_close(loaded(IMAGES)["logits"], reference, atol=slack, rtol=0)
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert list(loaded.id2label.values()) == [f"thing {i}" for i in range(12)]
    assert same_classes(loaded, [f"Thing_{i}" for i in range(12)]) and not same_classes(
        loaded, [f"thing {i}" for i in range(11, -1, -1)]
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_rescale": False, "image_mean": [100.0, 110.0, 120.0], "image_std": [50.0, 60.0, 70.0]},
        {
            "do_rescale": True,
            "rescale_factor": 1 / 127.5,
            "image_mean": [1.0, 1.0, 1.0],
            "image_std": [1.0, 1.0, 1.0],
        },
        {"do_normalize": False},
    ],
)
def test_images_are_prepared_as_by_their_processor(transformers_folder, tmp_path, settings):
    from transformers import SegformerImageProcessor

    folder, model = transformers_folder
    pixels = (IMAGES * 255).round().to(torch.uint8)
    old = old_folder(tmp_path / "old", folder, **settings)
    processor = SegformerImageProcessor(
        **{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "do_resize": False}
        | settings
    )
    prepared = processor(
        images=list(pixels.numpy()), return_tensors="pt", input_data_format="channels_first"
    )["pixel_values"]
    loaded = load_model(old)
    torch.testing.assert_close(
        loaded.normalise(pixels.float() / 255), prepared, atol=2e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        loaded(pixels.float() / 255)["logits"],
        model(pixel_values=prepared).logits,
        atol=1e-3,
        rtol=1e-3,
    )


def test_a_mean_of_one_number_is_refused(transformers_folder, tmp_path):
    folder = old_folder(tmp_path / "old", transformers_folder[0], image_mean=[0.5])
    with pytest.raises(WeightsMissing, match="image_mean: List should have at least 3 items"):
        segformer.build(classes=3, weights=str(folder))


@pytest.mark.parametrize(
    "std", [[float("nan"), 1.0, 1.0], [float("inf"), 1.0, 1.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
)
def test_a_deviation_that_cannot_divide_is_refused(transformers_folder, tmp_path, std):
    folder = old_folder(tmp_path / "old", transformers_folder[0], image_std=std)
    with pytest.raises(
        WeightsMissing,
        match=r"preprocessor_config\.json .*\n.*\n  need image_std\.0: (less|greater) than",
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "reduced"),
    [("reduce_labels", True), ("do_reduce_labels", True), ("reduce_labels", False)],
)
def test_reduced_labels_are_reported(transformers_folder, tmp_path, caplog, key, reduced):
    settings = {key: reduced}
    with caplog.at_level(logging.WARNING):
        segformer.build(
            classes=3, weights=str(old_folder(tmp_path / "old", transformers_folder[0], **settings))
        )
    assert (
        "trained with reduced labels: its class 0 is value 1 in the masks" in caplog.text
    ) == reduced


def test_a_missing_key_is_named(transformers_folder, tmp_path):
    folder = old_folder(tmp_path / "old", transformers_folder[0])
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["decode_head.linear_c.2.proj.bias"]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(
        WeightsMissing, match=r"1 missing \(decode_head\.linear_projections\.2\.proj\.bias\)"
    ):
        segformer.build(classes=12, weights=str(folder))


@torch.no_grad()
@pytest.mark.parametrize("wrapped", ["", "module.", "model.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_an_smp_teacher_from_a_state_dict_of_the_library(tmp_path, wrapped, kind):
    import segmentation_models_pytorch as library

    torch.manual_seed(0)
    made = library.create_model("fpn", encoder_name=SMALL, encoder_weights=None, classes=7).eval()
    state = {f"{wrapped}{key}": value.contiguous() for key, value in made.state_dict().items()}
    file = tmp_path / f"teacher.{kind}"
    save_file(state, file) if kind == "safetensors" else torch.save(
        {"state_dict": state, "epoch": 3}, file
    )
    arguments = {
        "arch": "fpn",
        "encoder": SMALL,
        "weights": str(file),
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    loaded = smp.build(classes=3, **arguments).eval()
    assert (
        loaded.classes == 7
        and {tap.name: tap.channels for tap in smp.taps(classes=3, **arguments)}["logits"] == 7
    )
    images = torch.rand(1, 3, 64, 96)
    up = torch.nn.functional.interpolate(
        loaded(images)["logits"], scale_factor=4, mode="bilinear", align_corners=True
    )
    torch.testing.assert_close(up, made((images - 0.5) / 0.5), atol=1e-5, rtol=1e-4)


def test_an_smp_folder_of_freqkd_brings_names_and_classes(tmp_path):
    made = smp.build(classes=4, encoder=SMALL, mean=[0.1, 0.2, 0.3])
    save_model(tmp_path / "m", made, "smp", dict(enumerate("abcd")))
    loaded = smp.build(classes=9, encoder=SMALL, weights=str(tmp_path / "m"))
    assert (loaded.classes, loaded.id2label) == (4, dict(enumerate("abcd")))
    torch.testing.assert_close(loaded.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))


RECIPE = """\
version: 1
data: {name: scenes, size: [64, 64]}
teacher: {name: fast_scnn, width: 0.25, weights: TEACHER}
student: {name: smp, encoder: tu-mobilenetv3_small_100, weights: STUDENT}
losses: [{name: cross_entropy}]
train: {steps: 1}
"""


def test_a_run_as_teacher_keeps_its_classes_and_a_student_of_other_classes_is_refused(tmp_path):
    run = fast_scnn.build(classes=5, width=0.25)
    run.set_normalisation([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    save_model(tmp_path / "run", run, "fast_scnn", dict(enumerate("abcde")))
    save_model(tmp_path / "student", smp.build(classes=5, encoder=SMALL), "smp")
    text = RECIPE.replace("TEACHER", str(tmp_path / "run"))
    teacher = assemble.build_teacher(recipes.loads(text.replace("STUDENT", "null")), 12)
    assert (teacher.classes, teacher.id2label) == (5, dict(enumerate("abcde")))
    assert torch.equal(teacher.mean, run.mean) and torch.equal(teacher.std, run.std)
    checked = assemble.check(recipes.loads(text.replace("STUDENT", "null")))
    assert checked.teacher_taps["logits"].channels == 5
    with pytest.raises(
        RecipeError, match=r"student\.weights: the student's weights have 5 classes and the data 12"
    ):
        assemble.check(recipes.loads(text.replace("STUDENT", str(tmp_path / "student"))))
