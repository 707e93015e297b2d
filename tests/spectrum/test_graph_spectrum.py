"""Spectra of graphs against numpy on the same taps, the chosen pairs, and the command's figures."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from spectrum_fakes import run_command, write_cache
from torch import Tensor, nn
from without_float64 import on_apple_gpu

from freqkd_cli.cache.fingerprint import Fingerprint, views_identity
from freqkd_cli.datasets import folder, scenes
from freqkd_cli.errors import RecipeError, ShapeError, TrainingFailed, UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.files import SUFFIX
from freqkd_cli.spectral.graph_forms import Dense
from freqkd_cli.spectrum import graph_measure
from freqkd_cli.spectrum.eigen_maps import SHOWN
from freqkd_cli.spectrum.graph_inputs import GraphInput, images_of_cache
from freqkd_cli.spectrum.graph_measure import measure_graphs
from freqkd_cli.spectrum.graph_pairs import GraphPair, choose_pairs
from freqkd_cli.spectrum.graph_result import TAU
from freqkd_cli.spectrum.padded_views import warn_of_padding
from freqkd_cli.spectrum.subjects import Subject
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.view import ViewSpec

SIZE = (128, 160)
N = 20
KEYS = Tap("keys3", 32, 12, "nodes", heads=3)
ATTENTION = Tap("attention3", 32, 2, "graph", heads=2)
STUDENT = {
    "stage3": Tap("stage3", 16, 7),
    "affinity3": Tap("affinity3", 16, 1, "graph"),
    "head": Tap("head", 8, 3, "auxiliary"),
}
TEACHER = {
    "stage3": Tap("stage3", 16, 24),
    "keys3": KEYS,
    "attention3": ATTENTION,
    "stage4": Tap("stage4", 32, 5),
}
SUBJECTS = [Subject("student", "small", STUDENT), Subject("teacher", "large", TEACHER)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(labels: Tensor | None = None) -> Batch:
    valid = torch.ones(1, *SIZE, dtype=torch.bool)
    return Batch(torch.rand(1, 3, *SIZE), labels, valid, torch.tensor([0]), torch.tensor([-1]))


def cosines(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def normalised_laplacian(edges: np.ndarray) -> np.ndarray:
    edges = edges - np.diag(np.diag(edges))
    root = np.diag(edges.sum(1) ** -0.5)
    return np.eye(len(edges)) - root @ edges @ root


def pair(**taps: Tap) -> GraphPair:
    return GraphPair("stage3", taps)


def measured(taps: GraphPair, *values: dict[str, dict[str, Tensor]], labels: Tensor | None = None):
    items = [GraphInput(f"image {n}", batch_of(labels), value) for n, value in enumerate(values)]
    return measure_graphs(SUBJECTS, [taps], items)


def test_numbers_equal_numpys_and_are_means_over_images():
    """Heads averaged; the student's map pooled onto the nodes of the keys."""
    keys, maps = (
        [noise(1, 3, N, 4, seed=n).cumsum(2) for n in (1, 2)],
        [noise(1, 7, 8, 10, seed=n).cumsum(2) for n in (3, 4)],
    )
    both = pair(student=STUDENT["stage3"], teacher=KEYS)
    count, (student, teacher), _ = measured(
        both,
        *(
            {"student": {"stage3": m}, "teacher": {"keys3": k}}
            for m, k in zip(maps, keys, strict=True)
        ),
    )
    assert (count, student.grid, student.nodes, teacher.tap) == (2, (4, 5), N, "keys3")
    pooled = [
        m[0].numpy().astype(float).reshape(7, 4, 2, 5, 2).mean((2, 4)).reshape(7, N).T for m in maps
    ]
    graphs = {
        "student": [cosines(rows) for rows in pooled],
        "teacher": [
            np.mean([cosines(head) for head in k[0].numpy().astype(float)], axis=0) for k in keys
        ],
    }
    for spectrum in (student, teacher):
        values = [np.linalg.eigvalsh(graph)[::-1].clip(0) for graph in graphs[spectrum.role]]
        parts = [v / v.sum() for v in values]
        most = len(spectrum.eigenvalues)
        np.testing.assert_allclose(
            spectrum.eigenvalues, np.mean(values, 0)[:most], rtol=2e-4, atol=2e-5
        )
        np.testing.assert_allclose(spectrum.shares, np.mean(parts, 0)[:most], rtol=2e-4, atol=1e-6)
        assert np.mean(values, 0)[most:].sum() < 1e-3, "the rest is rounding"
        entropies = [-(p[p > 1e-9] * np.log(p[p > 1e-9])).sum() for p in parts]
        assert spectrum.effective_rank == pytest.approx(np.exp(entropies).mean(), rel=1e-3)
        low = [
            np.linalg.eigvalsh(normalised_laplacian(np.exp((graph - 1) / TAU)))
            for graph in graphs[spectrum.role]
        ]
        np.testing.assert_allclose(spectrum.laplacian, np.mean(low, 0), atol=2e-5)


