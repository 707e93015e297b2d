"""Layouts and names that people use: the right mask for each image, or one message.

Every image and its mask hold the number of the pair, so that a wrong pairing shows in the pixels.
"""

from __future__ import annotations

import re
import shlex
import time
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqkd_cli.datasets import folder
from freqkd_cli.datasets._folder_files import File
from freqkd_cli.datasets._folder_match import matches
from freqkd_cli.datasets._folder_names import listed_split, role
from freqkd_cli.errors import DataBroken, DataMissing, FreqKDError, UsageError
from freqkd_cli.images.dataset import Dataset
from freqkd_cli.images.pairs import pair_by_stem
from freqkd_cli.recipe.nodes import parse
from freqkd_cli.recipe.problems import Place

NAMES = [f"class{k}" for k in range(40)]


def save(root: Path, name: str, number: int, *, mask: bool = False) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (6, 8) if mask else (6, 8, 3)
    value = number if mask else 6 * number
    image = Image.fromarray(np.full(shape, value, np.uint8))
    image.save(path, **({"quality": 100} if path.suffix.lower() in (".jpg", ".jpeg") else {}))


def write(root: Path, pairs: Iterable[tuple[str, str | None]], start: int = 1) -> None:
    for number, (image, mask) in enumerate(pairs, start):
        save(root, image, number)
        if mask is not None:
            save(root, mask, number, mask=True)


def open_split(root: Path, split: str = "train", **keys: object) -> Dataset:
    keys = {"classes": NAMES, **keys}
    return folder.build(split=split, root=root, size=(32, 32), **keys)


def numbers(data: Dataset) -> list[int]:
    """Return the numbers of the images; each mask must hold that of its image."""
    read = [data.read(index) for index in range(len(data))]
    of_images = [round(float(image.mean()) / 6) for image, _ in read]
    assert data.labelled and of_images == [int(labels[0, 0]) for _, labels in read]
    assert all(len(np.unique(labels)) == 1 for _, labels in read)
    return of_images


def keys_of(tip: str) -> list[dict[str, object]]:
    """Return the recipe keys of each alternative of a tip, as the recipe would read them."""
    alternatives = []
    for text in re.split(r", or (?=--set)", tip):
        words = shlex.split(re.split(r" (?:if|to|divides) ", text)[0])
        keys = {}
        for option in (word for word in words if word.startswith("data.")):
            key, _, value = option.partition("=")
            node, problems = parse(value, lambda line, column: Place(0, line, column, "", ""))
            assert node is not None and not problems
            keys[key.removeprefix("data.").replace("split", "split_")] = node.plain()
        alternatives.append(keys)
    return alternatives


