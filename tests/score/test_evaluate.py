"""``eval`` against numpy and scikit-learn on the masks that it wrote, and its command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from freqkd_cli import recipe as recipes
from freqkd_cli.app import main
from freqkd_cli.build.saved import load_model, save_model
from freqkd_cli.models import fast_scnn
from freqkd_cli.runtime.precision import choose
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.evaluate import Pass, as_json, score
from freqkd_cli.score.label_files import mask_writer
from freqkd_cli.score.side_by_side import compare
from freqkd_cli.views.labels import IGNORE

CPU = torch.device("cpu")


class Images:
    """Odd sizes, an absent class (3), and one image that is void everywhere."""

    classes = ("a", "b", "c", "absent")
    palette = np.zeros((4, 3), np.uint8)
    labelled = True
    sizes = ((64, 64), (61, 75), (64, 64), (97, 66))

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        return f"p{index}"

    def image_size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    def read(self, index: int):
        random = np.random.default_rng(index)
        height, width = self.sizes[index]
        labels = random.integers(0, 3, (height, width)).astype(np.uint8)
        labels[random.random((height, width)) < 0.2] = IGNORE
        if index == 2:
            labels[:] = IGNORE
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8), labels


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    made = fast_scnn.build(classes=4, width=0.25).eval()
    # class "absent" must not be predicted either, or it has a union
    made.classifier[-1].bias.data[3] = -1e4
    return made


def test_miou_is_that_of_numpy_and_scikit_learn_on_the_written_masks(model, tmp_path):
    images = Images()
    result = score(
        model,
        images,
        choose(CPU, "float32", False),
        CPU,
        Pass(batch_size=2),
        each=mask_writer(tmp_path, images),
    )
    truth, predicted = [], []
    for index in range(len(images)):
        labels = images.read(index)[1]
        with Image.open(tmp_path / f"p{index}.png") as file:
            written = np.asarray(file)
        assert written.shape == labels.shape
        truth.append(labels[labels != IGNORE])
        predicted.append(written[labels != IGNORE])
    truth, predicted = np.concatenate(truth), np.concatenate(predicted)
    by_hand = []
    for k in range(3):
        union = ((truth == k) | (predicted == k)).sum()
        by_hand.append(((truth == k) & (predicted == k)).sum() / union)
    document = as_json(result, images.classes)
    assert document["miou"] == pytest.approx(np.mean(by_hand), abs=1e-12)
    assert document["miou"] == pytest.approx(
        jaccard_score(truth, predicted, labels=[0, 1, 2], average="macro"), abs=1e-12
    )
    assert document["pixel_accuracy"] == pytest.approx((truth == predicted).mean(), abs=1e-12)
    assert document["absent"] == ["absent"] and document["per_class"][3]["iou"] is None
    assert document["images"] == 4


def test_a_split_that_is_void_all_over_has_no_miou(model):
    class Void(Images):
        sizes = ((64, 64),)

        def read(self, index: int):
            image, labels = super().read(index)
            return image, np.full_like(labels, IGNORE)

    result = score(model, Void(), choose(CPU, "float32", False), CPU)
    assert set(result.values.values()) == {None}


@pytest.fixture
def run_folder(tmp_path):
    """What ``distill`` leaves, without the training."""
    text = "version: 1\ndata: {name: scenes, size: [64, 64], held_out: 3, workers: 0}\n"
    text += "student: {name: fast_scnn, width: 0.25}\n"
    text += "losses: [{name: cross_entropy}]\ntrain: {steps: 1}\n"
    folder = tmp_path / "run"
    torch.manual_seed(0)
    save_model(folder, fast_scnn.build(classes=12, width=0.25))
    (folder / "recipe.yaml").write_text(recipes.dump(recipes.loads(text)))
    return folder


def _main(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_eval_prints_one_document_and_checks_a_threshold(run_folder, capsys, tmp_path):
    assert (
        _main(
            "eval", str(run_folder), "--split", "test", "--json", "--masks", str(tmp_path / "masks")
        )
        == 0
    )
    out = json.loads(capsys.readouterr().out)
    keys = {
        "miou",
        "pixel_accuracy",
        "mean_accuracy",
        "boundary_iou",
        "per_class",
        "parameters",
        "latency_ms",
        "device",
        "images",
        "seconds",
    }
    assert keys <= out.keys()
    assert len(list((tmp_path / "masks").glob("*.png"))) == out["images"] == 3
    assert _main("eval", str(run_folder), "--min-miou", "99") == 3
    assert "is below --min-miou" in capsys.readouterr().err
    assert _main("eval", str(tmp_path / "nothing")) == 4


@pytest.mark.parametrize("source", ["fastscnn_basic", "{run}"])
def test_a_teacher_is_scored_on_its_own_data(run_folder, freqkd, source):
    words = ("eval", source.format(run=run_folder), "--teacher", "--recipe", "quickstart")
    code, out, err = freqkd(*words)
    assert (code, out) == (2, "") and "--recipe has no effect" in err
    assert "freqkd eval quickstart --teacher" in err


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "{run}"),
        ("eval", "{run}", "--flip"),
        ("compare", "{run}"),
        ("predict", "{run}", "{image}"),
    ],
)
def test_a_model_with_logits_that_are_not_finite_has_no_score(run_folder, freqkd, tmp_path, words):
    model = load_model(run_folder)
    model.classifier[-1].bias.data[7] = float("inf")
    save_model(run_folder, model)
    image = tmp_path / "street.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(image)
    words = [word.format(run=run_folder, image=image) for word in words]
    code, out, err = freqkd(
        *words, *(("--out", tmp_path / "out") if words[0] == "predict" else ()), "-q"
    )
    assert (code, out) == (1, "") and err.count("error:") == 1 and "are not finite" in err
    assert str(image) in err if words[0] == "predict" else "val_" in err


def test_the_log_names_the_precision(run_folder, freqkd):
    err = freqkd("eval", run_folder, "--device", "cpu")[2]
    assert (
        "split val, computing in float32 on cpu\n" in err
        and "asked for" not in err
        and "bfloat16" not in err
    )


def test_the_table_is_in_percent_and_the_next_step_is_logged(run_folder, freqkd):
    _, out, err = freqkd("eval", run_folder)
    assert f"Next: freqkd predict {run_folder} " in err
    document = json.loads(freqkd("eval", run_folder, "--json", "-q")[1])
    rows = dict(line.rsplit(maxsplit=1) for line in out.splitlines() if line)
    for name in ("miou", "boundary_iou", "pixel_accuracy", "mean_accuracy"):
        heading = "mIoU" if name == "miou" else name.replace("_iou", " IoU").replace("_", " ")
        assert rows[heading] == f"{100 * document[name]:.2f}" and document[name] <= 1
    assert out.splitlines()[0].split() == ["class", "IoU", "accuracy", "boundary", "IoU"]


def test_a_folder_without_a_model_is_reported(freqkd, tmp_path):
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    code, _, err = freqkd("eval", tmp_path)
    assert code == 4 and f"{tmp_path} holds no model" in err and "scenes_teacher" not in err
    (tmp_path / "config.json").write_text("{}")
    code, _, err = freqkd("eval", tmp_path)
    assert code == 2 and "has no recipe.yaml that names the data" in err


def test_runs_stand_side_by_side(run_folder, capsys, tmp_path):
    result = compare([run_folder, run_folder], Silent(), images=2)
    assert [row["name"] for row in result.rows] == ["run", "run"]  # it is the same one
    assert len(result.panels) == 2
    assert all(panel["image"].shape == (64, 64, 3) for panel in result.panels)
    assert _main("compare", str(run_folder), "--image", str(tmp_path / "c.png"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["images"] == 3
    with Image.open(tmp_path / "c.png") as sheet:
        assert sheet.width > 200