def test_numbers_are_kept_where_there_is_float64(monkeypatch):
    """An Apple GPU has none: --device mps ended with a TypeError."""
    attention = {"teacher": {"attention3": noise(1, 2, N, N).mul(2).softmax(-1)}}
    known = measured(pair(teacher=ATTENTION), attention)[1]
    modes = Dense.modes

    def of_apple_gpu(graph):
        found = modes(graph)
        return dataclasses.replace(found, values=on_apple_gpu(found.values))

    monkeypatch.setattr(Dense, "modes", of_apple_gpu)
    assert measured(pair(teacher=ATTENTION), attention)[1] == known


def test_attention_is_reported_without_its_perron_mode():
    attention = noise(1, 2, N, N).mul(2).softmax(-1)
    _, (spectrum,), _ = measured(pair(teacher=ATTENTION), {"teacher": {"attention3": attention}})
    graph = attention[0].numpy().astype(float).mean(0)
    graph = (graph + graph.T) / 2
    np.testing.assert_allclose(spectrum.eigenvalues, np.linalg.eigvalsh(graph)[::-1][1:], atol=1e-5)
    np.testing.assert_allclose(
        spectrum.laplacian, np.linalg.eigvalsh(normalised_laplacian(graph)), atol=1e-5
    )


def test_attention_has_a_distance_and_features_have_none():
    """Each node attends to one neighbour: 32 pixels; nodes of the void upper row do not count."""
    place = torch.arange(N)
    attention = torch.zeros(1, 1, N, N)
    attention[0, 0, place, torch.where(place % 5 == 4, place - 1, place + 1)] = 1
    attention[0, 0, :5] = torch.eye(N)[15:]  # the void row attends three rows down
    labels = torch.zeros(1, *SIZE, dtype=torch.int64)
    labels[:, :32] = 255
    one_head = Tap("attention3", 32, 1, "graph")
    _, (spectrum,), _ = measured(
        pair(teacher=one_head), {"teacher": {"attention3": attention}}, labels=labels
    )
    assert spectrum.distance == pytest.approx(32.0)
    _, (spectrum,), _ = measured(pair(teacher=KEYS), {"teacher": {"keys3": noise(1, 3, N, 4)}})
    assert spectrum.distance is None


def test_void_nodes_are_left_out_of_numbers_and_maps():
    keys = noise(1, 3, N, 4)
    labels = torch.zeros(1, *SIZE, dtype=torch.int64)
    labels[:, :32] = 255
    count, (spectrum,), (image,) = measured(
        pair(teacher=KEYS), {"teacher": {"keys3": keys}}, labels=labels
    )
    graph = np.mean([cosines(head[5:]) for head in keys[0].numpy().astype(float)], axis=0)
    np.testing.assert_allclose(
        spectrum.eigenvalues,
        np.linalg.eigvalsh(graph)[::-1][: len(spectrum.eigenvalues)],
        atol=2e-4,
    )
    assert spectrum.nodes == 15 and len(spectrum.laplacian) == 15
    assert image.rows[0].shares == pytest.approx(spectrum.shares[:SHOWN], rel=1e-5)
    assert image.rows[0].maps[:, 0].isnan().all() and not image.rows[0].maps[:, 1:].isnan().any()