NAMINGS: dict[str, tuple[Callable[[int], str], Callable[[int], str]]] = {
    "equal stems": (lambda k: f"p{k}.jpg", lambda k: f"p{k}.png"),
    "_mask": (lambda k: f"p{k}.jpg", lambda k: f"p{k}_mask.png"),
    "-labels": (lambda k: f"p{k}.jpg", lambda k: f"p{k}-labels.png"),
    "mask_": (lambda k: f"p{k}.jpg", lambda k: f"mask_p{k}.png"),
    "GT": (lambda k: f"p{k}.JPG", lambda k: f"p{k}GT.tif"),
    "_L, as CamVid": (lambda k: f"0016E5_{k:05d}.png", lambda k: f"0016E5_{k:05d}_L.png"),
    "any constant part": (lambda k: f"p{k}.jpg", lambda k: f"p{k}_left_x.png"),
    "numbers alone": (lambda k: f"{k}.jpg", lambda k: f"{k}_seg0.png"),
    "parts on both sides": (lambda k: f"{k}_sat.jpg", lambda k: f"{k}_mask.png"),
    "other word first": (lambda k: f"image_{k}.jpg", lambda k: f"label_{k}.png"),
    "letters before numbers": (lambda k: f"img{k}.jpg", lambda k: f"mask{k}.png"),
    "as Cityscapes": (
        lambda k: f"ulm_{k:06d}_leftImg8bit.png",
        lambda k: f"ulm_{k:06d}_gtFine_labelIds.png",
    ),
    "whole file name": (
        lambda k: f"p{k}.{['jpg', 'png'][k % 2]}",
        lambda k: f"p{k}.{['jpg', 'png'][k % 2]}.png",
    ),
    "letter case": (lambda k: f"IMG_{k}.JPG", lambda k: f"img_{k}.PNG"),
    "letter case and suffix": (lambda k: f"IMG_{k}.JPG", lambda k: f"img_{k}_Mask.png"),
    "normal forms": (
        lambda k: unicodedata.normalize("NFC", f"größe{k}.jpg"),
        lambda k: unicodedata.normalize("NFD", f"größe{k}.png"),
    ),
    "zeros before numbers": (lambda k: f"f_{k}.jpg", lambda k: f"f_{k:04d}.png"),
    "separators": (lambda k: f"my photo {k}.jpg", lambda k: f"my_photo_{k}.png"),
    "formats of masks": (
        lambda k: f"p{k}.jpg",
        lambda k: f"p{k}{['.png', '.bmp', '.tif', '.tiff'][k % 4]}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("order", [range(1, 13), range(9, 11)])
def test_names_that_belong_together_are_paired(tmp_path, naming, order):
    image, mask = NAMINGS[naming]
    write(
        tmp_path,
        [(f"images/train/{image(k)}", f"masks/train/{mask(k)}") for k in order],
        start=order.start,
    )
    data = open_split(tmp_path)
    assert sorted(numbers(data)) == [*order]
    assert {data.name(k) for k in range(len(data))} == {Path(image(k)).stem for k in order}


LAYOUTS = {
    "labels": ("images/{0}", "labels/{0}"),
    "annotations": ("images/{0}", "annotations/{0}"),
    "gt": ("img/{0}", "gt/{0}"),
    "mmsegmentation": ("img_dir/{0}", "ann_dir/{0}"),
    "JPEGImages": ("JPEGImages/{0}", "SegmentationClass/{0}"),
    "split first": ("{0}/imgs", "{0}/segmentation"),
    "joined names": ("{0}_images", "{0}_masks"),
    "CamVid": ("{0}", "{0}annot"),
    "masks of all splits in one folder": ("images/{0}", "masks"),
    "masks below images": ("images/{0}", "images/{0}/masks"),
    "upper case": ("Images/{0}", "Labels/{0}"),
    "split in one side": ("{0}", "masks/{0}"),
}
SPLIT_NAMES = [("train", "val"), ("training", "validation"), ("Train", "Valid"), ("train", "dev")]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split_names", SPLIT_NAMES)
def test_layouts(tmp_path, layout, split_names):
    images, masks = LAYOUTS[layout]
    for first, name in zip((1, 11), split_names, strict=True):
        files = [
            (f"{images.format(name)}/p{k}.jpg", f"{masks.format(name)}/p{k}.png")
            for k in range(first, first + 3)
        ]
        write(tmp_path, files, start=first)
    assert numbers(open_split(tmp_path)) == [1, 2, 3]
    assert numbers(open_split(tmp_path, "val")) == [11, 12, 13]
    with pytest.raises(DataMissing, match="no split 'test'(.|\n)*only train, val"):
        open_split(tmp_path, "test")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("train/p{0}.jpg", "train/p{0}_mask.png"),
        ("train/p{0}.jpg", "train/p{0}.png"),
        ("train/p{0}.png", "train/p{0}_gt.png"),
        ("train/p{0}_sat.jpg", "train/p{0}_mask.png"),
        ("images/train/p{0}.jpg", "images/train/p{0}_label.png"),
        ("images/train/p{0}.jpg", "images/train/p{0}_other.png"),
    ],
)
def test_images_and_masks_in_one_folder(tmp_path, image, mask):
    write(tmp_path, [(image.format(k), mask.format(k)) for k in range(1, 4)])
    data = open_split(tmp_path)
    assert numbers(data) == [1, 2, 3]
    assert data.name(0) == Path(image.format(1)).stem


