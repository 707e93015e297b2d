"""The doctor on images: bits, bands, pages and damage, and settings that fix them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
from console import console
from PIL import Image
from raw_images import RGB, png16, tiff

RECIPE = """\
version: 1
data: {name: folder, size: [64, 64], workers: 0, root: d}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {steps: 1, batch_size: 2}
"""


@pytest.fixture
def freqkd(tmp_path, monkeypatch, capfd):
    """Run the console entry in this process, in a folder with four pairs and a recipe."""
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").write_text(RECIPE)
    layouts.folder(Path("d"), [layouts.labels(range(3), number) for number in range(4)])
    return console(monkeypatch, capfd)


def doctor(freqkd, *more: str) -> tuple[int, list[dict]]:
    """Exit code of ``freqkd data`` on the train split, and its findings."""
    done = freqkd("data", "folder.yaml", "--split", "train", "--json", *more)
    assert "Traceback" not in done.err
    return done.code, json.loads(done.out)["splits"][0]["findings"]


def tips(finding: dict) -> list[list[str]]:
    return [shlex.split(text) for text in re.findall(r"--set '[^']*'", finding["tip"])]


def image(number: int) -> Path:
    return next(Path("d/images/train").glob(f"p{number}.*"))


def deep(top: int) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, top + 1, (*layouts.SIZE, 3), dtype=np.uint16)
    pixels[0, 0] = top
    return pixels


def test_the_range_is_that_of_all_images(freqkd):
    """The tip for the darkest image alone would not read the others."""
    for number, top in enumerate((200, 900, 4000, 3000)):
        image(number).unlink()
        png16(Path(f"d/images/train/p{number}.png"), deep(top), RGB)
    code, (finding,) = doctor(freqkd)
    assert code == 3 and "4 images with more than 8 bits a channel" in finding["what"]
    assert finding["got"] == "16 bits a channel, values from 0 to 4000 in 4 of them"
    assert len(finding["files"]) == 4
    by_bits, by_percentile = tips(finding)
    assert by_bits == ["--set", "data.bits=12"]
    for tip in (by_bits, by_percentile):
        assert doctor(freqkd, *tip) == (0, []) == doctor(freqkd, *tip, "--all")
    code, (finding,) = doctor(freqkd, "--set", "data.bits=10")
    assert code == 3 and "data.bits=12" in finding["tip"]
    done = freqkd("distill", "folder.yaml", "--out", "a", "-q")
    assert done.code == 1 and "--set 'data.bits=12'" in done.err
    assert freqkd("distill", "folder.yaml", "--out", "b", "-q", *by_bits).code == 0
    Path("photos").mkdir()
    image(0).rename("photos/a.png")
    assert freqkd("predict", "b", "photos", "--out", "c", "-q").code == 0
    assert freqkd("predict", "b", "photos", "--out", "e", "-q", "--percentile", "2,98").code == 0
    done = freqkd("predict", "b", "photos", "--out", "f", "-q", "--percentile", "2")
    assert done.code == 2 and "2 numbers" in done.err
    Path("b/recipe.yaml").unlink()
    done = freqkd("predict", "b", "photos", "--out", "g", "-q")
    assert done.code == 1 and "--bits 8" in done.err and "--percentile 1,99" in done.err


@pytest.mark.parametrize("split", ["train", "unlabelled"])
def test_every_image_is_decoded_on_request(freqkd, split):
    if split == "unlabelled":
        shutil.rmtree("d/masks")
    path = image(2)
    path.write_bytes(path.read_bytes()[:3000])
    assert doctor(freqkd)[0] == 0
    code, (finding,) = doctor(freqkd, "--all")
    assert code == 3 and "p2" in finding["what"] and "restore the file" in finding["tip"]
    done = freqkd("data", "folder.yaml", "--split", "train", "--all")
    assert ("all decoded" if split == "unlabelled" else "decoded every image") in done.out


def test_a_band_that_is_not_alpha(freqkd):
    image(1).unlink()
    tiff(Path("d/images/train/p1.tif"), np.dstack([layouts.noise(1), layouts.noise(2)])[..., :4])
    code, (finding,) = doctor(freqkd)
    assert code == 3 and "fourth is not declared" in finding["got"]
    assert doctor(freqkd, *tips(finding)[0], "--all") == (0, [])


@pytest.mark.parametrize("labelled", [True, False])
def test_an_alpha_channel_that_holds_the_mask(freqkd, labelled):
    mask = layouts.labels(range(4), 1)
    for number in range(4):
        image(number).unlink()
        pixels = np.dstack([layouts.noise(number), mask])
        Image.fromarray(pixels).save(f"d/images/train/p{number}.png")
    if not labelled:
        shutil.rmtree("d/masks")
    code, (finding,) = doctor(freqkd)
    assert (code, finding["level"]) == (0, "warning")
    assert "alpha channel may hold the mask in 4 images" in finding["what"]
    assert "alpha values 0, 1, 2, 3" in finding["got"]
    command = shlex.split(finding["tip"])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    with Image.open("d/images/train_alpha/p2.png") as written:
        np.testing.assert_array_equal(np.asarray(written), mask)


def test_transparency_is_no_mask(freqkd):
    cut_out = np.where(layouts.labels(range(2), 1) > 0, 255, 0).astype(np.uint8)
    soft = layouts.noise(3)[..., 0]
    for number, alpha in enumerate((cut_out, soft, np.full_like(soft, 255), cut_out)):
        image(number).unlink()
        pixels = np.dstack([layouts.noise(number), alpha])
        Image.fromarray(pixels).save(f"d/images/train/p{number}.png")
    assert doctor(freqkd) == (0, [])


def test_other_data_sets_have_no_keys_for_deep_images(freqkd):
    recipe = Path("camvid.yaml")
    recipe.write_text(RECIPE.replace("folder", "camvid").replace("root: d", "root: c"))
    png16(Path("a.png"), deep(900), RGB)
    for folder in ("train", "trainannot"):
        Path("c", folder).mkdir(parents=True)
    Path("a.png").rename("c/train/a.png")
    Image.new("L", layouts.SIZE[::-1]).save("c/trainannot/a.png")
    done = freqkd("data", "camvid.yaml", "--split", "train", "--json")
    (finding,) = [f for f in json.loads(done.out)["splits"][0]["findings"] if f["level"] == "error"]
    assert "--set" not in finding["tip"] and "8 bits a channel" in finding["tip"]