def test_a_students_eigenvectors_stand_below_those_that_they_are_like():
    """The student has the teacher's eigenvectors in another order and with another sign."""
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    rows, columns = ((y > 1).float() - 0.5).flatten(), ((x > 2).float() - 0.5).flatten()

    def features(strong: Tensor, weak: Tensor) -> Tensor:
        return torch.stack([3 * strong, weak], 1)[None, None]

    teacher, student = Tap("keys3", 32, 2, "nodes"), Tap("own", 32, 2, "nodes")
    taps = {
        "student": {"own": -features(columns, rows)},
        "teacher": {"keys3": features(rows, columns)},
    }
    _, _, (image,) = measured(pair(student=student, teacher=teacher), taps)
    above, below = image.rows
    assert (above.role, below.role) == ("teacher", "student")
    assert (above.numbers, below.numbers) == ([1, 2], [2, 1]) and above.likeness is None
    assert min(below.likeness) > 0.9 and float((above.maps * below.maps).sum((1, 2)).min()) > 0.9
    assert (above.maps[0] * rows.view(4, 5)).sign().sum().abs() == N


def test_which_taps_are_compared():
    def names(pairs: list[GraphPair]) -> list[tuple[str, dict[str, str]]]:
        return [(one.name, {role: tap.name for role, tap in one.taps.items()}) for one in pairs]

    assert names(choose_pairs(SUBJECTS, (), ())) == [
        ("stage3", {"student": "stage3", "teacher": "keys3"}),
        ("stage4", {"teacher": "stage4"}),
    ]
    assert names(choose_pairs(SUBJECTS, (), ("attention3",))) == [
        ("attention3", {"student": "stage3", "teacher": "attention3"})
    ]
    assert names(choose_pairs(SUBJECTS, (), ("stage3",))) == [
        ("stage3", {"student": "stage3", "teacher": "stage3"})
    ]
    pairs = choose_pairs(SUBJECTS, (), ("affinity3",))
    assert names(pairs) == [("affinity3", {"student": "affinity3", "teacher": "stage3"})], (
        "the keys have other nodes"
    )
    assert pairs[0].grid(*SIZE) == (8, 10)


@pytest.mark.parametrize(
    "stages, names, text",
    [((2,), (), "stage2"), ((), ("key3",), "did you mean"), ((), ("head",), "head")],
)
def test_a_tap_that_does_not_exist_is_one_message(stages, names, text):
    with pytest.raises(UsageError, match=text):
        choose_pairs(SUBJECTS, stages, names)


def test_grids_that_are_too_small_too_large_or_not_the_same():
    with pytest.raises(ShapeError, match="too small for a graph"):
        pair(teacher=KEYS).grid(32, 64)
    assert pair(teacher=TEACHER["stage3"]).grid(512, 1024) == (16, 32)
    with pytest.raises(RecipeError, match="different nodes"):
        pair(student=STUDENT["affinity3"], teacher=KEYS).grid(*SIZE)


def test_features_that_are_not_finite_name_model_tap_and_image():
    with pytest.raises(TrainingFailed, match="student stage3: features of the image image 0"):
        measured(pair(student=STUDENT["stage3"]), {"student": {"stage3": noise(1, 7, 8, 10).log()}})


def test_nothing_but_void_is_an_error_and_a_flat_map_an_empty_graph():
    keys = {"teacher": {"keys3": torch.ones(1, 3, N, 4)}}
    with pytest.raises(UsageError, match="not void"):
        measured(pair(teacher=KEYS), keys, labels=torch.full((1, *SIZE), 255))
    _, (spectrum,), _ = measured(pair(teacher=KEYS), keys)
    assert spectrum.effective_rank == 0 or max(spectrum.eigenvalues) < 1e-3