@pytest.mark.parametrize(
    ("image", "mask", "name"),
    [
        ("images/train/{0}/p{1}.jpg", "masks/train/{0}/p{1}.png", "{0}__p{1}"),
        ("images/train/{0}/p{1}.jpg", "masks/train/{0}/p{1}_mask.png", "{0}__p{1}"),
        ("images/train/{0}/{0}_{1}.jpg", "masks/train/{0}_{1}.png", "{0}__{0}_{1}"),
        ("train/{0}/images/p{1}.jpg", "train/{0}/masks/p{1}.png", "{0}__p{1}"),
        ("train/{0}{1}/image.png", "train/{0}{1}/mask.png", "{0}{1}__image"),
    ],
)
def test_subfolders(tmp_path, image, mask, name):
    pairs = [(city, k) for city in ("bonn", "ulm") for k in range(3)]
    write(tmp_path, [(image.format(*pair), mask.format(*pair)) for pair in pairs])
    data = open_split(tmp_path)
    assert numbers(data) == [1, 2, 3, 4, 5, 6]
    assert [data.name(k) for k in range(6)] == [name.format(*pair) for pair in pairs]


def test_files_directly_in_a_folder_come_before_those_in_subfolders(tmp_path, caplog):
    write(tmp_path, [("images/train/a.jpg", "masks/train/a.png")])
    assert numbers(open_split(tmp_path)) == [1] and not caplog.text
    save(tmp_path, "images/train/old/b.jpg", 9)
    assert numbers(open_split(tmp_path)) == [1]
    assert "1 images in subfolders of" in caplog.text and "old/b.jpg" in caplog.text


def test_extra_files_are_ignored(tmp_path):
    write(tmp_path, [(f"images/train/p{k}.jpg", f"masks/train/p{k}_mask.png") for k in range(1, 4)])
    save(tmp_path, "masks/train/p9_mask.png", 9, mask=True)
    for where in ("images/train", "masks/train"):
        for name in ("Thumbs.db", ".DS_Store", "._p1_mask.png", "desktop.ini", "a.json", "p1.xml"):
            (tmp_path / where / name).write_bytes(b"\0")
    (tmp_path / "__MACOSX/images/train").mkdir(parents=True)
    assert numbers(open_split(tmp_path)) == [1, 2, 3]


def test_one_mask_in_two_formats(tmp_path):
    """A lossless format comes first; two of them are refused."""
    write(tmp_path, [("images/train/a.jpg", "masks/train/a.png")])
    save(tmp_path, "masks/train/a.jpg", 5)
    assert numbers(open_split(tmp_path)) == [1]
    save(tmp_path, "masks/train/a.tif", 1, mask=True)
    with pytest.raises(DataBroken, match="same stem\n  got  a.png and a.tif"):
        open_split(tmp_path)


def test_several_masks_of_an_image_are_refused_with_keys_that_work(tmp_path):
    for k in range(1, 4):
        save(tmp_path, f"images/train/p{k}.jpg", k)
        save(tmp_path, f"masks/train/p{k}_color.png", k, mask=True)
        save(tmp_path, f"masks/train/p{k}_depth.png", k + 3, mask=True)
    with pytest.raises(DataBroken, match="several masks each") as caught:
        open_split(tmp_path)
    assert "p1_color.png, p1_depth.png" in str(caught.value)
    for keys, added in zip(keys_of(caught.value.tip or ""), (0, 3), strict=True):
        data = open_split(tmp_path, **keys)
        assert [int(data.read(k)[1][0, 0]) for k in range(3)] == [1 + added, 2 + added, 3 + added]


def test_a_word_for_masks_decides(tmp_path):
    for k in range(1, 4):
        save(tmp_path, f"images/train/p{k}.jpg", k)
        save(tmp_path, f"masks/train/p{k}_mask.png", k, mask=True)
        save(tmp_path, f"masks/train/p{k}_depth.png", k + 3, mask=True)
    assert numbers(open_split(tmp_path)) == [1, 2, 3]


def test_the_whole_name_comes_before_a_drawing_of_the_mask(tmp_path):
    write(tmp_path, [("images/train/p1.png", "masks/train/p1.png.png")])
    save(tmp_path, "masks/train/p1.png_color.png", 9, mask=True)
    assert numbers(open_split(tmp_path)) == [1]


