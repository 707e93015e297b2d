"""``predict``: images of any size and mode get the labels of eval, overlays and a legend."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.datasets import camvid
from freqkd_cli.models import fast_scnn
from freqkd_cli.score import input_images, predict_images, prediction_files
from freqkd_cli.score.averaging import Averaged, Averaging
from freqkd_cli.score.predict_images import class_colors
from freqkd_cli.score.predicted_labels import Predictor

CLASSES = camvid.CLASSES


def pixels(path, form=lambda image: image) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(form(image))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = fast_scnn.build(classes=len(CLASSES), width=0.25)
    model.classifier[-1].weight.data.mul_(20)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, model, "fast_scnn", dict(enumerate(CLASSES)))
    return folder


def names_in(folder: Path) -> list[str]:
    """Paths of the visible files below a folder."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if not path.name.startswith("."))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@torch.no_grad()
def labels_by_hand(folder: Path, image: np.ndarray) -> np.ndarray:
    """Padded with gray to multiples of 32, upsampled with torch's own interpolation, cropped."""
    height, width = image.shape[:2]
    shown = torch.full((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), 0.5)
    shown[..., :height, :width] = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))
    logits = load_model(folder)(shown)["logits"]
    return (
        torch.nn.functional.interpolate(logits, size=shown.shape[-2:], mode="bilinear")
        .argmax(1)[0, :height, :width]
        .numpy()
    )


