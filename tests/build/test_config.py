"""A damaged ``config.json``: one message with its file and fields, in every command."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.errors import FreqKDError, RecipeError, WeightsMissing
from freqkd_cli.export.teacher_weights import recorded_license
from freqkd_cli.features.trained_weights import class_names_of
from freqkd_cli.models import fast_scnn, segformer
from freqkd_cli.models._segformer_config import ACTIVATIONS, Architecture, describe
from freqkd_cli.models._segformer_weights import EMBEDDED
from freqkd_cli.runtime.json_file import object_or_none, read_object
from freqkd_cli.spectrum.locate import identify, newest
from freqkd_cli.weights.config import read_config

ODD: list[Any] = [
    "x",
    "",
    None,
    True,
    [],
    {},
    0,
    -1,
    1.5,
    10**400,
    float("nan"),
    float("inf"),
    [8, 4, 2],
    [8, 4, 2, 0],
    [8, 4, 2, "a"],
]
ODD += [
    [8, 4, 2, None],
    [[8], 4, 2, 1],
    [1, 1, 1, 10**12],
    ["a"] * 12,
    {"a": "b"},
    {"0": None},
    {"1": "a"},
    {"0": "a", "00": "b"},
]


def teacher(folder: Path, **changes: Any) -> Path:
    """The embedded teacher's description, changed, without its weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(json.loads((EMBEDDED / "config.json").read_text()) | changes)
    )
    return folder


@pytest.mark.parametrize(
    ("changes", "got", "need"),
    [
        ({"num_labels": "x"}, 'num_labels "x"', "num_labels: a valid integer"),
        (
            {"hidden_sizes": "x"},
            'hidden_sizes "x"',
            "hidden_sizes: a valid list",
        ),
        (
            {"hidden_sizes": [24, 48, 96]},
            "hidden_sizes [24, 48, 96]",
            "hidden_sizes: List should have at least 4",
        ),
        (
            {"num_attention_heads": None},
            "num_attention_heads null",
            "num_attention_heads: a valid list",
        ),
        (
            {"num_attention_heads": [0, 2, 3, 5]},
            "num_attention_heads [0, 2, 3, 5]",
            "num_attention_heads.0: greater than or equal to 1",
        ),
        (
            {"num_attention_heads": [1, 2, 3, 7]},
            "num_attention_heads [1, 2, 3, 7]",
            "divisors of hidden_sizes",
        ),
        ({"patch_sizes": None}, "patch_sizes null", "patch_sizes: a valid list"),
        (
            {"patch_sizes": [7, 3, 3, 2]},
            "patch_sizes [7, 3, 3, 2]",
            "patch_sizes.3: an odd number from 1 to 63",
        ),
        (
            {"sr_ratios": [8, 4, 2, 0]},
            "sr_ratios [8, 4, 2, 0]",
            "sr_ratios.3: greater than or equal to 1",
        ),
        ({"sr_ratios": [8, 4, 2, "a"]}, 'sr_ratios [8, 4, 2, "a"]', "sr_ratios.3: a valid integer"),
        ({"strides": [4, 2, 2, 4]}, "strides [4, 2, 2, 4]", "strides: [4, 2, 2, 2]"),
        ({"id2label": "a"}, 'id2label "a"', "a name for each class number, or a list of names"),
        ({"id2label": {"a": "b"}}, 'id2label {"a": "b"}', "a name for each class number"),
        ({"id2label": {"1": ["b"]}}, 'id2label {"1": ["b"]}', "a text as the name of each class"),
        ({"id2label": {"0": "a", "00": "b"}}, 'id2label {"0": "a", "00"', "each class number once"),
        ({"num_channels": 4}, "num_channels 4", "num_channels: 3, as freqkd reads RGB images"),
        ({"hidden_act": "nope"}, 'hidden_act "nope"', "hidden_act: one of gelu"),
        ({"freqkd": None}, "freqkd null", "freqkd: an object"),
        ({"freqkd": "x"}, 'freqkd "x"', "freqkd: an object"),
        ({"freqkd": {"licence_note": 3}}, "licence_note 3", "license.note: a valid string"),
        (
            {"depths": [-1, 2, 2, 2], "decoder_hidden_size": "x"},
            'depths [-1, 2, 2, 2]; decoder_hidden_size "x"',
            "depths.0: greater than or equal to 1; decoder_hidden_size: a valid integer",
        ),
    ],
)
def test_a_wrong_field_of_a_segformer_is_named_by_every_reader(tmp_path, changes, got, need):
    folder = teacher(tmp_path / "t", **changes)
    shutil.copy(EMBEDDED / "model.safetensors", folder)
    for read in (
        lambda: segformer.taps(classes=3, weights=str(folder)),
        lambda: segformer.build(classes=3, weights=str(folder)),
        lambda: load_model(folder),
    ):
        with pytest.raises(WeightsMissing, match="does not describe a model") as caught:
            read()
        assert caught.value.what.startswith(f"{folder}/config.json ")
        assert got in caught.value.got and need in caught.value.need and caught.value.exit_code == 4