def test_two_folders_of_masks_are_refused_with_keys_that_work(tmp_path):
    for k in range(1, 4):
        save(tmp_path, f"images/train/p{k}.jpg", k)
        save(tmp_path, f"labels/train/p{k}.png", k, mask=True)
        save(tmp_path, f"gt/train/p{k}.png", k, mask=True)
    with pytest.raises(DataBroken, match="two folders hold masks") as caught:
        open_split(tmp_path)
    alternatives = keys_of(caught.value.tip or "")
    assert [keys["mask"] for keys in alternatives] == [
        "gt/{split}/",
        "labels/{split}/",
    ]
    for keys in alternatives:
        assert numbers(open_split(tmp_path, **keys)) == [1, 2, 3]


def test_names_that_do_not_pair_are_shown(tmp_path):
    for k in range(3):
        save(tmp_path, f"images/train/p{k}.jpg", k)
        save(tmp_path, f"masks/train/{'xyz'[k]}.png", k, mask=True)
    with pytest.raises(DataBroken, match=r"3 of 3 images .* have no mask") as caught:
        open_split(tmp_path)
    assert "p0.jpg, p1.jpg, and 1 more beside x.png, y.png, and 1 more in" in str(caught.value)


def test_parts_that_are_no_words_need_the_key_of_the_message(tmp_path):
    """Images 1, 2, 3 with masks 11, 12, 13 may belong together, or not."""
    for k in range(1, 4):
        save(tmp_path, f"images/train/{k}.jpg", k)
        save(tmp_path, f"masks/train/1{k}.png", k, mask=True)
    with pytest.raises(DataBroken, match="11.png is the mask of 1.jpg") as caught:
        open_split(tmp_path)
    (keys,) = keys_of(caught.value.tip or "")
    assert numbers(open_split(tmp_path, **keys)) == [1, 2, 3]


@pytest.mark.parametrize("mask", ["masks/train/p{0}_mask.png", "images/train/p{0}_mask.png"])
def test_masks_for_some_images_are_refused(tmp_path, mask):
    write(tmp_path, [(f"images/train/p{k}.jpg", mask.format(k)) for k in range(1, 4)])
    save(tmp_path, "images/train/p4.jpg", 4)
    with pytest.raises(DataBroken, match="1 of 4 images(.|\n)*no p4_mask in"):
        open_split(tmp_path)


def test_images_of_two_formats_are_refused(tmp_path):
    write(tmp_path, [("images/train/a.jpg", "masks/train/a.png"), ("images/train/a.png", None)])
    with pytest.raises(DataBroken, match="same stem\n  got  a.jpg and a.png"):
        open_split(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "mask"),
    [
        ("{stem}_zone.png", "masks/train/p{0}_zone.png"),
        ("{stem}_zone.*", "masks/train/p{0}_zone.png"),
        ("{name}.png", "masks/train/p{0}.jpg.png"),
        ("zones/{split}/{stem}.png", "zones/train/p{0}.png"),
        ("zones/{split}/", "zones/train/p{0}_zone.png"),
        ("{stem}/mask.png", "masks/train/p{0}/mask.png"),
        ("{stem}-z.png", "images/train/P{0}-Z.png"),
    ],
)
def test_a_pattern_pairs(tmp_path, pattern, mask):
    write(tmp_path, [(f"images/train/p{k}.jpg", mask.format(k)) for k in range(1, 4)])
    save(tmp_path, "masks/train/p1_other.png", 9, mask=True)
    data = open_split(tmp_path, mask=pattern)
    assert numbers(data) == [1, 2, 3] and data.manifest()["arguments"]["mask"] == pattern


def test_a_pattern_with_subfolders(tmp_path):
    write(
        tmp_path,
        [(f"images/train/c{k}/p.jpg", f"masks/train/c{k}_z/p.png") for k in range(1, 4)],
    )
    assert numbers(open_split(tmp_path, mask="{folder}_z/{stem}.png")) == [1, 2, 3]