def test_labels_overlays_and_legend(model_folder, freqkd, tmp_path):
    images = {"odd": noise(61, 75), "tiny": noise(3, 1), "wide": noise(32, 160, 2)}
    (tmp_path / "in").mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    code, out, err = freqkd(
        "predict",
        model_folder,
        tmp_path / "in",
        "--out",
        tmp_path / "out",
        "--alpha",
        0.25,
        "--json",
        "-q",
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["images"] == 3 and document["unreadable"] == []
    assert [row["size"] for row in document["files"]] == [[61, 75], [3, 1], [32, 160]]
    legend = json.loads((tmp_path / "out/legend.json").read_text())
    assert legend == document["classes"] and [row["name"] for row in legend] == list(CLASSES)
    colors = np.array([row["color"] for row in legend])
    assert len({*map(tuple, colors)}) == len(CLASSES)
    for row, (name, image) in zip(document["files"], sorted(images.items()), strict=True):
        expected = labels_by_hand(model_folder, image)
        with Image.open(row["labels"]) as file:
            assert file.mode == "P" and Path(row["labels"]).name == f"{name}.png"
            written = np.asarray(file)
            np.testing.assert_array_equal(np.asarray(file.convert("RGB")), colors[written])
        assert (written == expected).mean() > 0.999
        overlay = pixels(row["overlay"]).astype(int)[: image.shape[0]]
        assert np.abs(overlay - (0.75 * image + 0.25 * colors[written])).max() <= 1
    assert len(np.unique(written)) > 1


def test_images_of_a_data_set_get_the_labels_that_eval_writes(model_folder, freqkd, tmp_path):
    (tmp_path / "data/test").mkdir(parents=True)
    (tmp_path / "data/testannot").mkdir()
    for number, size in enumerate(((64, 64), (45, 70))):
        Image.fromarray(noise(*size, number)).save(tmp_path / f"data/test/p{number}.png")
        Image.new("L", size[::-1]).save(tmp_path / f"data/testannot/p{number}.png")
    run = tmp_path / "run"
    save_model(run, load_model(model_folder))
    root = tmp_path / "data"
    text = f"version: 1\ndata: {{name: camvid, size: [64, 64], root: {root}, workers: 0}}\n"
    text += "student: {name: fast_scnn, width: 0.25}\n"
    (run / "recipe.yaml").write_text(
        recipes.dump(recipes.loads(text + "losses: [{name: cross_entropy}]\ntrain: {steps: 1}\n"))
    )
    assert freqkd("eval", run, "--split", "test", "--masks", tmp_path / "masks", "-q")[0] == 0
    assert (
        freqkd(
            "predict", run, tmp_path / "data/test", "--out", tmp_path / "out", "--labels-only", "-q"
        )[0]
        == 0
    )
    assert names_in(tmp_path / "out") == ["legend.json", "p0.png", "p1.png"]
    for name in ("p0.png", "p1.png"):
        np.testing.assert_array_equal(
            pixels(tmp_path / "out" / name), pixels(tmp_path / "masks" / name)
        )
    assert [
        row["color"] for row in json.loads((tmp_path / "out/legend.json").read_text())
    ] == camvid.PALETTE.tolist()


@pytest.mark.parametrize("name", ["folder", "hf"])
def test_colors_of_a_recipe_need_no_images(tmp_path, name):
    text = f"version: 1\ndata: {{name: {name}, size: [64, 64], root: {tmp_path}/absent, "
    text += "classes: [road, car], colors: {car: [1, 2, 3]}}\n"
    text += "student: {name: fast_scnn, width: 0.25}\nlosses: [{name: cross_entropy}]\n"
    (tmp_path / "recipe.yaml").write_text(recipes.dump(recipes.loads(text + "train: {steps: 1}\n")))
    model = SimpleNamespace(classes=2, id2label={0: "road", 1: "car"})
    assert class_colors(tmp_path, model)[1] == [1, 2, 3]


def test_gray_transparent_palette_and_turned_images(model_folder, freqkd, tmp_path):
    image = noise(40, 64)
    plain, turned = Image.fromarray(image), Image.Exif()
    turned[0x0112] = 6  # shown rotated by a quarter
    alpha = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 64), dtype=np.uint8))
    rgba = plain.copy()
    rgba.putalpha(alpha)
    forms = {
        "rgba": rgba,
        "gray": plain.convert("L"),
        "palette": plain.convert("P"),
        "ga": plain.convert("LA"),
        "one": plain.convert("1"),
    }
    for name, form in forms.items():
        form.save(tmp_path / f"{name}.png")
    plain.save(tmp_path / "phone.jpg", exif=turned, quality=95)
    plain.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    names = [*(f"{name}.png" for name in forms), "phone.jpg", "cmyk.jpg"]
    code, _, err = freqkd(
        "predict",
        model_folder,
        *(tmp_path / name for name in names),
        "--out",
        tmp_path / "out",
        "-q",
    )
    assert (code, err) == (0, "")
    expected = {
        "rgba": image,
        "gray": np.repeat(np.asarray(forms["gray"])[..., None], 3, 2),
        "palette": np.asarray(forms["palette"].convert("RGB")),
        "phone": pixels(tmp_path / "phone.jpg", ImageOps.exif_transpose),
    }
    assert expected["phone"].shape == (64, 40, 3)
    for name, shown in expected.items():
        written = pixels(tmp_path / "out" / f"{name}.png")
        assert (
            written.shape == shown.shape[:2]
            and (written == labels_by_hand(model_folder, shown)).mean() > 0.999
        ), name
        assert (
            pixels(tmp_path / "out" / f"{name}_overlay.png").shape == shown.shape
        )  # too narrow for a legend


