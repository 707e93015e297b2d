"""Files that are something else are named for what they are; damaged ones as damaged."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.decode import header_of, read_upright

BOX = struct.pack(">I", 24)

KINDS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS", "lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s10--00.png\n", "git-annex pointer", "git annex get"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML page", "download the image"),
    "svg": (b'<?xml version="1.0"?>\n<svg width="4"/>', "SVG drawing", "rsvg-convert"),
    "json": (b'{"error": "not found"}', "JSON document", "the image itself"),
    "text": ("Zugriff verweigert: für Gäste\n".encode("latin-1"), "text file", "the image itself"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF document", "pdftoppm -png"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "MATLAB file", "scipy.io.loadmat"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5 file", "h5py"),
    "dicom": (bytes(128) + b"DICM\2\0\0\0", "DICOM file", "dcmj2pnm"),
    "heic": (BOX + b"ftypheic\0\0\0\0mif1heic", "HEIC photograph", "heif-convert"),
    "cr3": (BOX + b"ftypcrx \0\0\0\1crx isom", "camera raw file", "darktable-cli"),
    "raf": (b"FUJIFILMCCD-RAW 0201", "camera raw file", "darktable-cli"),
    "mp4": (BOX + b"ftypisom\0\0\2\0isomiso2", "video", "ffmpeg -i"),
    "jxl": (b"\xff\x0a\x00\x10", "JPEG XL image", "djxl"),
    "exr": (b"v/1\x01\x02\0\0\0", "OpenEXR image", "magick"),
    "gzip": (gzip.compress(b"pixels"), "gzip archive", "gunzip"),
    "zip": (b"PK\x03\x04\x14\0\0\0", "ZIP archive", "unzip"),
    "apple": (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "macOS resource file", "remove the file"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_image_is_named(tmp_path, kind):
    content, name, way = KINDS[kind]
    path = tmp_path / "it's one.jpg"
    path.write_bytes(content)
    for read in (read_upright, header_of):
        with pytest.raises(DataBroken) as caught:
            read(path)
        assert name in caught.value.got and way in caught.value.tip
        assert "restore" not in str(caught.value)


def test_an_array_is_named(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        np.save(file, np.zeros((4, 4)))
    with pytest.raises(DataBroken, match="a NumPy array"):
        read_upright(tmp_path / "a.png")


def test_unknown_bytes_are_not_called_damaged(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x01\x02\x03\x04\x05\x06\x07\x08\x09")
    with pytest.raises(DataBroken, match="unknown kind.* 01 02 03 04 05 06 07 08\n") as caught:
        read_upright(tmp_path / "a.png")
    assert "restore" not in str(caught.value)


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_damaged_image_has_the_tip_to_restore_it(tmp_path, form, share):
    path = tmp_path / f"a.{form}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataBroken, match="restore the file") as caught:
        read_upright(path)
    assert caught.value.got.isprintable() and caught.value.got


def test_zero_bytes_and_missing_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(bytes(5000))
    with pytest.raises(DataBroken, match="nothing but 5000 zero bytes\n.*\n.*restore"):
        read_upright(tmp_path / "a.jpg")
    with pytest.raises(DataBroken, match="no such file"):
        read_upright(tmp_path / "b.jpg")
    with pytest.raises(DataBroken, match="Is a directory"):
        read_upright(tmp_path)
