"""``{name: saved_scores}``: outputs that another tool has saved, cut to the views of a training."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_recipe import SMALL

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.training_images import training_images
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import CacheMismatch, DataBroken, DataMissing, FreqKDError, WeightsMissing
from freqkd_cli.models import saved_scores
from freqkd_cli.models._saved_scores_files import SavedFiles
from freqkd_cli.runtime import file_hashes
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.score.side_by_side import compare
from freqkd_cli.spectrum.cached_subject import open_cache
from freqkd_cli.spectrum.locate import identify
from freqkd_cli.spectrum.subjects import SpectrumOptions, open_networks
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.teacher.recipe_cache import Form
from freqkd_cli.train.distillation import distill
from freqkd_cli.views.apply import apply_geometry
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.map_cut import cut_map
from freqkd_cli.views.view import View

K = 12


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [1.0, 2.0, 1.5])
@pytest.mark.parametrize("flip", [False, True])
def test_a_map_is_cut_as_the_image_is(scale, flip):
    """A map of the image's own pixels gives the pixels of the view, where the view is inside."""
    image = picture(40, 60)
    view = View(scale, 7, 11, 24, 32, flip=flip)
    shown, _, valid = apply_geometry(view, image, None)
    assert valid.all()
    cut = cut_map(view, (40, 60), image.transpose(2, 0, 1) / 255, (24, 32))
    torch.testing.assert_close(cut, shown, rtol=0, atol=2.5 / 255)  # the image is rounded


def test_cells_and_resolution_known_answer():
    """A linear ramp stays one: cell k of stride s is at (k + 0.5) s, whatever the map's stride."""
    height, width = 64, 96
    columns = (np.arange(24) + 0.5) * 4
    ramp = np.broadcast_to(columns, (1, 16, 24))
    cut = cut_map(View(1.0, 0, 16, 64, 64, flip=True), (height, width), ramp, (8, 8))
    expected = 16 + 64 - (np.arange(8) + 0.5) * 8
    np.testing.assert_allclose(cut[0], np.broadcast_to(expected, (8, 8)), atol=1e-4)
    outside = cut_map(View(1.0, -32, 0, 64, 64), (height, width), ramp, (8, 8))
    np.testing.assert_allclose(outside[0, 0], (np.arange(8) + 0.5) * 8, atol=1e-4)