def test_unreadable_images_are_listed_at_the_end_and_the_others_labelled(
    model_folder, freqkd, tmp_path
):
    Image.fromarray(noise(40, 40)).save(tmp_path / "good.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:300])
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    code, out, err = freqkd(
        "predict", model_folder, tmp_path, "--out", tmp_path / "out", "--json", "-q"
    )
    assert (
        code == 1
        and err.count("error:") == 1
        and "3 of 4 images could not be labelled; the others are labelled" in err
    )
    assert (
        all(f"{tmp_path / name}: " in err for name in ("torn.jpg", "text.png", "deep.png"))
        and "8 bits a channel" in err
    )
    document = json.loads(out)
    assert [Path(row["image"]).name for row in document["unreadable"]] == [
        "deep.png",
        "text.png",
        "torn.jpg",
    ]
    assert names_in(tmp_path / "out") == ["good.png", "good_overlay.png", "legend.json"]
    code, out, err = freqkd(
        "predict", model_folder, tmp_path / "text.png", "--out", tmp_path / "none", "-q"
    )
    assert code == 1 and "1 of 1 images could not be labelled\n" in err and "others" not in err


def test_no_file_of_others_is_replaced(model_folder, freqkd, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(32, 32)).save(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("mine")
    (out / "mine.txt").write_text("mine")
    code, _, err = freqkd("predict", model_folder, tmp_path / "a.png", "--out", out)
    assert code == 2 and "is not empty" in err and (out / "a.png").read_text() == "mine"
    words = ("predict", model_folder, tmp_path / "a.png", "--out", out, "--overwrite", "-q")
    code, _, err = freqkd(*words)
    assert code == 2 and "did not write" in err and (out / "a.png").read_text() == "mine"
    (out / "a.png").unlink()
    assert freqkd(*words)[0] == 0 and freqkd(*words)[0] == 0
    assert pixels(out / "a.png").shape == (32, 32) and (out / "mine.txt").read_text() == "mine"
    assert freqkd("predict", model_folder, tmp_path / "a.png", "--out", tmp_path / "b.png")[0] == 2
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.jpg")
    code, _, err = freqkd(
        "predict", model_folder, tmp_path / "a.png", tmp_path / "a.jpg", "--out", tmp_path / "new"
    )
    assert (
        code == 2
        and "two images would be written to a.png" in err
        and not (tmp_path / "new").exists()
    )
    code, _, err = freqkd("predict", model_folder, tmp_path / "none.png", "--out", tmp_path / "new")
    assert code == 4 and "none.png does not exist" in err
    code, _, err = freqkd(
        "predict", tmp_path / "nowhere", tmp_path / "a.png", "--out", tmp_path / "new"
    )
    assert code == 4 and "nowhere" in err and not (tmp_path / "new").exists()


def test_subfolders_keep_their_paths(model_folder, freqkd, tmp_path):
    for name in ("photos/a.png", "photos/day/a.png", "photos/day/.hidden/b.png", "photos/.c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(32, 40)).save(tmp_path / name)
    out = tmp_path / "photos/out"  # inside the folder that is labelled
    words = ("predict", model_folder, tmp_path / "photos", "--out", out, "--labels-only", "-q")
    assert freqkd(*words)[0] == 0
    assert names_in(out) == ["a.png", "day/a.png", "legend.json"]
    assert freqkd(*words, "--overwrite")[0] == 0
    assert names_in(out) == ["a.png", "day/a.png", "legend.json"]


def test_a_limit_labels_the_first_images(model_folder, freqkd, tmp_path):
    for number in range(3):
        Image.fromarray(noise(32, 40)).save(tmp_path / f"p{number}.png")
    out = tmp_path / "out"
    words = ("predict", model_folder, tmp_path, "--out", out, "--limit", 2, "--labels-only")
    code, printed, err = freqkd(*words, "--json")
    assert code == 0 and json.loads(printed)["images"] == 2
    assert names_in(out) == ["legend.json", "p0.png", "p1.png"]
    assert f"Next: freqkd export {model_folder}" in err


def test_a_legend_strip_names_the_classes_that_occur(model_folder, freqkd, tmp_path):
    image = noise(120, 640)
    Image.fromarray(image).save(tmp_path / "street.png")
    out = tmp_path / "out"
    words = ("predict", model_folder, tmp_path / "street.png", "--out", out, "--overwrite", "-q")
    assert freqkd(*words)[0] == 0
    sheet, labels = pixels(out / "street_overlay.png"), pixels(out / "street.png")
    assert sheet.shape[1] == 640 and 15 < sheet.shape[0] - 120 < 60
    strip = sheet[120:].reshape(-1, 3)
    for row in json.loads((out / "legend.json").read_text()):
        drawn = (strip == row["color"]).all(1).sum()
        assert (drawn > 50) == (row["id"] in labels), row["name"]
    assert freqkd(*words, "--no-legend")[0] == 0
    assert pixels(out / "street_overlay.png").shape == image.shape


@pytest.mark.parametrize("size", [1, 3, None])
def test_batches_change_no_label(model_folder, freqkd, tmp_path, size):
    """Images of one size are run together; another size in between ends a batch."""
    sizes = [(64, 96), (64, 96), (61, 90), (64, 96), (32, 32), (64, 96), (64, 96), (64, 96)]
    images = [noise(*shape, number) for number, shape in enumerate(sizes)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"p{number}.png")
    words = ("predict", model_folder, tmp_path, "--out", tmp_path / "out", "--labels-only", "-q")
    assert freqkd(*words, *(("--batch-size", size) if size else ()))[0] == 0
    for number, image in enumerate(images):
        written = pixels(tmp_path / "out" / f"p{number}.png")
        assert (written == labels_by_hand(model_folder, image)).mean() > 0.999


@pytest.fixture
def small_memory(monkeypatch):
    """Images above 2500 pixels ask torch for more memory than there is, unless in windows."""
    forward = fast_scnn.FastSCNN.forward

    def limited(self, images):
        if images.shape[-2] * images.shape[-1] > 2500:
            torch.empty(2**50, dtype=torch.uint8)
        return forward(self, images)

    monkeypatch.setattr(fast_scnn.FastSCNN, "forward", limited)


def test_an_image_that_does_not_fit_into_memory_does_not_stop_the_others(
    model_folder, freqkd, tmp_path, small_memory
):
    for name, side in (("a", 32), ("large", 64), ("larger", 64), ("z", 32)):
        Image.fromarray(noise(side, side)).save(tmp_path / f"{name}.png")
    words = ("predict", model_folder, tmp_path, "--out", tmp_path / "out", "--labels-only", "-q")
    code, out, err = freqkd(*words, "--json")
    assert code == 1 and "2 of 4 images could not be labelled; the others are labelled" in err
    assert "large.png: memory ran out; try --slide" in err and "Traceback" not in err
    failed = [Path(row["image"]).name for row in json.loads(out)["unreadable"]]
    assert failed == ["large.png", "larger.png"]
    assert names_in(tmp_path / "out") == ["a.png", "legend.json", "z.png"]
    in_windows = freqkd(*words, "--overwrite", "--slide", "64,64")[2]
    assert "large.png: memory ran out; try smaller windows" in in_windows
    assert freqkd(*words, "--overwrite", "--slide", "32,32")[0] == 0
    assert "large.png" in names_in(tmp_path / "out")


def test_large_images_are_labelled_last(model_folder, freqkd, tmp_path, monkeypatch):
    """The system may kill a process whose memory runs out; the other images are done by then."""
    forward = fast_scnn.FastSCNN.forward

    def killed(self, images):
        if images.shape[-1] > 64:
            raise SystemExit(137)
        return forward(self, images)

    monkeypatch.setattr(fast_scnn.FastSCNN, "forward", killed)
    monkeypatch.setattr(input_images, "LARGE", 64 * 64)
    for name, side in (("a", 32), ("b", 96), ("c", 64)):
        Image.fromarray(noise(side, side)).save(tmp_path / f"{name}.png")
    words = ("predict", model_folder, tmp_path, "--out", tmp_path / "out", "--labels-only", "-q")
    assert freqkd(*words)[0] == 137
    assert names_in(tmp_path / "out") == ["a.png", "c.png", "legend.json"]


def test_memory_for_reading_an_image_may_run_out(model_folder, freqkd, tmp_path, monkeypatch):
    read = prediction_files.read_upright

    def limited(path, *keys):
        if path.name == "b.png":
            np.empty(2**50, np.uint8)
        return read(path, *keys)

    monkeypatch.setattr(prediction_files, "read_upright", limited)
    for name in "abc":
        Image.fromarray(noise(32, 32)).save(tmp_path / f"{name}.png")
    words = ("predict", model_folder, tmp_path, "--out", tmp_path / "out", "--labels-only", "-q")
    code, _, err = freqkd(*words)
    assert code == 1 and "1 of 3 images" in err and "b.png: memory ran out" in err
    assert names_in(tmp_path / "out") == ["a.png", "c.png", "legend.json"]


AVERAGING = {
    "windows": ("--slide", "64,96", "--stride", "40,50"),
    "flip": ("--flip",),
    "scales": ("--scales", "0.75,1.0,1.5"),
    "everything": ("--flip", "--scales", "0.5,1.0", "--slide", "64,64"),
}


@pytest.mark.parametrize("averaging", AVERAGING)
def test_averaging_gives_the_labels_of_eval(model_folder, freqkd, tmp_path, averaging):
    (tmp_path / "data/test").mkdir(parents=True)
    (tmp_path / "data/testannot").mkdir()
    Image.fromarray(noise(90, 130)).save(tmp_path / "data/test/p.png")
    Image.new("L", (130, 90)).save(tmp_path / "data/testannot/p.png")
    recipe = tmp_path / "camvid.yaml"
    root = tmp_path / "data"
    text = f"version: 1\ndata: {{name: camvid, size: [64, 64], root: {root}, workers: 0}}\n"
    text += "student: {name: fast_scnn, width: 0.25}\nlosses: [{name: cross_entropy}]\n"
    recipe.write_text(text + "train: {steps: 1}\n")
    options = (*AVERAGING[averaging], "--json", "-q")
    masks, out = tmp_path / "masks", tmp_path / "out"
    words = ("eval", model_folder, "--recipe", recipe, "--split", "test", "--masks", masks)
    code, evaluated, _ = freqkd(*words, *options)
    assert code == 0
    words = ("predict", model_folder, tmp_path / "data/test", "--out", out, "--labels-only")
    code, predicted, _ = freqkd(*words, *options)
    assert code == 0
    assert json.loads(predicted)["test_time"] == json.loads(evaluated)["test_time"]
    written = pixels(out / "p.png")
    assert (written == pixels(masks / "p.png")).mean() > 0.999
    assert (written != labels_by_hand(model_folder, noise(90, 130))).any()


def test_averaging_is_done_frame_by_frame_in_batches(model_folder):
    images = [noise(50, 70, number).copy() for number in range(5)]
    names = [str(number) for number in range(5)]
    averaging = Averaging(flip=True, scales=(1.0, 1.25))
    model = load_model(model_folder).eval()
    together = Predictor(model, averaging).labels(images, names)
    expected = Averaged(model, averaging)
    for image, labels in zip(images, together, strict=True):
        shown = torch.full((1, 3, 64, 96), 0.5)
        shown[..., :50, :70] = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))
        with torch.no_grad():
            alone = expected(shown)["logits"].argmax(1)[0, :50, :70].numpy()
        assert (labels == alone).mean() > 0.999


def test_too_little_memory_for_an_average_names_its_options(
    model_folder, freqkd, tmp_path, small_memory
):
    Image.fromarray(noise(64, 64)).save(tmp_path / "large.png")
    words = ("predict", model_folder, tmp_path, "--out", tmp_path / "out", "--flip", "-q")
    code, _, err = freqkd(*words)
    assert code == 1 and "memory ran out; try it without --flip and --scales" in err


def test_videos_need_an_extra(model_folder, freqkd, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "drive.mp4").write_bytes(b"never opened")
    code, _, err = freqkd("predict", model_folder, tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "PyAV" in err and "pip install 'freqkd[video]'" in err
    assert not (tmp_path / "out").exists()


def test_videos_become_frames_and_an_overlay(model_folder, freqkd, tmp_path):
    av = pytest.importorskip("av")
    images = [noise(64, 127, number // 3) for number in range(6)]
    with av.open(str(tmp_path / "drive.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.pad(image, ((0, 0), (0, 1), (0, 0)), "edge"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "drive.mp4").read_bytes()[:100])
    words = ("predict", model_folder, tmp_path, "--out", tmp_path / "out", "--json", "-q")
    code, out, err = freqkd(*words)
    document = json.loads(out)
    assert code == 1 and "torn.mp4: " in err and "Traceback" not in err
    (row,) = document["files"]
    assert row["frames"] == 6 and row["size"] == [64, 128]
    assert names_in(tmp_path / "out/drive") == [f"{n:06d}.png" for n in range(6)]
    with av.open(row["overlay"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(frames) == 6 and frames[0].shape[1] == 128 and frames[0].shape[0] > 64
    again = (*words, "--overwrite", "--limit", 1, "--labels-only", "--flip")
    assert json.loads(freqkd(*again)[1])["files"][0]["frames"] == 1
    assert names_in(tmp_path / "out/drive") == ["000000.png"]


def test_frames_of_a_longer_earlier_video_are_removed(model_folder, freqkd, tmp_path, monkeypatch):
    images = [noise(32, 32, number) for number in range(6)]
    monkeypatch.setattr(predict_images, "require_library", lambda: None)
    monkeypatch.setattr(prediction_files, "frames", lambda path, limit: images[: limit or None])
    (tmp_path / "in/drive").mkdir(parents=True)
    (tmp_path / "in/drive.mp4").write_bytes(b"never opened")
    out = tmp_path / "out"
    words = ("predict", model_folder, tmp_path / "in", "--out", out, "--labels-only", "-q")
    assert freqkd(*words)[0] == 0
    (out / "drive/notes.txt").write_text("mine")
    assert len(names_in(out / "drive")) == 7
    assert freqkd(*words, "--overwrite", "--limit", 2)[0] == 0
    assert names_in(out / "drive") == ["000000.png", "000001.png", "notes.txt"]
    Image.fromarray(images[0]).save(tmp_path / "in/drive/000009.png")  # its labels lie there too
    assert freqkd(*words, "--overwrite")[0] == 0
    expected = [*(f"{number:06d}.png" for number in (*range(6), 9)), "notes.txt"]
    assert names_in(out / "drive") == expected


def test_a_frame_and_an_image_do_not_share_a_label_file(
    model_folder, freqkd, tmp_path, monkeypatch
):
    images = [noise(32, 32, number) for number in range(3)]
    monkeypatch.setattr(predict_images, "require_library", lambda: None)
    monkeypatch.setattr(prediction_files, "frames", lambda path, limit: images)
    (tmp_path / "in/drive").mkdir(parents=True)
    (tmp_path / "in/drive.mp4").write_bytes(b"never opened")
    Image.fromarray(noise(40, 64)).save(tmp_path / "in/drive/000001.png")
    out = tmp_path / "out"
    words = ("predict", model_folder, tmp_path / "in", "--out", out, "--labels-only", "-q")
    code, _, err = freqkd(*words)
    assert code == 1 and "1 of 2 images could not be labelled" in err
    assert f"000001.png: {out / 'drive/000001.png'} has the labels of another input" in err
    assert pixels(out / "drive/000001.png").shape == (32, 32)


def test_images_of_other_formats_in_a_folder_are_listed(model_folder, freqkd, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.HEIC", "b.heic", "c.dng", "notes.txt"):
        (photos / name).write_bytes(b"never opened")
    words = ("predict", model_folder, photos, "--out", tmp_path / "out", "--labels-only")
    code, _, err = freqkd(*words)
    assert code == 4 and "photos has no images\n  got  1 .dng, 2 .heic\n  need files" in err
    Image.fromarray(noise(32, 32)).save(photos / "d.png")
    code, _, err = freqkd(*words)
    assert code == 0 and "left out 1 .dng, 2 .heic" in err