# The command


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A run with its teacher, and caches with and without keys."""
    from freqkd_cli.build.saved import save_model
    from freqkd_cli.datasets import scenes
    from freqkd_cli.models import fast_scnn, segformer

    root = tmp_path_factory.mktemp("graphs")
    names = scenes.classes()
    torch.manual_seed(0)
    student = fast_scnn.build(classes=len(names), width=0.25).eval()
    teacher: nn.Module = segformer.build(
        classes=len(names),
        channels=[8, 8, 16, 16],
        heads=[1, 1, 2, 2],
        depths=[1, 1, 1, 1],
        decoder=16,
    ).eval()
    save_model(root / "run", student, "fast_scnn", dict(enumerate(names)))
    save_model(root / "model", teacher, "segformer", dict(enumerate(names)))
    recipe = "version: 1\ndata: {name: scenes, size: [96, 128]}\n"
    recipe += "student: {name: fast_scnn, width: 0.25}\n"
    recipe += f"teacher: {{name: segformer, weights: {json.dumps(str(root / 'model'))}}}\n"
    (root / "run" / "recipe.yaml").write_text(
        recipe + "losses: [{name: cross_entropy}]\ntrain: {epochs: 1}\n"
    )
    write_cache(root / "cache", teacher, ("keys3", "stage3"))
    write_cache(root / "plain", teacher, ("decoder",))
    return {name: root / name for name in ("run", "model", "cache", "plain")}


@pytest.fixture
def drawn(monkeypatch) -> dict[str, list[str]]:
    """File name of every written figure -> titles of its panels with an image."""
    titles: dict[str, list[str]] = {}
    save = Figure.savefig

    def recorded(figure: Figure, file: BinaryIO, **options: object) -> None:
        titles[Path(file.name).name.removesuffix(SUFFIX)] = [
            ax.get_title(loc="left") for ax in figure.axes if ax.images
        ]
        save(figure, file, **options)

    monkeypatch.setattr(Figure, "savefig", recorded)
    return titles


def test_a_run_shows_both_graphs_and_their_eigenvectors(folders, tmp_path, drawn):
    words = (
        "--graph",
        "--limit",
        "2",
        "--json",
        "--png",
        str(tmp_path / "g.png"),
        "--csv",
        str(tmp_path / "g.csv"),
    )
    code, out, err = run_command(str(folders["run"]), *words, folder=tmp_path)
    assert code == 0, err
    document = json.loads(out)
    assert (
        document["source"] == str(folders["run"])
        and document["images"] == 2
        and document["tau"] == TAU
    )
    assert (
        list(document["stages"])
        == list(document["teacher"])
        == ["stage1", "stage2", "stage3", "stage4"]
    )
    for side, tap in (("stages", "stage"), ("teacher", "keys")):
        for number, numbers in enumerate(document[side].values(), start=1):
            assert numbers["tap"] == f"{tap}{number}" and numbers["grid"] == [3, 4]
            assert len(numbers["laplacian"]) == 12 and abs(numbers["laplacian"][0]) < 1e-5
            assert (
                numbers["eigenvalues"] == sorted(numbers["eigenvalues"], reverse=True)
                and 1 <= numbers["effective_rank"] <= 12
            )
    rows = list(csv.DictReader((tmp_path / "g.csv").read_text().splitlines()))
    assert {(row["stage"], row["role"]) for row in rows} == {
        (f"stage{n}", role) for n in range(1, 5) for role in ("student", "teacher")
    }
    assert float(rows[0]["eigenvalue"]) == pytest.approx(
        document["stages"]["stage1"]["eigenvalues"][0], rel=1e-6
    )
    assert document["maps"] == str(tmp_path / "g_maps.png") and str(tmp_path / "g_maps.png") in err
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("g.png", "g_maps.png"))
    titles = drawn["g_maps.png"]
    assert len(titles) == 4 * (1 + 2 * SHOWN) and titles.count("val_000000") == 4
    assert sum("cos" in title for title in titles) == 4 * SHOWN


def test_maps_without_the_image(folders, tmp_path, drawn):
    words = (
        "--graph",
        "--stage",
        "4",
        "--limit",
        "2",
        "--no-image",
        "--png",
        str(tmp_path / "n.png"),
    )
    assert run_command(str(folders["run"]), *words, folder=tmp_path)[0] == 0
    titles = drawn["n_maps.png"]
    assert len([title for title in titles if title]) == 2 * 2 * SHOWN, (
        "two images, student and teacher, and no panel of their own"
    )
    assert [title.splitlines()[0] for title in titles if "\n" in title] == [
        "val_000000",
        "val_000001",
    ]


def test_a_cache_gives_what_its_teacher_gives_live(folders, tmp_path, drawn):
    words = ("--graph", "--stage", "3", "--limit", "2", "--json", "--overwrite")
    words = (*words, "--png", str(tmp_path / "x.png"))
    code, out, err = run_command(str(folders["cache"]), *words, folder=tmp_path)
    assert code == 0, err
    live = json.loads(run_command(str(folders["run"]), "--teacher", *words, folder=tmp_path)[1])[
        "stages"
    ]["stage3"]
    cached = json.loads(out)["stages"]["stage3"]
    assert cached["tap"] == live["tap"] == "keys3"
    np.testing.assert_allclose(cached["eigenvalues"], live["eigenvalues"], rtol=1e-4, atol=1e-5)
    assert [title for title in drawn["x_maps.png"] if "eigen" not in title] == [
        "val_000000",
        "val_000001",
    ]


@pytest.mark.parametrize(
    "words, code, text",
    [
        (("{run}", "--tap", "keys5"), 2, "did you mean"),
        (("{plain}", "--stage", "3"), 2, "teacher-dump RECIPE --content taps"),
        (("{model}", "--set", "data.size=[32,32]"), 1, "too small for a graph"),
        (("nowhere",), 4, "does not exist"),
    ],
)
def test_bad_input_is_one_message(folders, tmp_path, words, code, text):
    actual, out, err = run_command(
        *(word.format(**folders) for word in words), "--graph", folder=tmp_path
    )
    assert actual == code and text in err and out == "" and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_a_line_for_each_model_and_the_frequency_form_is_as_it_was(folders, tmp_path):
    code, out, _ = run_command(
        str(folders["run"]), "--graph", "--stage", "3", "--limit", "1", folder=tmp_path
    )
    assert code == 0 and [line.split("\t")[:3] for line in out.splitlines()[1:]] == [
        ["stage3", "student", "stage3"],
        ["stage3", "teacher", "keys3"],
    ]
    assert {path.name for path in folders["run"].glob("*.png")} == {
        "graph_spectrum.png",
        "graph_spectrum_maps.png",
    }
    code, out, _ = run_command(
        str(folders["run"]), "--stage", "3", "--limit", "1", "--json", folder=tmp_path
    )
    assert (
        code == 0
        and "rho" in json.loads(out)["stages"]["stage3"]
        and (folders["run"] / "spectrum.png").is_file()
    )


def test_the_chain_from_dump_to_spectra(folders, tmp_path):
    """A run of distill, and a cache of drawn views of teacher-dump."""
    recipe = (
        (folders["run"] / "recipe.yaml")
        .read_text()
        .replace(
            "cross_entropy}", "cross_entropy}, {name: feature, student: stage3, teacher: context3}"
        )
    )
    (tmp_path / "r.yaml").write_text(
        recipe.replace("train: {epochs: 1}", "train: {epochs: 1, batch_size: 2}")
    )
    few = ("--set", "data.length=2", "--set", "data.views=1")
    for command, words in (
        ("teacher-dump", ("--out", "c", "--content", "taps", *few)),
        ("distill", ("--cache", "c", "--out", "a", *few, "--set", "data.held_out=1")),
    ):
        code, _, err = run_command("r.yaml", *words, folder=tmp_path, command=command)
        assert code == 0, err
    for source, taps in (
        ("a", [("student", "stage3"), ("teacher", "context3")]),
        ("c", [("teacher", "context3")]),
    ):
        code, out, err = run_command(source, "--graph", "--tap", "context3", folder=tmp_path)
        assert (
            code == 0 and [tuple(line.split("\t")[1:3]) for line in out.splitlines()[1:]] == taps
        ), err
        figures = {path.name for path in (tmp_path / source).glob("graph_*.png")}
        assert figures == (
            {"graph_spectrum.png", "graph_spectrum_maps.png"} if source == "a" else set()
        )


def test_images_of_a_pool_are_not_measured_from_a_cache(folders, tmp_path):
    """Before, scenes of the data set's own seed took their place: other void nodes and images."""
    text = (folders["run"] / "recipe.yaml").read_text()
    compared = "cross_entropy}, {name: feature, student: stage3, teacher: context3}"
    pool = "length: 2, views: 1, pool: {name: scenes, seed: 5, length: 2}}"
    text = text.replace("cross_entropy}", compared).replace("128]}", f"128], {pool}")
    (tmp_path / "r.yaml").write_text(text.replace("epochs: 1", "epochs: 1, batch_size: 2"))
    code, _, err = run_command("r.yaml", "--out", "c", folder=tmp_path, command="teacher-dump")
    assert code == 0, err
    words = ("c", "--graph", "--tap", "context3", "--json")
    code, out, err = run_command(*words, folder=tmp_path)
    assert code == 0 and json.loads(out)["images"] == 2, err


