"""``folder``: both layouts, class names from three sources, valid and invalid masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from raw_images import GREY_ALPHA, RGB, RGBA, png16

from freqkd_cli import registry
from freqkd_cli.datasets import folder
from freqkd_cli.errors import DataBroken, DataMissing, UsageError
from freqkd_cli.images.dataset import Dataset
from freqkd_cli.images.palette import palette

NAMES = ["road", "car", "tree"]


def place(root: Path, what: str, split: str, split_first: bool) -> Path:
    path = root / split / what if split_first else root / what / split
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(
    root: Path,
    split: str = "train",
    *,
    split_first: bool = False,
    masks: list[np.ndarray] | None = None,
) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    masks = (
        [rng.integers(0, 3, (9, 14), dtype=np.uint8) for _ in range(2)] if masks is None else masks
    )
    for number, mask in enumerate(masks):
        pixels = rng.integers(0, 256, (*mask.shape[:2], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(
            place(root, "images", split, split_first) / f"p{number}.JPG", quality=95
        )
        Image.fromarray(mask).save(place(root, "masks", split, split_first) / f"p{number}.png")
    return masks


def open_split(root: Path | None, split: str = "train", **arguments: object) -> Dataset:
    return folder.build(split=split, root=root, size=(32, 32), **arguments)


@pytest.mark.parametrize("split_first", [False, True])
def test_both_layouts_are_read(tmp_path, split_first):
    masks = write(tmp_path, split_first=split_first)
    data = open_split(tmp_path, classes=NAMES)
    assert (
        isinstance(data, Dataset)
        and data.labelled
        and data.classes == tuple(NAMES)
        and len(data) == 2
    )
    for index, mask in enumerate(masks):
        image, labels = data.read(index)
        assert (
            data.name(index) == f"p{index}"
            and image.shape == (9, 14, 3)
            and data.image_size(index) == (9, 14)
        )
        np.testing.assert_array_equal(labels, mask)


@pytest.mark.parametrize(
    ("file", "content", "ids"),
    [
        ("classes.json", json.dumps(NAMES), [0, 1, 2]),
        ("classes.json", json.dumps({"0": "road", "2": "tree", "1": "car"}), [0, 1, 2]),
        ("classes.json", json.dumps({"7": "road", "26": "car", "200": "tree"}), [7, 26, 200]),
        ("classes.txt", "road\ncar\r\n\n tree \n", [0, 1, 2]),
    ],
)
def test_class_names_come_from_a_file(tmp_path, file, content, ids):
    mask = np.array(ids, dtype=np.uint8)[np.random.default_rng(0).integers(0, 3, (6, 8))]
    mask[0, 0] = 255
    write(tmp_path, masks=[mask])
    (tmp_path / file).write_text(content)
    assert folder.classes(root=tmp_path) == tuple(NAMES) == open_split(tmp_path).classes
    expected = np.searchsorted(ids, mask).astype(np.uint8)
    expected[0, 0] = 255
    np.testing.assert_array_equal(open_split(tmp_path).read(0)[1], expected)
    assert folder.classes(root=tmp_path, classes=["a", "b"]) == ("a", "b")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 10**5,
        '["a", " "]',
        '{"0": "a", "0": "b"}',
        '{"0": "a", "00": "b"}',
        "3",
        '["a", 1]',
        '{"x": "a"}',
        '["a", "a"]',
        '{"255": "a"}',
        "null",
    ],
)
def test_invalid_class_names_are_refused(tmp_path, content):
    write(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataBroken, match="classes.json"):
        open_split(tmp_path)


def test_palette_masks_are_read_by_index(tmp_path):
    """Index 0 is white and two entries share a color: only the index separates the classes."""
    masks = write(tmp_path)
    for number, mask in enumerate(masks):
        pil_image = Image.fromarray(mask).convert("P")
        pil_image.putdata(mask.ravel().tolist())
        pil_image.putpalette([255, 255, 255, 10, 20, 30, 10, 20, 30])
        pil_image.save(tmp_path / "masks" / "train" / f"p{number}.png", bits=2)
    with Image.open(tmp_path / "masks" / "train" / "p0.png") as stored:
        assert stored.mode == "P"
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(open_split(tmp_path, classes=NAMES).read(index)[1], mask)


def test_one_bit_and_sixteen_bit_masks(tmp_path):
    mask = np.random.default_rng(0).integers(0, 2, (9, 14)).astype(np.uint8)
    write(tmp_path, masks=[mask, mask])
    Image.fromarray(mask.astype(bool)).save(tmp_path / "masks" / "train" / "p0.png")
    Image.fromarray(mask.astype(np.uint16)).save(tmp_path / "masks" / "train" / "p1.png")
    data = open_split(tmp_path, classes=NAMES[:2])
    for index in range(2):
        np.testing.assert_array_equal(data.read(index)[1], mask)
    Image.fromarray(np.where(mask, 256, 0).astype(np.uint16)).save(
        tmp_path / "masks" / "train" / "p1.png"
    )
    with pytest.raises(
        DataBroken, match="p1.png contains label values that belong to no class\n  got  256\n"
    ):
        data.read(1)


@pytest.mark.parametrize("threshold", [0.5, 1, 2, 128])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_bit_masks_with_a_threshold_keep_their_object(tmp_path, threshold, suffix):
    mask = np.random.default_rng(0).integers(0, 2, (9, 14)).astype(np.uint8)
    write(tmp_path, masks=[mask, mask * 255])
    (tmp_path / "masks/train/p0.png").unlink()
    Image.fromarray(mask.astype(bool)).save(tmp_path / f"masks/train/p0{suffix}")
    data = open_split(tmp_path, classes=NAMES[:2], threshold=threshold)
    for index in range(2):
        np.testing.assert_array_equal(data.read(index)[1], mask)
    assert data.mask(0).values.keys() == {0, 255 if threshold > 1 else 1}


@pytest.mark.parametrize("color", [GREY_ALPHA, RGB, RGBA])
def test_sixteen_bit_masks_with_equal_channels_keep_their_ids(tmp_path, color):
    mask = np.random.default_rng(0).integers(0, 3, (9, 14)).astype(np.uint16)
    write(tmp_path, masks=[mask.astype(np.uint8)] * 3)
    alpha = [np.full_like(mask, 65535)] if color in (GREY_ALPHA, RGBA) else []
    values = [mask, np.full_like(mask, 2), 256 * mask + 5]
    for number, value in enumerate(values):
        channels = [value] * (1 if color == GREY_ALPHA else 3) + alpha
        png16(tmp_path / f"masks/train/p{number}.png", np.dstack(channels), color)
    data = open_split(tmp_path, classes=NAMES, label_map={"5": 0, "261": 1, "517": 2})
    for index, labels in enumerate((mask, values[1], mask)):
        np.testing.assert_array_equal(data.read(index)[1], labels)
    channels = [0 * mask] * (1 if color == GREY_ALPHA else 3) + [256 * mask]
    if alpha:
        png16(tmp_path / "masks/train/p0.png", np.dstack(channels), color)
        with pytest.raises(DataBroken, match="one color, and transparency"):
            data.read(0)


def test_sixteen_bit_colors_are_colors(tmp_path):
    write(tmp_path)
    colors = np.random.default_rng(0).integers(0, 65536, (9, 14, 3), dtype=np.uint16)
    png16(tmp_path / "masks/train/p0.png", colors, RGB)
    with pytest.raises(DataBroken, match="p0.png is not a label image\n  got  RGB colors"):
        open_split(tmp_path, classes=NAMES).read(0)


def test_values_outside_the_classes_are_refused_unless_ignored(tmp_path):
    mask = np.zeros((9, 14), np.uint8)
    mask[2, 3], mask[4, 5] = 3, 9
    write(tmp_path, masks=[mask])
    with pytest.raises(DataBroken) as caught:
        open_split(tmp_path, classes=NAMES).read(0)
    assert (
        "p0.png" in str(caught.value)
        and "got  3, 9\n" in str(caught.value)
        and "0 .. 2, or 255 (ignored)" in str(caught.value)
    )
    labels = open_split(tmp_path, classes=NAMES, ignore=[9, 3]).read(0)[1]
    np.testing.assert_array_equal(labels, np.where(mask > 0, 255, 0))
    with pytest.raises(UsageError, match="data.ignore"):
        open_split(tmp_path, classes=NAMES, ignore=[1])
    with pytest.raises(UsageError, match="data.ignore"):
        open_split(tmp_path, classes=NAMES, ignore=[65536])


def test_files_that_are_no_masks_are_refused(tmp_path):
    masks = write(tmp_path)
    Image.fromarray(masks[0][:-1]).save(tmp_path / "masks" / "train" / "p0.png")
    colors = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(colors).save(tmp_path / "masks" / "train" / "p1.png")
    data = open_split(tmp_path, classes=NAMES)
    with pytest.raises(
        DataBroken,
        match="p0.png and its image p0.JPG differ in size\n  got  8x14 (.*)\n  need 9x14",
    ):
        data.read(0)
    with pytest.raises(DataBroken, match="p1.png is not a label image\n  got  RGB colors"):
        data.read(1)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    write(tmp_path)
    image_files = tmp_path / "images" / "train"
    for path in image_files.iterdir():
        path.unlink()
    grey = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    Image.fromarray(grey).save(image_files / "p0.png")
    Image.fromarray(np.dstack([grey, grey // 2, grey // 3, grey])).save(image_files / "p1.png")
    data = open_split(tmp_path, classes=NAMES)
    np.testing.assert_array_equal(data.read(0)[0], np.dstack([grey] * 3))
    np.testing.assert_array_equal(data.read(1)[0], np.dstack([grey, grey // 2, grey // 3]))


def shown(root: Path, name: str, save: Callable[[Path], object]) -> np.ndarray:
    """Return the pixels of a single image; its size from the header must agree."""
    path = place(root, "images", "train", split_first=False) / name
    save(path)
    data = open_split(root)
    image = data.read(0)[0]
    assert len(data) == 1 and data.image_size(0) == image.shape[:2] and image.dtype == np.uint8
    path.unlink()
    return image


def test_every_mode_is_read_correctly_or_refused(tmp_path):
    """Pillow turns 16 bits a channel into white without a word."""
    colors = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    pil_image, grey = Image.fromarray(colors), Image.fromarray(colors[..., 0])
    flat = np.repeat(colors[..., :1], 3, 2)
    two = pil_image.convert("P", palette=Image.Palette.ADAPTIVE, colors=7)
    clear = Image.fromarray(np.dstack([colors, colors[..., 0]]))
    bits = grey.convert("1")
    good = {
        "l.png": (grey, flat),
        "la.png": (Image.merge("LA", [grey, grey]), flat),
        "p.png": (two, np.array(two.getpalette(), np.uint8).reshape(-1, 3)[np.array(two)]),
        "rgba.png": (clear, colors),
        "one.png": (bits, np.repeat(np.array(bits)[..., None] * np.uint8(255), 3, 2)),
        "rgb.tif": (pil_image, colors),
        "cmyk.tif": (
            Image.fromarray(np.dstack([255 - colors, colors[..., :1] * 0]), "CMYK"),
            colors,
        ),
    }
    for name, (form, expected) in good.items():
        np.testing.assert_array_equal(shown(tmp_path, name, form.save), expected, err_msg=name)
    np.testing.assert_array_equal(
        shown(tmp_path, "clear.png", lambda path: two.save(path, transparency=0)), good["p.png"][1]
    )
    deep = colors[..., 0].astype(np.uint16) * 257
    bad = {
        "a.png": (Image.fromarray(deep), r"16 bits a channel, values from \d+ to 65"),
        "b.tif": (Image.fromarray(deep), r"16 bits a channel, values from \d+ to 65"),
        "c.tif": (Image.fromarray(deep.astype(np.int32)), "32 bits a channel, values from"),
        "d.tif": (Image.fromarray(deep / np.float32(65535)), "32-bit fractions, values from 0"),
        "e.tif": (Image.new("LAB", (14, 9)), "pixels of mode LAB in the format TIFF"),
    }
    for name, (form, got) in bad.items():
        path = tmp_path / "images/train" / name
        form.save(path)
        data = open_split(tmp_path)
        with pytest.raises(DataBroken, match=f"cannot read .*{name}\n  got  {got}"):
            data.read(0)
        if name == "e.tif":
            with pytest.raises(DataBroken, match=got):
                data.image_size(0)
        else:
            assert data.image_size(0) == (9, 14)
        path.unlink()


def test_images_of_more_than_8_bits_are_read_with_the_keys(tmp_path):
    """The manifest holds a key only where it is set."""
    deep = np.arange(126, dtype=np.uint16).reshape(9, 14) * 32
    path = place(tmp_path, "images", "train", split_first=False) / "a.png"
    Image.fromarray(deep).save(path)
    for keys, expected in (
        ({"bits": 12}, deep * (255 / 4095)),
        ({"percentile": [0, 100]}, deep * (255 / 4000)),
    ):
        data = open_split(tmp_path, **keys)
        np.testing.assert_allclose(data.read(0)[0], np.dstack([expected] * 3), atol=0.501)
        assert data.manifest()["arguments"].items() >= keys.items()
    assert not {"bits", "percentile", "bands"} & open_split(tmp_path).manifest()["arguments"].keys()
    with pytest.raises(UsageError, match="exclude each other"):
        open_split(tmp_path, bits=12, percentile=[1, 99])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_labelling_tools_show_them(tmp_path, orientation):
    """As predict shows them too; the size from the header is that of the image turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pil_image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    )
    for name, options in (
        ("p.jpg", {"quality": 95}),
        ("p.png", {}),
        ("p.webp", {"lossless": True}),
        ("p.tif", {}),
    ):
        pil_image.save(tmp_path / name, exif=exif, **options)
        with Image.open(tmp_path / name) as stored:
            expected = np.array(ImageOps.exif_transpose(stored))
        assert expected.shape == ((9, 14, 3) if orientation < 5 else (14, 9, 3))
        image = shown(tmp_path, name, lambda path, name=name: shutil.copy(tmp_path / name, path))
        np.testing.assert_array_equal(image, expected, err_msg=name)


