"""Cityscapes, ADE20K and Pascal VOC in their real layouts: labels, lists, missing files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from freqkd_cli import registry
from freqkd_cli.build.saved import save_model
from freqkd_cli.datasets import ade20k, cityscapes, voc
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import Dataset
from freqkd_cli.models import fast_scnn


def open_split(name: str, root: Path | None, split: str = "train", **arguments: object) -> Dataset:
    return registry.find("datasets", name).build(split=split, root=root, size=(32, 32), **arguments)


def stored(path: Path) -> np.ndarray:
    with Image.open(path) as pil_image:
        return np.array(pil_image)


def test_cityscapes_ids_become_train_ids_by_the_authors_table(tmp_path):
    """torchvision carries the table of cityscapesScripts."""
    layouts.cityscapes(tmp_path)
    table = {one.id: one.train_id for one in torchvision.datasets.Cityscapes.classes}
    data = open_split("cityscapes", tmp_path)
    assert isinstance(data, Dataset) and data.labelled
    stems = ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"]
    assert [data.name(i) for i in range(len(data))] == [f"{stem}_leftImg8bit" for stem in stems], (
        "the stems of the image files"
    )
    for index, stem in enumerate(stems):
        image, labels = data.read(index)
        raw = stored(
            tmp_path / "gtFine" / "train" / stem.split("_")[0] / f"{stem}_gtFine_labelIds.png"
        )
        assert set(raw.ravel().tolist()) == set(range(34))
        np.testing.assert_array_equal(labels, np.vectorize(table.__getitem__)(raw))
        assert image.shape == (*layouts.SIZE, 3) and labels.dtype == np.uint8
    named = {
        one.train_id: one
        for one in torchvision.datasets.Cityscapes.classes
        if not one.ignore_in_eval
    }
    assert data.classes == tuple(named[k].name for k in range(19)) == cityscapes.classes()
    np.testing.assert_array_equal(data.palette, [named[k].color for k in range(19)])


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc"])
def test_predictions_are_named_by_the_stem_of_their_image(tmp_path, freqkd, name):
    """predict, eval --masks and eval --predictions name an image by the stem of its file."""
    root = tmp_path / "data"
    layouts.voc(root, layouts.full_palette()) if name == "voc" else getattr(layouts, name)(root)
    data = open_split(name, root, "val")
    assert [data.name(i) for i in range(len(data))] == [pair.image.stem for pair in data.pairs]
    torch.manual_seed(0)
    save_model(tmp_path / "run", fast_scnn.build(classes=len(data.classes), width=0.25))
    text = f"version: 1\ndata: {{name: {name}, size: [64, 64], root: {root}, workers: 0}}\n"
    text += "student: {name: fast_scnn, width: 0.25}\n"
    (tmp_path / "run/recipe.yaml").write_text(
        f"{text}losses: [{{name: cross_entropy}}]\ntrain: {{steps: 1}}\n"
    )
    image_files = [pair.image for pair in data.pairs]
    assert (
        freqkd(
            "predict",
            tmp_path / "run",
            *image_files,
            "--out",
            tmp_path / "predict",
            "--labels-only",
            "-q",
        )[0]
        == 0
    )
    code, out, _ = freqkd("eval", tmp_path / "run", "--masks", tmp_path / "masks", "--json", "-q")
    assert code == 0
    for folder in ("predict", "masks"):
        code, again, err = freqkd(
            "eval", tmp_path / "run", "--predictions", tmp_path / folder, "--json", "-q"
        )
        assert code == 0 and json.loads(again)["miou"] == json.loads(out)["miou"], err


def test_cityscapes_train_ids_are_read_as_they_are(tmp_path):
    layouts.cityscapes(tmp_path, "labelTrainIds", (*range(19), 255))
    data = open_split("cityscapes", tmp_path, labels="labelTrainIds")
    raw = stored(tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png")
    np.testing.assert_array_equal(data.read(2)[1], raw)
    with pytest.raises(
        DataBroken, match="3 of 3 images(.|\n)*labelIds.png(.|\n)*--set data.labels=labelTrainIds"
    ):
        open_split("cityscapes", tmp_path)
    (tmp_path / "gtFine/val/ulm/ulm_000000_000019_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(
        DataBroken, match="1 of 3 images(.|\n)*no ulm_000000_000019_gtFine_labelTrainIds.png"
    ):
        open_split("cityscapes", tmp_path, "val", labels="labelTrainIds")
    assert data.manifest()["arguments"] == {"labels": "labelTrainIds"}


def test_the_test_split_of_cityscapes_has_no_labels(tmp_path):
    layouts.cityscapes(tmp_path, splits=("train", "test"))
    data = open_split("cityscapes", tmp_path, "test")
    assert len(data) == 3 and not data.labelled and data.read(0)[1] is None


@pytest.mark.parametrize("above", [False, True])
def test_ade20k_reduces_zero_once(tmp_path, above):
    layouts.ade20k(tmp_path / "ADEChallengeData2016")
    root = tmp_path if above else tmp_path / "ADEChallengeData2016"
    for split, folder in (("train", "training"), ("val", "validation")):
        data = open_split("ade20k", root, split)
        assert len(data) == 3 and len(data.classes) == 150 == len(data.palette)
        for index in range(3):
            raw = stored(
                tmp_path / "ADEChallengeData2016/annotations" / folder / f"{data.name(index)}.png"
            ).astype(int)
            labels = data.read(index)[1]
            np.testing.assert_array_equal(labels, np.where(raw == 0, 255, raw - 1))
            assert {0, 149, 255} <= set(labels.ravel().tolist())
    assert (ade20k.CLASSES[0], ade20k.CLASSES[12], ade20k.CLASSES[149]) == (
        "wall",
        "person",
        "flag",
    ) and len(set(ade20k.CLASSES)) == 150


def test_ade20k_that_was_reduced_before_is_read_with_zero_label_keep(tmp_path):
    layouts.ade20k(tmp_path, (*range(150), 255))
    data = open_split("ade20k", tmp_path, zero_label="keep")
    np.testing.assert_array_equal(
        data.read(0)[1], stored(tmp_path / "annotations/training" / f"{data.name(0)}.png")
    )
    with pytest.raises(
        DataBroken,
        match="got  255\n(.|\n)*--set 'data.zero_label=keep' if the files were reduced before",
    ):
        open_split("ade20k", tmp_path).read(0)


VOC_COLORS = {
    1: (128, 0, 0),
    2: (0, 128, 0),
    4: (0, 0, 128),
    7: (128, 128, 128),
    8: (64, 0, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
}


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_reads_indices_by_its_lists(tmp_path, below):
    layouts.voc(tmp_path / below, layouts.full_palette())
    data = open_split("voc", tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["2007_000000", "2007_000001", "2007_000002"]
    for index in range(3):
        path = tmp_path / below / "SegmentationClass" / f"{data.name(index)}.png"
        with Image.open(path) as pil_image:
            assert pil_image.mode == "P"
        np.testing.assert_array_equal(data.read(index)[1], stored(path))
    assert len(open_split("voc", tmp_path, "val")) == 2
    unlabelled = open_split("voc", tmp_path, "test")
    assert len(unlabelled) == 2 and not unlabelled.labelled and unlabelled.read(1)[1] is None


def test_lists_and_suffixes_of_other_systems_are_read(tmp_path):
    layouts.voc(tmp_path / "voc", layouts.full_palette())
    (tmp_path / "voc/ImageSets/Segmentation/train.txt").write_bytes(
        b"\xef\xbb\xbf2007_000000\r\na.b\r\n\r\n"
    )
    for folder, name in (
        ("JPEGImages", "2007_000000.jpg"),
        ("SegmentationClass", "2007_000000.png"),
    ):
        path = tmp_path / "voc" / folder / name
        shutil.copy(path, path.with_name(f"a.b{path.suffix}"))
        path.rename(path.with_suffix(path.suffix.upper()))
    data = open_split("voc", tmp_path / "voc")
    assert [data.name(i) for i in range(len(data))] == ["2007_000000", "a.b"]
    np.testing.assert_array_equal(data.read(0)[1], data.read(1)[1])
    layouts.cityscapes(tmp_path / "streets")
    for path in (tmp_path / "streets/leftImg8bit/train/ulm", tmp_path / "streets/gtFine/train/ulm"):
        for file in list(path.iterdir()):
            file.rename(file.with_suffix(".PNG"))
        elsewhere = tmp_path / path.parts[-3]
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
    data = open_split("cityscapes", tmp_path / "streets")
    assert len(data) == 3 and data.read(2)[1] is not None


def test_two_images_of_one_name_would_write_one_file(tmp_path):
    layouts.cityscapes(tmp_path)
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(tmp_path / kind / "train/ulm", tmp_path / kind / "train/ulm2")
    with pytest.raises(
        DataBroken,
        match="two images of the split have the same stem(.|\n)*ulm/ulm_0(.|\n)*ulm2/ulm_0",
    ):
        open_split("cityscapes", tmp_path)


def test_voc_names_and_colors_are_the_official_ones():
    from torchvision.models._meta import _VOC_CATEGORIES

    assert voc.CLASSES[1:] == tuple(_VOC_CATEGORIES[1:])
    assert {index: tuple(voc.PALETTE[index].tolist()) for index in VOC_COLORS} == VOC_COLORS
    assert voc.color(255) == voc.BORDER and len({tuple(color) for color in voc.PALETTE}) == 21


def test_voc_masks_converted_to_colors_are_read_with_labels_colors(tmp_path):
    layouts.voc(tmp_path, layouts.full_palette())
    expected = open_split("voc", tmp_path).read(0)[1]
    path = tmp_path / "SegmentationClass" / "2007_000000.png"
    with Image.open(path) as pil_image:
        pil_image.convert("RGB").save(path)
    with pytest.raises(
        DataBroken,
        match="is not a label image(.|\n)*--set 'data.labels=colors' if they are the colors of VOC",
    ):
        open_split("voc", tmp_path).read(0)
    data = open_split("voc", tmp_path, labels="colors")
    np.testing.assert_array_equal(data.read(0)[1], expected)
    assert data.read(1)[1] is not None, "palette masks beside them are read by their colors too"


def test_voc_lists_for_training(tmp_path):
    layouts.voc(tmp_path, layouts.full_palette())
    lists = tmp_path / "ImageSets" / "Segmentation"
    assert len(open_split("voc", tmp_path, train_list="trainval")) == 5
    with pytest.raises(DataMissing, match="no val split(.|\n)*--set data.train_list=train"):
        open_split("voc", tmp_path, "val", train_list="trainval")
    with pytest.raises(DataMissing, match="no list trainaug.txt"):
        open_split("voc", tmp_path, train_list="trainaug")
    (lists / "train_aug.txt").write_text(
        "/JPEGImages/2007_000000.jpg /SegmentationClassAug/2007_000000.png\n2007_000005\n"
    )
    data = open_split("voc", tmp_path, train_list="trainaug")
    assert [data.name(i) for i in range(len(data))] == ["2007_000000", "2007_000005"]
    for index in range(2):
        np.testing.assert_array_equal(
            data.read(index)[1],
            stored(tmp_path / "SegmentationClassAug" / f"{data.name(index)}.png"),
        )
    assert len(open_split("voc", tmp_path, "val", train_list="trainaug")) == 2
    (lists / "train_aug.txt").write_text("2007_000003\n")
    with pytest.raises(DataBroken, match="1 images of .*train_aug.txt are in val.txt too"):
        open_split("voc", tmp_path, train_list="trainaug")


@pytest.mark.parametrize(
    ("line", "error", "match"),
    [
        ("2007_999999", DataBroken, "2 files listed in .*train.txt are missing"),
        ("2007_000000", DataBroken, "train.txt:4 lists a stem twice"),
        ("2007_000003 -1", DataBroken, "train.txt:4 names no folder and file"),
        (
            "JPEGImages/../x.jpg SegmentationClass/2007_000003.png",
            DataBroken,
            "train.txt:4 leads out of the data set's folder",
        ),
        ("..\\secret", DataBroken, "train.txt:4 is neither a stem nor an image"),
        ("../../secret", DataBroken, "train.txt:4 is neither a stem nor an image"),
        ("a b c", DataBroken, "train.txt:4 is neither"),
    ],
)
def test_bad_voc_lists_are_refused(tmp_path, line, error, match):
    layouts.voc(tmp_path, layouts.full_palette())
    with (tmp_path / "ImageSets" / "Segmentation" / "train.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(error, match=match):
        open_split("voc", tmp_path)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("cityscapes", "gtFine/{train,val,test}/CITY"),
        ("ade20k", "annotations/{training"),
        ("voc", "ImageSets/Segmen"),
    ],
)
def test_missing_data_is_reported_with_the_layout(tmp_path, name, layout):
    (tmp_path / "other").mkdir()
    for root, got in (
        (None, f"{name} needs the folder"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "got  other\n"),
    ):
        with pytest.raises(DataMissing) as caught:
            open_split(name, root)
        assert (
            got in str(caught.value)
            and layout in str(caught.value)
            and "--data-root DIR" in str(caught.value)
        )
    with pytest.raises(DataMissing, match="no split 'test' of ade20k"):
        layouts.ade20k(tmp_path)
        open_split("ade20k", tmp_path, "test")