@pytest.mark.parametrize("keys", [{}, {"classes": ["road", "car"], "split_": [0.5, 0.25, 0.25]}])
def test_the_data_set_of_a_cache_is_found_again(tmp_path, keys):
    """Before, it had "changed" with class ids of its own (7 and 8), and with a list of shares."""
    for number in range(16):
        for kind, shape in (("images", (32, 32, 3)), ("masks", (32, 32))):
            path = tmp_path / kind / "train" / f"{number}.png"
            path = tmp_path / kind / path.name if keys else path
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, number % 2 if keys else 7, np.uint8)).save(path)
    if not keys:
        (tmp_path / "classes.txt").write_text("7 road\n8 car\n")
    dataset = folder.build(split="train", root=tmp_path, size=(32, 32), **keys)
    reader = SimpleNamespace(folder="c", fingerprint=Fingerprint({"data": dataset.manifest()}))
    assert images_of_cache(reader, tmp_path, (32, 32)).manifest() == dataset.manifest()


def test_maps_of_an_earlier_measurement_are_not_called_written(folders, tmp_path, monkeypatch):
    """An image without valid nodes has no eigenvectors to draw."""
    measure = graph_measure.graph_spectra

    def undrawn(*options):
        return dataclasses.replace(measure(*options), drawn=[])

    monkeypatch.setattr(graph_measure, "graph_spectra", undrawn)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "graph_spectrum_maps.png").write_bytes(b"earlier")
    words = ("--graph", "--tap", "keys3", "--limit", "1", "--out", "o", "--overwrite")
    code, _, err = run_command(str(folders["cache"]), *words, folder=tmp_path)
    assert code == 0 and "written: o/graph_spectrum.png" in err and "maps" not in err


@pytest.mark.parametrize(
    ("change", "padded"),
    [({}, 0), ({"scale": (0.5, 0.5)}, 2), ({"isolate": 1.0}, 2), ({"scale": (1.0, 2.0)}, 0)],
)
def test_drawn_views_of_a_cache_that_show_padding_have_a_warning(caplog, change, padded):
    """Before, only whole images had one."""
    spec = ViewSpec(size=(64, 96), **change)
    fields = {
        "views": views_identity(spec, view_seed=0, stored=2),
        "data": scenes.build(split="train", size=(64, 96), length=2).manifest(),
    }
    reader = SimpleNamespace(folder="c", fingerprint=Fingerprint(fields))
    warn_of_padding(reader, [(0, 0), (1, 0), (2, 0)], None)  # the last one is of a pool
    warnings = [text for text in caplog.messages if f"{padded} of 2 views" in text]
    assert len(warnings) == (padded > 0) == len(caplog.messages)