def test_masks_fit_upright_images_and_broken_exif_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (mask,) = write(tmp_path, masks=[np.zeros((14, 9), np.uint8)])
    path, pil_image = (
        tmp_path / "images/train/p0.JPG",
        Image.fromarray(np.zeros((9, 14, 3), np.uint8)),
    )
    pil_image.save(path, exif=exif)
    image, labels = open_split(tmp_path, classes=NAMES).read(0)
    assert image.shape[:2] == labels.shape == mask.shape
    pil_image.save(path, exif=b"Exif\0\0no such thing")
    with pytest.raises(
        DataBroken, match="and its image p0.JPG differ in size\n  got  14x9 (.*)\n  need 9x14"
    ):
        open_split(tmp_path, classes=NAMES).read(0)


def test_images_without_masks(tmp_path):
    image_files = place(tmp_path, "images", "train", False)
    Image.new("RGB", (14, 9)).save(image_files / "p0.png")
    data = open_split(tmp_path)
    assert (
        not data.labelled
        and data.read(0)[1] is None
        and data.classes == ()
        and data.palette.shape == (0, 3)
    )
    assert folder.classes(root=tmp_path) == () and open_split(
        tmp_path, classes=NAMES
    ).classes == tuple(NAMES)
    (image_files / "p0.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    with pytest.raises(DataBroken, match="cannot read .*p0.png"):
        data.read(0)
    place(tmp_path, "masks", "train", False)
    with pytest.raises(DataMissing, match="no class names"):
        open_split(tmp_path)
    with pytest.raises(DataBroken, match="1 of 1 images"):
        open_split(tmp_path, classes=NAMES)


def test_broken_links_are_reported(tmp_path):
    """As of a disk that is not mounted: neither images nor labels go missing in silence."""
    write(tmp_path)
    (tmp_path / "images/train/gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataBroken, match="1 of 3 images(.|\n)*no gone"):
        open_split(tmp_path, classes=NAMES)
    (tmp_path / "masks/train/gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataBroken, match="cannot read .*gone.png\n  got  no such file"):
        open_split(tmp_path, classes=NAMES).read(0)
    assert open_split(tmp_path, classes=NAMES).name(0) == "gone"
    for path, what in (
        ("masks/train", "a broken link"),
        ("masks", "a broken link"),
        ("masks/train", "a file"),
    ):
        shutil.rmtree(tmp_path / "masks", ignore_errors=True)
        (tmp_path / "masks").unlink(missing_ok=True)
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("") if what == "a file" else (tmp_path / path).symlink_to(
            tmp_path / "nowhere"
        )
        with pytest.raises(DataBroken, match=f"{path} is not a folder\n  got  {what}"):
            open_split(tmp_path, classes=NAMES)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataMissing, match="--data-root"):
        open_split(None)
    with pytest.raises(DataMissing, match="no such folder"):
        open_split(tmp_path / "nowhere", classes=NAMES)
    write(tmp_path)
    with pytest.raises(DataMissing, match="no split 'val'(.|\n)*only train"):
        open_split(tmp_path, "val", classes=NAMES)
    with pytest.raises(DataMissing, match="no class names"):
        open_split(tmp_path)


def test_the_manifest_contains_what_changes_the_labels(tmp_path):
    write(tmp_path)
    manifest = open_split(tmp_path, classes=NAMES, ignore=[9]).manifest()
    assert (
        manifest["arguments"] == {"classes": NAMES, "ids": [0, 1, 2], "ignore": [9, 255]}
        and manifest["number"] == 2
    )
    assert json.loads(json.dumps(manifest)) == manifest
    Image.fromarray(np.zeros((9, 14), np.uint8)).save(tmp_path / "masks" / "train" / "p0.png")
    assert (
        open_split(tmp_path, classes=NAMES, ignore=[9]).manifest()["sha256"] != manifest["sha256"]
    )


def test_recipe_arguments_and_colors():
    assert set(registry.arguments("datasets", "folder").model_fields) == {
        "classes",
        "ignore",
        "zero_label",
        "label_map",
        "threshold",
        "scale",
        "colors",
        "bits",
        "percentile",
        "bands",
        "mask",
        "split",
        "unlabelled",
    }
    colors = palette(150)
    assert (
        colors.shape == (150, 3)
        and colors.dtype == np.uint8
        and len({tuple(c) for c in colors}) == 150
    )
