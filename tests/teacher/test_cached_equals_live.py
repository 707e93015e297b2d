"""Every loss that reads a teacher gets the same numbers from a cache and from a live teacher."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from cache_fakes import Notes

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build import assemble
from freqkd_cli.build.class_weights import counted_weights
from freqkd_cli.build.saved import save_model
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.cache.shards import Storage
from freqkd_cli.errors import CacheMismatch, UsageError
from freqkd_cli.runtime.byte_sizes import size
from freqkd_cli.teacher.cached import CachedTeacher
from freqkd_cli.teacher.dump_recipe import DumpOptions, dry_run, dump_recipe
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.teacher.targets import NoTeacher
from freqkd_cli.views.loader import Loader, ViewDataset

LOSSES = """
  - {name: logit_kl, temperature: 2.0}
  - {id: kl_coarse, name: logit_kl, grid: student}
  - {id: kl_edges, name: logit_kl, attention: high}
  - {name: octave_kl, attention: mix, high_share: 0.8, mask: butterworth}
  - {name: dist, only_where_right: true}
  - {name: cwd, grid: student}
  - {id: dist_map, name: dist, student: decoder, teacher: decoder}
  - {id: cwd_map, name: cwd, student: encoder16, teacher: stage2, grid: student}
  - {name: skd_pairwise, student: decoder, teacher: decoder}
  - {name: ifvd, student: encoder16, teacher: stage2}
  - {name: cirkd, student: encoder16, teacher: stage2, pixel_memory: 50, pixel_samples: 60,
     region_memory: 20}
  - {name: af_dcd, student: decoder, teacher: decoder, pool: 1, groups: 4}
  - {name: cross_entropy, attention: high, mask: ideal, cutoff: 0.5}
  - {id: plain, name: feature, student: encoder16, teacher: stage2}
  - {id: edges, name: feature, student: decoder, teacher: decoder, attention: high}
  - {name: attention, student: decoder, teacher: decoder}
  - {id: low, name: band, student: encoder16, teacher: stage2, band: low, cutoff: 0.5}
  - {id: weighted, name: band, student: encoder16, teacher: stage2, band: low, attention: high}
  - {id: high, name: band, student: decoder, teacher: decoder, band: high, distance: l1,
     filter_side: teacher}
  - {id: mix, name: band, student: decoder, teacher: stage1, band: mix, high_share: 0.7,
     represent: attention, distance: cosine}
  - {id: relaxed, name: band, student: decoder, teacher: stage1, band: mix, distance: log_mse,
     filter_side: student}
  - {name: fam, student: decoder, teacher: decoder, grid: [9, 5]}
  - {id: dense, name: fam, student: encoder16, teacher: stage2, form: released, grid: [4, 6],
     output: norm_relu, normalize: none}
  - {name: mgd, student: encoder16, teacher: stage2}
  - {name: freekd, student: decoder, teacher: decoder, bands: all}
  - {name: spectralkd, student: encoder16, teacher: stage2}
  - {name: bpkd}
  - {id: bodies, name: bpkd, grid: student, edges: prediction}
  - {name: attnfd, student: decoder, teacher: stage2}
  - {id: spectrum, name: graph_spectrum, student: encoder16, teacher: keys4, k: 4}
  - {id: object, name: graph_spectrum, student: encoder16, teacher: keys3, k: 4, heads: object,
     object_heads: 1}
  - {id: keys, name: graph_lowrank, student: decoder, teacher: keys3, k: 4}
  - {id: map, name: graph_lowrank, student: encoder16, teacher: stage3, distance: row_kl}
  - {id: powers, name: graph_lowrank, student: decoder, teacher: keys4, k: 4, scaling: power,
     power: 3.0}
  - {id: asked, name: graph_lowrank, student: decoder, teacher: attention4, k: 4, graph: query_key,
     projection: separate, groups: 2}
  - {name: graph_basis, student: encoder16, teacher: keys3, k: 4}
  - {name: graph_match, student: decoder, teacher: keys4, k: 4, groups: 2}
  - {id: cut, name: graph_laplacian, student: encoder16, teacher: keys4, k: 4}
  - {id: literal, name: graph_laplacian, student: encoder16, teacher: attention4, k: 4,
     graph: query_key, projection: separate, laplacian: combinatorial}
  - {id: smooth, name: graph_laplacian, student: encoder16, teacher: keys4, k: 4,
     compare: smoothness}
  - {name: graph_band, student: decoder, teacher: stage4, basis: keys4, band: mix, k: 3}
