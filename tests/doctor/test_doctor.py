"""The label doctor through the command line: each finding once, one message, the right exit code, and the setting it names mends it."""

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
from freqkd_cli.doctor import label_findings, survey
from freqkd_cli.images.decode import FileDataset
from freqkd_cli.images.label_values import Advice, label_rule
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
    said = freqkd("data", f"{name}.yaml", "--data-root", "d", "--split", "train", "--json", *more)
    return said.code, json.loads(said.out)["splits"][0]["findings"]


def refused(said: Result, *parts: str) -> None:
    assert said.code == 1 and said.out == "", said
    assert (
        said.err.startswith("error: ")
        and said.err.count("error:") == 1
        and "Traceback" not in said.err
    ), said.err
    for part in parts:
        assert part in said.err, said.err


def offered(tip: str, number: int = 0) -> list[str]:
    """The words of a ``--set`` that a message offers."""
    return shlex.split(re.findall(r"--set (?:'[^']*'|\S+)", tip)[number])


def mended(freqkd, name: str, finding: dict, number: int = 0) -> None:
    """What the finding offers leaves nothing to say."""
    assert doctor(freqkd, name, *offered(finding["tip"], number)) == (0, [])


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


def test_good_data_is_left_alone(freqkd):
    layouts.folder(Path("d"), GOOD)
    said = freqkd("data", "folder.yaml", "--data-root", "d", "--json")
    document = json.loads(said.out)
    train = document["splits"][0]
    assert (said.code, said.err, document["errors"], document["warnings"]) == (0, "", 0, 0)
    assert (
        train["masks_read"],
        train["sizes_compared"],
        train["void_pixels"],
        train["findings"],
    ) == (4, 4, 0, [])
    wanted = np.bincount(np.concatenate([mask.ravel() for mask in GOOD]), minlength=3).tolist()
    assert [row["pixels"] for row in train["per_class"]] == wanted and [
        row["masks"] for row in train["per_class"]
    ] == [4, 4, 4]
    assert document["splits"][2]["missing"].startswith("no split 'test' in d")
    table = freqkd("data", "folder.yaml", "--data-root", "d").out
    assert "train: the pixels of 4 and the sizes of 4 of 4 label images" in table and "sky" in table
    assert freqkd("data", "folder.yaml", "--data-root", "d", "--split", "test").code == 4
    assert freqkd("data", "scenes.yaml").code == 0


@pytest.mark.parametrize("command", ["distill", "dry", "eval", "teacher-dump"])
def test_bad_labels_end_every_command_before_its_work(freqkd, command):
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
    said = freqkd(*words, "--data-root", "d")
    lines = said.err.splitlines()
    refused(
        Result(said.code, said.out, said.err[said.err.index("error: ") :]),
        "p4.png holds label values outside the classes",
    )
    assert sum(line.startswith("labels of") for line in lines) <= 1 and not Path("a").exists()


def test_labels_of_val_are_looked_at_before_training(freqkd):
    layouts.folder(Path("d"), GOOD)
    layouts.save(Path("d/masks/val/p2.png"), np.full(layouts.SIZE, 9, np.uint8))
    refused(
        freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q"),
        "d/masks/val/p2.png",
        "got  9\n",
    )
    assert not Path("a").exists()


def test_several_faults_are_one_message(freqkd):
    layouts.folder(
        Path("d"),
        [*GOOD, np.full(layouts.SIZE, 9, np.uint8), np.zeros((*layouts.SIZE, 3), np.uint8)],
    )
    layouts.save(Path("d/masks/train/p0.png"), GOOD[0][:-1])
    said = freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q")
    refused(
        said,
        "3 things are wrong with the labels of train",
        "p0.png does not fit",
        "p4.png holds label values",
        "p5.png is not a label",
    )
    assert all(line.startswith("  ") for line in said.err.splitlines()[1:])
    said = freqkd("data", "folder.yaml", "--data-root", "d", "--split", "train")
    assert (
        said.code == 3
        and said.err == "error: 3 things are wrong with the labels of folder\n"
        and "error: d/masks/train/p0.png" in said.out
    )


