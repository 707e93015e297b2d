"""The contract of every file in the drawer ``metrics``, and where a new file appears."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch
from torch.testing import assert_close

import freqkd_cli.metrics
from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import ShapeError, UnknownName
from freqkd_cli.models import fast_scnn
from freqkd_cli.score.tally import Tally, metric_names, numbers, numbers_per_class

METRICS = registry.names("metrics")
EVERY = [registry.ALL]
CLASSES = 4


def build(name: str):
    return registry.find("metrics", name).build(classes=CLASSES)


def maps(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction that is partly right, and labels with void; class 3 is absent."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 3, (4, 5), generator=generator)
    labels = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)
    prediction = labels.roll(2, 1)
    labels[:3, :7] = 255
    return prediction, labels


def mosaic() -> torch.Tensor:
    """Labels in which three classes have objects of every size, thin bars and void beside them."""
    labels = torch.arange(3).repeat_interleave(110).repeat(130, 1)
    for k, left in enumerate((0, 110, 220)):
        labels[5:45, left + 5 : left + 45] = (k + 1) % 3
        labels[60:68, left + 5 : left + 13] = (k + 2) % 3
        labels[5:60, left + 60 : left + 62] = (k + 1) % 3
    labels[120:, 20:40] = 255
    return labels


def add(metric, prediction: torch.Tensor, labels: torch.Tensor) -> None:
    """Count an image; the confidence of every pixel is 1, where it is needed."""
    sure = [torch.ones(labels.shape)] if metric.counts.needs_confidence else []
    metric.add(prediction, labels, *sure)


def test_the_parts_of_a_definition_have_headings(freqkd):
    """Before, "What" and "Source" were the first words of a sentence."""
    code, out, _ = freqkd("losses", "cirkd")
    assert code == 0 and "\nWhat: minibatch" in out and "\nShapes and units: Taps" in out
    code, out, _ = freqkd("metrics", "boundary_f")
    assert code == 0 and all(f"\n{word}: " in out for word in ("What", "Source"))


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_has_the_best_value(name):
    metric, item = build(name), registry.find("metrics", name)
    labels = mosaic()
    add(metric, torch.where(labels == 255, 0, labels), labels)
    assert metric.values() == {key: number.best for key, number in item.NUMBERS.items()}
    for key, number in item.PER_CLASS.items():
        assert metric.per_class()[key] == [number.best] * 3 + [None]


@pytest.mark.parametrize("name", METRICS)
def test_names_of_values_are_those_declared(name):
    metric, item = build(name), registry.find("metrics", name)
    assert isinstance(item.CHEAP, bool)
    assert metric.values().keys() == item.NUMBERS.keys()
    assert metric.per_class().keys() == item.PER_CLASS.keys()
    assert all(len(values) == CLASSES for values in metric.per_class().values())
    assert all(number.title for number in (item.NUMBERS | item.PER_CLASS).values())


@pytest.mark.parametrize("name", METRICS)
def test_counts_of_two_images_are_the_sum_of_their_tables(name):
    both, single = build(name), [build(name), build(name)]
    for number, metric in enumerate(single):
        add(both, *maps(number))
        add(metric, *maps(number))
    assert both.table.dtype == torch.int64
    assert_close(both.table, single[0].table + single[1].table)
    single[0].counts.table += single[1].table
    assert single[0].values() == both.values() and single[0].per_class() == both.per_class()


@pytest.mark.parametrize("name", METRICS)
def test_nothing_labelled_has_no_value(name):
    metric = build(name)
    add(metric, torch.zeros(9, 9, dtype=torch.int64), torch.full((9, 9), 255))
    assert set(metric.values().values()) == {None}
    assert all(set(values) == {None} for values in metric.per_class().values())


def test_names_occur_once():
    items = [registry.find("metrics", name) for name in METRICS]
    assert len(numbers(EVERY)) == sum(len(item.NUMBERS) for item in items)
    assert len(numbers_per_class(EVERY)) == sum(len(item.PER_CLASS) for item in items)
    assert next(iter(numbers())) == next(iter(numbers(EVERY))) == "miou"


def test_metrics_on_request_are_computed_on_request_alone():
    default = ["iou", "accuracy", "boundary"]
    assert metric_names() == default and metric_names(cheap=True) == default[:2]
    assert metric_names(requested=["thin_structures", "iou"]) == [*default, "thin_structures"]
    assert metric_names(cheap=True, requested=["edge_band"]) == [*default[:2], "edge_band"]
    assert set(metric_names(requested=EVERY)) == set(METRICS)
    with pytest.raises(UnknownName, match="did you mean 'boundary_f'"):
        Tally(CLASSES, requested=["boundry_f"])


@pytest.mark.parametrize("name", METRICS)
def test_void_pixels_do_not_count_whatever_is_predicted_there(name):
    first, second = build(name), build(name)
    prediction, labels = maps(0)
    add(first, prediction, labels)
    add(second, torch.where(labels == 255, 1 + prediction % 3, prediction), labels)
    assert torch.equal(first.table, second.table)


@pytest.mark.parametrize("name", METRICS)
def test_a_stack_of_images_counts_as_its_images(name):
    single, stacked, pairs = build(name), build(name), [maps(0), maps(1)]
    for pair in pairs:
        add(single, *pair)
    prediction, labels = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    add(stacked, prediction, labels.to(torch.uint8))
    assert torch.equal(single.table, stacked.table)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (2, 3)])
def test_the_smallest_images_are_counted(name, size):
    metric = build(name)
    labels = torch.arange(size[0] * size[1]).view(size) % 3
    add(metric, labels.roll(1, -1), labels)
    assert int(metric.table.sum()) > 0 or name == "boundary_f"


@pytest.mark.parametrize("name", METRICS)
def test_numbers_outside_the_classes_are_refused_by_every_metric(name):
    for wrong in ([[4]], [[-1]]):
        with pytest.raises(ShapeError):
            add(build(name), torch.tensor(wrong), torch.tensor([[0]]))
        with pytest.raises(ShapeError):
            add(build(name), torch.tensor([[0]]), torch.tensor(wrong))


def test_pixels_are_counted_once_for_all_metrics():
    assert len(Tally(CLASSES).counts) == len(Tally(CLASSES, cheap=True).counts) == 1
    assert Tally(CLASSES).counts[0].table.shape == (4, CLASSES, CLASSES)
    assert "boundary" not in metric_names(cheap=True)


def test_tallies_join_as_their_counts_do():
    whole, first, second = (Tally(CLASSES, requested=EVERY) for _ in range(3))
    sure = torch.rand(32, 40, generator=torch.Generator().manual_seed(0))
    whole.add(*maps(0), sure).add(*maps(1), sure)
    first.add(*maps(0), sure).join(second.add(*maps(1), sure))
    assert first.values() == whole.values() and first.per_class() == whole.per_class()
    assert set(first.empty().values().values()) == {None} and first.values() == whole.values()


NEW_METRIC = '''
"""Dice of the first class, and the number of counted images."""

import torch

from freqkd_cli.metrics._confusion import Confusion
from freqkd_cli.metrics._metric import Counts, Metric, Number

NUMBERS = {"first_dice": Number("Dice of the first class")}
PER_CLASS = {"predicted": Number("predicted", "pixels")}
CHEAP = True


class Dice(Metric):
    def values(self):
        count = self.counts.matrix
        return {"first_dice": float(2 * count[0, 0] / (count[0].sum() + count[:, 0].sum()))}

    def per_class(self):
        return {"predicted": self.counts.matrix.sum(0).tolist()}


def build(*, classes):
    return Dice(Confusion(classes))
'''
OWN_COUNTS = '''
"""The mean number of labelled pixels per image, from counts of its own."""

from freqkd_cli.metrics._metric import Counts, Metric, Number

NUMBERS = {"labelled": Number("labelled", "pixels")}
PER_CLASS = {}
CHEAP = False


class Labelled(Counts):
    def add(self, prediction, labels):
        self.table[0] += (labels != 255).sum()
        self.table[1] += 1


class Mean(Metric):
    def values(self):
        return {"labelled": float(self.table[0] / self.table[1])}


def build(*, classes):
    return Mean(Labelled(2))
'''


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Put two new files into the drawer."""
    names = registry.names
    new = {"dice": NEW_METRIC, "labelled": OWN_COUNTS}
    for name, text in new.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(f"freqkd_cli.metrics.{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, f"freqkd_cli.metrics.{name}", module)
        monkeypatch.setattr(freqkd_cli.metrics, name, module, raising=False)

    def with_new(drawer: str) -> tuple[str, ...]:
        return tuple(sorted({*names(drawer), *new})) if drawer == "metrics" else names(drawer)

    monkeypatch.setattr(registry, "names", with_new)


@pytest.fixture
def run(tmp_path):
    """What ``distill`` leaves, without the training."""
    text = "version: 1\ndata: {name: scenes, size: [64, 64], length: 4, held_out: 2, workers: 0}\n"
    text += "student: {name: fast_scnn, width: 0.25}\nlosses: [{name: cross_entropy}]\n"
    text += "train: {steps: 2, batch_size: 2}\n"
    torch.manual_seed(0)
    save_model(tmp_path / "run", fast_scnn.build(classes=12, width=0.25))
    (tmp_path / "run/recipe.yaml").write_text(recipes.dump(recipes.loads(text)))
    return tmp_path / "run"


def test_a_new_file_appears_in_eval_and_compare(planted, run, freqkd):
    code, out, err = freqkd("eval", run, "--json", "-q")
    assert code == 0, err
    document = json.loads(out)
    assert 0 < document["labelled"] <= 64 * 64 and 0 <= document["first_dice"] <= 1
    rows, labelled = document["per_class"], f"{document['labelled']:.2f}"
    assert sum(row["predicted"] for row in rows) == 2 * document["labelled"]
    table = freqkd("eval", run, "-q")[1]
    assert "predicted, pixels" in table.splitlines()[0]
    assert "labelled, pixels" in table and labelled in table
    assert f"{100 * document['first_dice']:.2f}" in table
    assert len(Tally(12).counts) == 2  # one for the confusion matrix, one of its own
    heading, row = freqkd("compare", run, "-q")[1].splitlines()[:2]
    cells = dict(zip(heading.split("\t"), row.split("\t"), strict=True))
    assert cells["Dice of the first class"] == f"{100 * document['first_dice']:.2f}"
    assert cells["labelled, pixels"] == labelled and "mIoU" in cells


def test_a_new_file_appears_in_the_training_log(planted, run, freqkd, tmp_path):
    code, _, err = freqkd("distill", run / "recipe.yaml", "--out", tmp_path / "new", "-q")
    assert code == 0, err
    lines = (tmp_path / "new/metrics.jsonl").read_text().splitlines()
    rows = [row["val"] for row in map(json.loads, lines) if "val" in row]
    assert rows and all("first_dice" in row and "miou" in row for row in rows)
    assert not any("labelled" in row or "boundary_iou" in row for row in rows)
    events = next((tmp_path / "new/tensorboard").iterdir()).read_bytes()
    assert b"val/first_dice" in events and b"val/pixel_accuracy" in events
