"""Label PNGs of ``eval --masks`` and ``predict``: no file of others is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import UsageError
from freqkd_cli.images.palette import palette
from freqkd_cli.images.stored_labels import read_values
from freqkd_cli.models import fast_scnn
from freqkd_cli.runtime.files import write_aside
from freqkd_cli.runtime.written_files import LISTING, WrittenFiles
from freqkd_cli.score.label_files import check_class_count, protect, write_labels

TRAINING = """student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {steps: 1}
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """A run and its data, two images per split; those of train and val share their names."""
    layouts.folder(
        tmp_path / "d", [layouts.labels(range(3), number, (64, 64)) for number in range(2)]
    )
    torch.manual_seed(0)
    save_model(
        tmp_path / "run",
        fast_scnn.build(classes=3, width=0.25),
        id2label=dict(enumerate(("road", "car", "sky"))),
    )
    text = (
        f"version: 1\ndata: {{name: folder, size: [64, 64], root: {tmp_path / 'd'}, workers: 0}}\n"
    )
    text += TRAINING
    (tmp_path / "run/recipe.yaml").write_text(recipes.dump(recipes.loads(text)))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder without the listing."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LISTING
    }


def test_masks_never_replace_files_of_the_data_set(place, freqkd):
    before = contents(place / "d")
    (place / "link").symlink_to(place / "d/masks/val")
    tries = [
        (folder, "--overwrite")
        for folder in ("d/masks/val", "d/masks/train", "d/images/val", "link")
    ]
    for folder, *more in [("d/masks/val",), *tries]:
        code, out, err = freqkd("eval", place / "run", "--masks", place / folder, *more, "-q")
        assert (
            (code, out) == (2, "")
            and "would replace files of the data set itself" in err
            and "need another folder" in err
        ), folder
    assert contents(place / "d") == before


def test_masks_replace_only_files_that_freqkd_wrote(place, freqkd):
    out = place / "out"
    assert freqkd("eval", place / "run", "--masks", out, "-q")[0] == 0
    written = contents(out)
    assert [*written] == ["p0.png", "p1.png"]
    (out / "mine.txt").write_text("mine")
    code, _, err = freqkd("eval", place / "run", "--masks", out, "-q")
    assert code == 2 and "is not empty" in err and "--overwrite" in err
    (out / "p1.png").unlink()
    assert freqkd("eval", place / "run", "--masks", out, "--overwrite", "-q")[0] == 0
    assert contents(out) == written | {"mine.txt": b"mine"}
    (out / "p0.png").write_text("changed by hand")
    code, _, err = freqkd("eval", place / "run", "--masks", out, "--overwrite", "-q")
    assert code == 2 and "files that freqkd did not write" in err and f"{out / 'p0.png'}" in err
    assert (out / "p0.png").read_text() == "changed by hand"
    code, _, err = freqkd("eval", place / "run", "--masks", out / "mine.txt", "-q")
    assert code == 2 and "is a file" in err
    code, _, err = freqkd("eval", place / "run", "--overwrite", "-q")
    assert code == 2 and "--masks" in err


def test_predict_never_replaces_masks_of_the_data_set(place, freqkd):
    before = contents(place / "d")
    images = place / "d/images/val"
    (place / "link").symlink_to(place / "d/masks/val")
    (place / "links").mkdir()
    for name in ("p0.png", "p1.png"):
        (place / "links" / name).symlink_to(place / "d/masks/val" / name)
    for out in (place / "d/masks/val", place / "link", place / "links"):
        words = ("predict", place / "run", images, "--out", out, "--overwrite", "-q")
        for more in ((), ("--labels-only",)):
            code, printed, err = freqkd(*words, *more)
            assert (code, printed) == (2, "") and "files that freqkd did not write" in err, out
            assert "p0.png" in err
    assert contents(place / "d") == before and (place / "links/p0.png").is_symlink()
    mirror = place / "d/masks"  # the folder of all splits: names keep their subfolder
    code, _, err = freqkd(
        "predict", place / "run", place / "d/images", "--out", mirror, "--overwrite"
    )
    assert (
        code == 2 and "files that freqkd did not write" in err and contents(place / "d") == before
    )


def test_predict_replaces_what_it_wrote(place, freqkd):
    words = ("predict", place / "run", place / "d/images/val", "--out", place / "out", "-q")
    assert freqkd(*words)[0] == 0
    written = contents(place / "out")
    assert freqkd(*words)[0] == 2
    assert freqkd(*words, "--overwrite", "--alpha", 1)[0] == 0
    again = contents(place / "out")
    assert again.keys() == written.keys() and again["p0.png"] == written["p0.png"]
    assert again["p0_overlay.png"] != written["p0_overlay.png"]
    assert freqkd(*words, "--overwrite")[0] == 0
    (place / "out" / LISTING).unlink()  # as a version without a listing left it
    code, _, err = freqkd(*words, "--overwrite")
    assert code == 2 and "files that freqkd did not write" in err and "another folder" in err


def test_a_file_is_listed_before_it_has_its_name(tmp_path):
    written = WrittenFiles(tmp_path)
    path = tmp_path / "deep" / "a.png"
    written.write(path, lambda file: file.write(b"first"))
    assert written.others([path, tmp_path / "none"]) == []

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError):
        written.write(path, full)
    assert written.others([path]) == [] and path.read_bytes() == b"first"
    written.write(path, lambda file: file.write(b"second"))
    assert written.others([path]) == []
    path.write_bytes(b"other")
    assert written.others([path]) == [path]
    path.unlink()
    path.mkdir()
    assert written.others([path]) == [path]