@pytest.fixture
def folder(tmp_path):
    """Probabilities of the 8 training images of the small recipe, at a quarter of their size."""
    (tmp_path / "recipe.yaml").write_text(SMALL)
    plan = assemble.check(recipes.load(tmp_path / "recipe.yaml"))
    dataset = assemble.build_dataset(plan.recipe, "train")
    rng, root = np.random.default_rng(1), tmp_path / "saved"
    root.mkdir()
    for index in range(len(dataset)):
        height, width = dataset.image_size(index)
        scores = rng.random((K, height // 4, width // 4)).astype(np.float32)
        np.save(root / f"{dataset.name(index)}.npy", scores / scores.sum(0))
    return tmp_path


def recipe_of(folder, *sets):
    teacher = f"teacher={{name: saved_scores, root: {folder / 'saved'}}}"
    losses = "losses=[{name: logit_kl}]"
    return recipes.load(folder / "recipe.yaml", [teacher, losses, "data.views=2", *sets])


def source_of(recipe):
    plan = assemble.check(recipe)
    dataset = assemble.build_dataset(recipe, "train")
    source = open_source(plan, assemble.build_lines(plan), None, dataset, "cpu")
    views = ViewDataset(dataset, plan.view_spec, view_seed=recipe.data.view_seed, views=2)
    return source, views, dataset


def test_targets_are_the_saved_probabilities_of_the_view(folder):
    recipe = recipe_of(folder, "data.augment={scale: [0.8, 1.5], flip: true}")
    source, views, dataset = source_of(recipe)
    items = [(0, 0), (3, 1), (7, 3)]
    (batch,) = Loader(views, [items])
    logits = copy.deepcopy(source).taps(batch)["logits"]
    for row, (index, number) in enumerate(items):
        stored = np.load(folder / "saved" / f"{dataset.name(index)}.npy")
        cut = cut_map(views.view((index, number)), dataset.image_size(index), stored, (16, 16))
        torch.testing.assert_close(logits[row].softmax(0), cut, atol=1e-6, rtol=1e-5)


def test_a_temperature_reads_small_probabilities_as_of_the_teacher_itself(folder):
    """A live teacher has logits, whose softmax at a temperature of 4 has no floor at 1e-7."""
    recipe = recipe_of(folder, "data.augment={flip: false}")
    source, views, dataset = source_of(recipe)
    logits = 6 * torch.randn(K, 16, 16, generator=torch.Generator().manual_seed(0))
    np.save(folder / "saved" / f"{dataset.name(0)}.npy", logits.softmax(0).numpy())
    (batch,) = Loader(views, [[(0, 0)]])
    saved = source.taps(batch)["logits"][0]
    assert logits.softmax(0).min() < 1e-9
    torch.testing.assert_close((saved / 4).softmax(0), (logits / 4).softmax(0), atol=1e-5, rtol=0)


def test_a_cache_of_them_equals_the_files(folder, tmp_path):
    recipe = recipe_of(folder)
    options = DumpOptions(Form(dtype="fp32"), verify=4)
    dump_recipe(recipe, tmp_path / "cache", Silent(), options)
    source, views, _ = source_of(recipe)
    items = [(2, 0), (5, 1)]
    (batch,) = Loader(views, [items])
    cached = CacheReader(tmp_path / "cache").read(items, ["logits"], "cpu")
    torch.testing.assert_close(cached["logits"], source.taps(batch)["logits"])


def test_whole_numbers_logits_and_other_files(tmp_path):
    scores = np.random.default_rng(2).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", probabilities=scores.transpose(1, 2, 0), other=np.zeros(3))
    files = saved_scores.build(classes=9, root=str(tmp_path), layout="hwc").files
    np.testing.assert_array_equal(files.read("a"), scores)
    (tmp_path / "a.npz").unlink()
    save_file({"x": torch.from_numpy(scores.astype(np.float16))}, tmp_path / "b.safetensors")
    model = saved_scores.build(classes=9, root=str(tmp_path), scores="logits")
    np.testing.assert_array_equal(model.files.read("b"), scores)
    assert saved_scores.taps(classes=9, root=str(tmp_path))[0].channels == model.classes == 3


def test_logits_are_never_read_as_probabilities(folder):
    """All values below 0 were the same probability."""
    rng = np.random.default_rng(0)
    path = sorted((folder / "saved").iterdir())[0]
    np.save(path, 5 * rng.standard_normal((K, 16, 16)).astype(np.float32))
    source, views, _ = source_of(recipe_of(folder))
    (batch,) = Loader(views, [[(0, 0)]])
    with pytest.raises(DataBroken, match="contains no probabilities(.|\n)*teacher.scores=logits"):
        source.taps(batch)


def test_an_image_of_the_pool_never_gets_the_outputs_of_another_of_its_name(folder):
    pool = "data.pool={name: scenes, length: 8, seed: %d, share: 0.5}"
    with pytest.raises(DataMissing, match="8 images of the pool have the name of another"):
        pooled(recipe_of(folder, pool % 3))
    pooled(recipe_of(folder, pool % 0))  # the same images


def pooled(recipe):
    plan = assemble.check(recipe)
    images = training_images(plan, assemble.build_dataset(recipe, "train"))
    return open_source(plan, assemble.build_lines(plan), None, images, "cpu")


def test_the_fingerprint_is_of_the_files(folder):
    one = saved_scores.build(classes=9, root=str(folder / "saved"))
    copied = saved_scores.build(classes=9, root=str(folder / "saved"))
    assert torch.equal(one.sha256, copied.sha256) and "root" not in one.recipe_arguments
    json.dumps(one.recipe_arguments)
    path = next((folder / "saved").iterdir())
    np.save(path, np.load(path) * 0.5)
    assert not torch.equal(
        one.sha256, saved_scores.build(classes=9, root=str(folder / "saved")).sha256
    )


def test_the_fingerprint_is_of_every_file(tmp_path, monkeypatch):
    """Of 40 files the content of 16 was in it, so a cache of others was accepted."""
    for number in range(40):
        np.save(tmp_path / f"{number:02d}.npy", np.full((2, 1, 1), number, np.float32))
    seen = {SavedFiles(str(tmp_path), "chw").sha256()}
    for path in sorted(tmp_path.iterdir()):
        np.save(path, np.load(path) + 0.5)
        seen.add(SavedFiles(str(tmp_path), "chw").sha256())
    assert len(seen) == 41

    reads, digest = [], hashlib.file_digest
    monkeypatch.setattr(file_hashes, "SETTLED", -1)
    monkeypatch.setattr(file_hashes, "_trusting", True)
    monkeypatch.setattr(hashlib, "file_digest", lambda *words: reads.append(1) or digest(*words))
    for before, number in ((lambda: None, 40), (lambda: None, 0), (file_hashes.hash_again, 40)):
        before()
        reads.clear()
        assert SavedFiles(str(tmp_path), "chw").sha256() in seen and len(reads) == number


def test_what_is_missing_or_broken_is_one_message(folder, tmp_path):
    with pytest.raises(WeightsMissing, match="there is no folder"):
        saved_scores.build(classes=9, root=str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match="no saved outputs in .*empty(.|\n)*.npy .npz"):
        saved_scores.build(classes=9, root=str(tmp_path / "empty"))
    files = sorted((folder / "saved").iterdir())
    np.save(files[3], np.zeros((5, 4, 4), np.float32))
    source, views, _ = source_of(recipe_of(folder))
    (batch,) = Loader(views, [[(3, 0)]])
    with pytest.raises(
        DataBroken, match=r"(?s)is not an array of class scores.*\[5, 4, 4\].*\[12, h"
    ):
        source.taps(batch)
    files[2].unlink()
    with pytest.raises(DataMissing, match="1 of 8 images have no saved outputs"):
        source_of(recipe_of(folder))


def test_two_files_of_one_image_are_refused_and_hidden_files_are_none(folder):
    """Of a.npy and a.npz the latter was read, also where it was the older one."""
    root = folder / "saved"
    (root / "._a.npy").write_bytes(b"of macOS")
    assert len(SavedFiles(str(root), "chw").paths) == 8
    first = sorted(root.glob("[!.]*"))[0]
    upper = first.rename(first.with_suffix(".NPY"))
    assert SavedFiles(str(root), "chw").read(first.stem).shape[0] == K
    upper.rename(first)
    np.savez(first.with_suffix(".npz"), np.zeros((K, 4, 4)))
    with pytest.raises(DataBroken, match="have the same stem"):
        SavedFiles(str(root), "chw")


def test_it_runs_on_no_other_image(folder):
    model = saved_scores.build(classes=9, root=str(folder / "saved"))
    with pytest.raises(FreqKDError, match="no network runs on others(.|\n)*--predictions"):
        model(torch.rand(1, 3, 64, 64))


def test_a_cache_trains_without_the_saved_outputs(folder, tmp_path, caplog):
    """A folder that is not here counted as one that is, and the start was refused."""
    recipe, cache = recipe_of(folder), tmp_path / "cache"
    dump_recipe(recipe, cache, Silent(), DumpOptions())
    shutil.rmtree(folder / "saved")
    result = distill(recipe, tmp_path / "run", Silent(), cache=cache, dry_run=True)
    assert result["steps"] == 2
    assert f"teacher.root: {folder / 'saved'} is not on this machine" in caplog.text
    with pytest.raises(CacheMismatch, match="teacher.arguments.stride: cached 4, wanted 8"):
        distill(recipe_of(folder, "teacher.stride=8"), tmp_path / "run", Silent(), cache=cache)


def test_commands_leave_it_out_on_other_images(folder, tmp_path, caplog):
    """A dry run, compare, a report and spectrum ended with an error or a traceback."""
    recipe, (run, cache) = recipe_of(folder, "train.steps=1"), (tmp_path / x for x in ("a", "c"))
    assert distill(recipe, run, Silent(), dry_run=True)["teacher_gflops"] == 0
    distill(recipe, run, Silent())
    assert [row["name"] for row in compare([run], Silent(), images=0, device="cpu").rows] == ["a"]
    assert "the teacher is left out: saved outputs belong to images" in caplog.text
    options = SpectrumOptions((), (), 0.5, None, 1)
    assert [subject.role for subject in open_networks(identify(run), options)[0]] == ["student"]
    dump_recipe(recipe, cache, Silent(), DumpOptions())
    assert list(open_cache(identify(cache), options)[1].taps) == ["logits"]
