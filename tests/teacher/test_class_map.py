"""A teacher with other classes: class maps, the losses that use them, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.metrics import jaccard_score

from freqkd_cli import recipe as recipes
from freqkd_cli.app import main
from freqkd_cli.build import assemble
from freqkd_cli.build.objective import Objective
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import CacheMismatch, RecipeError
from freqkd_cli.features.class_map import ClassMap, resolve
from freqkd_cli.models import fast_scnn, segformer, smp
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.teacher.dump_recipe import DumpOptions, dry_run, dump_recipe
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.teacher.teacher_classes import build_scored_teacher, check_teacher_classes
from freqkd_cli.train.distillation import distill
from freqkd_cli.views.loader import Loader, ViewDataset

TINY = {"channels": [8, 8, 16, 16], "heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "decoder": 16}
NAMES = {0: "street", 1: "side-walk", 2: "sky", 3: "wall", 4: "house", 5: "thing"}
MAP = "{street: road, side-walk: pavement, 2: sky, wall: building, 4: building}"
RECIPE = """\
version: 1
data: {name: scenes, size: [64, 96], length: 4, held_out: 2, views: 1, workers: 0}
teacher: {name: segformer, weights: WEIGHTS, class_map: MAP}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy}
  - {id: kl, name: logit_kl, temperature: 2.0, grid: student}
train: {steps: 2, batch_size: 2}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = segformer.build(classes=6, **TINY)
    with torch.no_grad():  # so that its classes differ from place to place
        model.net.decode_head.classifier.weight.mul_(30)
    folder = tmp_path_factory.mktemp("teacher")
    save_model(folder, model, "segformer", NAMES)
    return folder


@pytest.fixture
def text(weights):
    return RECIPE.replace("WEIGHTS", str(weights)).replace("MAP", MAP)


def test_merged_classes_have_the_sum_of_their_probabilities():
    logits = np.random.default_rng(0).normal(0, 3, (2, 6, 4, 5))
    mapping = ClassMap(((0,), (3, 4), (2,)), (1, 4, 7), 9)
    merged = mapping.merged(torch.from_numpy(logits)).numpy()
    np.testing.assert_array_equal(merged[:, [0, 2]], logits[:, [0, 2]])
    np.testing.assert_allclose(merged[:, 1], logsumexp(logits[:, 3:5], axis=1), rtol=1e-12)
    kept = softmax(logits[:, [0, 3, 4, 2]], axis=1)  # classes 1 and 5 do not count
    np.testing.assert_allclose(
        softmax(merged, axis=1),
        np.stack([kept[:, 0], kept[:, 1] + kept[:, 2], kept[:, 3]], 1),
        rtol=1e-12,
    )
    spread = mapping.spread(torch.from_numpy(logits))
    assert spread.shape == (2, 9, 4, 5)
    np.testing.assert_array_equal(spread[:, [1, 4, 7]].numpy(), merged)
    shares = spread.softmax(1)
    assert float(shares[:, [0, 2, 3, 5, 6, 8]].max()) == 0 and bool(shares.isfinite().all())


def test_keys_are_names_or_numbers_and_mistakes_come_all_at_once():
    classes = ("road", "pavement", "sky")
    mapping, problems = resolve(
        {"street": "road", "1": "pavement", "wall": "pavement"}, NAMES, 6, classes
    )
    assert (mapping.groups, mapping.covered, problems) == (((0,), (1, 3)), (0, 1), [])
    assert mapping.to_json() == {"0": [0], "1": [1, 3]}
    pairs = {"streat": "road", "0": "raod", "street": "sky", "6": "sky", "2": "pavement"}
    problems = dict(resolve(pairs, NAMES, 6, classes)[1])
    assert "did you mean 'street'" in problems["streat"] and "from 0 to 5" in problems["6"]
    assert problems["street"] == "is class 0 of the teacher, which '0' names too"
    assert "2" not in problems
    assert "did you mean 'road'" in dict(resolve({"0": "raod"}, NAMES, 6, classes)[1])["0"]
    twice = dict(resolve({"sky": "sky", "0": "road"}, {0: "sky", 1: "sky"}, 2, classes)[1])
    assert "need its number: 0, 1" in twice["sky"]
    assert "names no classes" in dict(resolve({"sky": "sky"}, None, 2, classes)[1])["sky"]
    assert resolve({"3": "sky", "1": "road"}, {0: "3", 1: "a", 2: "b", 3: "c"}, 4, classes)[
        0
    ].groups == ((1,), (0,)), "a name goes first"


@pytest.mark.parametrize("length", [4, 1], ids=["views", "view"])
def test_a_dry_run_compares_the_covered_classes_alone(text, tmp_path, length):
    """The student had all classes: it was a traceback. So was one view, in a batch norm."""
    recipe = recipes.loads(text, sets=[f"data.length={length}"])
    options = DumpOptions(compare=True)
    rows = dry_run(recipe, tmp_path / "c", options)["choices"]
    errors = {row["dtype"]: row["losses"]["kl"]["relative_error"] for row in rows}
    assert errors["fp32"] < 1e-6 < errors["bf16"] < 0.1