def test_predict_never_replaces_the_images_that_it_reads(place, freqkd):
    photos = place / "d/images/val"
    before = contents(photos)
    images = (photos / "p0.png", photos / "p1.png")
    code, out, err = freqkd("predict", place / "run", *images, "--out", photos, "--overwrite", "-q")
    assert (code, out) == (2, "") and "would replace images that are to be labelled" in err
    Image.fromarray(layouts.noise(9)).save(place / "a.jpg")
    Image.fromarray(layouts.noise(9)).save(place / "a_overlay.png")
    both = (place / "a.jpg", place / "a_overlay.png")
    words = ("predict", place / "run", *both, "--out", place, "--overwrite", "--labels-only")
    code, _, err = freqkd(*words)
    assert code == 2 and "would replace images" in err and "a_overlay.png" in err
    assert not (place / "legend.json").exists() and contents(photos) == before


def test_only_files_that_are_read_are_protected(tmp_path):
    (tmp_path / "read.png").write_text("1")
    (tmp_path / "old.png").write_text("2")
    targets = [tmp_path / "old.png", tmp_path / "new.png"]
    protect("--out", targets, [tmp_path / "read.png", tmp_path / "gone.png"], "these")
    (tmp_path / "again.png").symlink_to("read.png")
    with pytest.raises(UsageError, match=r"--out would replace these\n  got  \S+again\.png"):
        protect("--out", [tmp_path / "read.png"], [tmp_path / "again.png"], "these")


def test_class_numbers_fit_in_two_bytes_beside_void():
    check_class_count(65_535)
    with pytest.raises(UsageError, match="so many classes\n  got  65536\n  need at most 65535"):
        check_class_count(65_536)


@pytest.mark.parametrize(("classes", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_label_pngs_have_16_bits_where_255_is_a_class(tmp_path, classes, dtype):
    labels = np.arange(classes).reshape(1, classes)
    write_labels(WrittenFiles(tmp_path), tmp_path / "a.png", labels, classes, palette(classes))
    stored = read_values(tmp_path / "a.png")
    assert stored.dtype == dtype and np.array_equal(stored, labels)


def test_predict_writes_16_bit_label_pngs_for_many_classes(place, freqkd):
    model = fast_scnn.build(classes=300, width=0.25)
    with torch.no_grad():
        model.classifier[-1].bias[299] = 1e4  # the last class everywhere
    save_model(place / "many", model)
    code, _, err = freqkd("predict", place / "many", place / "d/images/val", "--out", place / "out")
    assert code == 0, err
    for path in (place / "d/images/val").iterdir():
        assert set(np.unique(read_values(place / "out" / f"{path.stem}.png"))) == {299}


@contextmanager
def small_files(most: int):
    """The kernel lets no file grow beyond ``most`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_the_system_does_not_let_grow_is_one_message(place, freqkd):
    out, photos, sheet = place / "out", place / "d/images/val", place / "sheet.png"
    old = place / "old.png"
    old.write_text("old")
    for words, file in (
        (("predict", place / "run", photos, "--out", out, "--labels-only"), out / "legend.json"),
        (("eval", place / "run", "--masks", out, "--overwrite"), out / "p0.png"),
        (("compare", place / "run", "--image", sheet), sheet),
        (("compare", place / "run", "--picture", old), old),
    ):
        with small_files(10):
            code, printed, err = freqkd(*words, "-q")
        assert (code, printed, err) == (1, "", f"error: {file}: File too large\n"), words
    assert contents(out) == {} and not sheet.exists() and old.read_text() == "old"


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "a"
    write_aside(path, lambda file: file.write(b"first"))

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError) as caught:
        write_aside(path, full)
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    with pytest.raises(KeyboardInterrupt):
        write_aside(path, lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    assert contents(tmp_path) == {"a": b"first"}


def test_what_predict_wrote_is_scored(place, freqkd):
    assert (
        freqkd("predict", place / "run", place / "d/images/val", "--out", place / "out", "-q")[0]
        == 0
    )
    assert len(list((place / "out").glob("*_overlay.png"))) == 2
    own = freqkd("eval", place / "run", "--json", "-q")[1]
    code, document, err = freqkd(
        "eval", place / "run", "--predictions", place / "out", "--json", "-q"
    )
    assert (code, err) == (0, "") and miou(document) == miou(own)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(place / "out/alone_overlay.png")
    code, _, err = freqkd("eval", place / "run", "--predictions", place / "out", "-q")
    assert code == 1 and "1 of no image of this split: alone_overlay.png" in err


def miou(document: str) -> float:
    return json.loads(document)["miou"]


def test_files_may_be_named_like_the_images_of_cityscapes(place, freqkd, tmp_path):
    layouts.cityscapes(tmp_path / "city", splits=("val",))
    save_model(tmp_path / "big", fast_scnn.build(classes=19, width=0.25))
    recipe = tmp_path / "city.yaml"
    recipe.write_text((place / "run/recipe.yaml").read_text())
    root = tmp_path / "city"
    text = f"version: 1\ndata: {{name: cityscapes, size: [64, 96], root: {root}, workers: 0}}\n"
    recipe.write_text(text + TRAINING)
    towns = sorted((tmp_path / "city/leftImg8bit/val").iterdir())
    assert freqkd("predict", tmp_path / "big", *towns, "--out", tmp_path / "out", "-q")[0] == 0
    assert (tmp_path / "out/ulm_000000_000019_leftImg8bit.png").is_file()
    code, document, err = freqkd("eval", recipe, "--predictions", tmp_path / "out", "--json", "-q")
    assert (code, err) == (0, "") and miou(document) is not None