"""
HALF = Storage("float16")
RECIPE = """
version: 1
data: {{name: scenes, size: [64, 96], length: 6, views: 2, view_seed: 3, workers: 0,
  augment: {{scale: [0.75, 1.5], color: 0.2}}}}
teacher: {{name: segformer, weights: {weights}}}
student: {{name: fast_scnn, width: 0.25}}
losses:{losses}
train: {{epochs: 1, batch_size: 4}}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    classes = len(registry.find("datasets", "scenes").classes())
    sizes = {
        "channels": [8, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "heads": [1, 1, 2, 2],
        "decoder": 16,
    }
    save_model(folder, registry.find("models", "segformer").build(classes=classes, **sizes).eval())
    return folder


def load(weights: Path, *sets: str, losses: str = LOSSES) -> recipes.Recipe:
    return recipes.loads(RECIPE.format(weights=weights, losses=losses), "test.yaml", sets)


@pytest.fixture(scope="module", params=["taps", "targets"])
def cached(request, weights, tmp_path_factory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("caches") / request.param
    dump_recipe(
        load(weights), out, Notes(), DumpOptions(Form(content=request.param), shard_bytes=40_000)
    )
    return request.param, out


def sources(weights: Path, content: str, cache: Path, form: Storage = HALF) -> tuple:
    """Plan, dataset, lines, and three sources of one teacher: cached, live rounded, live."""
    plan = assemble.check(load(weights))
    dataset, lines = assemble.build_dataset(plan.recipe, "train"), assemble.build_lines(plan)
    from_disk = open_source(plan, lines, cache, dataset, "cpu")
    live = open_source(plan, lines, None, dataset, "cpu")
    losses = {line.id: line.loss for line in lines}
    rounded = LiveTeacher(live.model, losses, plan.teacher_taps, round_to=form, content=content)
    assert isinstance(from_disk, CachedTeacher) and isinstance(live, LiveTeacher)
    return plan, dataset, lines, (from_disk, rounded, live)


def values(plan, lines, source, student, batch, step: int = 0) -> dict[str, float]:
    """Every loss of one batch, by id, each from its state at the start."""
    targets, losses = source.targets(batch, plan.grids), {}
    with torch.no_grad():
        taps = student(batch.images, taps=["encoder16", "decoder"])
        for line in lines:
            read = {name: taps[name] for name in line.student_taps}
            losses[line.id] = float(copy.deepcopy(line.loss)(read, targets[line.id], batch, step))
    return losses


def test_no_loss_is_left_out():
    names = set(re.findall(r"name: (\w+)", LOSSES))
    assert names == set(registry.names("losses")) - {"dice", "focal", "lovasz"}, (
        "give the new loss a line above"
    )


def test_cached_equals_live(weights, cached):
    content, cache = cached
    plan, dataset, lines, (from_disk, rounded, live) = sources(weights, content, cache)
    student = assemble.build_student(plan).eval()
    views = ViewDataset(dataset, plan.view_spec, view_seed=3, views=2)
    dumped = [[(0, 0), (0, 1), (1, 0), (1, 1)], [(4, 0), (4, 1), (5, 0), (5, 1)]]
    # In training, draws count on: draw 2 is the stored view 0, draw 5 the stored view 1.
    mixed = [[(5, 2), (0, 5), (3, 0), (1, 3)], [(2, 4), (4, 7)]]
    for batches, tolerance in ((dumped, 1e-6), (mixed, 1e-5)):
        for batch in Loader(views, batches):
            stored, expected, exact = (
                values(plan, lines, source, student, batch) for source in (from_disk, rounded, live)
            )
            for id, value in expected.items():
                scale = max(1.0, abs(value))
                assert abs(stored[id] - value) <= tolerance * scale, (id, stored[id], value)
                assert abs(exact[id] - value) <= 1e-3 * scale, (id, exact[id], value)


@pytest.mark.parametrize("content, scores", [("taps", None), ("targets", None), ("targets", 4)])
def test_cached_equals_live_in_8_bits(weights, tmp_path, content, scores):
    """And 8 bits change each loss by little; few scores of a random teacher change it more."""
    form = Form(content, "int8", scores)
    dump_recipe(load(weights), tmp_path / "c", Notes(), DumpOptions(form, verify=6))
    stored_form = Storage("int8", scores)
    plan, dataset, lines, (from_disk, rounded, live) = sources(
        weights, content, tmp_path / "c", stored_form
    )
    student = assemble.build_student(plan).eval()
    views = ViewDataset(dataset, plan.view_spec, view_seed=3, views=2)
    (batch,) = Loader(views, [[(0, 0), (0, 1), (1, 0), (1, 1)]])
    stored, expected, exact = (
        values(plan, lines, source, student, batch) for source in (from_disk, rounded, live)
    )
    for id, value in expected.items():
        scale = max(1.0, abs(value))
        assert abs(stored[id] - value) <= 1e-6 * scale, (id, stored[id], value)
        if scores is None:
            assert abs(exact[id] - value) <= 2e-2 * scale, (id, exact[id], value)


@pytest.mark.parametrize(
    "scores, losses, message",
    [
        (4, "\n  - {name: attention, student: decoder, teacher: decoder}", "reads class scores"),
        (99, LOSSES, "--scores keeps every class"),
    ],
)
def test_class_scores_that_cannot_be_dropped(weights, tmp_path, scores, losses, message):
    with pytest.raises(UsageError, match=message):
        dump_recipe(
            load(weights, losses=losses), tmp_path / "c", Notes(), DumpOptions(Form(scores=scores))
        )


def test_a_dry_run_compares_the_forms(weights, tmp_path):
    losses = "\n  - {name: cross_entropy}\n  - {name: logit_kl}"
    losses += "\n  - {id: low, name: band, student: encoder16, teacher: stage2, cutoff: 0.5}"
    options = DumpOptions(Form("targets"), compare=True)
    result = dry_run(load(weights, losses=losses), tmp_path / "a", options)
    rows = {(row["content"], row["dtype"], row["scores"]): row for row in result["choices"]}
    assert len(rows) == 10 and set(rows["taps", "fp32", None]["losses"]) == {"logit_kl", "low"}
    assert rows["targets", "fp16", None]["bytes"] == pytest.approx(result["bytes"], rel=1e-3)
    for content in ("taps", "targets"):
        sizes = [rows[content, dtype, None]["bytes"] for dtype in ("fp32", "fp16", "bf16", "int8")]
        assert sizes[1] == sizes[2] == sizes[0] / 2
        assert sizes[0] / 4 < sizes[3] < sizes[1] / 1.4  # small tensors stay float32
        exact, half, byte = (rows[content, d, None]["losses"] for d in ("fp32", "fp16", "int8"))
        for id in exact:
            assert exact[id] == {"relative_error": 0.0, "gradient_cosine": pytest.approx(1.0)}
            assert half[id]["relative_error"] <= byte[id]["relative_error"] + 1e-3 < 0.05
            assert byte[id]["gradient_cosine"] > 0.99


def test_a_dry_run_compares_losses_on_auxiliary_logits(weights, tmp_path):
    losses = "\n  - {name: feature, student: aux1, teacher: stage2}"
    recipe = load(weights, "student.auxiliary=true", losses=losses)
    (row, *_) = dry_run(recipe, tmp_path / "a", DumpOptions(compare=True))["choices"]
    assert set(row["losses"]) == {"feature"}


def test_a_dry_run_counts_class_weights(weights, tmp_path):
    """A rule gives the rows of the numbers that it counts. It was refused."""
    losses = "\n  - {name: cross_entropy, attention: high, class_weights: auto}"
    sets = ("data.length=8", "data.hold_out=0.5")
    recipe = load(weights, *sets, losses=losses)
    trained = training_parts(recipe).trained
    plan = assemble.check(recipe)
    counted = counted_weights(recipe, plan.classes, trained, Notes())["cross_entropy"]
    assert len(trained) == 4 and len(set(counted.values())) > 2
    losses = losses.replace("auto", str(list(counted.values())))
    options, plain = DumpOptions(compare=True), "\n  - {name: cross_entropy, attention: high}"
    others = [load(weights, *sets, losses=text) for text in (losses, plain)]
    rule, numbers, equal = (
        [row["losses"] for row in dry_run(one, tmp_path / "a", options)["choices"]]
        for one in (recipe, *others)
    )
    assert rule == numbers != equal


def test_another_view_is_another_value(weights, cached):
    """The comparison above can fail."""
    content, cache = cached
    plan, dataset, lines, (from_disk, rounded, _) = sources(weights, content, cache)
    student = assemble.build_student(plan).eval()
    batch = next(
        iter(Loader(ViewDataset(dataset, plan.view_spec, view_seed=3, views=2), [[(0, 0), (1, 0)]]))
    )
    swapped = dataclasses.replace(batch, views=1 - batch.views)
    right, wrong = (
        values(plan, lines, rounded, student, batch),
        values(plan, lines, from_disk, student, swapped),
    )
    assert all(abs(right[id] - wrong[id]) > 1e-4 * abs(right[id]) for id in right)


def test_a_cache_that_does_not_fit_is_refused_with_the_command(weights, cached):
    content, cache = cached
    plan = assemble.check(
        load(weights, "losses.low.cutoff=0.4", "data.view_seed=4", "teacher.dtype=bfloat16")
    )
    dataset, lines = assemble.build_dataset(plan.recipe, "train"), assemble.build_lines(plan)
    with pytest.raises(CacheMismatch) as caught:
        open_source(plan, lines, cache, dataset, "cpu")
    message = str(caught.value)
    assert (
        "views.view_seed: cached 3, wanted 4" in message
        and 'teacher.dtype: cached "float32", wanted "bfloat16"' in message
    )
    assert ("targets.low.arguments.cutoff: cached 0.5, wanted 0.4" in message) == (
        content == "targets"
    )
    assert f"freqkd teacher-dump test.yaml --out {cache}-new" in message
    assert ("--content targets" in message) == (content == "targets")
    if content == "targets":
        plan = assemble.check(load(weights))
        lines = assemble.build_lines(plan)
        low = next(line for line in lines if line.id == "low")
        low.loss.target_version = (
            low.loss.target_version + 1
        )  # another release computes another target
        with pytest.raises(CacheMismatch, match="targets.low.version: cached 2, wanted 3"):
            open_source(plan, lines, cache, dataset, "cpu")
    endless = assemble.check(load(weights, "data.views=0"))
    with pytest.raises(UsageError, match="--set data.views=2"):
        open_source(endless, lines, cache, dataset, "cpu")


def test_one_cache_serves_other_losses(weights, tmp_path):
    dump_recipe(load(weights), tmp_path / "a", Notes(), DumpOptions())
    other = "\n  - {name: cross_entropy}\n  - {name: band, student: decoder, teacher: decoder, "
    other += "band: high, cutoff: 0.3}"
    plan = assemble.check(load(weights, "train.seed=9", losses=other))
    dataset, lines = assemble.build_dataset(plan.recipe, "train"), assemble.build_lines(plan)
    source = open_source(plan, lines, tmp_path / "a", dataset, "cpu")
    assert isinstance(source, CachedTeacher) and source.wanted == ("decoder",)
    alone = [line for line in lines if line.id == "cross_entropy"]
    assert isinstance(open_source(plan, alone, None, dataset, "cpu"), NoTeacher)
    with pytest.raises(UsageError, match="needs no cache"):
        open_source(plan, alone, tmp_path / "a", dataset, "cpu")


def test_verify_on_a_cache_that_is_there(weights, cached):
    content, cache = cached
    before = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    result = dump_recipe(load(weights), cache, Notes(), DumpOptions(verify=5))
    assert result["verified"] == 5 and result["items"] == 12 and result["cache"] == str(cache)
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_endless_views_cannot_be_stored(weights, tmp_path):
    with pytest.raises(UsageError, match="--set data.views=1"):
        dump_recipe(load(weights, "data.views=0"), tmp_path / "a", Notes(), DumpOptions())
    assert not (tmp_path / "a").exists()


def test_dry_run_writes_nothing_and_estimates_size_and_time(weights, tmp_path):
    estimate = dry_run(load(weights), tmp_path / "a", DumpOptions(Form(images=2)))
    assert not (tmp_path / "a").exists()
    assert estimate["seconds"] > 0 and estimate["images_per_second"] > 0
    assert f", {size(estimate['bytes'])} in all" in estimate["writes"][1]
    result = dump_recipe(load(weights), tmp_path / "a", Notes(), DumpOptions(Form(images=2)))
    assert result["items"] == estimate["items"] == 4
    taps = [
        "attention4",
        "decoder",
        "keys3",
        "keys4",
        "logits",
        "stage1",
        "stage2",
        "stage3",
        "stage4",
    ]
    assert result["taps"] == estimate["taps"] == taps
    assert 0 <= result["bytes"] - estimate["bytes"] < 4000  # the header


def test_a_dump_names_the_next_command(weights, tmp_path, caplog):
    caplog.set_level("INFO", logger="freqkd_cli")
    dump_recipe(load(weights), tmp_path / "a", Notes(), DumpOptions(Form(images=2)))
    assert f"Next: freqkd distill test.yaml --cache {tmp_path}/a --out runs/test" in caplog.text


def test_val_is_stored_whole(weights, tmp_path):
    result = dump_recipe(
        load(weights), tmp_path / "a", Notes(), DumpOptions(Form(split="val", images=3), verify=3)
    )
    assert result["items"] == 3 and result["views"] == 1 and result["verified"] == 3