def test_black_and_white_masks(freqkd):
    """Every value is allowed, so nothing but the whole split shows that the thing was written as 255."""
    masks = [np.where(mask > 0, 255, 0).astype(np.uint8) for mask in GOOD]
    layouts.folder(Path("d"), masks, ("ground", "thing"))
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and "hold 0 and 255 and nothing else" in finding["what"]
        and finding["got"] == "no pixel of thing"
    )
    refused(
        freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q"),
        "--set 'data.label_map={255: 1}'",
    )
    for number in range(2):
        mended(freqkd, "folder", finding, number)
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
    """Nothing but one class would be learnt, and no setting that reads 0 and 255 makes two classes of them but a map."""
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
        mended(freqkd, name, finding)
        assert doctor(freqkd, name, *words, *offered(finding["tip"])) == (0, [])
        return
    assert (
        "where two classes are meant, data.name: folder with data.classes: [OTHER, THING] and data.label_map: {255: 1}"
        in finding["tip"]
    )
    layouts.folder(Path("e"), masks, ())
    two = ("data.classes=[other, thing]", "data.label_map={255: 1}")
    said = freqkd(
        "data",
        "folder.yaml",
        "--data-root",
        "e",
        "--json",
        *(word for one in two for word in ("--set", one)),
    )
    assert said.code == 0 and [
        split.get("findings") for split in json.loads(said.out)["splits"]
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
    assert doctor(freqkd, "voc") == (0, [])
    layouts.cityscapes(Path("e"), "labelTrainIds", (0, 10, 255))
    said = freqkd(
        "data",
        "cityscapes.yaml",
        "--data-root",
        "e",
        "--split",
        "train",
        "--set",
        "data.labels=labelTrainIds",
    )
    assert said.code == 0 and "error" not in said.out


def test_nothing_covers_the_ground_where_all_is_void():
    """No class has a pixel under the rule that was offered, so it is no way out."""
    root = Path("nowhere")
    pair = Pair("a", root / "a.png", root / "b.png")
    rule = label_rule(range(2), [255], "")
    data = FileDataset(
        {}, [pair], ("road", "car"), np.zeros((2, 3), np.uint8), rule, Advice(ground=0)
    )
    seen = survey.Survey(2)
    seen.ground.update({255: 100})
    assert not label_findings._covers(data, seen, rule)
    seen.ground.update({0: 100, 1: 400})
    assert label_findings._covers(data, seen, rule)
    seen.ground.update({1: 1})
    assert not label_findings._covers(data, seen, rule)


def test_one_mask_outside_the_sample_clears_255(freqkd, monkeypatch):
    monkeypatch.setattr(survey, "MASKS", 2)
    layouts.folder(
        Path("d"),
        [np.where(mask > 0, 255, 0).astype(np.uint8) for mask in GOOD],
        ("ground", "thing"),
    )
    layouts.save(Path("d/masks/train/p1.png"), np.ones(layouts.SIZE, np.uint8))
    assert doctor(freqkd, "folder") == (0, [])
    monkeypatch.setattr(label_findings, "PROOF", 2)
    assert doctor(freqkd, "folder")[0] == 3


def test_a_zero_that_is_void(freqkd):
    layouts.folder(Path("d"), [mask + 1 for mask in GOOD[:2]] + [mask * 0 for mask in GOOD[2:]])
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and finding["got"] == "3"
        and offered(finding["tip"]) == ["--set", "data.zero_label=void"]
    )
    code, (void,) = doctor(freqkd, "folder", *offered(finding["tip"]))
    assert (code, void["level"]) == (0, "warning") and void["files"] == [
        "d/masks/train/p2.png",
        "d/masks/train/p3.png",
    ]
    assert (
        void["tip"]
        == "leave them so where that is meant: they add nothing to label losses and scores"
    )
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
    assert code == 3 and "reduced before" in finding["what"] and finding["got"] == "no pixel of sky"
    mended(freqkd, "folder", finding)
    layouts.ade20k(Path("e"), (*range(150), 255))
    said = freqkd("data", "ade20k.yaml", "--data-root", "e", "--split", "train", "--json")
    (finding,) = json.loads(said.out)["splits"][0]["findings"]
    assert (
        said.code == 3
        and finding["got"] == "255"
        and offered(finding["tip"]) == ["--set", "data.zero_label=keep"]
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
    assert code == 3 and offered(finding["tip"]) == ["--set", way]
    mended(freqkd, "folder", finding)


def test_grey_masks_of_two_bits_are_what_pillow_makes_of_them(freqkd):
    """PNG may store greys in two bits; Pillow spreads them over 0 .. 255, and the doctor finds the way back."""
    indices = layouts.labels(range(3), 0, (8, 8))
    layouts.folder(Path("d"), [indices])
    packed = (
        (indices.reshape(8, 2, 4).astype(int) << np.array([6, 4, 2, 0])).sum(2).astype(np.uint8)
    )
    write_png(Path("d/masks/train/p0.png"), packed, width=8, bits=2)
    with Image.open("d/masks/train/p0.png") as picture:
        np.testing.assert_array_equal(np.array(picture), indices * 85)
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and finding["got"] == "85, 170"
        and offered(finding["tip"])[1] == "data.label_map={85: 1, 170: 2}"
    )
    mended(freqkd, "folder", finding)


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
def test_palettes_of_four_colours_are_read_by_index(freqkd, palette):
    """A grey palette included: the grey it shows is not the class."""
    wanted = layouts.labels(range(4), 0)
    layouts.folder(Path("d"), [wanted], ("a", "b", "c", "e"))
    layouts.save(Path("d/masks/train/p0.png"), wanted, palette, bits=2)
    header = Path("d/masks/train/p0.png").read_bytes()[16:29]
    assert header[8:10] == b"\x02\x03", "two bits, palette"
    with Image.open("d/masks/train/p0.png") as picture:
        np.testing.assert_array_equal(np.array(picture), wanted)
    assert doctor(freqkd, "folder") == (0, [])
    np.testing.assert_array_equal(
        folder_data.build(split="train", root=Path("d"), size=(32, 32)).read(0)[1], wanted
    )


