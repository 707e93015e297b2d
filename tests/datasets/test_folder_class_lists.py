"""Class lists as people and tools write them: read right, or refused with the line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freqkd_cli.datasets import folder
from freqkd_cli.datasets._folder_classes import class_list
from freqkd_cli.errors import DataBroken
from freqkd_cli.images.dataset import Dataset

PLAIN = {0: "background", 1: "road", 2: "car"}

SAME: dict[str, tuple[str, str]] = {
    "names": ("classes.txt", "background\nroad\ncar\n"),
    "blank lines, CRLF, BOM": ("classes.txt", "\ufeffbackground\r\n\r\n road \r\ncar\r\n\r\n"),
    "comments": ("classes.txt", "# my classes\nbackground\n// of 2024\nroad  # asphalt\ncar"),
    "quotes": ("classes.txt", '"background",\n"road",\n"car"\n'),
    "header": ("classes.txt", "class_name\nbackground\nroad\ncar\n"),
    "header and comment": ("classes.txt", "# list\nName\nbackground\nroad\ncar\n"),
    "one line": ("classes.txt", "background, road, car\n"),
    "id: name": ("classes.txt", "0: background\n1: road\n2: car\n"),
    "id name": ("classes.txt", "0 background\n1 road\n2 car\n"),
    "ids in another order": ("classes.txt", "2 car\n0 background\n1 road\n"),
    "id,name": ("classes.csv", "0,background\n1,road\n2,car\n"),
    "id tab name": ("labels.txt", "0\tbackground\n1\troad\n2\tcar\n"),
    "id. name": ("classes.txt", "0. background\n1. road\n2. car\n"),
    "id) name": ("classes.txt", "0) background\n1) road\n2) car\n"),
    "id - name": ("classes.txt", "0 - background\n1 - road\n2 - car\n"),
    "name: id": ("classes.txt", "background: 0\nroad: 1\ncar: 2\n"),
    "name id": ("classes.txt", "background 0\nroad 1\ncar 2\n"),
    "name,id with a header": ("classes.csv", "name,id\nbackground,0\nroad,1\ncar,2\n"),
    "Roboflow": ("train/_classes.csv", "Pixel Value, Class\n0, background\n1, road\n2, car\n"),
    "table": ("classes.csv", "Idx;Ratio;Name\n0;0.1;background\n1;0.2;road\n2;0.7;car\n"),
    "tab table": ("classes.tsv", "id\tname\n2\tcar\n0\tbackground\n1\troad\n"),
    "CVAT": (
        "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n",
    ),
    "class_dict": (
        "class_dict.csv",
        "name,r,g,b\nbackground,0,0,0\nroad,128,64,128\ncar,0,0,142\n",
    ),
    "R G B name": ("label_colors.txt", "0 0 0 background\n128 64 128\t\troad\n0 0 142 car\n"),
    "name R G B": ("label_colors.txt", "background 0 0 0\nroad 128 64 128\ncar 0 0 142\n"),
    "hexadecimal": ("classes.txt", "#000000 background\n#804080 road\n#00008e car\n"),
    "name, hexadecimal": ("classes.txt", "background,#000000\nroad,#804080\ncar,#00008e\n"),
    "id name R G B": ("classes.txt", "0 background 0 0 0\n1 road 128 64 128\n2 car 0 0 142\n"),
    "3D Slicer": (
        "classes.ctbl",
        "# Color\n0 background 0 0 0 0\n1 road 128 64 128 255\n2 car 0 0 142 255\n",
    ),
    "ITK-SNAP": (
        "classes.label",
        '# IDX -R- -G- -B- -A-- VIS MSH LABEL\n 0 0 0 0 0 0 0 "background"\n'
        ' 1 128 64 128 1 1 1 "road"\n 2 0 0 142 1 1 1 "car"\n',
    ),
    "labelme": ("label_names.txt", "__ignore__\nbackground\nroad\ncar\n"),
    "JSON list": ("classes.json", '["background", "road", "car"]'),
    "JSON id2label": ("id2label.json", '{"0": "background", "1": "road", "2": "car"}'),
    "JSON label2id": ("classes.json", '{"background": 0, "road": 1, "car": 2}'),
    "JSON in config": (
        "labels.json",
        '{"x": 1, "id2label": {"0": "background", "1": "road", "2": "car"}}',
    ),
    "COCO categories": (
        "categories.json",
        '{"categories": [{"id": 2, "name": "car"}, {"id": 0, "name": "background"},'
        ' {"id": 1, "name": "road", "color": [128, 64, 128]}]}',
    ),
    "YAML list": ("classes.yaml", "- background\n- road\n- car\n"),
    "YOLO names": ("data.yaml", "train: ../train\nnc: 3\nnames: ['background', 'road', 'car']\n"),
    "YOLO ids": ("dataset.yaml", "names:\n  0: background\n  1: road\n  2: car\n"),
}


def place(root: Path, file: str, content: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", newline="")


@pytest.mark.parametrize("form", SAME)
def test_forms_of_one_list(tmp_path, form):
    place(tmp_path, *SAME[form])
    read = class_list(tmp_path, None)
    assert dict(read.names) == PLAIN and not {v for v in read.ignored if 0 <= v < 255}
    assert folder.classes(root=tmp_path) == tuple(PLAIN.values())
    if "128" in SAME[form][1] and "COCO" not in form or "804080" in SAME[form][1]:
        assert dict(read.colors) == {0: (0, 0, 0), 1: (128, 64, 128), 2: (0, 0, 142)}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("1 road\n2 car\n", {1: "road", 2: "car"}),
        ("7: road\n26: car\n", {7: "road", 26: "car"}),
        ("class 0\nclass 1\n", {0: "class 0", 1: "class 1"}),
        ("tree 1\npole 1\ntree 3\n", {0: "tree 1", 1: "pole 1", 2: "tree 3"}),
        ("background\n2 wheeler\n4 wheeler\n", {0: "background", 1: "2 wheeler", 2: "4 wheeler"}),
        ("0\n1\n", {0: "0", 1: "1"}),
        ("sky\n3d_object\n", {0: "sky", 1: "3d_object"}),
        ("traffic light\nC# code\n", {0: "traffic light", 1: "C# code"}),
        ("wall, building\nfloor\n", {0: "wall, building", 1: "floor"}),
        ("lane #1\nlane #2\n", {0: "lane #1", 1: "lane #2"}),
        ("道路\nvoiture à moteur\n", {0: "道路", 1: "voiture à moteur"}),
    ],
)
def test_names_and_ids_are_told_apart(tmp_path, content, names):
    place(tmp_path, "classes.txt", content)
    assert dict(class_list(tmp_path, None).names) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("background\n1 road\n2 car\n", "classes.txt:1 has no id"),
        ("0: background\nroad\n2: car\n", "classes.txt:2 has no id"),
        ("# x\n0 background\n1 road\ncar\n", "classes.txt:4 has no id"),
        ("road 128 64 128\ncar\n", "classes.txt:2 has no color"),
        ("road: 0\ncar\n", "classes.txt:2 has no id"),
        ("0 road\n0 car\n", "classes.txt:2 names no class(.|\n)*the id 0 occurs twice"),
        ("0 road\n1 road\n", "classes.txt:2 names no class(.|\n)*a name that occurs twice"),
        ("0 road\n70000 car\n", "classes.txt:2 names no class(.|\n)*the id 70000"),
        ("-1 plate\n0 car\n", "classes.txt:1 names no class(.|\n)*the id -1"),
        ("id,name\n0,road\ncar\n", "classes.txt:3 does not fit the header"),
        ("id,name\n0,road\nx,car\n", "classes.txt:3 does not fit the header"),
        ("road\n" + "x" * 500, "classes.txt:2 is too long"),
    ],
)
def test_lists_with_two_meanings_are_refused_with_the_line(tmp_path, content, message):
    place(tmp_path, "classes.txt", content)
    with pytest.raises(DataBroken, match=message):
        class_list(tmp_path, None)


@pytest.mark.parametrize(
    ("content", "names", "ignored"),
    [
        ("road\ncar\nvoid\n", {0: "road", 1: "car"}, {2: "void"}),
        ("Unlabeled\nroad\ncar\n", {1: "road", 2: "car"}, {0: "Unlabeled"}),
        ("0 road\n1 car\n255 ignore\n", {0: "road", 1: "car"}, {255: "ignore"}),
        ("-1 unlabeled\n0 road\n1 car\n", {0: "road", 1: "car"}, {}),
        ("__ignore__\n_background_\nroad\n", {0: "_background_", 1: "road"}, {}),
        ("_background_\nroad\n__ignore__\n", {0: "_background_", 1: "road"}, {2: "__ignore__"}),
    ],
)
def test_an_ignored_name_is_void_and_shifts_nothing(tmp_path, content, names, ignored, caplog):
    place(tmp_path, "classes.txt", content)
    read = class_list(tmp_path, None)
    assert dict(read.names) == names and dict(read.ignored) == ignored
    assert ("read as void" in caplog.text) == bool(ignored)
    own = class_list(tmp_path, ["void", "road"])
    assert dict(own.names) == {0: "void", 1: "road"} and not own.ignored


def test_two_files_that_disagree_are_refused(tmp_path):
    place(tmp_path, "classes.txt", "road\ncar\n")
    place(tmp_path, "classes.json", '["road", "car"]')
    assert folder.classes(root=tmp_path) == ("road", "car")
    place(tmp_path, "labels.txt", "car\nroad\n")
    with pytest.raises(DataBroken, match="contradict each other") as caught:
        folder.classes(root=tmp_path)
    assert "classes.json: 0 road, 1 car" in str(caught.value)
    assert "labels.txt: 0 car, 1 road" in str(caught.value)
    assert folder.classes(root=tmp_path, classes=["a", "b"]) == ("a", "b")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.txt", "a.jpg 0\nb.jpg 1\n"),
        ("data.yaml", "names: [crack]\n"),
        ("labels.csv", "image,x\n{,\n"),
        ("class_dict.csv", "name,r,g,b\ncar,0,0,1\nroad,0,0,2\nsky,0,0,3\n"),
    ],
)
def test_other_files_do_not_disturb_a_list(tmp_path, file, content):
    place(tmp_path, "classes.txt", "road\ncar\n")
    place(tmp_path, file, content)
    assert folder.classes(root=tmp_path) == ("road", "car")


def test_colors_come_from_a_second_file(tmp_path):
    """The list with ids gives the order, the other the colors."""
    place(tmp_path, "classes.txt", "road\ncar\n")
    place(tmp_path, "class_dict.csv", "name,r,g,b\ncar,0,0,1\nroad,0,0,2\nsky,0,0,3\n")
    read = class_list(tmp_path, None)
    assert dict(read.names) == {0: "road", 1: "car"}
    assert dict(read.colors) == {0: (0, 0, 2), 1: (0, 0, 1)}


def colored(root: Path, colors: list[tuple[int, int, int]], save: str) -> np.ndarray:
    """Write one pair; the mask shows the colors of classes, as RGB or as a palette."""
    classes = np.random.default_rng(0).integers(0, len(colors), (6, 8), dtype=np.uint8)
    for name in ("images/train", "masks/train"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(root / "images/train/a.png")
    if save == "rgb":
        mask = Image.fromarray(np.array(colors, np.uint8)[classes])
    else:
        order = [*range(len(colors))] if save == "palette" else [*range(len(colors))][::-1]
        index = np.argsort(order).astype(np.uint8)[classes]
        mask = Image.fromarray(index, "P")
        mask.putpalette([part for k in order for part in colors[k]])
    mask.save(root / "masks/train/a.png")
    return classes


def open_train(root: Path, **keys: object) -> Dataset:
    return folder.build(split="train", root=root, size=(32, 32), **keys)


@pytest.mark.parametrize("save", ["rgb", "palette", "palette in another order"])
def test_colored_masks_are_read_by_the_colors_of_the_list(tmp_path, save):
    colors = [(0, 0, 0), (128, 64, 128), (0, 0, 142), (9, 9, 9)]
    classes = colored(tmp_path, colors, save)
    rows = zip(("background", "road", "car", "void"), colors, strict=True)
    text = "".join(f"{name}:{','.join(map(str, color))}::\n" for name, color in rows)
    place(tmp_path, "labelmap.txt", text)
    data = open_train(tmp_path)
    expected = np.where(classes == 3, 255, classes)
    np.testing.assert_array_equal(data.read(0)[1], expected)
    np.testing.assert_array_equal(data.palette, colors[:3])
    manifest = data.manifest()["arguments"]
    assert ("label_map" in manifest) == (save != "palette")
    assert json.loads(json.dumps(manifest)) == manifest


def test_the_recipe_comes_before_the_colors_of_the_list(tmp_path):
    colors = [(0, 0, 0), (128, 64, 128)]
    classes = colored(tmp_path, colors, "rgb")
    place(tmp_path, "class_dict.csv", "name,r,g,b\nroad,128,64,128\nbackground,0,0,0\n")
    np.testing.assert_array_equal(open_train(tmp_path).read(0)[1], 1 - classes)
    label_map = {"#000000": 0, "#804080": 1}
    np.testing.assert_array_equal(open_train(tmp_path, label_map=label_map).read(0)[1], classes)
    named = open_train(tmp_path, classes=["a", "b"])
    with pytest.raises(DataBroken, match="RGB colors"):
        named.read(0)


def test_grey_masks_stay_values_beside_a_list_with_colors(tmp_path):
    colored(tmp_path, [(0, 0, 0), (1, 1, 1)], "rgb")
    grey = np.random.default_rng(1).integers(0, 2, (6, 8), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "masks/train/a.png")
    place(tmp_path, "class_dict.csv", "name,r,g,b\nroad,9,9,9\ncar,0,0,0\n")
    np.testing.assert_array_equal(open_train(tmp_path).read(0)[1], grey)
