"""Every tip about label values, followed: random masks, codings and stray values."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli.build.assemble import build_dataset
from freqkd_cli.doctor.diagnosis import examine
from freqkd_cli.errors import UsageError
from freqkd_cli.images.dataset import Dataset

VOID = 255
SIZE = (48, 64)
RECIPE = """\
version: 1
data: {name: folder, size: [32, 32], root: d, workers: 0}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {steps: 2, batch_size: 2}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    return Path("d")


def truth(rng: np.random.Generator, classes: int, void: bool) -> np.ndarray:
    """Return blocks of classes on a ground of class 0, with a void frame where there is void."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    labels = np.zeros(SIZE, np.uint8)
    for number in range(1, classes):
        center = rng.uniform(12, 36), (number - rng.uniform(0.4, 0.6)) * SIZE[1] / (classes - 1)
        labels[(y - center[0]) ** 2 + (x - center[1]) ** 2 < rng.uniform(4, 9) ** 2] = number
    if void:
        labels[: rng.integers(1, 9)] = VOID
    return labels


def write(
    root: Path,
    masks: list[np.ndarray],
    classes: int,
    save: Callable[[np.ndarray, Path], None] | None = None,
    suffix: str = ".png",
) -> None:
    names = ["background", "crack", "stone", "moss", "rust", "paint"][:classes]
    layouts.folder(root, [np.zeros(SIZE, np.uint8)] * len(masks), names, splits=("train",))
    for number, mask in enumerate(masks):
        path = root / "masks/train" / f"p{number}.png"
        path.unlink()
        (save or (lambda m, p: Image.fromarray(m).save(p)))(mask, path.with_suffix(suffix))


def groups(tip: str) -> list[list[str]]:
    """Return the alternatives of a tip, each with the settings that belong together."""
    texts = re.split(r", or (?=--set)", tip)
    found = [re.findall(r"--set ('(?:[^']|'\\'')*')", text) for text in texts]
    return [[shlex.split(word)[0] for word in words] for words in found if words]


def read(sets: list[str]) -> Dataset:
    return build_dataset(recipes.load("r.yaml", sets), "train")


def errors(sets: list[str]) -> list[str]:
    """Return the tips of the errors of the train split."""
    return [finding.tip or "" for finding in examine(read(sets), "train").errors]


def right(sets: list[str], expected: list[np.ndarray], loose: list[np.ndarray]) -> bool:
    data = read(sets)
    return all(((data.read(k)[1] == labels) | loose[k]).all() for k, labels in enumerate(expected))


def check(sets: list[str], expected: list[np.ndarray], loose: list[np.ndarray]) -> list[list[str]]:
    """Check the tips: none is refused, none leaves fewer classes, and one is right.

    Returns the alternatives; none where the labels are right at once.
    """
    tips = errors(sets)
    if not tips:
        assert right(sets, expected, loose), "silently wrong"
        return []
    assert len(tips) == 1
    options = groups(tips[0])
    assert options, tips
    for option in options:
        assert not errors([*sets, *option]), (option, tips)
    assert any(right([*sets, *option], expected, loose) for option in options), tips
    return options


CODINGS: dict[str, Callable[[int], tuple[list[int], int | None]]] = {
    "ids": lambda k: ([*range(k)], 255),
    "zero void": lambda k: ([*range(1, k + 1)], 0),
    "from one": lambda k: ([*range(1, k + 1)], 255),
    "last void": lambda k: ([*range(k)], k),
    "254 void": lambda k: ([*range(k)], 254),
    "250 void": lambda k: ([*range(k)], 250),
    "minus one": lambda k: ([*range(k)], -1),
    "65535 void": lambda k: ([*range(k)], 65535),
    "black and white": lambda k: ([0, 255], None) if k == 2 else ([0, 127, 255][:k], None),
    "unsure": lambda k: ([0, 255], 128) if k == 2 else ([*range(k)], 255),
    "trimap": lambda k: ([*range(1, k + 1)], k + 1),
    "stretched": lambda k: ([round(255 * n / (k - 1)) for n in range(k)], None),
    "deep": lambda k: ([round(65535 * n / (k - 1)) for n in range(k)], None),
    "tens": lambda k: ([10 * n for n in range(k)], 255),
    "sparse": lambda k: ([7, 8, 11, 12, 17, 19][:k], 255),
    "instances": lambda k: ([1001 + 1000 * n for n in range(k)], 0),
}


def stored(labels: np.ndarray, values: list[int], void: int | None) -> np.ndarray:
    table = np.zeros(256, np.int32)
    table[: len(values)] = values
    table[VOID] = void or 0
    coded = table[labels]
    wide = coded.min() < 0 or coded.max() > 65535
    return coded if wide else coded.astype(np.uint8 if coded.max() <= 255 else np.uint16)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("seed", range(4))
def test_every_tip_is_accepted_and_one_is_right(folder, coding, seed):
    rng = np.random.default_rng((seed, len(coding)))
    classes = 2 if coding == "unsure" else int(rng.integers(2, 6 if seed else 3))
    if coding == "black and white":
        classes = min(classes, 3)
    values, void = CODINGS[coding](classes)
    expected = [truth(rng, classes, void is not None) for _ in range(3)]
    masks = [stored(labels, values, void) for labels in expected]
    loose = [np.zeros(SIZE, bool) for _ in expected]
    if seed % 2:
        loose[1][40:43, 50:56] = True
        masks[1][loose[1]] = next(v for v in (77, 201) if v not in values)
    wide = any(mask.min() < 0 for mask in masks)
    write(folder, masks, classes, suffix=".tif" if wide else ".png")
    check([], expected, loose)


def noisy(mask: np.ndarray, path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "JPEG", quality=80)
    with Image.open(buffer) as image:
        image.save(path)


def resized(mask: np.ndarray, path: Path, how: Image.Resampling) -> None:
    small = Image.fromarray(mask[::2, ::2])
    small.resize(SIZE[::-1], how).save(path)


SAVES: dict[str, tuple[str, Callable[[np.ndarray, Path], None]]] = {
    "jpeg": (".jpg", lambda m, p: Image.fromarray(m).save(p, quality=80)),
    "jpeg rgb": (".jpeg", lambda m, p: Image.fromarray(m).convert("RGB").save(p, quality=80)),
    "jpeg, then png": (".png", noisy),
    "bilinear": (".png", lambda m, p: resized(m, p, Image.Resampling.BILINEAR)),
    "lanczos": (".png", lambda m, p: resized(m, p, Image.Resampling.LANCZOS)),
}


@pytest.mark.parametrize("how", SAVES)
@pytest.mark.parametrize("classes", [2, 3])
def test_noisy_masks_are_named_and_read(folder, how, classes):
    rng = np.random.default_rng(classes)
    suffix, save = SAVES[how]
    values = [0, 255] if classes == 2 else [0, 128, 255]
    expected = [truth(rng, classes, False) for _ in range(3)]
    masks = [stored(labels, values, None) for labels in expected]
    write(folder, masks, classes, save, suffix)
    loose = []
    for number, mask in enumerate(masks):
        with Image.open(folder / f"masks/train/p{number}{suffix}") as image:
            shown = np.array(image.convert("L"), int)
        loose.append(np.abs(shown - mask) > 255 / (classes - 1) / 4)
    (finding,) = examine(read([]), "train").errors
    assert "values between 0 and 255: saved as JPEG or resized" in finding.what
    total = sum(
        int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:near|between)", finding.got)
    )
    assert total == 3 * SIZE[0] * SIZE[1]
    (option,) = check([], expected, loose)
    if classes == 2:
        assert option == ["data.threshold=128"]
        assert not errors(['data.label_map={"0-127": 0, "128-255": 1}'])
        options = check(['data.label_map={"128-255": 1}'], expected, loose)
        assert options == [["data.threshold=128"]]
        check(["data.label_map={255: 1}"], expected, loose)


def test_entries_of_the_recipe_stay(folder):
    rng = np.random.default_rng(0)
    expected = [truth(rng, 2, False) for _ in range(4)]
    masks = [stored(labels, [0, 255], None) for labels in expected]
    loose = [np.zeros(SIZE, bool) for _ in expected]
    loose[1][4:6, 4:8] = True
    masks[1][loose[1]] = 3
    write(folder, masks, 2)
    assert check([], expected, loose) == [["data.label_map={255: 1, 3: 255}"]]
    assert check(["data.label_map={255: 1}"], expected, loose) == [["data.ignore=[3]"]]
    assert check(["data.label_map={3: 1}"], expected, loose) == [["data.label_map={3: 1, 255: 1}"]]
    assert check(["data.label_map={9: 255}"], expected, loose)[0] == [
        "data.label_map={255: 1, 9: 255, 3: 255}"
    ]
    assert check(["data.ignore=3"], expected, loose) == [["data.label_map={255: 1}"]]
    (finding,) = examine(read(["data.ignore=[3]"]), "train").errors
    assert "almost only" in finding.what and "no pixel of crack" in finding.got
    loose[1][4:6, 6:8] = False
    masks[1][4:6, 6:8] = 0
    masks[1][loose[1]] = 1
    write(folder, masks, 2)
    (finding,) = examine(read([]), "train").errors
    assert "almost only the values 0 and 255" in finding.what
    assert "4 pixels of crack beside" in finding.got
    assert ["data.label_map={255: 1}"] in check([], expected, loose)


def test_void_after_the_last_class(folder):
    """0 .. 10 and 11: both readings are named, and neither is chosen silently."""
    rng = np.random.default_rng(3)
    expected = [np.where(rng.random(SIZE) < 0.03, VOID, rng.integers(0, 6, SIZE)) for _ in range(3)]
    masks = [np.where(labels == VOID, 6, labels).astype(np.uint8) for labels in expected]
    write(folder, masks, 6)
    loose = [np.zeros(SIZE, bool)] * 3
    first, second = check([], expected, loose)
    assert first == ["data.ignore=[6]"] and right(first, expected, loose)
    assert second == ["data.zero_label=void"]
    assert right(["data.ignore=6"], expected, loose)


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ([0, 255], ["data.label_map={255: 1}"]),
        ([0, 1], []),
        ([0, 65535], ["data.label_map={65535: 1}"]),
        ([0, 77], ["data.label_map={77: 1}"]),
    ],
)
def test_one_class_is_refused_with_the_keys_of_two(folder, values, more):
    rng = np.random.default_rng(0)
    expected = [truth(rng, 2, False) for _ in range(3)]
    write(folder, [stored(labels, values, None) for labels in expected], 2)
    (folder / "classes.txt").write_text("polyp\n")
    with pytest.raises(UsageError, match="one class is no segmentation") as caught:
        read([])
    assert caught.value.need == "at least two classes: background and polyp"
    option = groups(caught.value.tip)[0]
    assert option == ["data.classes=[background, polyp]", *more]
    assert not errors(option)
    assert right(option, expected, [np.zeros(SIZE, bool)] * 3)


def test_one_class_whose_keys_were_set_to_read_it(folder):
    rng = np.random.default_rng(0)
    expected = [truth(rng, 2, False) for _ in range(3)]
    write(folder, [stored(labels, [0, 255], None) for labels in expected], 2)
    for sets in (
        ["data.classes=[polyp]", "data.label_map={255: 0}", "data.ignore=0"],
        ["data.classes=[polyp]", "data.zero_label=void"],
        ["data.classes=[polyp]", "data.ignore=[1, 255]"],
    ):
        with pytest.raises(UsageError) as caught:
            read(sets)
        option = [*sets, *groups(caught.value.tip)[0]]
        assert not errors(option)
        assert right(option, expected, [np.zeros(SIZE, bool)] * 3), option


def test_whole_floats_are_ids_and_others_need_a_key(folder):
    rng = np.random.default_rng(0)
    expected = [truth(rng, 2, False) for _ in range(3)]
    loose = [np.zeros(SIZE, bool)] * 3
    write(folder, [labels.astype(np.float32) for labels in expected], 2, suffix=".tif")
    assert check([], expected, loose) == []
    parts = [np.where(labels, 0.7, 0.2) + rng.uniform(0, 0.2, SIZE) for labels in expected]
    write(folder, [part.astype(np.float32) for part in parts], 2, suffix=".tif")
    (option,) = check([], expected, loose)
    assert option[0].startswith("data.threshold=0.5")
    three = [truth(rng, 4, False) for _ in range(3)]
    write(folder, [(labels / 3).astype(np.float32) for labels in three], 4, suffix=".tif")
    assert ["data.scale=0.333333"] in check([], three, loose)
    parts[0][0, 0] = np.nan
    write(folder, [part.astype(np.float32) for part in parts], 2, suffix=".tif")
    (finding,) = examine(read(["data.threshold=0.5"]), "train").errors
    assert "no numbers" in finding.what and "NaN or infinity in 1 of 3,072" in finding.got


def test_steps_are_found_although_a_class_is_absent(folder):
    rng = np.random.default_rng(0)
    expected = [np.where(truth(rng, 4, False) == 2, 0, truth(rng, 4, False)) for _ in range(3)]
    expected = [np.where(labels == 2, 0, labels).astype(np.uint8) for labels in expected]
    write(folder, [labels * 85 for labels in expected], 4)
    options = check([], expected, [np.zeros(SIZE, bool)] * 3)
    assert ["data.scale=85"] in options
    data = read(["data.scale=85"])
    assert data.manifest()["arguments"]["scale"] == 85


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        (["data.threshold=3", "data.scale=85"], "exclude each other"),
        (["data.threshold=128", "data.classes=[a, b, c]"], "two classes"),
        (["data.threshold=128", "data.zero_label=void"], "exclude each other"),
        (["data.scale=85", 'data.label_map={"#000000": 0}'], "lists colors"),
        (["data.ignore=-40000"], "from -32768 to 65535"),
        (['data.label_map={"100-200": 1}', "data.ignore=[150]"], "data.ignore drops"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(folder, sets, problem):
    write(folder, [np.zeros(SIZE, np.uint8)] * 2, 2)
    with pytest.raises(UsageError, match=problem):
        read(sets)


@pytest.mark.parametrize("value", ["{x: 1}", "{70000: 1}", "{1.5: 1}", "{'9-3': 1}", "{'#12': 1}"])
def test_a_wrong_key_of_label_map_is_named_in_words(folder, value):
    with pytest.raises(UsageError, match='a value from -32768 to 65535, a range such as "128-255"'):
        recipes.load("r.yaml", [f"data.label_map={value}"])


def test_the_mask_in_the_alpha_channel_is_named(folder):
    rng = np.random.default_rng(0)
    masks = [truth(rng, 2, False) * np.uint8(255) for _ in range(2)]
    rgba = [np.dstack([mask * 0, mask * 0, mask * 0, mask]) for mask in masks]
    write(folder, rgba, 2)
    (finding,) = examine(read([]), "train").errors
    assert "transparency (alpha) from 0 to 255" in finding.got and "getchannel('A')" in finding.tip


def test_noisy_colors_are_named(folder):
    rng = np.random.default_rng(0)
    table = np.array([[0, 0, 0], [200, 30, 30], [30, 200, 30]], np.uint8)
    masks = [table[truth(rng, 3, False)] for _ in range(2)]
    write(folder, masks, 3, lambda m, p: Image.fromarray(m).save(p, quality=85), ".jpg")
    (finding,) = examine(read([]), "train").errors
    assert (
        "saved as JPEG or resized" in finding.got and "save the masks again as PNG" in finding.tip
    )
    key = 'data.label_map={"#000000": 0, "#c81e1e": 1, "#1ec81e": 2}'
    (finding,) = examine(read([key]), "train").errors
    assert "saved as JPEG or resized" in finding.got


def test_ids_in_the_red_channel_are_mapped(folder):
    rng = np.random.default_rng(0)
    expected = [truth(rng, 3, True) for _ in range(2)]
    masks = [np.dstack([labels, labels * 0, labels * 0]) for labels in expected]
    write(folder, masks, 3)
    (option,) = check([], expected, [np.zeros(SIZE, bool)] * 2)
    assert '"#010000": 1' in option[0] and '"#ff0000": 255' in option[0]


def test_the_palette_of_gif_files_is_shown_and_their_greys_are_values(folder):
    """A program that writes grey values as GIF keeps only the greys that occur."""
    rng = np.random.default_rng(0)
    expected = [truth(rng, 4, False) for _ in range(3)]
    expected[1][expected[1] == 1] = 0
    loose = [np.zeros(SIZE, bool)] * 3
    write(folder, expected, 4, suffix=".gif")
    assert check([], expected, loose) == [] and not examine(read([]), "train").findings
    table = np.array([[9, 9, 200], [200, 30, 30], [30, 200, 30], [1, 2, 3]], np.uint8)
    expected = [truth(rng, 4, False) for _ in range(3)]
    write(folder, [table[labels] for labels in expected], 4, suffix=".gif")
    (finding,) = examine(read([]), "train").findings
    assert "GIF files with a palette" in finding.what and "#c81e1e" in finding.got
    assert '"#c81e1e": ID' in finding.tip
    key = 'data.label_map={"#0909c8": 0, "#c81e1e": 1, "#1ec81e": 2, "#010203": 3}'
    assert right([key], expected, loose)


def test_several_pages_are_not_one_mask(folder):
    page = Image.fromarray(np.zeros(SIZE, np.uint8))
    masks = [np.zeros(SIZE, np.uint8)] * 2
    write(folder, masks, 2, lambda m, p: page.save(p, save_all=True, append_images=[page]), ".tif")
    (finding,) = examine(read([]), "train").errors
    assert "2 pages" in finding.got


def test_void_among_more_than_255_classes(folder):
    """255 is a class there, so no tip makes it void, and void is 65535 in a map."""
    rng = np.random.default_rng(0)
    expected = [rng.integers(0, 300, SIZE) for _ in range(3)]
    expected = [np.where(rng.random(SIZE) < 0.05, 65535, labels) for labels in expected]
    masks = [np.where(labels == 65535, 300, labels).astype(np.uint16) for labels in expected]
    write(folder, masks, 2)
    (folder / "classes.txt").write_text("\n".join(f"c{k}" for k in range(300)))
    loose = [np.zeros(SIZE, bool)] * 3
    assert ["data.ignore=[300]"] in check([], expected, loose)
    tens = [np.where(labels == 65535, 65535, labels * 10).astype(np.uint16) for labels in expected]
    write(folder, tens, 2)
    (folder / "classes.txt").write_text("\n".join(f"c{k}" for k in range(300)))
    assert any("data.scale=10" in option for option in check([], expected, loose))


def test_grey_class_colors_are_colors(folder):
    """The first mask is background alone, which could be the value 0 or the color #000000."""
    rng = np.random.default_rng(0)
    expected = [np.zeros(SIZE, np.uint8), *(truth(rng, 3, False) for _ in range(2))]
    greys = np.array([0, 200, 90], np.uint8)
    write(folder, [np.dstack([greys[labels]] * 3) for labels in expected], 3)
    (folder / "classes.txt").unlink()
    (folder / "classes.csv").write_text(
        "name,r,g,b\nbackground,0,0,0\ncrack,200,200,200\nstone,90,90,90\n"
    )
    loose = [np.zeros(SIZE, bool)] * 3
    assert check([], expected, loose) == []
    write(folder, [np.dstack([labels] * 3) for labels in expected], 3)
    assert check([], expected, loose) == []