def test_colours_are_mapped(freqkd):
    colours = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)
    layouts.folder(Path("d"), [colours[mask] for mask in GOOD])
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and "hold colours" in finding["what"]
        and '"#00008e": ID' in finding["tip"]
        and len(finding["files"]) == 4
    )
    said = 'data.label_map={"#804080": 0, "#00008e": 1, "#4682B4": 2}'
    assert doctor(freqkd, "folder", "--set", said) == (0, [])
    label_map = {"#804080": 0, "#00008e": 1, "#4682b4": 2}
    data = folder_data.build(split="train", root=Path("d"), size=(32, 32), label_map=label_map)
    for index, mask in enumerate(GOOD):
        np.testing.assert_array_equal(data.read(index)[1], mask)
    code, (finding,) = doctor(
        freqkd, "folder", "--set", 'data.label_map={"#804080": 0, "#00008e": 1}'
    )
    assert code == 3 and finding["got"] == "#4682b4" and '"#4682b4": ID' in finding["tip"]
    layouts.folder(Path("d"), [np.dstack([mask] * 3) for mask in GOOD])
    code, (finding,) = doctor(freqkd, "folder")
    assert code == 3 and '{"#000000": 0, "#010101": 1, "#020202": 2}' in finding["tip"]
    mended(freqkd, "folder", finding)


def test_palettes_that_each_mask_has_for_itself_are_a_warning(freqkd):
    """What a tool writes that turns colours into the fewest indices: index 1 is red here and blue there."""
    masks = [np.where(mask == 2, 0, mask).astype(np.uint8) for mask in GOOD[:2]]
    layouts.folder(Path("d"), masks)
    for number, palette in enumerate(([255, 0, 0, 0, 0, 255], [0, 0, 255, 255, 0, 0])):
        layouts.save(Path(f"d/masks/train/p{number}.png"), masks[number], palette)
    code, (finding,) = doctor(freqkd, "folder")
    assert (code, finding["level"]) == (
        0,
        "warning",
    ) and "one colour two palette indices" in finding["what"]
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
    assert (finding["got"], finding["need"]) == ("x".join(map(str, mask.shape)), "64x96")


