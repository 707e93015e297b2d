"""Decoding: EXIF orientation as Pillow applies it, damaged EXIF, names that are not UTF-8."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.decode import header_of, read_upright
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_rules import label_rule
from freqkd_cli.images.pairs import pair_by_stem, printable

ORIENTATION = 0x0112

# EXIF blocks of orientation 6 in which another entry is damaged.
DAMAGED = (
    "4578696600004d4d002a000000080003012200020000000600000032011200030000000100069600876900040000000"
    "100000038000000006d616b6572000002829a0003000000020001001e900000079e00000430323330000000e8",
    "4578696600004d4d002a0000000800c0011b0002000000060000003201120003000000010006000087690004000000010"
    "000e738000000006d616b6572000002829a0003000000020001001e90000007000000043032333000000000",
    "4578696600004d4d002a000000080003010f000b000000060000003201120003000000010006000087690004000000010"
    "0000038000000006d616b6572000002829a0003000000020001001e90000007009300043032333000000000",
)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_all_orientations_equal_pillow(tmp_path, orientation, mode):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    suffixes = {"P": ("png",), "RGBA": ("png", "webp"), "CMYK": ("jpg",)}.get(mode, ("jpg", "png"))
    for suffix in suffixes:
        path = tmp_path / f"a.{suffix}"
        noise().convert(mode).save(path, exif=exif)
        with Image.open(path) as stored:
            expected = np.array(ImageOps.exif_transpose(stored).convert("RGB"))
        pixels = read_upright(path)
        np.testing.assert_array_equal(pixels, expected)
        assert header_of(path).size == pixels.shape[:2]


@pytest.mark.parametrize("block", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_exif_block_does_not_stop_the_orientation(tmp_path, block):
    file = io.BytesIO()
    noise().save(file, "JPEG", exif=bytes.fromhex(block))
    with pytest.raises((TypeError, AttributeError, struct.error)), Image.open(file) as a:
        ImageOps.exif_transpose(a)  # Pillow alone fails: it writes the damaged entry again
    path = tmp_path / "a.jpg"
    path.write_bytes(file.getvalue())
    with Image.open(file) as stored:
        expected = np.array(stored.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(read_upright(path), expected)
    assert header_of(path).size == (14, 9)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise().save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_upright(tmp_path / "a.png"), np.array(noise()))
    assert header_of(tmp_path / "a.png").size == (9, 14)


def test_an_image_larger_than_the_free_memory_is_an_error_of_its_file(tmp_path, monkeypatch):
    noise().save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DataBroken, match="cannot read .*a.png\n  got  too large"):
        read_upright(tmp_path / "a.png")


def test_names_that_are_not_utf8_are_read_and_printed_escaped(tmp_path):
    """Names as an old camera or another system wrote them, here in Latin-1."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        mask = Image.fromarray(np.zeros((9, 14), np.uint8))
        image = noise() if folder == "images" else mask
        name = os.fsencode(tmp_path / folder) + b"/stra\xdfe.png"
        with open(name, "wb") as file:
            image.save(file, "PNG")
    pairs = pair_by_stem(tmp_path / "images", tmp_path / "masks")
    rule = label_rule(range(2), [255], "")
    data = FileDataset({"name": "a"}, pairs, ("a", "b"), np.zeros((2, 3), np.uint8), rule)
    assert len(data.manifest()["sha256"]) == 64
    assert data.read(0)[1].shape == (9, 14)
    assert printable(data.name(0)) == "stra\\udcdfe"
    os.truncate(os.fsencode(tmp_path / "images") + b"/stra\xdfe.png", 60)
    with pytest.raises(DataBroken) as caught:
        data.read(0)
    assert "stra\\udcdfe.png" in printable(caught.value)
    assert isinstance(pairs[0].image, Path)
