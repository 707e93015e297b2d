"""``hf``: data sets of Hugging Face ``datasets``, from a folder, parquet files or the hub."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import yaml
from cache_fakes import Notes
from hf_folders import CLASSES, SHAPE, arrays, cell, library, rows, save_splits

from freqkd_cli.datasets import hf
from freqkd_cli.errors import DataBroken, DataMissing, UsageError
from freqkd_cli.images.dataset import Dataset
from freqkd_cli.images.held_out import part
from freqkd_cli.images.keep import FOLDER, keep_decoded
from freqkd_cli.views.loader import whole_batches

SIZE = (32, 32)


@pytest.fixture(scope="module", autouse=True)
def library_cache(tmp_path_factory):
    hub = library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "saved"
    return save_splits(folder, train=rows(6), validation=rows(3, 1))


def open_split(root, split="train", **keys):
    keys = {"classes": CLASSES} | keys
    return hf.build(split=split, root=root, size=SIZE, **keys)


def check(data, number=6, seed=0):
    images, labels = arrays(number, seed)
    assert isinstance(data, Dataset) and data.labelled and len(data) == number
    for index in range(number):
        image, mask = data.read(index)
        np.testing.assert_array_equal(image, images[index])
        np.testing.assert_array_equal(mask, labels[index])
        assert data.image_size(index) == SHAPE and mask.dtype == np.uint8


def test_a_folder_of_save_to_disk(saved):
    data = open_split(saved)
    check(data)
    assert data.name(4) == "photo_4" and data.classes == tuple(CLASSES)
    check(open_split(saved, "val"), 3, 1)
    with pytest.raises(DataMissing, match="no split 'test' or 'testing', for test(.|\n)*train, va"):
        open_split(saved, "test")


def test_one_split_without_a_dictionary_is_divided(tmp_path):
    rows(8).save_to_disk(str(tmp_path / "one"))
    parts = [open_split(tmp_path / "one", split, split_=0.5) for split in ("train", "val")]
    names = [{data.name(k) for k in range(len(data))} for data in parts]
    assert names[0] | names[1] == {f"photo_{k}" for k in range(8)} and not names[0] & names[1]
    with pytest.raises(DataMissing, match="--set data.split=0.8 to divide 'train'"):
        open_split(tmp_path / "one", "val")


def test_a_test_split_stays_one_where_train_is_divided(tmp_path):
    root = save_splits(tmp_path / "saved", train=rows(8), test=rows(3, 1))
    check(open_split(root, "test", split_=0.5), 3, 1)
    assert len(open_split(root, split_=0.5)) + len(open_split(root, "val", split_=0.5)) == 8


def test_a_split_for_val_is_never_replaced_by_a_share_of_train(saved):
    for split in ("train", "val"):
        with pytest.raises(UsageError, match="divided already(.|\n)*no share for 'validation'"):
            open_split(saved, split, split_=0.5)


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "folder"])
def test_parquet(tmp_path, as_file):
    folder = tmp_path / "data"
    folder.mkdir()
    rows(6).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    rows(3, 1).to_parquet(str(folder / "validation-00000-of-00001.parquet"))
    check(open_split(folder / "train-00000-of-00001.parquet" if as_file else folder))
    if not as_file:
        check(open_split(folder, "val"), 3, 1)


def test_the_hub_is_asked_without_running_code(saved, tmp_path, monkeypatch):
    hub, calls = library(), []
    loaded = hub.load_from_disk(str(saved))
    (tmp_path / "id2label.json").write_text(json.dumps(dict(enumerate(CLASSES))))

    def load(path, config=None, **keywords):
        calls.append((path, config, keywords))
        return loaded

    monkeypatch.setattr(hub, "load_dataset", load)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda repo, name, **k: str(tmp_path / name) if k["repo_type"] == "dataset" else 1 / 0,
    )
    check(open_split(None, repo="a/b", revision="v1", config="small", classes=None))
    assert calls == [("a/b", "small", {"revision": "v1"})]
    assert hf.classes(repo="a/b") == tuple(CLASSES)


def test_a_hub_that_cannot_be_reached_is_one_message():
    with pytest.raises(
        DataMissing,
        match="nobody-here/nothing could not be fetched(.|\n)*need a data set with columns of "
        "images(.|\n)*--data-root DIR; for loose files of images and masks, use the data set f",
    ):
        open_split(None, repo="nobody-here/nothing")  # offline in tests


def test_classes_of_the_label_column_and_of_a_file(tmp_path, saved):
    hub = library()
    _, labels = arrays(4)
    labels = [np.where(x == 255, 0, x).tolist() for x in labels]
    kind = hub.List(hub.List(hub.ClassLabel(names=CLASSES)))
    folder = save_splits(tmp_path / "a", train=rows(4, labels=(labels, kind)))
    data = open_split(folder, classes=None)
    assert data.classes == hf.classes(root=folder) == tuple(CLASSES)
    np.testing.assert_array_equal(data.read(2)[1], labels[2])
    beside = save_splits(tmp_path / "b", train=rows(2))
    (beside / "id2label.json").write_text(json.dumps({"0": "x", "1": "y", "2": "z"}))
    assert open_split(beside, classes=None).classes == ("x", "y", "z")
    with pytest.raises(DataMissing, match="no class names(.|\n)*--set 'data.classes="):
        open_split(saved, classes=None)
    assert hf.classes(root=saved) == ()


def test_zero_label_void_and_ignore(tmp_path):
    labels = [np.resize(np.uint8([0, 1, 2, 9]), SHAPE)] * 2
    encoded = [cell(x, None) for x in labels]
    folder = save_splits(tmp_path / "a", train=rows(2, labels=(encoded, library().Image())))
    keys = {"zero_label": "void", "classes": ["a", "b"]}
    read = open_split(folder, ignore=9, **keys).read(0)[1]
    np.testing.assert_array_equal(read, np.resize(np.uint8([255, 0, 1, 255]), SHAPE))
    with pytest.raises(DataBroken, match=r"train\[1\].label contains label values that belong to"):
        open_split(folder, **keys).read(1)


def test_images_without_labels_and_the_pool(saved):
    data = open_split(saved, label=None)
    assert not data.labelled and data.read(0)[1] is None
    pool = hf.build_pool(root=saved, arguments={"image": "image"})
    assert len(pool) == 6 and not pool.labelled
    assert pool.numbers_of_equal_files(part(open_split(saved), [1, 4])) == {1, 4}


def test_the_manifest_is_of_the_content_and_not_of_the_form(saved, tmp_path):
    one = open_split(saved).manifest()
    rows(6).to_parquet(str(tmp_path / "train.parquet"))
    assert open_split(tmp_path / "train.parquet").manifest() == one
    other = save_splits(tmp_path / "other", train=rows(6, 7))
    assert open_split(other).manifest()["sha256"] != one["sha256"]
    assert part(open_split(saved), [0, 1]).manifest()["sha256"] != one["sha256"]
    json.dumps(one)


def test_names_are_numbers_where_files_have_none(tmp_path):
    folder = save_splits(tmp_path / "a", train=rows(2, names=False))
    assert [open_split(folder).name(k) for k in range(2)] == ["000000", "000001"]


def test_worker_processes_read_it(saved):
    data = pickle.loads(pickle.dumps(open_split(saved)))
    (batch,) = whole_batches(data, 6, workers=1)
    _, labels = arrays(6)
    np.testing.assert_array_equal(batch.labels[3, : SHAPE[0], : SHAPE[1]], labels[3])


@pytest.mark.parametrize(
    ("keys", "error", "match"),
    [
        ({"label": "mask"}, DataMissing, "no column 'mask'(.|\n)*image, label(.|\n)*data.label=CO"),
        ({"image": "photo"}, DataMissing, "no column 'photo'"),
        ({"splits": {"val": "train", "train": "train"}}, UsageError, "same images to two splits"),
        ({"splits": {"train": "nothing"}}, DataMissing, "no split 'nothing', for train"),
        ({"classes": ["a"]}, UsageError, "one class is no segmentation"),
    ],
)
def test_bad_keys_are_one_message(saved, keys, error, match):
    with pytest.raises(error, match=match):
        open_split(saved, **keys)


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(DataMissing, match="needs a folder, or an id of the hub"):
        open_split(None)
    with pytest.raises(DataMissing, match="there is no"):
        open_split(tmp_path / "gone")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    match = "x.parquet cannot be read as a Hugging Face data set(.|\n)*data.name: folder"
    with pytest.raises(DataBroken, match=match):
        open_split(tmp_path / "x.parquet")


def test_a_damaged_image_is_named(tmp_path):
    data = rows(3)
    images = [data[0]["image"]] * 2
    broken = {"image": [cell(np.array(images[0]), "a.png"), {"bytes": b"\0" * 9, "path": "b.png"}]}
    hub = library()
    table = hub.Dataset.from_dict(broken, features=hub.Features(image=hub.Image()))
    folder = save_splits(tmp_path / "a", train=table)
    opened = open_split(folder, label=None)
    with pytest.raises(DataBroken, match=r"cannot read .*train\[1\].image(.|\n)*9 zero bytes"):
        opened.read(1)


RECIPE = {
    "version": 1,
    "data": {"name": "hf", "size": [32, 32], "views": 1, "workers": 0, "classes": CLASSES},
    "teacher": {"name": "segformer", "variant": "mini", "head": "keep"},
    "student": {"name": "fast_scnn", "width": 0.25},
    "losses": [{"name": "cross_entropy"}],
    "train": {"steps": 2, "batch_size": 2},
}


def test_the_chain_of_commands(freqkd, saved, tmp_path):
    recipe = tmp_path / "r.yaml"
    content = {**RECIPE, "data": {**RECIPE["data"], "root": str(saved)}}
    recipe.write_text(yaml.safe_dump(content))
    code, out, err = freqkd("data", recipe)
    assert code == 0, err
    assert "label images" in out and "generated" not in out
    code, _, err = freqkd("distill", recipe, "--out", tmp_path / "run", "--json")
    assert code == 0 and "labels of train: checked the pixels of 6" in err, err
    code, out, err = freqkd("eval", tmp_path / "run", "--json", "--masks", tmp_path / "m")
    assert code == 0 and json.loads(out)["images"] == 3, err
    assert sorted(p.name for p in (tmp_path / "m").glob("*.png"))[0] == "photo_0.png"
    code, out, err = freqkd("data", recipe, "--set", "data.classes=[a, b]")
    assert code != 0 and "train[0].label" in out + err


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_nothing_is_kept_of_a_table_and_one_line_is_printed(saved, tmp_path, monkeypatch, where):
    """It was a traceback: a cell has no absolute path."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    data, notes = open_split(saved), Notes()
    keep_decoded([data], where, notes)
    (line,) = notes.said
    assert line.startswith(f"data.keep {where}: 6 images are not files and cannot be kept")
    assert not hasattr(data, "kept") and data.origin(0) is None