def test_all_void_is_a_warning_and_trains_with_loss_zero(freqkd):
    layouts.folder(Path("d"), [np.full(layouts.SIZE, 255, np.uint8)] * 4)
    said = freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q")
    assert (
        said.code == 0 and said.err.count("warning: 4 label images have no pixel of any class") == 2
    )
    assert (
        said.err.count(
            "try another look at what their values stand for: no label loss and no score has a pixel to go by"
        )
        == 2
    )
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
    ) and "road is not what lies at the bottom" in finding["what"]
    assert offered(finding["tip"]) == ["--set", "data.labels=void_first"]
    mended(freqkd, "camvid", finding)
    said = freqkd("distill", "camvid.yaml", "--out", "a", "--data-root", "d", "-q")
    assert (
        said.code == 0
        and "\nwarning: road is not" in said.err
        and "--set data.labels=void_first" in said.err
    )


def test_the_original_classes_of_camvid(freqkd):
    ids = street(21, 17, [*range(32)])
    to_eleven = np.array([number for _, _, number in camvid.ORIGINAL], np.uint8)
    camvid_root(ids)
    code, (finding,) = doctor(freqkd, "camvid")
    assert (
        code == 3
        and finding["got"].startswith("12, 13, 14")
        and offered(finding["tip"]) == ["--set", "data.labels=32"]
    )
    mended(freqkd, "camvid", finding)
    wanted = camvid.build(split="train", root=Path("d"), size=(32, 32), labels=32).read(1)[1]
    np.testing.assert_array_equal(wanted, to_eleven[ids[1]])
    colours = np.array([[c >> 16, c >> 8 & 255, c & 255] for _, c, _ in camvid.ORIGINAL], np.uint8)
    camvid_root([colours[mask] for mask in ids])
    code, (finding,) = doctor(freqkd, "camvid")
    assert code == 3 and offered(finding["tip"]) == ["--set", "data.labels=colors"]
    mended(freqkd, "camvid", finding)
    np.testing.assert_array_equal(
        camvid.build(split="train", root=Path("d"), size=(32, 32), labels="colors").read(1)[1],
        wanted,
    )