def test_nodes_that_do_not_divide_the_view_are_refused_by_their_line(tmp_path):
    """Stages at 1/4 to 1/32 with these reductions have nodes of 16, 32, 48 and 64 pixels."""
    weights = f"teacher.weights={teacher(tmp_path / 't', sr_ratios=[4, 4, 3, 2])}"
    for size, lines in (
        ([384, 512], {1: ("keys3", 48, 96)}),
        ([320, 352], {1: ("keys3", 48, 96), 2: ("keys4", 64, 64)}),
        ([384, 576], {}),
    ):
        loaded = recipes.load("fastscnn_graph_lowrank", [weights, f"data.size={size}"])
        if not lines:
            assert assemble.check(loaded).teacher_taps["keys3"].stride == 48
            continue
        with pytest.raises(RecipeError) as caught:
            assemble.check(loaded)
        assert len(caught.value.problems) == len(lines)
        for problem, (number, (tap, stride, need)) in zip(
            caught.value.problems, lines.items(), strict=True
        ):
            assert (
                f"losses.{number}: the teacher's {tap} has nodes of {stride}x{stride} pixels"
                in problem
            )
            assert f"got data.size {size}; need multiples of {need}" in problem


def test_a_thousand_damaged_descriptions(tmp_path):
    """Every field with every wrong value, alone and by threes: one message, or usable taps."""
    rng, content = random.Random(7), json.loads((EMBEDDED / "config.json").read_text())
    paths = [(key,) for key in content] + [("freqkd", key) for key in content["freqkd"]]
    cases = [[(path, value)] for path in paths for value in ODD]
    cases += [[(rng.choice(paths), rng.choice(ODD)) for _ in range(3)] for _ in range(200)]
    refused = 0
    for case in cases:
        damaged = json.loads(json.dumps(content))
        for (*way, last), value in case:
            here = damaged[way[0]] if way else damaged
            if isinstance(here, dict):
                here[last] = value
        (tmp_path / "config.json").write_text(json.dumps(damaged))
        try:
            taps = segformer.taps(classes=3, weights=str(tmp_path))
            class_names_of(tmp_path)
            assert len(taps) == 19 and all(
                type(tap.stride) is int and tap.stride > 0 < tap.channels for tap in taps
            ), case
        except WeightsMissing as error:
            refused += 1
            assert str(tmp_path / "config.json") in error.what and len(str(error)) < 2000, case
    assert refused > 400


def test_missing_fields_have_the_defaults_of_transformers(tmp_path):
    from transformers import SegformerConfig
    from transformers.activations import ACT2FN

    assert set(ACTIVATIONS) <= set(ACT2FN)
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    description = describe(read_config(tmp_path / "config.json"))
    expected = SegformerConfig().to_dict()
    assert description.architecture.keywords() == {
        key: expected[key] for key in Architecture().keywords()
    }
    assert (description.rows, description.row_names) == (None, [])


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ('{"freqkd": null}', "freqkd null"),
        ('{"freqkd": []}', "freqkd []"),
        ('{"model": ["x"], "arguments": {}}', "model ['x'], model_type None"),
        ('{"model": "fast_scnn", "arguments": []}', "arguments []"),
        ('{"model": "fast_scnn"}', "classes"),
        ('{"model": "fast_scnn", "arguments": {"classes": 3, "width": 0}}', "width"),
        (
            '{"model": "fast_scnn", "arguments": {"classes": 3}, "id2label": {"a": "road"}}',
            'id2label {"a": "road"}',
        ),
        ('{"model_type": ["segformer"]}', "['segformer']"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_damaged_description_of_a_run_is_one_message(tmp_path, text, got):
    save_model(tmp_path, fast_scnn.build(classes=3, width=0.25))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsMissing, match=r"config\.json") as caught:
        load_model(tmp_path)
    assert got in str(caught.value)


def test_class_names_of_a_teacher_run_are_checked(tmp_path):
    save_model(tmp_path, fast_scnn.build(classes=2, width=0.25), id2label={0: "road", 1: "car"})
    assert class_names_of(tmp_path) == {0: "road", 1: "car"}
    content = json.loads((tmp_path / "config.json").read_text())
    for names in ({"a": "road"}, ["road"], {"0": "road", "2": "car"}):
        (tmp_path / "config.json").write_text(json.dumps(content | {"id2label": names}))
        with pytest.raises(WeightsMissing, match="does not describe a model"):
            class_names_of(tmp_path)


def test_a_damaged_folder_is_refused_by_name_and_skipped_in_a_search(tmp_path):
    save_model(tmp_path / "run", fast_scnn.build(classes=2, width=0.25))
    for text in ('{"freqkd": null}', "{"):
        (tmp_path / "run" / "config.json").write_text(text)
        with pytest.raises(
            WeightsMissing, match=r"config\.json (does not describe a model|cannot be read)"
        ):
            identify(tmp_path / "run")
        assert newest(tmp_path).kind == "embedded"
        assert recorded_license(tmp_path / "run") is None


@pytest.mark.parametrize(
    "change",
    [
        {"image_mean": [float("nan")] * 3},
        {"rescale_factor": float("nan")},
        {"image_std": [0, 1, 1]},
        {"image_mean": ["a"] * 3},
    ],
)
def test_a_mean_that_is_not_a_number_is_refused(tmp_path, change):
    folder = teacher(tmp_path / "t")
    shutil.copy(EMBEDDED / "model.safetensors", folder)
    content = json.loads((EMBEDDED / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(content | change))
    with pytest.raises(
        WeightsMissing, match="preprocessor_config.json of .* does not describe a model"
    ):
        segformer.build(classes=3, weights=str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00", '{"a": ' * 100_000])
def test_a_file_that_is_not_an_object_is_refused_or_none(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FreqKDError, match=r"a\.json cannot be read"):
        read_object(path)
    assert object_or_none(path) is None and object_or_none(tmp_path / "nowhere" / "b.json") is None
    path.write_text('{"a": 1}')
    assert read_object(path) == object_or_none(path) == {"a": 1}
