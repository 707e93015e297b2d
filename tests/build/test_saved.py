"""Model folders: what transformers reads, what is refused, and that no damage goes unnoticed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import freqkd_cli
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.features.trained_weights import load_state
from freqkd_cli.models import fast_scnn, segformer, smp
from freqkd_cli.weights.config import License
from freqkd_cli.weights.state_dict import read_state

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
    reference, report = SegformerForSemanticSegmentation.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert reference.config.id2label == NAMES
    pixels = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    given = SegformerImageProcessor.from_pretrained(tmp_path)(images=pixels, return_tensors="pt")[
        "pixel_values"
    ]
    assert given.shape == (1, 3, 64, 96)
    torch.testing.assert_close(
        reference.eval()(given).logits, model(pixels[None] / 255)["logits"], atol=1e-5, rtol=1e-5
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
    reference = SegformerForSemanticSegmentation(
        SegformerConfig(num_labels=3, **sizes, **unusual)
    ).eval()
    reference.save_pretrained(tmp_path / "transformers")
    loaded = freqkd_cli.load(tmp_path / "transformers")
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(
        loaded(images)["logits"], reference(loaded.normalise(images)).logits, atol=1e-5, rtol=1e-5
    )
    assert (loaded.classes, loaded.id2label) == (3, None)
    save_model(
        tmp_path / "again", loaded
    )  # fields that our arguments do not name survive a round trip
    assert torch.equal(load_model(tmp_path / "again")(images)["logits"], loaded(images)["logits"])


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
        "license": None,
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
    for parameter, read in zip(model.parameters(), loaded.parameters(), strict=True):
        assert read.dtype == torch.float32
        assert torch.equal(read, parameter.half().float())


def test_a_channels_last_model_is_saved_whole(tmp_path: Path) -> None:
    model = fast_scnn.build(classes=3, width=0.25).to(memory_format=torch.channels_last)
    save_model(tmp_path, model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.parameters(), load_model(tmp_path).parameters(), strict=True)
    )


def test_the_license_is_saved_and_loaded_as_a_field(tmp_path: Path) -> None:
    model = segformer.build(classes=3, **TINY)
    model.license = segformer.NVIDIA_LICENSE
    save_model(tmp_path, model)
    field = json.loads((tmp_path / "config.json").read_text())["freqkd"]["license"]
    assert field["noncommercial"] is True and set(field) == {"name", "note", "noncommercial"}
    assert load_model(tmp_path).license == segformer.NVIDIA_LICENSE


def test_a_license_note_of_an_older_folder_is_a_restricted_license(tmp_path: Path) -> None:
    """Older versions wrote a note for weights that exclude commercial use, and for no others."""
    save_model(tmp_path, fast_scnn.build(classes=3, width=0.25))
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["license"]
    (tmp_path / "config.json").write_text(json.dumps(fields | {"licence_note": "For research."}))
    assert load_model(tmp_path).license == License(
        name="unnamed", note="For research.", noncommercial=True
    )
    (tmp_path / "config.json").write_text(json.dumps(fields | {"licence_note": None}))
    assert load_model(tmp_path).license is None


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_a_flipped_bit_of_the_weights_is_refused(tmp_path: Path) -> None:
    model = fast_scnn.build(classes=3, width=0.25)
    save_model(tmp_path, model)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    for place in (data, (data + len(whole)) // 2, len(whole) - 1):
        for read in (load_model, lambda folder: load_state(folder, model), read_state):
            path.write_bytes(whole)
            flip(path, place, bit=3)
            with pytest.raises(WeightsMissing, match="checksum does not match") as caught:
                read(tmp_path)
            assert str(path) in caught.value.what and caught.value.exit_code == 4
    for place in range(8, data, 97):
        path.write_bytes(whole)
        flip(path, place, bit=place % 7)
        with contextlib.suppress(WeightsMissing):  # or a harmless bit, such as a space
            assert torch.equal(
                load_model(tmp_path).classifier[3].weight, model.classifier[3].weight
            )
    path.write_bytes(whole)
    load_model(tmp_path)


def test_weights_without_a_checksum_are_read(tmp_path: Path) -> None:
    """Folders of older versions and of other programs."""
    model = fast_scnn.build(classes=3, width=0.25)
    save_model(tmp_path, model)
    path = tmp_path / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt"})
    flip(path, path.stat().st_size - 1)
    load_model(tmp_path)
    save_file(load_file(path), path)
    load_model(tmp_path)


class _Code:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("true",))


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.rand(1)), path)


@pytest.mark.parametrize(
    ("write", "got"),
    [
        (lambda path: torch.save({"weight": _Code()}, path), "code: posix.system"),
        (
            lambda path: torch.save(
                {"weight": _Code()}, path, _use_new_zipfile_serialization=False
            ),
            "code: posix.system",
        ),
        (
            lambda path: path.write_bytes(pickle.dumps({"weight": _Code()})),
            "code: posix.system",
        ),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "a damaged file"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (_script, "a TorchScript program"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_refused_pickle_is_explained_without_the_advice_to_run_it(tmp_path, write, got) -> None:
    path = tmp_path / "pytorch_model.bin"
    write(path)
    with pytest.raises(WeightsMissing, match="cannot be read as plain tensors") as caught:
        read_state(path)
    assert got in caught.value.got
    text = str(caught.value)
    assert not any(word in text for word in ("weights_only", "torch.load", "allowlist", "False"))


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
    with pytest.raises(WeightsMissing, match="does not exist"):
        freqkd_cli.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="config.json is missing"):
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
    with pytest.raises(WeightsMissing, match="does not exist"):
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
        WeightsMissing,
        match="(?s)config.json does not describe a model.*got  (mean|std) .*(greater|less|finite)",
    ) as caught:
        load_model(tmp_path)
    assert (
        str(next(iter(changes.values()))).replace("nan", "NaN").replace("-inf", "-Infinity")
        in caught.value.got
    )
    if model.model_name == "smp":
        with pytest.raises(WeightsMissing, match="(?s)config.json does not describe a model"):
            smp.build(classes=3, weights=str(tmp_path))