def test_the_loss_compares_the_covered_classes_alone(text):
    """Compare with the divergence by hand; classes outside the map get no gradient."""
    plan = assemble.check(recipes.loads(text))
    assert plan.compared == (0, 1, 2, 4) and plan.teacher_taps["logits"].channels == 4
    lines = assemble.build_lines(plan)
    dataset = assemble.build_dataset(plan.recipe, "train")
    source = open_source(plan, lines, None, dataset, "cpu")
    batch = next(iter(Loader(ViewDataset(dataset, plan.view_spec, views=1), [[(0, 0), (1, 0)]])))
    torch.manual_seed(1)
    student = assemble.build_student(plan).eval()
    student.classifier[-1].weight.data.mul_(20)
    targets = source.targets(batch, plan.grids)
    assert targets["kl"]["logits"].shape[1] == 4
    logits: list[torch.Tensor] = []
    student.register_forward_hook(
        lambda module, given, out: (
            (out["logits"].retain_grad(), logits.append(out["logits"])) and None
        )
    )
    only_kl = Objective(
        student,
        tuple(line for line in lines if line.id == "kl"),
        torch.autocast("cpu", enabled=False),
    )
    total, _ = only_kl(batch, targets, 0, 1)
    total.backward()

    with torch.no_grad():
        raw = assemble.build_teacher(plan.recipe, 12)(batch.images)["logits"]
    merged = np.stack([raw[:, 0], raw[:, 1], raw[:, 2], logsumexp(raw[:, 3:5].numpy(), axis=1)], 1)
    grid = plan.grids["logits"]
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(merged), size=grid, mode="bilinear"
    ).numpy()
    p = softmax(resized / 2, axis=1)
    q = softmax(logits[0].detach().numpy()[:, [0, 1, 2, 4]] / 2, axis=1)
    assert total.item() == pytest.approx(4 * (p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    moved = logits[0].grad.abs().sum((0, 2, 3))
    assert (moved[[0, 1, 2, 4]] > 0).all() and (moved[[3, 5, 6, 7, 8, 9, 10, 11]] == 0).all()


def test_cached_equals_live_and_another_map_is_refused(text, tmp_path):
    recipe = recipes.loads(text)
    dump_recipe(recipe, tmp_path / "c", Silent(), DumpOptions())
    plan = assemble.check(recipe)
    lines, dataset = assemble.build_lines(plan), assemble.build_dataset(recipe, "train")
    batch = next(iter(Loader(ViewDataset(dataset, plan.view_spec, views=1), [[(2, 0), (3, 0)]])))
    cached, live = (
        open_source(plan, lines, cache, dataset, "cpu").targets(batch, plan.grids)
        for cache in (tmp_path / "c", None)
    )
    torch.testing.assert_close(cached["kl"]["logits"], live["kl"]["logits"], rtol=1e-3, atol=1e-2)
    other = assemble.check(recipes.loads(text.replace("4: building", "4: car")))
    with pytest.raises(CacheMismatch, match=r"class_map\.4: cached \[3, 4\], wanted \[3\]"):
        open_source(other, assemble.build_lines(other), tmp_path / "c", dataset, "cpu")
    summary = distill(recipe, tmp_path / "run", Silent(), cache=tmp_path / "c")
    assert summary["steps"] == 2
    assert (
        recipes.load(tmp_path / "run" / "recipe.yaml").teacher.class_map == recipe.teacher.class_map
    )


def test_a_cache_with_a_map_serves_features_alone(text, tmp_path):
    """It was refused: `class_map.0: cached [0], wanted nothing`."""
    feature = "  - {name: feature, student: decoder, teacher: decoder}\n"
    text = text.replace("train:", f"{feature}train:")
    dump_recipe(recipes.loads(text), tmp_path / "c", Silent(), DumpOptions())
    kl = next(line for line in text.splitlines(keepends=True) if "logit_kl" in line)
    plan = assemble.check(recipes.loads(text.replace(kl, "")))
    lines, dataset = assemble.build_lines(plan), assemble.build_dataset(plan.recipe, "train")
    assert open_source(plan, lines, tmp_path / "c", dataset, "cpu").name.startswith("cache")


def test_mistakes_name_their_line(text):
    with pytest.raises(RecipeError) as caught:
        assemble.check(recipes.loads(text.replace("street: road", "street: raod"), "r.yaml"))
    assert caught.value.problems[0].startswith(
        "r.yaml:3:"
    ) and "class_map.street: the data has no class 'raod', did you mean 'road'" in str(caught.value)
    plan = assemble.check(
        recipes.loads(text.replace("street: road", "streat: road"), "r.yaml")
    )  # the teacher's names are in its weights
    with pytest.raises(
        RecipeError, match=r"r\.yaml:3:\d+ teacher\.class_map\.streat: .*did you mean 'street'"
    ):
        open_source(
            plan,
            assemble.build_lines(plan),
            None,
            assemble.build_dataset(plan.recipe, "train"),
            "cpu",
        )
    with pytest.raises(RecipeError, match="at least 2"):
        assemble.check(recipes.loads(text.replace(MAP, "{street: road}")))
    plan = assemble.check(recipes.loads(text.replace(f", class_map: {MAP}", "")))
    with pytest.raises(RecipeError, match=r"teacher\.class_map: \{sky: sky, \.\.\.\}"):
        open_source(
            plan,
            assemble.build_lines(plan),
            None,
            assemble.build_dataset(plan.recipe, "train"),
            "cpu",
        )


def test_eval_scores_the_teacher_in_the_datas_classes(text, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["eval", str(tmp_path / "r.yaml"), "--teacher", "--json", "-q"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    recipe = recipes.loads(text)
    dataset, teacher = assemble.build_dataset(recipe, "val"), assemble.build_teacher(recipe, 12)
    truth, guess = [], []
    for index in range(2):
        image, labels = dataset.read(index)
        with torch.no_grad():
            raw = teacher(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)["logits"].numpy()
        merged = np.stack([raw[:, 0], raw[:, 1], raw[:, 2], logsumexp(raw[:, 3:5], axis=1)], 1)
        upsampled = torch.nn.functional.interpolate(
            torch.from_numpy(merged), size=labels.shape, mode="bilinear"
        )
        truth.append(labels[labels != 255])
        guess.append(np.array([0, 1, 2, 4])[upsampled.argmax(1)[0].numpy()][labels != 255])
    truth, guess = np.concatenate(truth), np.concatenate(guess)
    assert len(np.unique(guess)) > 1
    present = sorted({*truth, *guess})
    assert document["miou"] == pytest.approx(
        jaccard_score(truth, guess, labels=present, average="macro"), abs=1e-4
    )
    assert build_scored_teacher(recipe, dataset.classes).classes == 12


@pytest.fixture
def without_labels(text, tmp_path) -> str:
    """The recipe on a folder of one image without labels."""
    from PIL import Image

    images = tmp_path / "video" / "images" / "train"
    images.mkdir(parents=True)
    Image.new("RGB", (96, 64)).save(images / "a.png")
    text = text.replace(
        "name: scenes, size: [64, 96], length: 4, held_out: 2",
        f"name: folder, size: [64, 96], root: {tmp_path / 'video'}",
    )
    return text.replace("  - {name: cross_entropy}\n", "")


def test_unlabelled_images_have_the_classes_of_the_map(without_labels):
    plan = assemble.check(recipes.loads(without_labels))
    assert plan.classes == ("road", "pavement", "sky", "building") and plan.compared is None


def test_unlabelled_images_have_the_classes_of_the_teacher(without_labels, tmp_path):
    """A SegFormer, a run of a model that reads no weights itself, and weights without names."""
    folder = without_labels.replace(f", class_map: {MAP}", "")
    start = folder.index("teacher: ")
    before, after = folder[:start], folder[folder.index("\n", start) :]
    save_model(
        tmp_path / "run", fast_scnn.build(classes=3, width=0.25), id2label=dict(enumerate("abc"))
    )
    save_model(tmp_path / "unnamed", smp.build(classes=3, encoder="tu-mobilenetv3_small_100"))
    for teacher, names in (
        (folder[start:].partition("\n")[0].removeprefix("teacher: "), tuple(NAMES.values())),
        (f"{{name: fast_scnn, width: 0.25, weights: {tmp_path / 'run'}}}", ("a", "b", "c")),
        (f"{{name: smp, weights: {tmp_path / 'unnamed'}}}", ("LABEL_0", "LABEL_1", "LABEL_2")),
    ):
        checked = assemble.check(recipes.loads(f"{before}teacher: {teacher}{after}"))
        assert checked.classes == names
        model = assemble.build_teacher(checked.recipe, len(names))
        model.id2label = model.id2label or dict(enumerate("klm"))  # known once it is built
        assert check_teacher_classes(checked, model) is None


def test_recipe_check_and_a_plan_refuse_a_teacher_with_other_classes(freqkd, text, tmp_path):
    """Before, `recipe check` said ok, and a sweep failed at that run."""
    recipe, plan = tmp_path / "other.yaml", tmp_path / "plan.yaml"
    recipe.write_text(text.replace(f", class_map: {MAP}", ""))
    plan.write_text("version: 1\nrecipes: [other.yaml]\n")
    check = ("recipe", "check", str(recipe))
    for words in (check, ("sweep", str(plan), "--out", str(tmp_path / "study"))):
        code, out, err = freqkd(*words)
        assert code == 2 and "got 6 classes: street, side-walk, sky" in err.replace("  ", " ")
        assert "kl compares class scores" in err and out == ""
    assert not (tmp_path / "study").exists()
    assert freqkd(*check, "--set", "losses.kl.weight=0")[0] == 0
