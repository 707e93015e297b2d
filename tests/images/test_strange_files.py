"""Strange files through ``data --all`` and ``predict``: each is named for what it is."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
from console import console
from PIL import Image
from raw_images import GREY, GREY_ALPHA, RGB, RGBA, png16, tiff

RECIPE = """\
version: 1
data: {name: folder, size: [64, 64], workers: 0, root: d}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {steps: 1, batch_size: 2}
"""
PIXELS = layouts.noise(0)
DEEP = PIXELS.astype(np.uint16) * 16
BOX = struct.pack(">I", 24)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def saved(form: Image.Image, **options: object) -> Callable[[Path], object]:
    return lambda path: form.save(path, **options)


def cut(form: str, share: float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        Image.fromarray(PIXELS).save(path, form)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return write


def array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, PIXELS)


RGB8 = Image.fromarray(PIXELS)

DAMAGED = {
    "empty.jpg": content(b""),
    "zeros.png": content(bytes(400)),
    "cut.jpg": cut("JPEG", 0.5),
    "cut.png": cut("PNG", 0.5),
    "cut.tif": cut("TIFF", 0.5),
    "cut.webp": cut("WEBP", 0.5),
    "header.png": cut("PNG", 0.002),
    "header.tif": content(b"II*\0\x08\0\0\0\xff\xff"),
}
NO_IMAGE = {
    "page.jpg": content(b"<html><body>\x1b[31mnot found</body></html>"),
    "pointer.png": content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "annex.png": content(b"/annex/objects/MD5E-s1--0.png\n"),
    "text.png": content(b"access denied\n"),
    "json.jpg": content(b'{"error": 1}'),
    "drawing.png": content(b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "phone.jpg": content(BOX + b"ftypheic\0\0\0\0mif1heic" + bytes(40)),
    "raw.tif": content(b"IIU\0\x08\0\0\0" + bytes(40)),
    "film.jpg": content(BOX + b"ftypisom\0\0\2\0isomiso2" + bytes(40)),
    "paper.png": content(b"%PDF-1.4\n%\xff\xff\n"),
    "array.png": array,
    "matrix.tif": content(b"MATLAB 5.0 MAT-file" + bytes(200)),
    "table.tif": content(b"\x89HDF\r\n\x1a\n" + bytes(200)),
    "scan.jpg": content(bytes(128) + b"DICM" + bytes(40)),
    "archive.png": content(b"PK\x03\x04" + bytes(40)),
    "noise.bmp": content(bytes(range(1, 30)) + b"\x1b]0;title\x07"),
    "animation.webp": saved(RGB8, save_all=True, append_images=[Image.new("RGB", RGB8.size)]),
    "animation.png": saved(RGB8, save_all=True, append_images=[Image.new("RGB", RGB8.size)]),
    "stack.tif": saved(RGB8, save_all=True, append_images=[Image.new("RGB", RGB8.size)]),
    "dng.tif": lambda path: tiff(path, PIXELS, tags={50706: (4, [1])}),
    "five.tif": lambda path: tiff(path, np.dstack([PIXELS, PIXELS])[..., :5], photometric=1),
    "near.tif": lambda path: tiff(path, np.dstack([PIXELS, PIXELS])[..., :4], extra=(0,)),
    "planes.tif": lambda path: tiff(path, DEEP, planar=True),
    "float.tif": lambda path: tiff(path, PIXELS.astype(np.float32)),
    "packed.tif": lambda path: tiff(path, PIXELS, tags={259: (3, [50002])}),
    "lab.tif": saved(Image.new("LAB", RGB8.size)),
    "grey.png": lambda path: png16(path, DEEP[..., :1], GREY),
    "grey_alpha.png": lambda path: png16(path, DEEP[..., :2], GREY_ALPHA),
    "color.png": lambda path: png16(path, DEEP, RGB),
    "color_alpha.png": lambda path: png16(path, np.dstack([DEEP, DEEP])[..., :4], RGBA),
    "color.tif": lambda path: tiff(path, DEEP),
}
WELL = {
    "cmyk.jpg": saved(RGB8.convert("CMYK")),
    "palette.png": saved(RGB8.quantize(7)),
    "phone.jpg": saved(RGB8, format="MPO", save_all=True, append_images=[RGB8.reduce(2)]),
    "preview.tif": lambda path: tiff(path, PIXELS, PIXELS[::2, ::2].copy(), subfiles=(0, 1)),
    "jpeg.png": saved(RGB8, format="JPEG"),
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    from freqkd_cli.app import main

    folder = tmp_path_factory.mktemp("strange")
    (folder / "folder.yaml").write_text(RECIPE.replace("root: d", f"root: {folder}/d"))
    layouts.folder(folder / "d", [layouts.labels(range(3), number) for number in range(4)])
    with pytest.raises(SystemExit) as ended:
        main(["distill", str(folder / "folder.yaml"), "--out", str(folder / "run"), "-q"])
    assert ended.value.code == 0
    return folder / "run"


def texts(run_folder: Path, freqkd, name: str, write: Callable[[Path], object]) -> tuple[str, ...]:
    """Return what ``data --all`` and ``predict`` print about one file, their codes equal."""
    Path("folder.yaml").write_text(RECIPE)
    layouts.folder(Path("d"), [layouts.labels(range(3), number) for number in range(4)])
    next(Path("d/images/train").glob("p1.*")).unlink()
    path = Path(f"d/images/train/p1{Path(name).suffix}")
    write(path)
    data = freqkd("data", "folder.yaml", "--split", "train", "--all")
    listed = freqkd("predict", run_folder, path, "--out", "out", "--labels-only", "-q", "--json")
    assert data.code == (3 if listed.code else 0) and listed.code in (0, 1)
    for printed in (data.out, data.err, listed.out, listed.err):
        assert "Traceback" not in printed and "Warning" not in printed
        assert all(c.isprintable() or c == "\n" for c in printed), repr(printed)
    rows = json.loads(listed.out)["unreadable"]
    return data.out, "".join(row["why"] for row in rows)


@pytest.fixture
def freqkd(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    return console(monkeypatch, capfd)


@pytest.mark.parametrize("name", [*DAMAGED, *NO_IMAGE])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_strange_file_is_refused_with_its_own_words(run_folder, freqkd, name):
    for text in texts(run_folder, freqkd, name, (DAMAGED | NO_IMAGE)[name]):
        assert ("restore the file" in text) == (name in DAMAGED)
        assert "try" in text and "need" in text or name in DAMAGED


@pytest.mark.parametrize("name", WELL)
def test_unusual_files_that_are_read(run_folder, freqkd, name):
    data, why = texts(run_folder, freqkd, name, WELL[name])
    assert why == "" and "error" not in data