@pytest.mark.parametrize(
    "pattern",
    ["../{stem}.png", "a/../../{stem}.png", "/etc/{stem}.png", "..\\{stem}.png", "C:/{stem}.png",
     "mask.png", "{stm}.png", "{stem}*.png", "{stem", "~/{stem}.png"],
)  # fmt: skip
def test_patterns_that_cannot_be_right_are_refused(tmp_path, pattern):
    write(tmp_path, [("images/train/a.jpg", "masks/train/a.png")])
    with pytest.raises(UsageError, match="data.mask"):
        open_split(tmp_path, mask=pattern)


def test_a_pattern_that_fits_some_images_is_refused(tmp_path):
    write(tmp_path, [(f"images/train/p{k}.jpg", f"masks/train/p{k}_a.png") for k in range(1, 4)])
    save(tmp_path, "images/train/p4.jpg", 4)
    with pytest.raises(DataBroken, match="1 of 4 images(.|\n)*no p4_a.png in"):
        open_split(tmp_path, mask="{stem}_a.png")


def test_one_folder_is_divided_by_the_names(tmp_path):
    write(tmp_path, [(f"images/p{k}.jpg", f"masks/p{k}.png") for k in range(30)], start=0)
    with pytest.raises(DataMissing, match="no split 'train'") as caught:
        open_split(tmp_path)
    (keys,) = keys_of(caught.value.tip or "")
    assert keys == {"split_": 0.8}
    train, val = (numbers(open_split(tmp_path, split, **keys)) for split in ("train", "val"))
    assert sorted(train + val) == [*range(30)] and 3 <= len(val) <= 9
    shares = [0.6, 0.2, 0.2]
    parts = [
        numbers(open_split(tmp_path, split, split_=shares)) for split in ("train", "val", "test")
    ]
    assert sorted(sum(parts, [])) == [*range(30)] and all(parts)
    write(tmp_path, [(f"images/p{k}.jpg", f"masks/p{k}.png") for k in range(30, 40)], start=30)
    assert set(train) <= set(numbers(open_split(tmp_path, **keys)))
    assert open_split(tmp_path, **keys).manifest()["arguments"]["split"] == 0.8


def test_the_share_of_a_name_is_fixed():
    """The hash of the name, so that every machine divides alike."""
    from freqkd_cli.datasets._folder_split import place_of

    assert place_of("p000") == pytest.approx(0.000575, abs=1e-6)  # of sha256sum
    assert place_of(unicodedata.normalize("NFD", "größe")) == place_of("größe")


@pytest.mark.parametrize("place", ["", "data/"])
def test_a_folder_of_pairs_without_splits(tmp_path, place):
    write(tmp_path, [(f"{place}p{k}.jpg", f"{place}p{k}_mask.png") for k in range(1, 10)])
    root = tmp_path / place
    train, val = (numbers(open_split(root, split, split_=0.7)) for split in ("train", "val"))
    assert sorted(train + val) == [*range(1, 10)]


def test_only_train_is_divided_and_no_more(tmp_path):
    write(tmp_path, [(f"images/train/p{k}.jpg", f"masks/train/p{k}.png") for k in range(1, 20)])
    with pytest.raises(DataMissing, match="only train") as caught:
        open_split(tmp_path, "val")
    (keys,) = keys_of(caught.value.tip or "")
    both = [numbers(open_split(tmp_path, split, **keys)) for split in ("train", "val")]
    assert sorted(sum(both, [])) == [*range(1, 20)] and all(both)
    write(tmp_path, [("images/val/a.jpg", "masks/val/a.png")])
    with pytest.raises(UsageError, match="divided already"):
        open_split(tmp_path, split_=0.8)
    with pytest.raises(UsageError, match="add up to 1"):
        open_split(tmp_path, split_=[0.5, 0.4])


def test_a_share_that_leaves_no_image_is_refused(tmp_path):
    write(tmp_path, [(f"images/p{k}.jpg", f"masks/p{k}.png") for k in range(1, 4)])
    for split, share in (("train", 0.001), ("val", 0.999)):
        with pytest.raises(DataMissing, match="leaves no image") as caught:
            open_split(tmp_path, split, split_=share)
        (keys,) = keys_of(caught.value.tip or "")
        assert numbers(open_split(tmp_path, split, **keys))