def paths_table(folder, *paths):
    """Write a table that names files, without their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "train.parquet"
    library().Dataset.from_dict({"image": [str(path) for path in paths]}).to_parquet(str(file))
    return file


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "folder"])
def test_a_table_names_no_file_outside_its_folder(tmp_path, as_file):
    """Any file of the machine that a foreign table named was opened as an image."""
    images, _ = arrays(2)
    (tmp_path / "data" / "photos").mkdir(parents=True)
    inside, outside = tmp_path / "data" / "photos" / "a.png", tmp_path / "private.png"
    for path, image in zip((inside, outside), images, strict=True):
        path.write_bytes(cell(image, None)["bytes"])
    file = paths_table(
        tmp_path / "data", inside, "photos/a.png", outside, "photos/../../private.png"
    )
    data = open_split(file if as_file else file.parent, label=None)
    for row in (0, 1):
        np.testing.assert_array_equal(data.read(row)[0], images[0])
    for row in (2, 3):
        with pytest.raises(DataBroken, match=r"(?s)\.image.*got .*private.png.*need bytes in the"):
            data.read(row)


def test_a_table_of_the_hub_names_no_file(tmp_path, monkeypatch):
    photo = tmp_path / "photo.png"
    photo.write_bytes(cell(arrays(1)[0][0], None)["bytes"])
    hub = library()
    table = hub.Dataset.from_dict({"image": [str(photo)]})
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: hub.DatasetDict(train=table))
    with pytest.raises(DataBroken, match="(?s)photo.png, without the bytes.*a local data.root"):
        open_split(None, repo="a/b", label=None).read(0)


def test_the_class_of_a_loose_file_is_no_label_image(monkeypatch):
    """The library gives the number of its folder as the label of an image file of a repository."""
    hub = library()
    kinds = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["images", "masks"]))
    cells = {"image": [cell(arrays(1)[0][0], "a.png")], "label": [0]}
    table = hub.Dataset.from_dict(cells, features=kinds)
    monkeypatch.setattr(hub, "load_dataset", lambda *_, **__: hub.DatasetDict(train=table))
    with pytest.raises(DataBroken, match="(?s)'label' of a/b:train has no images.*data.name: fol"):
        open_split(None, repo="a/b")


def test_keys_of_tips_are_keys_of_the_data_set(tmp_path):
    """Tips named threshold and scale, which were refused."""
    mask = np.kron(np.uint8([[0, 120], [130, 255]]), np.ones((20, 28), np.uint8))
    labels = ([cell(mask, None)] * 2, library().Image())
    root = save_splits(tmp_path / "saved", train=rows(2, labels=labels))
    data = open_split(root, classes=["ground", "crack"], threshold=128)
    np.testing.assert_array_equal(data.read(0)[1], mask >= 128)
    steps = ([cell(mask // 128 * 85, None)] * 2, library().Image())
    root = save_splits(tmp_path / "steps", train=rows(2, labels=steps))
    data = open_split(root, classes=["ground", "crack"], scale=85)
    np.testing.assert_array_equal(data.read(0)[1], mask >= 128)


@pytest.mark.parametrize(("dtype", "read"), [("int32", True), ("uint8", True), ("float32", False)])
def test_arrays_hold_whole_numbers(tmp_path, dtype, read):
    """Fractions were cut off."""
    masks = [np.full(SHAPE, 1, dtype)] * 2
    labels = (masks, library().Array2D(SHAPE, dtype))
    root = save_splits(tmp_path / "saved", train=rows(2, labels=labels))
    if read:
        np.testing.assert_array_equal(open_split(root).read(0)[1], np.ones(SHAPE))
    else:
        with pytest.raises(DataBroken, match=r"has no images(.|\n)*arrays \[H, W\] of class numb"):
            open_split(root)


@pytest.mark.parametrize("kind", ["lists", "array"])
def test_a_row_with_no_labels_or_ragged_ones_is_named(tmp_path, kind):
    hub, mask = library(), np.ones(SHAPE, int).tolist()
    hole = [[*mask[0][1:], None], *mask[1:]]
    masks, feature = (
        [mask, None, [*mask[:-1], [1, 2]], hole, []],
        hub.List(hub.List(hub.Value("int64"))),
    )
    if kind == "array":
        masks, feature = [mask, None], hub.Array2D(SHAPE, "int64")
    data = open_split(
        save_splits(tmp_path / "saved", train=rows(len(masks), labels=(masks, feature)))
    )
    np.testing.assert_array_equal(data.read(0)[1], np.ones(SHAPE))
    gots = ["no labels in this row", "rows of diff", "rows of diff", "no labels in this row"]
    for row, got in enumerate(gots[: len(masks) - 1], start=1):
        match = rf"cannot read .*train\[{row}\].label\n  got  {got}(.|\n)*\[H, W\] of whole numbers"
        for use in (data.read, data.mask, data.mask_header, lambda row: data.manifest([row])):
            with pytest.raises(DataBroken, match=match):
                use(row)