def test_train_ids_and_ids_of_cityscapes(freqkd):
    layouts.cityscapes(Path("d"), "labelIds", (*range(19), 255))
    code, findings = doctor(freqkd, "cityscapes")
    assert (
        code == 3
        and findings[0]["got"] == "255"
        and "--set data.labels=labelTrainIds" in findings[0]["tip"]
    )
    layouts.cityscapes(Path("e"), "labelTrainIds")
    said = freqkd(
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
        said.code == 3
        and "try  --set data.labels=labelIds where the files hold the 34 published ids" in said.out
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


def test_a_picture_of_sixteen_bits_is_found_before_training(freqkd):
    layouts.folder(Path("d"), GOOD)
    layouts.save(Path("d/images/train/p2.png"), np.zeros(layouts.SIZE, np.uint16))
    code, (finding,) = doctor(freqkd, "folder")
    assert (
        code == 3
        and finding["what"] == "cannot read d/images/train/p2.png"
        and "mode I;16" in finding["got"]
    )
    refused(
        freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q"),
        "p2.png",
        "need 8 bits a channel",
    )


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc", "camvid", "folder"])
def test_a_missing_label_image_is_a_finding_of_its_split(freqkd, name, split):
    """The table of the other split is shown all the same."""
    if name == "camvid":
        camvid_root([np.full(layouts.SIZE, 3, np.uint8)] * 2)
        shutil.copytree("d/train", "d/val")
        shutil.copytree("d/trainannot", "d/valannot")
    elif name == "voc":
        layouts.voc(Path("d"), full_palette())
    else:
        layouts.folder(Path("d"), GOOD) if name == "folder" else getattr(layouts, name)(Path("d"))
    gone = {
        "cityscapes": f"d/gtFine/{split}/ulm/ulm_000000_000019_gtFine_labelIds.png",
        "ade20k": f"d/annotations/{'training/ADE_train_' if split == 'train' else 'validation/ADE_valid_'}00000001.png",
        "voc": f"d/SegmentationClass/2007_00000{1 if split == 'train' else 4}.png",
        "camvid": f"d/{split}annot/p1.png",
        "folder": f"d/masks/{split}/p1.png",
    }[name]
    Path(gone).unlink()
    said = freqkd("data", f"{name}.yaml", "--data-root", "d", "--json")
    document = json.loads(said.out)
    assert (said.code, document["errors"]) == (
        3,
        1,
    ) and said.err == f"error: 1 thing is wrong with the labels of {name}\n"
    splits = {one["split"]: one for one in document["splits"]}
    (finding,) = splits[split]["findings"]
    assert finding["level"] == "error" and Path(gone).stem in finding["got"] and finding["need"]
    assert "per_class" in splits["val" if split == "train" else "train"]
    said = freqkd("data", f"{name}.yaml", "--data-root", "d")
    assert (
        said.code == 3 and f"{split}: nothing, its files cannot be paired\n\nerror: 1 " in said.out
    )


def test_class_names_that_cannot_be_read_are_one_message(freqkd):
    layouts.folder(Path("d"), GOOD)
    Path("d/classes.json").write_text("{")
    refused(
        freqkd("data", "folder.yaml", "--data-root", "d"),
        "cannot read class names from d/classes.json",
    )


def test_a_strange_value_beyond_the_sample_is_told_in_the_same_words(freqkd, monkeypatch):
    monkeypatch.setattr(survey, "MASKS", 2)
    layouts.folder(Path("d"), [*GOOD[:2], GOOD[2] + 1, GOOD[3]])
    assert doctor(freqkd, "folder") == (0, [])
    assert doctor(freqkd, "folder", "--all")[0] == 3
    said = freqkd("distill", "folder.yaml", "--out", "a", "--data-root", "d", "-q")
    refused(
        said,
        "d/masks/train/p2.png holds label values outside the classes",
        "got  3\n",
        "--set 'data.label_map={1: 0, 2: 1, 3: 2}'",
    )
    assert not Path("a/summary.json").exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{255: 3}", "leads to ids that are no classes"),
        ('{"#000000": 0, 255: 1}', "names both values and colours"),
        ('{"#0000aa": 0, "#0000AA": 1}', "names a value twice"),
        ("{256: 1}", "data.label_map"),
        ("{7: -1}", "data.label_map"),
        ("{red: 1}", "data.label_map"),
    ],
)
def test_maps_that_make_no_sense_are_refused(freqkd, said, told):
    layouts.folder(Path("d"), GOOD)
    answer = freqkd("data", "folder.yaml", "--data-root", "d", "--set", f"data.label_map={said}")
    assert answer.code == 2 and answer.err.startswith("error: ") and told in answer.err
    answer = freqkd(
        "data",
        "folder.yaml",
        "--data-root",
        "d",
        "--set",
        "data.label_map={9: 1}",
        "--set",
        "data.ignore=[9]",
    )
    assert answer.code == 2 and "names values that data.ignore drops" in answer.err


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc"])
def test_two_steps_on_each_data_set(freqkd, name):
    if name == "voc":
        layouts.voc(Path("d"), full_palette())
    else:
        getattr(layouts, name)(Path("d"))
    said = freqkd("distill", f"{name}.yaml", "--out", "a", "--data-root", "d", "--json")
    assert (
        said.code == 0
        and "labels of train: looked at the pixels of 3 and the sizes of 3 of 3 label images\n"
        in said.err
    )
    summary = json.loads(said.out)
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
def test_the_recipes_of_cityscapes_would_start_on_its_layout(freqkd, recipe):
    layouts.cityscapes(Path("d"))
    sets = {
        "cityscapes_segformer": ["student.weights=null", "student.head=keep"],
        "cityscapes_fastscnn_basic": ["teacher.weights=null", "losses.kl.weight=0"],
    }.get(recipe, [])
    words = [word for one in sets for word in ("--set", one)]
    said = freqkd(
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
    )
    assert said.code == 0, said.err
    assert json.loads(said.out)["steps"] == 40000


def test_a_val_split_that_is_not_there_is_said_and_one_without_its_labels_is_refused(freqkd):
    layouts.cityscapes(Path("d"), splits=("train",))
    said = freqkd("distill", "cityscapes.yaml", "--out", "a", "--data-root", "d", "--json")
    assert (
        said.code == 0
        and "nothing will be scored: no split 'val' of cityscapes in d" in said.err
        and json.loads(said.out)["miou"] is None
    )
    layouts.cityscapes(Path("d"), "labelTrainIds", (*range(19), 255), splits=("val",))
    said = freqkd("distill", "cityscapes.yaml", "--out", "b", "--data-root", "d")
    refused(
        said,
        "3 of 3 pictures in d/leftImg8bit/val have no label image in d/gtFine/val",
        "try  --set data.labels=labelTrainIds\n",
    )