@pytest.mark.parametrize(
    ("listing", "line"),
    [
        ("train.txt", "p{0}"),
        ("train.txt", "p{0}.jpg"),
        ("train.txt", "/SomeDisk/p{0}.jpg"),
        ("train.txt", "/other/SegNet/train/p{0}.jpg"),
        ("splits/train_list.txt", "images/p{0}.jpg"),
        ("train.txt", "./images/p{0}.jpg masks/m{0}.png"),
        ("train.txt", "/SomeDisk/data/images/p{0}.jpg /SomeDisk/data/masks/m{0}.png"),
        ("train.csv", "images/p{0}.jpg,masks/m{0}.png"),
        ("ImageSets/Segmentation/train.txt", "p{0}"),
        ("ImageSets/training.txt", "images\\p{0}.jpg\tmasks\\m{0}.png"),
    ],
)
def test_list_files(tmp_path, listing, line):
    mask = "m" if "masks" in line else "p"
    write(tmp_path, [(f"images/p{k}.jpg", f"masks/{mask}{k}.png") for k in range(1, 8)])
    path = tmp_path / listing
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "image,mask\n" if listing.endswith("csv") else ""
    path.write_text("\ufeff" + header + "\r\n".join(line.format(k) for k in (5, 2, 3)) + "\n\n")
    assert numbers(open_split(tmp_path)) == [5, 2, 3]
    with pytest.raises(DataMissing):
        open_split(tmp_path, "val")


def test_lists_need_masks_for_their_images_alone(tmp_path):
    """As in VOC, where most images have no mask."""
    write(tmp_path, [(f"JPEGImages/p{k}.jpg", f"SegmentationClass/p{k}.png") for k in range(1, 4)])
    save(tmp_path, "JPEGImages/p9.jpg", 9)
    (tmp_path / "train.txt").write_text("p3\np1\n")
    assert numbers(open_split(tmp_path)) == [3, 1]
    (tmp_path / "val.txt").write_text("p9\n")
    with pytest.raises(DataBroken, match="1 of 1 images"):
        open_split(tmp_path, "val")
    (tmp_path / "test.txt").write_text("p9\n")
    assert not open_split(tmp_path, "test").labelled


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("p1\n../secret\n", "train.txt:2 leads out"),
        ("p1\nimages/../../x.jpg\n", "train.txt:2 leads out"),
        ("p1 ../../m.png\n", "train.txt:1 leads out"),
        ("p1\np1\n", "train.txt:2 lists an image twice"),
        ("p1\nnothing\n", "train.txt:2 names a file that is not there\n  got  nothing"),
        ("images/p1.jpg masks/p9.png\n", "train.txt:1 names a file(.|\n)*masks/p9.png"),
        ("images/p1.jpg masks/p1.png\np2\n", "train.txt:2 has a mask in some lines only"),
    ],
)
def test_lines_that_cannot_be_right_are_refused(tmp_path, lines, message):
    write(tmp_path, [(f"images/p{k}.jpg", f"masks/p{k}.png") for k in range(1, 4)])
    (tmp_path.parent / "secret.jpg").write_bytes(b"")
    (tmp_path / "train.txt").write_text(lines)
    with pytest.raises(DataBroken, match=message):
        open_split(tmp_path)


@pytest.mark.parametrize("inner", ["", "rgb/"])
def test_an_image_that_is_missing_is_not_one_of_another_folder(tmp_path, inner):
    write(tmp_path, [(f"images/a/{inner}p1.jpg", "masks/a/p1.png")])
    save(tmp_path, "masks/b/p1.png", 1, mask=True)
    path = tmp_path / "train.txt"
    path.write_text(f"images/b/{inner}p1.jpg masks/b/p1.png\n")
    with pytest.raises(DataBroken, match="train.txt:1 names a file that is not there"):
        open_split(tmp_path)
    for name in ("p1", f"/disk/a/{inner}p1.jpg"):
        path.write_text(f"{name} masks/a/p1.png\n")
        assert numbers(open_split(tmp_path)) == [1]


