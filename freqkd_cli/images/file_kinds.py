"""Files that are not images, recognized by their first bytes, and what to do with each."""

from __future__ import annotations

import shlex
from pathlib import Path

_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer", "git lfs pull"),
    (0, b"/annex/objects/", "a git-annex pointer", "git annex get {file}"),
    (0, b"%PDF", "a PDF document", "pdftoppm -png {file} {stem}"),
    (0, b"\x93NUMPY", "a NumPy array", "save the array as PNG with PIL.Image.fromarray(...).save"),
    (0, b"MATLAB 5.0", "a MATLAB file", "save its arrays as PNG; scipy.io.loadmat reads them"),
    (0, b"\x89HDF\r\n", "an HDF5 file", "save its arrays as PNG; the package h5py reads them"),
    (0, b"CDF\x01", "a NetCDF file", "gdal_translate -ot Byte -scale {file} {stem}.tif"),
    (0, b"GRIB", "a GRIB file", "gdal_translate -ot Byte -scale {file} {stem}.tif"),
    (0, b"SIMPLE  =", "a FITS file", "save its arrays as PNG; the package astropy reads them"),
    (0, b"v/1\x01", "an OpenEXR image", "magick {file} {stem}.tif"),
    (0, b"#?RADIANCE", "a Radiance HDR image", "magick {file} {stem}.tif"),
    (0, b"\xff\x0a", "a JPEG XL image", "djxl {file} {stem}.png"),
    (4, b"JXL \r\n", "a JPEG XL image", "djxl {file} {stem}.png"),
    (128, b"DICM", "a DICOM file", "dcmj2pnm +on {file} {stem}.png"),
    (344, b"n+1\0", "a NIfTI volume", "save its slices as PNG; the package nibabel reads them"),
    (0, b"FUJIFILMCCD-RAW", "a camera raw file", "darktable-cli {file} {stem}.jpg"),
    (0, b"IIRO", "a camera raw file", "darktable-cli {file} {stem}.jpg"),
    (0, b"IIU\0", "a camera raw file", "darktable-cli {file} {stem}.jpg"),
    (4, b"ftypcrx", "a camera raw file", "darktable-cli {file} {stem}.jpg"),
    (4, b"ftyphei", "a HEIC photograph", "heif-convert {file} {stem}.jpg"),
    (4, b"ftyphev", "a HEIC photograph", "heif-convert {file} {stem}.jpg"),
    (4, b"ftypmif1", "a HEIC photograph", "heif-convert {file} {stem}.jpg"),
    (4, b"ftypmsf1", "a HEIC photograph", "heif-convert {file} {stem}.jpg"),
    (4, b"ftypavi", "an AVIF image", "magick {file} {stem}.png"),
    (4, b"ftyp", "a video", "ffmpeg -i {file} {stem}_%06d.png"),
    (0, b"\x1aE\xdf\xa3", "a video", "ffmpeg -i {file} {stem}_%06d.png"),
    (8, b"AVI ", "a video", "ffmpeg -i {file} {stem}_%06d.png"),
    (0, b"\0\0\x01\xba", "a video", "ffmpeg -i {file} {stem}_%06d.png"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it, for example with gunzip"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it, for example with unzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, for example with 7z x"),
    (0, b"Rar!", "a RAR archive", "unpack it, for example with unrar x"),
    (0, b"\0\x05\x16\x07", "a macOS resource file", "remove the file; it holds no pixels"),
    (0, b"%!PS", "a PostScript file", "gs -sDEVICE=png16m -r150 -o {stem}.png {file}"),
)
"""(offset, bytes, what the file is, what to do). The first entry that fits counts."""

_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0")
_IMAGES += (b"MM\0+",)
"""First bytes of the image formats that are read."""

RAW = ("a camera raw file", "darktable-cli {file} {stem}.jpg")

_TEXT = frozenset((*range(32, 256), 9, 10, 13)) - {127}


def kind_of(path: Path) -> tuple[str, str] | None:
    """Return what a file is and what to do, where its first bytes show that it is no image.

    Raises:
        OSError: it cannot be read.
    """
    start = first_bytes(path)
    for offset, magic, kind, way in _MAGIC:
        if start[offset:].startswith(magic):
            return kind, filled(way, path)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page", "download the image itself; this page was saved in its place"
    if text.startswith(b"<svg") or b"<svg" in text[:1000]:
        return "an SVG drawing", filled("rsvg-convert {file} -o {stem}.png", path)
    if text.startswith(b"<?xml"):
        return "an XML document", "download or copy the image itself"
    if text[:1] in (b"{", b"[") and _TEXT.issuperset(start):
        return "a JSON document", "download or copy the image itself"
    if start and _TEXT.issuperset(start) and not looks_like_image(start):
        return "a text file", "download or copy the image itself"
    return None


def first_bytes(path: Path, number: int = 2048) -> bytes:
    """Return the start of a file."""
    with path.open("rb") as file:
        return file.read(number)


def looks_like_image(start: bytes) -> bool:
    """Return whether a file begins as an image of a format that is read."""
    return start.startswith(_IMAGES)


def filled(way: str, path: Path) -> str:
    """Return a command with the file's name and its stem filled in, quoted for a shell."""
    if not isinstance(path, Path):  # a cell of a table
        return "convert it to PNG where the data set is made"
    stem = shlex.quote(str(path.with_suffix("")))
    return way.replace("{file}", shlex.quote(str(path))).replace("{stem}", stem)
