"""The label doctor on the command line: findings, exit codes, and settings that fix them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
from console import Result, console
from layouts import full_palette
from PIL import Image

from freqkd_cli.datasets import camvid
from freqkd_cli.datasets import folder as folder_data
from freqkd_cli.doctor import label_errors, label_warnings, survey
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.label_advice import Advice
from freqkd_cli.images.label_rules import label_rule
from freqkd_cli.images.pairs import Pair

RECIPE = """\
version: 1
data: {{name: {name}, size: [64, 64], workers: 0}}
student: {{name: fast_scnn, width: 0.25}}
losses: [{{name: cross_entropy}}]
train: {{steps: 2, batch_size: 2}}
"""
GOOD = [layouts.labels(range(3), number) for number in range(4)]


@pytest.fixture
def freqkd(tmp_path, monkeypatch, capfd):
    """Run the console entry in this process, in an empty folder with a recipe for each data set."""
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "camvid", "cityscapes", "ade20k", "voc", "scenes"):
        Path(f"{name}.yaml").write_text(RECIPE.format(name=name))
    return console(monkeypatch, capfd)


def doctor(freqkd, name: str, *more: str) -> tuple[int, list[dict]]:
    """Exit code of ``freqkd data`` on the train split, and its findings."""
    done = freqkd("data", f"{name}.yaml", "--data-root", "d", "--split", "train", "--json", *more)
    return done.code, json.loads(done.out)["splits"][0]["findings"]


def refused(done: Result, *parts: str) -> None:
    assert done.code == 1 and done.out == "", done
    assert (
        done.err.startswith("error: ")
        and done.err.count("error:") == 1
        and "Traceback" not in done.err
    ), done.err
    for part in parts:
        assert part in done.err, done.err


def suggested(tip: str, number: int = 0) -> list[str]:
    """Return the words of a ``--set`` that a message suggests."""
    return shlex.split(re.findall(r"--set (?:'[^']*'|\S+)", tip)[number])


def check_fixed(freqkd, name: str, finding: dict, number: int = 0) -> None:
    """Check that no finding is left with the suggested setting."""
    assert doctor(freqkd, name, *suggested(finding["tip"], number)) == (0, [])


def camvid_root(masks: list[np.ndarray], save=lambda path, mask: layouts.save(path, mask)) -> None:
    for number, mask in enumerate(masks):
        layouts.save(Path(f"d/train/p{number}.png"), layouts.noise(number, mask.shape[:2]))
        save(Path(f"d/trainannot/p{number}.png"), mask)


def street(sky: int, road: int, rest: list[int]) -> list[np.ndarray]:
    """Sky above, road below, the others scattered between."""
    masks = [layouts.labels(rest, number) for number in range(4)]
    for mask in masks:
        mask[1:20], mask[40:] = sky, road
    return masks


def test_correct_data_has_no_findings(freqkd):
    layouts.folder(Path("d"), GOOD)
    done = freqkd("data", "folder.yaml", "--data-root", "d", "--json")
    document = json.loads(done.out)
    train = document["splits"][0]
    assert (done.code, done.err, document["errors"], document["warnings"]) == (0, "", 0, 0)
    assert (
        train["masks_read"],
        train["sizes_compared"],
        train["void_pixels"],
        train["findings"],
    ) == (4, 4, 0, [])
    expected = np.bincount(np.concatenate([mask.ravel() for mask in GOOD]), minlength=3).tolist()
    assert [row["pixels"] for row in train["per_class"]] == expected and [
        row["masks"] for row in train["per_class"]
    ] == [4, 4, 4]
    assert document["splits"][2]["missing"].startswith("no split 'test' in d")
    table = freqkd("data", "folder.yaml", "--data-root", "d").out
    assert (
        "train: checked the pixels of 4 and the sizes of 4 of 4 label images" in table
        and "sky" in table
    )
    assert freqkd("data", "folder.yaml", "--data-root", "d", "--split", "test").code == 4
    assert freqkd("data", "scenes.yaml").code == 0


@pytest.mark.parametrize("command", ["distill", "dry", "eval", "teacher-dump"])
def test_bad_labels_stop_every_command_before_its_work(freqkd, command):
    layouts.folder(Path("d"), [*GOOD, np.full(layouts.SIZE, 7, np.uint8)])
    text = (
        Path("folder.yaml")
        .read_text()
        .replace("losses", "teacher: {name: segformer, weights: embedded}\nlosses")
        .replace("train:", "#train:")
    )
    Path("taught.yaml").write_text(
        text.replace("workers: 0", "workers: 0, views: 1").replace(
            "}]", "}, {name: feature, student: decoder, teacher: decoder}]"
        )
        + "train: {steps: 2, batch_size: 2}\n"
    )
    words = {
        "distill": ["distill", "folder.yaml", "--out", "a"],
        "dry": ["distill", "folder.yaml", "--out", "a", "--dry-run"],
        "eval": [
            "eval",
            "taught.yaml",
            "--teacher",
            "--set",
            "data.classes=[a, b, c, d, e, f, g, h, i, j, k, l]",
        ],
        "teacher-dump": ["teacher-dump", "taught.yaml", "--out", "a"],
    }[command]
    if command == "eval":
        layouts.save(Path("d/masks/val/p4.png"), np.full(layouts.SIZE, 77, np.uint8))
    done = freqkd(*words, "--data-root", "d")
    lines = done.err.splitlines()
    refused(
        Result(done.code, done.out, done.err[done.err.index("error: ") :]),
        "p4.png contains label values that belong to no class",
    )
    assert sum(line.startswith("labels of") for line in lines) <= 1 and not Path("a").exists()


def test_labels_of_val_are_checked_before_training(freqkd):
    layouts.folder(Path("d"), GOOD)
    layouts.save(Path("d/masks/val/p2.png"), np.full(layouts.SIZE, 9, np.uint8))
    refused(
        freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q"),
        "d/masks/val/p2.png",
        "got  9\n",
    )
    assert not Path("a").exists()


def test_several_problems_are_one_message(freqkd):
    layouts.folder(
        Path("d"),
        [*GOOD, np.full(layouts.SIZE, 9, np.uint8), layouts.noise(1)],
    )
    layouts.save(Path("d/masks/train/p0.png"), GOOD[0][:-1])
    done = freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q")
    refused(
        done,
        "the labels of train have 3 problems",
        "p0.png and its image p0.png differ in size",
        "p4.png contains label values",
        "p5.png is not a label",
    )
    assert all(line.startswith("  ") for line in done.err.splitlines()[1:])
    done = freqkd("data", "folder.yaml", "--data-root", "d", "--split", "train")
    assert (
        done.code == 3
        and done.err == "error: the labels of folder have 3 problems\n"
        and "error: d/masks/train/p0.png" in done.out
    )


def test_black_and_white_masks(freqkd):
    """Every value is allowed; only the whole split shows that 255 is the second class."""
    masks = [np.where(mask > 0, 255, 0).astype(np.uint8) for mask in GOOD]
    layouts.folder(Path("d"), masks, ("ground", "thing"))
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and "contain only the values 0 and 255" in finding["what"]
        and finding["got"] == "255 read as void, and no pixel of thing"
    )
    refused(
        freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q"),
        "--set 'data.label_map={255: 1}'",
    )
    check_fixed(freqkd, "folder", finding)
    assert finding["tip"].count("--set") == 1 and "list 255 in data.ignore" in finding["tip"]
    code, (absent,) = doctor(freqkd, "folder", "--set", "data.ignore=[255]")
    assert (code, absent["level"]) == (0, "warning") and "examined: thing" in absent["what"]
    data = folder_data.build(split="train", root=Path("d"), size=(32, 32), label_map={"255": 1})
    np.testing.assert_array_equal(data.read(0)[1], masks[0] // 255)
    layouts.save(Path("d/masks/train/p3.png"), np.ones(layouts.SIZE, np.uint8))
    assert doctor(freqkd, "folder") == (0, []), "one mask with the thing as 1 makes 255 void"


BINARY = {
    "voc": [(), ("data.labels=index",)],
    "ade20k": [(), ("data.zero_label=keep",)],
    "cityscapes": [(), ("data.labels=labelTrainIds",)],
    "camvid": [(), ("data.labels=void_first",), ("data.labels=32",)],
    "folder": [(), ("data.zero_label=void",)],
}


@pytest.mark.parametrize(
    ("name", "sets"), [(name, sets) for name, forms in BINARY.items() for sets in forms]
)
def test_black_and_white_masks_are_an_error_in_every_data_set(freqkd, name, sets):
    """Only one class would be learned; of all settings only a map makes two classes."""
    masks = [np.where(mask > 0, 255, 0).astype(np.uint8) for mask in GOOD]
    black_and_white(name, masks)
    words = [word for one in sets for word in ("--set", one)]
    code, (finding,) = doctor(freqkd, name, *words)
    assert (
        (code, finding["level"]) == (3, "error")
        and "void_first" not in finding["tip"]
        and "labelTrainIds" not in finding["tip"]
    )
    if name == "folder":
        code, (absent,) = doctor(freqkd, name, *words, *suggested(finding["tip"]))
        assert code == 0 and absent["what"].endswith("examined: sky")
        return
    assert (
        "for two classes use data.name: folder with data.classes: [OTHER, THING] "
        "and data.label_map: {255: 1}" in finding["tip"]
    )
    layouts.folder(Path("e"), masks, ())
    two = ("data.classes=[other, thing]", "data.label_map={255: 1}")
    done = freqkd(
        "data",
        "folder.yaml",
        "--data-root",
        "e",
        "--json",
        *(word for one in two for word in ("--set", one)),
    )
    assert done.code == 0 and [
        split.get("findings") for split in json.loads(done.out)["splits"]
    ] == [[], [], []]


def black_and_white(name: str, masks: list[np.ndarray]) -> None:
    """The layout of a data set, with these label images in it."""
    if name == "camvid":
        camvid_root(masks)
    elif name == "folder":
        layouts.folder(Path("d"), masks)
    elif name == "voc":
        layouts.voc(Path("d"), full_palette(), (0, 255))
    elif name == "ade20k":
        layouts.ade20k(Path("d"), (0, 255))
    else:
        for kind in ("labelIds", "labelTrainIds"):
            layouts.cityscapes(Path("d"), kind, (0, 255))


def test_void_beside_a_class_is_not_black_and_white(freqkd):
    layouts.voc(Path("d"), full_palette(), (0, 7, 255))
    code, (absent,) = doctor(freqkd, "voc")
    assert code == 0 and absent["what"] == (
        "19 classes without a pixel in the 3 label images examined: "
        "aeroplane, bicycle, bird, boat, bottle, bus, and 13 more"
    )
    layouts.cityscapes(Path("e"), "labelTrainIds", (0, 10, 255))
    done = freqkd(
        "data",
        "cityscapes.yaml",
        "--data-root",
        "e",
        "--split",
        "train",
        "--set",
        "data.labels=labelTrainIds",
    )
    assert done.code == 0 and "error" not in done.out


def test_no_class_covers_the_ground_if_all_is_void():
    """Under this rule no class has a pixel, so it is not suggested."""
    root = Path("nowhere")
    pair = Pair("a", root / "a.png", root / "b.png")
    rule = label_rule(range(2), [255], "")
    data = FileDataset(
        {}, [pair], ("road", "car"), np.zeros((2, 3), np.uint8), rule, Advice(ground=0)
    )
    result = survey.Survey(2)
    result.ground.update({255: 100})
    assert not label_warnings.covers_ground(data, result, rule)
    result.ground.update({0: 100, 1: 400})
    assert label_warnings.covers_ground(data, result, rule)
    result.ground.update({1: 1})
    assert not label_warnings.covers_ground(data, result, rule)


def test_one_mask_outside_the_sample_removes_the_doubt(freqkd, monkeypatch):
    monkeypatch.setattr(survey, "MASKS", 2)
    layouts.folder(
        Path("d"),
        [np.where(mask > 0, 255, 0).astype(np.uint8) for mask in GOOD],
        ("ground", "thing"),
    )
    layouts.save(Path("d/masks/train/p1.png"), np.ones(layouts.SIZE, np.uint8))
    code, (absent,) = doctor(freqkd, "folder")
    assert code == 0 and absent["what"] == (
        "1 class without a pixel in the 2 label images examined: thing"
    )
    assert "freqkd data RECIPE --all reads every label image" in absent["tip"]
    assert doctor(freqkd, "folder", "--all") == (0, [])
    monkeypatch.setattr(label_errors, "PROOF", 2)
    assert doctor(freqkd, "folder")[0] == 3


def test_a_zero_that_is_void(freqkd):
    layouts.folder(Path("d"), [mask + 1 for mask in GOOD[:2]] + [mask * 0 for mask in GOOD[2:]])
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and finding["got"] == "3"
        and suggested(finding["tip"]) == ["--set", "data.ignore=[3]"]
        and suggested(finding["tip"], 1) == ["--set", "data.zero_label=void"]
    ), "both fit, the one with fewer void pixels first"
    code, (void,) = doctor(freqkd, "folder", *suggested(finding["tip"], 1))
    assert (code, void["level"]) == (0, "warning") and void["files"] == [
        "d/masks/train/p2.png",
        "d/masks/train/p3.png",
    ]
    assert void["tip"] == "ignore this if intended: they add nothing to label losses and scores"
    data = folder_data.build(split="train", root=Path("d"), size=(32, 32), zero_label="void")
    np.testing.assert_array_equal(data.read(0)[1], GOOD[0])
    assert (data.read(2)[1] == 255).all()


def test_a_zero_that_was_reduced_before(freqkd):
    reduced = [
        np.where(mask == 0, 255, mask - 1).astype(np.uint8)
        for mask in (layouts.labels(range(4), n) for n in range(4))
    ]
    layouts.folder(Path("d"), reduced)
    assert doctor(freqkd, "folder") == (0, [])
    code, (finding,) = doctor(freqkd, "folder", "--set", "data.zero_label=void")
    assert (
        code == 3
        and "subtracted already" in finding["what"]
        and "no pixel of sky" in finding["got"]
    )
    check_fixed(freqkd, "folder", finding)
    layouts.ade20k(Path("e"), (*range(150), 255))
    done = freqkd("data", "ade20k.yaml", "--data-root", "e", "--split", "train", "--json")
    (finding,) = json.loads(done.out)["splits"][0]["findings"]
    assert (
        done.code == 3
        and finding["got"] == "255 in 182 of 30,720 pixels"
        and suggested(finding["tip"]) == ["--set", "data.zero_label=keep"]
    )
    layouts.ade20k(Path("f"))
    assert freqkd("data", "ade20k.yaml", "--data-root", "f").code == 0
    assert (
        freqkd("data", "ade20k.yaml", "--data-root", "f", "--set", "data.zero_label=keep").code == 3
    )


@pytest.mark.parametrize(
    ("values", "way"),
    [
        ((0, 127, 255), "data.label_map={127: 1, 255: 2}"),
        ((0, 100, 200, 255), "data.label_map={100: 1, 200: 2}"),
        ((0, 1, 2, 9, 17), "data.ignore=[9, 17]"),
    ],
)
def test_other_grey_values_are_mapped(freqkd, values, way):
    masks = [layouts.labels(values, number) for number in range(3)]
    layouts.folder(Path("d"), masks)
    code, (finding,) = doctor(freqkd, "folder")
    assert code == 3 and suggested(finding["tip"]) == ["--set", way]
    check_fixed(freqkd, "folder", finding)


def test_grey_masks_of_two_bits_are_what_pillow_makes_of_them(freqkd):
    """Pillow spreads greys of two bits over 0 .. 255; the doctor suggests the map back."""
    indices = layouts.labels(range(3), 0, (8, 8))
    layouts.folder(Path("d"), [indices])
    packed = (
        (indices.reshape(8, 2, 4).astype(int) << np.array([6, 4, 2, 0])).sum(2).astype(np.uint8)
    )
    write_png(Path("d/masks/train/p0.png"), packed, width=8, bits=2)
    with Image.open("d/masks/train/p0.png") as pil_image:
        np.testing.assert_array_equal(np.array(pil_image), indices * 85)
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and finding["got"] == "85, 170"
        and suggested(finding["tip"])[1] == "data.label_map={85: 1, 170: 2}"
    )
    check_fixed(freqkd, "folder", finding)


def write_png(path: Path, rows: np.ndarray, width: int, bits: int) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "palette",
    [
        [255, 255, 255, 0, 0, 0, 9, 9, 9, 80, 0, 80],
        [0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255],
    ],
)
def test_palettes_of_four_colors_are_read_by_index(freqkd, palette):
    """A grey palette included: the grey it shows is not the class."""
    expected = layouts.labels(range(4), 0)
    layouts.folder(Path("d"), [expected], ("a", "b", "c", "e"))
    layouts.save(Path("d/masks/train/p0.png"), expected, palette, bits=2)
    header = Path("d/masks/train/p0.png").read_bytes()[16:29]
    assert header[8:10] == b"\x02\x03", "two bits, palette"
    with Image.open("d/masks/train/p0.png") as pil_image:
        np.testing.assert_array_equal(np.array(pil_image), expected)
    assert doctor(freqkd, "folder") == (0, [])
    np.testing.assert_array_equal(
        folder_data.build(split="train", root=Path("d"), size=(32, 32)).read(0)[1], expected
    )


def test_colors_are_mapped(freqkd):
    colors = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)
    layouts.folder(Path("d"), [colors[mask] for mask in GOOD])
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and "contain RGB colors" in finding["what"]
        and '"#00008e": ID' in finding["tip"]
        and len(finding["files"]) == 4
    )
    done = 'data.label_map={"#804080": 0, "#00008e": 1, "#4682B4": 2}'
    assert doctor(freqkd, "folder", "--set", done) == (0, [])
    label_map = {"#804080": 0, "#00008e": 1, "#4682b4": 2}
    data = folder_data.build(split="train", root=Path("d"), size=(32, 32), label_map=label_map)
    for index, mask in enumerate(GOOD):
        np.testing.assert_array_equal(data.read(index)[1], mask)
    code, (finding,) = doctor(
        freqkd, "folder", "--set", 'data.label_map={"#804080": 0, "#00008e": 1}'
    )
    assert code == 3 and finding["got"] == "#4682b4" and '"#4682b4": ID' in finding["tip"]


@pytest.mark.parametrize("channels", ["RGB", "RGBA", "LA"])
def test_equal_channels_are_grey_values(freqkd, channels):
    layouts.folder(Path("d"), GOOD)
    for number, mask in enumerate(GOOD):
        pil_image = Image.fromarray(mask).convert(channels)
        pil_image.save(f"d/masks/train/p{number}.png")
    assert doctor(freqkd, "folder") == (0, [])
    data = folder_data.build(split="train", root=Path("d"), size=(32, 32))
    for index, mask in enumerate(GOOD):
        np.testing.assert_array_equal(data.read(index)[1], mask)


def test_palettes_that_differ_between_files_are_a_warning(freqkd):
    """Index 1 is red in one file and blue in another, as some tools write them."""
    masks = [np.where(mask == 2, 0, mask).astype(np.uint8) for mask in GOOD[:2]]
    layouts.folder(Path("d"), masks, ("ground", "thing"))
    for number, palette in enumerate(([255, 0, 0, 0, 0, 255], [0, 0, 255, 255, 0, 0])):
        layouts.save(Path(f"d/masks/train/p{number}.png"), masks[number], palette)
    code, (finding,) = doctor(freqkd, "folder")
    assert (code, finding["level"]) == (0, "warning")
    assert "have different palettes" in finding["what"]
    assert '"#ff0000": ID' in finding["tip"] and '"#0000ff": ID' in finding["tip"]
    assert doctor(freqkd, "folder", "--set", 'data.label_map={"#ff0000": 0, "#0000ff": 1}') == (
        0,
        [],
    )


@pytest.mark.parametrize(
    ("mask", "tip"), [(GOOD[0].T, "EXIF"), (GOOD[0][::2, ::2], "nearest neighbour")]
)
def test_sizes_are_compared_beyond_the_sample(freqkd, monkeypatch, mask, tip):
    monkeypatch.setattr(survey, "MASKS", 1)
    layouts.folder(Path("d"), GOOD)
    layouts.save(Path("d/masks/train/p2.png"), mask)
    code, (finding,) = doctor(freqkd, "folder")
    assert code == 3 and finding["files"] == ["d/masks/train/p2.png"] and tip in finding["tip"]
    assert (finding["got"].split()[0], finding["need"]) == ("x".join(map(str, mask.shape)), "64x96")


def test_all_void_is_a_warning_and_trains_with_loss_zero(freqkd):
    layouts.folder(Path("d"), [np.full(layouts.SIZE, 255, np.uint8)] * 4)
    done = freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q")
    assert (
        done.code == 0
        and done.err.count("warning: 4 label images of 4 have no pixel of any class") == 2
    )
    assert done.err.count("label losses and scores have no pixel to use") == 2
    rows = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["total"] == 0.0


def test_the_forms_of_camvid(freqkd):
    eleven = street(0, 3, [*range(12)])
    camvid_root(eleven)
    assert doctor(freqkd, "camvid") == (0, [])
    camvid_root([np.where(mask == 11, 0, mask + 1).astype(np.uint8) for mask in eleven])
    code, (finding,) = doctor(freqkd, "camvid")
    assert (code, finding["level"], finding["got"]) == (
        0,
        "warning",
        "pavement",
    ) and "at the bottom of the images are not road" in finding["what"]
    assert suggested(finding["tip"]) == ["--set", "data.labels=void_first"]
    check_fixed(freqkd, "camvid", finding)
    done = freqkd("distill", "camvid.yaml", "--out", "a", "--data-root", "d", "-q")
    assert (
        done.code == 0
        and "\nwarning: most pixels at the bottom of the images are not road" in done.err
        and "--set 'data.labels=void_first'" in done.err
    )


def test_the_original_classes_of_camvid(freqkd):
    ids = street(21, 17, [*range(32)])
    to_eleven = np.array([number for _, _, number in camvid.ORIGINAL], np.uint8)
    camvid_root(ids)
    code, (finding,) = doctor(freqkd, "camvid")
    assert (
        code == 3
        and finding["got"].startswith("12, 13, 14")
        and suggested(finding["tip"]) == ["--set", "data.labels=32"]
    )
    check_fixed(freqkd, "camvid", finding)
    expected = camvid.build(split="train", root=Path("d"), size=(32, 32), labels=32).read(1)[1]
    np.testing.assert_array_equal(expected, to_eleven[ids[1]])
    colors = np.array([[c >> 16, c >> 8 & 255, c & 255] for _, c, _ in camvid.ORIGINAL], np.uint8)
    camvid_root([colors[mask] for mask in ids])
    code, (finding,) = doctor(freqkd, "camvid")
    assert code == 3 and suggested(finding["tip"]) == ["--set", "data.labels=colors"]
    check_fixed(freqkd, "camvid", finding)
    np.testing.assert_array_equal(
        camvid.build(split="train", root=Path("d"), size=(32, 32), labels="colors").read(1)[1],
        expected,
    )


def test_train_ids_and_ids_of_cityscapes(freqkd):
    layouts.cityscapes(Path("d"), "labelIds", (*range(19), 255))
    code, findings = doctor(freqkd, "cityscapes")
    assert (
        code == 3
        and findings[0]["got"] == "255"
        and "--set 'data.labels=labelTrainIds'" in findings[0]["tip"]
    )
    layouts.cityscapes(Path("e"), "labelTrainIds")
    done = freqkd(
        "data",
        "cityscapes.yaml",
        "--data-root",
        "e",
        "--split",
        "val",
        "--set",
        "data.labels=labelTrainIds",
    )
    assert (
        done.code == 3
        and "try  --set 'data.labels=labelIds' if the files hold the 34 published ids" in done.out
    )


def test_files_that_cannot_be_read_are_named(freqkd):
    layouts.folder(Path("d"), GOOD)
    for name in ("p1", "p3"):
        path = Path(f"d/masks/train/{name}.png")
        path.write_bytes(path.read_bytes()[:60])
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and finding["what"] == "cannot read d/masks/train/p1.png"
        and "1 more file" in finding["got"]
    )


def test_an_image_of_sixteen_bits_is_refused_before_training(freqkd):
    layouts.folder(Path("d"), GOOD)
    layouts.save(Path("d/images/train/p2.png"), np.zeros(layouts.SIZE, np.uint16))
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and finding["what"] == "1 image with more than 8 bits a channel: d/images/train/p2.png"
        and finding["got"] == "16 bits a channel, values from 0 to 0"
    )
    refused(
        freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q"),
        "p2.png",
        "need 8 bits a channel, or the range of the values",
        "--set 'data.bits=8'",
    )


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc", "camvid", "folder"])
def test_a_missing_label_image_is_a_finding_of_its_split(freqkd, name, split):
    """The table of the other split is still shown."""
    if name == "camvid":
        camvid_root([np.full(layouts.SIZE, 3, np.uint8)] * 2)
        shutil.copytree("d/train", "d/val")
        shutil.copytree("d/trainannot", "d/valannot")
    elif name == "voc":
        layouts.voc(Path("d"), full_palette())
    else:
        layouts.folder(Path("d"), GOOD) if name == "folder" else getattr(layouts, name)(Path("d"))
    ade20k = "training/ADE_train" if split == "train" else "validation/ADE_valid"
    removed = {
        "cityscapes": f"d/gtFine/{split}/ulm/ulm_000000_000019_gtFine_labelIds.png",
        "ade20k": f"d/annotations/{ade20k}_00000001.png",
        "voc": f"d/SegmentationClass/2007_00000{1 if split == 'train' else 4}.png",
        "camvid": f"d/{split}annot/p1.png",
        "folder": f"d/masks/{split}/p1.png",
    }[name]
    Path(removed).unlink()
    done = freqkd("data", f"{name}.yaml", "--data-root", "d", "--json")
    document = json.loads(done.out)
    assert (done.code, document["errors"]) == (
        3,
        1,
    ) and done.err == f"error: the labels of {name} have 1 problem\n"
    splits = {one["split"]: one for one in document["splits"]}
    (finding,) = splits[split]["findings"]
    assert finding["level"] == "error" and Path(removed).stem in finding["got"] and finding["need"]
    assert "per_class" in splits["val" if split == "train" else "train"]
    done = freqkd("data", f"{name}.yaml", "--data-root", "d")
    assert (
        done.code == 3
        and f"{split}: nothing was checked, the files cannot be paired\n\nerror: 1 " in done.out
    )


def test_class_names_that_cannot_be_read_are_one_message(freqkd):
    layouts.folder(Path("d"), GOOD)
    Path("d/classes.json").write_text("{")
    refused(
        freqkd("data", "folder.yaml", "--data-root", "d"),
        "cannot read class names from d/classes.json",
    )


def test_a_value_outside_the_sample_is_reported_with_the_same_message(freqkd, monkeypatch):
    monkeypatch.setattr(survey, "MASKS", 2)
    layouts.folder(Path("d"), [*GOOD[:2], GOOD[2] + 1, GOOD[3]])
    assert doctor(freqkd, "folder") == (0, [])
    assert doctor(freqkd, "folder", "--all")[0] == 3
    done = freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q")
    refused(
        done,
        "d/masks/train/p2.png contains label values that belong to no class",
        "got  3\n",
        "--set 'data.zero_label=void' if 0 is void and the classes count from 1",
    )
    assert not Path("a/summary.json").exists()


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        ("{255: 3}", "uses ids that are no classes"),
        ('{"#000000": 0, 255: 1}', "mixes values and colors"),
        ('{"#0000aa": 0, "#0000AA": 1}', "lists a value twice"),
        ("{65536: 1}", "a range such as"),
        ("{9-3: 1}", "a range such as"),
        ("{3-9: 1, 5: 2}", "lists a value twice"),
        ("{7: -1}", "data.label_map"),
        ("{red: 1}", "data.label_map"),
    ],
)
def test_contradictory_maps_are_refused(freqkd, done, problem):
    layouts.folder(Path("d"), GOOD)
    done = freqkd("data", "folder.yaml", "--data-root", "d", "--set", f"data.label_map={done}")
    assert done.code == 2 and done.err.startswith("error: ") and problem in done.err
    done = freqkd(
        "data",
        "folder.yaml",
        "--data-root",
        "d",
        "--set",
        "data.label_map={9: 1}",
        "--set",
        "data.ignore=[9]",
    )
    assert done.code == 2 and "lists values that data.ignore drops" in done.err


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc"])
def test_two_steps_on_each_data_set(freqkd, name):
    if name == "voc":
        layouts.voc(Path("d"), full_palette())
    else:
        getattr(layouts, name)(Path("d"))
    done = freqkd("distill", f"{name}.yaml", "--out", "a", "--data-root", "d", "--json")
    assert (
        done.code == 0
        and "labels of train: checked the pixels of 3 and the sizes of 3 of 3 label images\n"
        in done.err
    )
    summary = json.loads(done.out)
    assert summary["steps"] == 2 and 0 <= summary["miou"] <= 1
    scored = freqkd("eval", "a", "--data-root", "d", "--json", "-q")
    assert (
        scored.code == 0
        and len(json.loads(scored.out)["per_class"])
        == {"cityscapes": 19, "ade20k": 150, "voc": 21}[name]
    )
    Path("nothing").mkdir()
    assert freqkd("distill", f"{name}.yaml", "--out", "b", "--data-root", "nothing").code == 4


@pytest.mark.parametrize(
    "recipe", ["cityscapes_segformer", "cityscapes_fastscnn_ce", "cityscapes_fastscnn_basic"]
)
def test_the_recipes_of_cityscapes_start_on_its_layout(freqkd, recipe):
    layouts.cityscapes(Path("d"))
    sets = {
        "cityscapes_segformer": ["student.weights=null", "student.head=keep"],
        "cityscapes_fastscnn_basic": ["teacher.weights=null", "losses.kl.weight=0"],
    }.get(recipe, [])
    words = [word for one in sets for word in ("--set", one)]
    done = freqkd(
        "distill",
        recipe,
        "--out",
        "a",
        "--data-root",
        "d",
        "--dry-run",
        "--json",
        *words,
        "--set",
        "train.batch_size=3",
        "--set",
        "data.size=[256, 512]",
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 40000


def test_a_missing_val_split_is_reported_and_one_without_labels_is_refused(freqkd):
    layouts.cityscapes(Path("d"), splits=("train",))
    done = freqkd("distill", "cityscapes.yaml", "--out", "a", "--data-root", "d", "--json")
    assert (
        done.code == 0
        and "nothing will be scored: no split 'val' of cityscapes in d" in done.err
        and json.loads(done.out)["miou"] is None
    )
    layouts.cityscapes(Path("d"), "labelTrainIds", (*range(19), 255), splits=("val",))
    done = freqkd("distill", "cityscapes.yaml", "--out", "b", "--data-root", "d")
    refused(
        done,
        "3 of 3 images in d/leftImg8bit/val have no label image",
        "try  --set data.labels=labelTrainIds\n",
    )


def test_views_that_show_little_of_an_image_are_a_warning(freqkd):
    layouts.folder(Path("d"), [layouts.labels(range(3), 0, (600, 800))] * 2)
    code, (finding,) = doctor(freqkd, "folder")
    assert (code, finding["level"]) == (0, "warning") and "at most 0.9 %" in finding["got"]
    assert "data.augment.scale, for example [0.11, 0.21]" in finding["tip"]
    assert doctor(freqkd, "folder", "--set", "data.augment.scale=[0.11, 0.21]") == (0, [])


@pytest.mark.parametrize("command", ["check", "data", "distill", "dry"])
def test_one_class_stops_every_command(freqkd, command):
    """Otherwise every pixel is this class, and the score is 100 at once."""
    masks = [np.where(mask > 0, 255, 0).astype(np.uint8) for mask in GOOD]
    layouts.folder(Path("d"), masks, ("polyp",))
    words = {
        "check": ["recipe", "check", "folder.yaml", "--set", "data.root=d"],
        "data": ["data", "folder.yaml", "--data-root", "d"],
        "distill": ["distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q"],
        "dry": ["distill", "folder.yaml", "--out", "a", "--data-root", "d", "--dry-run", "-q"],
    }[command]
    done = freqkd(*words)
    assert done.code == 2 and "need at least two classes: background and polyp" in done.err
    keys = "--set 'data.classes=[background, polyp]' --set 'data.label_map={255: 1}'"
    assert keys in done.err
    assert freqkd(*words, *shlex.split(keys)).code == 0
    done = freqkd("recipe", "check", "folder.yaml", "--set", "data.classes=[polyp]")
    assert done.code == 2 and """'data.classes=["background", "polyp"]'""" in done.err


def test_absent_classes_are_named_by_distill_and_eval(freqkd):
    layouts.folder(Path("d"), [np.where(mask == 2, 0, mask).astype(np.uint8) for mask in GOOD])
    done = freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q")
    text = "warning: 1 class without a pixel in the 4 label images"
    assert done.code == 0 and done.err.count(f"{text} examined: sky;") == 1
    done = freqkd("eval", "a", "--data-root", "d", "-q")
    assert done.code == 0 and f"{text} of val: sky\n" in done.err


@pytest.mark.parametrize(
    ("setting", "need"),
    [
        ("train.save_every=10minutes", "a time such as 90s, 10min or 2h"),
        ("losses.0.id=2nd", "letters, digits, _ and -, not a digit first"),
        ("data.ignore=[a]", "a whole number"),
        ("data.scale=0", "more than 0"),
    ],
)
def test_wrong_values_are_described_in_words(freqkd, setting, need):
    done = freqkd("recipe", "check", "folder.yaml", "--set", setting)
    assert done.code == 2 and need in done.err and "^" not in done.err, done.err


@pytest.mark.parametrize("white", [1, 255])
def test_masks_of_one_bit_beside_others_with_void(freqkd, white):
    masks = [layouts.labels(range(2), number) for number in range(4)]
    layouts.folder(Path("d"), masks, ["road", "car"])
    files = [Path(f"d/masks/train/p{number}.png") for number in range(4)]
    for path in files[:2]:
        Image.fromarray(masks[0] == 1).save(path)
    assert doctor(freqkd, "folder") == (0, [])
    masks[3][:5] = 255
    Image.fromarray(masks[3]).save(files[3])
    code, (finding,) = doctor(freqkd, "folder")
    assert (code, finding["level"]) == (3, "error") and "2 of 4 masks" in finding["got"]
    assert finding["what"].startswith("2 label images have 1 bit, so their 1 may mean 255")
    assert [Path(name).name for name in finding["files"]] == ["p0.png", "p1.png"]
    for path in files[:2]:
        grey = Image.open(path).convert("L")
        (grey if white == 255 else grey.point(lambda value: value // 255)).save(path)
        np.testing.assert_array_equal(np.array(Image.open(path)), (masks[0] == 1) * white)
    assert doctor(freqkd, "folder") == (0, [])
    for path in files:
        Image.fromarray(masks[0] == 1).save(path)
    assert doctor(freqkd, "folder") == (0, [])