def test_images_in_two_lists_are_a_warning(tmp_path, caplog):
    write(tmp_path, [(f"images/p{k}.jpg", f"masks/p{k}.png") for k in range(1, 4)])
    (tmp_path / "train.txt").write_text("p1\np2\n")
    (tmp_path / "val.txt").write_text("p2\np3\n")
    assert numbers(open_split(tmp_path, "val")) == [2, 3]
    assert "1 images of" in caplog.text and "p2.jpg" in caplog.text


def test_circles_of_links_end(tmp_path):
    write(tmp_path, [("images/train/a/p1.jpg", "masks/train/a/p1.png")])
    (tmp_path / "images/train/a/again").symlink_to(tmp_path / "images/train")
    assert numbers(open_split(tmp_path)) == [1]


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("labels/train/p1.txt", "0 0.1 0.2 0.3 0.4", "YOLO"),
        ("annotations/instances_train.json", '{"images": []}', "JSON"),
        ("labels/train/p1.npy", "", "NumPy"),
        ("images/train/p1.json", '{"version": "5", "shapes": []}', "JSON"),
        ("images/train/p1.txt", "0 0.1 0.2 0.3 0.4", "YOLO"),
        ("images/train/_annotations.coco.json", "{}", "JSON"),
        ("masks/train/p1.mat", "", "MATLAB"),
    ],
)
def test_labels_of_other_forms_are_named(tmp_path, file, content, named):
    save(tmp_path, "images/train/p1.jpg", 1)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    with pytest.raises(DataBroken, match=f"are not masks\n  got  .*{named}") as caught:
        open_split(tmp_path)
    assert keys_of(caught.value.tip or "")[-1] == {"mask": "none"}
    assert not open_split(tmp_path, mask="none").labelled


@pytest.mark.parametrize("naming", [name for name in NAMINGS if name != "formats of masks"])
def test_masks_in_a_folder_of_another_name_are_refused_with_keys_that_work(tmp_path, naming):
    image, mask = NAMINGS[naming]
    files = [(f"images/train/{image(k)}", f"zones/train/{mask(k)}") for k in range(1, 5)]
    write(tmp_path, files)
    with pytest.raises(DataBroken, match="no folder of masks(.|\n)*zones/train") as caught:
        open_split(tmp_path)
    first, second = keys_of(caught.value.tip or "")
    assert sorted(numbers(open_split(tmp_path, **first))) == [1, 2, 3, 4]
    assert not open_split(tmp_path, **second).labelled


@pytest.mark.parametrize(
    "naming", ["_mask", "GT", "mask_", "letters before numbers", "zeros before numbers"]
)
@pytest.mark.parametrize("places", ["train", "train/c0", "images/train"])
def test_a_mask_that_is_absent_beside_its_image_is_refused(tmp_path, naming, places):
    image, mask = NAMINGS[naming]
    write(tmp_path, [(f"{places}/{image(k)}", f"{places}/{mask(k)}") for k in range(1, 6)])
    save(tmp_path, f"{places}/{image(9)}", 9)
    with pytest.raises(DataBroken):
        open_split(tmp_path)


def test_files_that_are_neither_image_nor_mask(tmp_path, caplog):
    for k in range(1, 4):
        write(tmp_path, [(f"train/p{k}.jpg", f"train/p{k}_mask.png")], start=k)
        save(tmp_path, f"train/p{k}_overlay.png", 9)
    assert numbers(open_split(tmp_path)) == [1, 2, 3]
    assert "3 files in" in caplog.text and "p1_overlay.png" in caplog.text
    for k in range(1, 4):
        save(tmp_path, f"val/p{k}.jpg", k)
        save(tmp_path, f"val/p{k}.png", k, mask=True)
    save(tmp_path, "val/q.png", 9)
    with pytest.raises(DataBroken, match="neither a mask nor an image(.|\n)*q.png"):
        open_split(tmp_path, "val")


@pytest.mark.parametrize(
    "other",
    ["notes.txt", "images/train/p1.txt", "predictions/legend.json", "images_small/train/p1.jpg",
     "images/val/p1.jpg", "thumbs/x.png"],
)  # fmt: skip
def test_images_without_labels_stay_allowed(tmp_path, other):
    save(tmp_path, "images/train/p1.jpg", 1)
    if other.startswith("predictions"):
        save(tmp_path, "predictions/p1.png", 1, mask=True)
    path = tmp_path / other
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a photo of a street")
    assert not open_split(tmp_path).labelled


