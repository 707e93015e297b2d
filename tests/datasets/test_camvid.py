"""CamVid in both of its forms, with good and bad files; the real data where it is at hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqkd_cli import registry
from freqkd_cli.datasets import camvid
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import Dataset

SIZE = (32, 32)
STEMS = ("0001TP_000030", "0006R0_f00930", "0016E5_00390")


def write(root: Path, split: str, stems: tuple[str, ...] = STEMS, suffix: str = ".png") -> None:
    rng = np.random.default_rng(len(split))
    for folder in (root / split, root / f"{split}annot"):
        folder.mkdir(parents=True)
    for stem in stems:
        Image.fromarray(rng.integers(0, 256, (12, 17, 3), dtype=np.uint8)).save(
            root / split / f"{stem}{suffix}"
        )
        Image.fromarray(rng.integers(0, 12, (12, 17), dtype=np.uint8)).save(
            root / f"{split}annot" / f"{stem}.png"
        )


def open_split(root: Path | None, split: str = "train") -> Dataset:
    return camvid.build(split=split, root=root, size=SIZE)


def test_folders_are_read(tmp_path):
    write(tmp_path, "train", suffix=".jpg")
    (tmp_path / "train" / ".DS_Store").write_text("no image")
    (tmp_path / "train" / "._0001TP_000030.jpg").write_text("no image either")
    data = open_split(tmp_path)
    assert isinstance(data, Dataset) and data.labelled and len(data) == 3
    assert [data.name(i) for i in range(3)] == sorted(STEMS)
    for index in range(3):
        image, labels = data.read(index)
        stored = np.asarray(Image.open(tmp_path / "trainannot" / f"{data.name(index)}.png"))
        assert data.image_size(index) == image.shape[:2] == labels.shape == (12, 17)
        assert image.dtype == labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, np.where(stored == 11, 255, stored))
        np.testing.assert_array_equal(
            image, np.asarray(Image.open(tmp_path / "train" / f"{data.name(index)}.jpg"))
        )


def test_a_list_is_used_where_it_exists(tmp_path):
    write(tmp_path, "train")
    order = (STEMS[2], STEMS[0])
    lines = [f"/SegNet/CamVid/train/{s}.png /SegNet/CamVid/trainannot/{s}.png" for s in order]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    data = open_split(tmp_path)
    assert [data.name(i) for i in range(len(data))] == list(order)
    folders = tmp_path / "plain"
    write(folders, "train", STEMS)
    for index, stem in enumerate(order):
        np.testing.assert_array_equal(
            data.read(index)[1], open_split(folders).read(sorted(STEMS).index(stem))[1]
        )


@pytest.mark.parametrize(
    "content",
    [
        b"/x/train/%s.png /x/trainannot/%s.png\r\n\r\n",
        b"\xef\xbb\xbftrain/%s.png trainannot/%s.png",
        b"C:\\train\\%s.png\tC:\\trainannot\\%s.png\n \n",
    ],
)
def test_lists_as_other_systems_write_them(tmp_path, content):
    write(tmp_path, "train")
    stem = STEMS[0].encode()
    (tmp_path / "train.txt").write_bytes(content % (stem, stem))
    data = open_split(tmp_path)
    assert [data.name(i) for i in range(len(data))] == [STEMS[0]] and data.read(0)[1] is not None


@pytest.mark.parametrize(
    ("line", "error", "match"),
    [
        (
            "/SegNet/CamVid/../secret.png /SegNet/CamVid/trainannot/a.png",
            DataBroken,
            "train.txt:2 leads out of the data set's folder",
        ),
        (
            "image.png label.png",
            DataBroken,
            "train.txt:2 names no folder and file(.|\n)*without spaces",
        ),
        (
            "train/a 1.png trainannot/a 1.png",
            DataBroken,
            "train.txt:2 is not an image and a label(.|\n)*without spaces",
        ),
        ("one_word_only", DataBroken, "train.txt:2 is not an image and a label"),
        (
            f"train/{STEMS[0]}.png trainannot/{STEMS[0]}.png",
            DataBroken,
            "train.txt:2 lists a stem twice",
        ),
        (
            "train/gone.png trainannot/gone.png",
            DataBroken,
            "2 files listed in .*train.txt are missing",
        ),
    ],
)
def test_bad_lists_are_refused(tmp_path, line, error, match):
    write(tmp_path, "train")
    (tmp_path / "train.txt").write_text(
        f"/x/train/{STEMS[0]}.png /x/trainannot/{STEMS[0]}.png\n{line}\n"
    )
    with pytest.raises(error, match=match):
        open_split(tmp_path)


def test_a_list_whose_images_are_all_missing_is_a_missing_split(tmp_path):
    (tmp_path / "test.txt").write_text("/SegNet/CamVid/test/a.png /SegNet/CamVid/testannot/a.png\n")
    with pytest.raises(
        DataMissing, match=r"2 files listed in .*test.txt are missing\n  got  no .*test/a.png"
    ):
        open_split(tmp_path, "test")


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataMissing, match="--data-root"):
        open_split(None)
    with pytest.raises(DataMissing, match="no such folder"):
        open_split(tmp_path / "nowhere")
    write(tmp_path, "train")
    with pytest.raises(DataMissing, match="no split 'val'.*\n.*train, trainannot\n.*valannot"):
        open_split(tmp_path, "val")
    (tmp_path / "trainannot" / f"{STEMS[1]}.png").unlink()
    with pytest.raises(DataBroken, match=f"1 of 3 images(.|\n)*{STEMS[1]}"):
        open_split(tmp_path)
    for split in ("test", "testannot"):
        (tmp_path / split).mkdir()
    with pytest.raises(DataMissing, match="no images"):
        open_split(tmp_path, "test")


@pytest.mark.parametrize("value", [12, 31, 254])
def test_other_label_values_are_refused(tmp_path, value):
    write(tmp_path, "train")
    path = tmp_path / "trainannot" / f"{STEMS[0]}.png"
    labels = np.asarray(Image.open(path)).copy()
    labels[3, 4] = value
    Image.fromarray(labels).save(path)
    with pytest.raises(DataBroken) as caught:
        open_split(tmp_path).read(0)
    message = str(caught.value)
    assert (
        path.name in message
        and f"got  {value}\n" in message
        and "0 .. 10, or 11" in message
        and "data.labels" in message
    )


def test_damaged_files_are_named(tmp_path):
    write(tmp_path, "train")
    for number, (folder, damage) in enumerate(
        [("train", b"no png at all"), ("train", None), ("trainannot", None)]
    ):
        path = tmp_path / folder / f"{STEMS[number]}.png"
        path.write_bytes(damage or path.read_bytes()[:-60])
    data = open_split(tmp_path)
    for index in range(3):
        with pytest.raises(DataBroken, match=f"cannot read .*{STEMS[index]}"):
            data.read(index)
    with pytest.raises(DataBroken, match=STEMS[0]):
        data.image_size(0)


def test_two_files_of_one_stem_are_refused(tmp_path):
    write(tmp_path, "train")
    Image.new("RGB", (17, 12)).save(tmp_path / "train" / f"{STEMS[0]}.jpg")
    with pytest.raises(DataBroken, match="have the same stem"):
        open_split(tmp_path)


def test_the_manifest_depends_on_contents_not_on_folders(tmp_path):
    for place in ("one", "two"):
        write(tmp_path / place, "train")
    first = open_split(tmp_path / "one").manifest()
    assert first == open_split(tmp_path / "two").manifest()
    assert (first["name"], first["split"], first["number"], first["arguments"]) == (
        "camvid",
        "train",
        3,
        {},
    )
    parts = []
    for stem in sorted(STEMS):
        parts.append(stem)
        for path in (
            tmp_path / "one" / "train" / f"{stem}.png",
            tmp_path / "one" / "trainannot" / f"{stem}.png",
        ):
            parts += [str(path.stat().st_size), hashlib.sha256(path.read_bytes()).hexdigest()]
    assert (
        first["sha256"]
        == hashlib.sha256("".join(part + "\0" for part in parts).encode()).hexdigest()
    )
    path = tmp_path / "two" / "trainannot" / f"{STEMS[0]}.png"
    Image.fromarray(np.zeros((12, 17), np.uint8)).save(path)
    assert open_split(tmp_path / "two").manifest()["sha256"] != first["sha256"]


def test_classes_and_recipe_arguments():
    assert camvid.classes() == camvid.CLASSES and len(camvid.CLASSES) == len(camvid.PALETTE) == 11
    assert len({tuple(color) for color in camvid.PALETTE}) == 11
    assert set(registry.arguments("datasets", "camvid").model_fields) == {"labels"}


@pytest.mark.parametrize(("split", "number"), [("train", 367), ("val", 101)])
def test_the_real_data(camvid_root, split, number):
    data = open_split(camvid_root, split)
    assert len(data) == number and len({data.name(i) for i in range(number)}) == number
    values = set()
    for index in range(0, number, 20):
        image, labels = data.read(index)
        assert image.shape == (360, 480, 3) and labels.shape == data.image_size(index) == (360, 480)
        values |= set(np.unique(labels).tolist())
        # Sky is brighter than road wherever both are in sight: images and labels belong together.
        if (labels == 0).sum() > 5000 and (labels == 3).sum() > 5000:
            assert image[labels == 0].mean() > image[labels == 3].mean()
    assert values == {*range(11), 255}
    assert data.manifest()["number"] == number