def test_the_folder_inside_is_named(tmp_path):
    write(tmp_path, [("archive/images/train/a.jpg", "archive/masks/train/a.png")])
    with pytest.raises(DataMissing, match=f"--data-root {tmp_path}/archive"):
        open_split(tmp_path)


def test_two_folders_of_images_are_refused(tmp_path):
    write(tmp_path, [("imgs/train/a.jpg", None), ("photos/train/a.jpg", None)])
    with pytest.raises(DataBroken, match="two folders hold images"):
        open_split(tmp_path)


def test_layouts_of_before_keep_their_names_and_order(tmp_path):
    for name in ("b.png", "a.jpg", "B.jpg", "a.b.webp"):
        save(tmp_path, f"images/train/{name}", 1)
        save(tmp_path, f"masks/train/{Path(name).stem}.png", 1, mask=True)
    save(tmp_path, "masks/train/a_mask.png", 7, mask=True)
    pairs = pair_by_stem(tmp_path / "images/train", tmp_path / "masks/train")
    data = open_split(tmp_path)
    assert list(data.pairs) == pairs
    assert data.manifest()["arguments"] == {
        "classes": NAMES,
        "ids": [*range(40)],
        "ignore": [255],
    }


def test_zeros_inside_a_number_are_kept(tmp_path):
    """p_107 is not p_17; only zeros before a number do not count."""
    numbers = (7, 17, 107, 170)
    for number in numbers:
        save(tmp_path, f"images/train/p_{number}.png", number % 40)
        save(tmp_path, f"masks/train/p_{number:04d}.png", number % 40, mask=True)
    data = open_split(tmp_path)
    assert len(data) == 4
    for k in range(4):
        image, labels = data.read(k)
        assert image[0, 0, 0] == 6 * labels[0, 0]


@pytest.mark.timing
@pytest.mark.parametrize(
    "image, mask", [NAMINGS[n] for n in ("_mask", "as Cityscapes", "letter case")]
)
def test_many_names_are_paired_quickly(image, mask):
    def file(name: str) -> File:
        stem, _, suffix = name.rpartition(".")
        return File(Path("x"), "", "", stem, f".{suffix}")

    images = [file(image(k)) for k in range(20_000)]
    masks = [file(mask(k)) for k in range(20_000)]
    start = time.perf_counter()
    (match,) = matches(images, masks[::-1])
    assert list(match.masks) == masks and time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("name", "kind", "split"),
    [
        ("images", "image", None), ("JPEGImages", "image", None), ("masks_png", "mask", None),
        ("trainannot", "mask", "train"), ("imagesTr", "image", "train"),
        ("labelsTs", "mask", "test"), ("val_labels", "mask", "val"), ("Validation", None, "val"),
        ("train_set", None, "train"), ("ground-truth", "mask", None), ("trees", None, None),
        ("mask_images", "mask", None), ("depth", None, None), ("contrast", None, None),
    ],
)  # fmt: skip
def test_names_of_folders(name, kind, split):
    assert role(name) == (kind, split)


@pytest.mark.parametrize(
    ("stem", "split"),
    [("train", "train"), ("val_list", "val"), ("trainlist", "train"), ("trainval", None),
     ("test_files", "test"), ("classes", None), ("labels", None)],
)  # fmt: skip
def test_names_of_lists(stem, split):
    assert listed_split(stem) == split


def test_every_message_is_an_error_of_the_program(tmp_path):
    """Odd names give no traceback."""
    rng = np.random.default_rng(0)
    for trial in range(30):
        root = tmp_path / str(trial)
        for k in range(rng.integers(1, 5)):
            words = [
                str(rng.choice(["a", "1", "_", ".", "mask", "ß", "  ", "{stem}", "%", "é"]))
                for _ in range(rng.integers(1, 4))
            ]
            where = rng.choice(["images/train", "masks/train", "train", "labels", "images"])
            save(root, f"{where}/x{''.join(words)}{k}.png", 1, mask=bool(rng.integers(2)))
        try:
            open_split(root)
        except FreqKDError as error:
            assert error.need or error.got
