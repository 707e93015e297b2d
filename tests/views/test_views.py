"""Views: drawn from their key, and compared with numpy, Pillow and scipy."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from freqkd_cli.errors import DataBroken, FreqKDError, ShapeError, UsageError
from freqkd_cli.views.apply import apply_geometry, apply_photometric, turn_hue
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import Loader, ViewDataset, collate, whole_batches
from freqkd_cli.views.steps import Steps
from freqkd_cli.views.view import View, ViewSpec, draw, whole

PINNED_GEOMETRY = (-8, -13, (8, 37, 68, 68))
PINNED_COLORS = [1.208857972907, 1.217795696055, 1.235771814448, 0.049235321039, 1.407160145776]
BUSY = ViewSpec((40, 56), scale=(0.5, 1.5), color=0.3, blur=0.5, isolate=0.3)


class Memory:
    """Random images of given sizes, with labels that repeat the red channel's upper bits."""

    def __init__(
        self, sizes: list[tuple[int, int]], labelled: bool = True, broken: int | None = None
    ) -> None:
        rng = np.random.default_rng(5)
        self.images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.labelled, self.broken = labelled, broken

    def __len__(self) -> int:
        return len(self.images)

    def image_size(self, index: int) -> tuple[int, int]:
        return self.images[index].shape[:2]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        if index == self.broken:
            raise DataBroken(
                "cannot read image.png", got="rubbish", need="a image", tip="another one"
            )
        image = self.images[index]
        return image, image[..., 0] // 32 if self.labelled else None


def views_of(spec: ViewSpec, number: int, size: tuple[int, int] = (48, 64)) -> list[View]:
    return [draw(spec, size, view_seed=3, index=index, draw=0) for index in range(number)]


# --- drawing ---


def test_a_view_depends_on_every_part_of_its_key():
    def key(seed: int, index: int, n: int) -> View:
        return draw(BUSY, (48, 64), view_seed=seed, index=index, draw=n)

    assert key(1, 2, 3) == key(1, 2, 3)
    assert (
        len({key(1, 2, 3), key(0, 2, 3), key(1, 0, 3), key(1, 2, 0), key(2, 1, 3), key(-1, 2, 3)})
        == 6
    )


def test_a_key_gives_the_same_view_in_every_version():
    """Stored caches rely on it: a change of these numbers needs a new cache format."""
    view = draw(
        ViewSpec((96, 128), scale=(0.5, 2.0), color=0.4, blur=1.0, isolate=1.0),
        (120, 160),
        view_seed=7,
        index=11,
        draw=2,
    )
    uniform = np.random.Generator(np.random.Philox(np.random.SeedSequence([1, 7, 11, 2]))).random(4)
    assert view.scale == 0.5 + 1.5 * uniform[0]
    assert view.flip == (uniform[3] < 0.5)
    assert (view.top, view.left, view.kept) == PINNED_GEOMETRY
    assert [view.brightness, view.contrast, view.saturation, view.hue, view.blur] == pytest.approx(
        PINNED_COLORS, abs=1e-11
    )


def test_a_view_survives_json():
    for view in [*views_of(BUSY, 40), whole((33, 64))]:
        fields = json.loads(json.dumps(asdict(view)))
        assert View(**fields | {"kept": fields["kept"] and tuple(fields["kept"])}) == view


def test_switching_one_change_off_leaves_the_others():
    for index in range(20):
        full, still, grey = (
            draw(spec, (48, 64), view_seed=0, index=index, draw=1)
            for spec in (
                BUSY,
                replace(BUSY, flip=False, isolate=0.0),
                replace(BUSY, color=0.0, blur=0.0),
            )
        )
        assert (full.scale, full.top, full.left, full.hue) == (
            still.scale,
            still.top,
            still.left,
            still.hue,
        )
        assert (full.scale, full.flip, full.kept) == (grey.scale, grey.flip, grey.kept)
        assert not grey.changes_color


def test_draws_cover_their_ranges():
    spec = ViewSpec((44, 60), scale=(1.0, 1.0), color=0.4, blur=0.25, isolate=0.25)
    views = views_of(spec, 600)
    assert {v.top for v in views} == set(range(5)) and {v.left for v in views} == set(range(5))
    assert 0.42 < np.mean([v.flip for v in views]) < 0.58
    assert 0.19 < np.mean([v.blur > 0 for v in views]) < 0.31
    assert 0.19 < np.mean([v.kept is not None for v in views]) < 0.31
    for name, middle, reach in (
        ("brightness", 1, 0.4),
        ("contrast", 1, 0.4),
        ("saturation", 1, 0.4),
        ("hue", 0, 0.1),
        ("blur", 2, 2),
    ):
        values = np.array([getattr(v, name) for v in views])
        assert np.abs(values - middle).max() <= reach and (values - middle).max() > 0.9 * reach
    small = views_of(ViewSpec((70, 80)), 200)
    assert {v.top for v in small} == set(range(-22, 1)) and {v.left for v in small} == set(
        range(-16, 1)
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0, 1)},
        {"scale": (2, 1)},
        {"color": 1.5},
        {"blur": -0.1},
        {"isolate": 2},
        {"teacher_sees": "dirty"},
        {"size": (0, 8)},
    ],
)
def test_a_spec_out_of_range_is_refused(wrong):
    with pytest.raises(UsageError):
        ViewSpec(**{"size": (32, 32), **wrong})


# --- geometry ---


@pytest.fixture
def image_and_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (31, 45, 3), dtype=np.uint8), rng.integers(
        0, 9, (31, 45), dtype=np.uint8
    )


def test_crop_pad_and_flip_equal_numpy(image_and_labels):
    image, labels = image_and_labels
    for top, left, height, width, flip in [
        (0, 0, 31, 45, False),
        (3, 5, 20, 30, True),
        (-4, -6, 40, 60, True),
        (-4, 20, 20, 40, False),
    ]:
        pixels = np.pad(image / np.float32(255), ((50, 50), (50, 50), (0, 0)), constant_values=0.5)
        truth = np.pad(labels, 50, constant_values=255)
        inside = np.pad(np.ones(labels.shape, bool), 50)
        box = np.s_[top + 50 : top + 50 + height, left + 50 : left + 50 + width]
        step = -1 if flip else 1
        seen, read, valid = apply_geometry(View(1.0, top, left, height, width, flip), image, labels)
        np.testing.assert_array_equal(
            seen.permute(1, 2, 0).numpy(), pixels[box][:, ::step].astype(np.float32)
        )
        np.testing.assert_array_equal(read.numpy(), truth[box][:, ::step])
        np.testing.assert_array_equal(valid.numpy(), inside[box][:, ::step])
        assert (
            seen.dtype == torch.float32 and read.dtype == torch.int64 and valid.dtype == torch.bool
        )


@pytest.mark.parametrize("scale", [0.4, 0.75, 1.3, 2.0])
def test_zoom_agrees_with_pillow(image_and_labels, scale):
    image, _ = image_and_labels
    smooth = scipy.ndimage.gaussian_filter(image.astype(float), (1, 1, 0)).astype(np.uint8)
    height, width = int(31 * scale + 0.5), int(45 * scale + 0.5)
    seen, _, valid = apply_geometry(View(scale, 0, 0, height, width), smooth, None)
    reference = np.asarray(
        Image.fromarray(smooth).resize((width, height), Image.Resampling.BILINEAR)
    )
    assert np.abs(255 * seen.permute(1, 2, 0).numpy() - reference).max() <= 2.01
    assert valid.all()


def test_labels_and_image_stay_aligned(image_and_labels):
    """Doubling repeats every label; any zoom keeps a label where its pixel is."""
    image, labels = image_and_labels
    _, doubled, _ = apply_geometry(View(2.0, 0, 0, 62, 90), image, labels)
    np.testing.assert_array_equal(doubled.numpy(), labels.repeat(2, 0).repeat(2, 1))
    blocks = np.kron(np.random.default_rng(1).integers(0, 8, (4, 6)), np.ones((16, 16))).astype(
        np.uint8
    )
    painted = np.repeat(blocks[..., None] * 30, 3, axis=2)
    for scale in (0.7, 1.37):
        rows, columns = int(64 * scale + 0.5), int(96 * scale + 0.5)
        seen, truth, _ = apply_geometry(View(scale, 0, 0, rows, columns), painted, blocks)
        inner = scipy.ndimage.maximum_filter(truth.numpy(), 5) == scipy.ndimage.minimum_filter(
            truth.numpy(), 5
        )
        assert inner.mean() > 0.3
        np.testing.assert_allclose(
            255 * seen[0].numpy()[inner], truth.numpy()[inner] * 30, atol=1.01
        )


def test_whole_is_the_image_padded_to_32(image_and_labels):
    image, labels = image_and_labels
    view = whole((31, 45))
    assert (view.height, view.width) == (32, 64) and not view.changes_color
    seen, truth, valid = apply_geometry(view, image, labels)
    np.testing.assert_array_equal(
        (255 * seen[:, :31, :45]).round().byte().permute(1, 2, 0).numpy(), image
    )
    assert int(valid.sum()) == 31 * 45 and bool(valid[:31, :45].all())
    assert bool((seen[:, ~valid] == 0.5).all()) and bool((truth[~valid] == 255).all())
    assert (whole((64, 96)).height, whole((64, 96)).width) == (64, 96)


def test_isolate_keeps_one_box_in_place():
    image = np.random.default_rng(2).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    labels = image[..., 0] // 32
    sides = set()
    for index in range(30):
        view = draw(
            ViewSpec((192, 160), scale=(0.6, 1.2), isolate=1.0),
            (150, 200),
            view_seed=0,
            index=index,
            draw=0,
        )
        plain, plain_truth, inside = apply_geometry(replace(view, kept=None), image, labels)
        seen, truth, valid = apply_geometry(view, image, labels)
        top, left, height, width = view.kept
        sides.add((height, width))
        assert 48 <= height == width <= 96
        assert int(valid.sum()) == height * width and bool(
            valid[top : top + height, left : left + width].all()
        )
        assert bool(inside[valid].all())
        assert torch.equal(seen[:, valid], plain[:, valid]) and torch.equal(
            truth[valid], plain_truth[valid]
        )
        assert bool((seen[:, ~valid] == 0.5).all()) and bool((truth[~valid] == 255).all())
    assert len(sides) > 10


def test_labels_of_another_size_are_refused(image_and_labels):
    with pytest.raises(ShapeError):
        apply_geometry(whole((31, 45)), image_and_labels[0], image_and_labels[1][:-1])


# --- colors ---

PLAIN = View(1.0, 0, 0, 24, 31)


def color_view(**changes: float) -> View:
    return View(1.0, 0, 0, 24, 31, **changes)


def test_colors_equal_their_formulas():
    image = torch.rand(3, 24, 31, generator=torch.Generator().manual_seed(0))
    pixels = image.numpy().astype(np.float64)
    grey = np.tensordot([0.2989, 0.587, 0.114], pixels, 1)
    expected = {
        "brightness": np.clip(pixels * 1.3, 0, 1),
        "contrast": np.clip(0.7 * pixels + 0.3 * grey.mean(), 0, 1),
        "saturation": np.clip(1.4 * pixels - 0.4 * grey, 0, 1),
    }
    for (name, result), factor in zip(expected.items(), (1.3, 0.7, 1.4), strict=True):
        changed = apply_photometric(color_view(**{name: factor}), image)
        np.testing.assert_allclose(changed.numpy(), result, atol=2e-6)
    assert apply_photometric(PLAIN, image) is image


def test_hue_rotates_around_grey():
    image = torch.rand(3, 24, 31, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    assert torch.allclose(turn_hue(image, 1 / 3), F.adjust_hue(image, 1 / 3), atol=2e-6)
    assert torch.allclose(turn_hue(image, 1 / 3), image.roll(1, 0), atol=1e-6)
    assert torch.allclose(turn_hue(turn_hue(image, 0.05), -0.05), image, atol=1e-6)
    assert torch.allclose(turn_hue(image, 0.07).mean(0), image.mean(0), atol=1e-6)
    grey = image[:1].expand(3, -1, -1)
    assert torch.allclose(turn_hue(grey, 0.2), grey, atol=1e-6)
    assert float((apply_photometric(color_view(hue=0.05), image) - image).abs().max()) > 0.01


@pytest.mark.parametrize("sigma", [0.4, 1.7, 4.0])
def test_blur_equals_scipy(sigma):
    image = torch.rand(3, 40, 51, generator=torch.Generator().manual_seed(2))
    blurred = apply_photometric(color_view(blur=sigma), image)
    reach = int(np.ceil(3 * sigma))
    expected = scipy.ndimage.gaussian_filter(
        image.numpy().astype(np.float64), (0, sigma, sigma), mode="mirror", radius=(0, reach, reach)
    )
    np.testing.assert_allclose(blurred.numpy(), expected, atol=2e-6)
    assert apply_photometric(color_view(blur=4.0), image[:, :1, :1]).shape == (3, 1, 1)


def test_colors_leave_the_padding_grey_and_stay_in_range():
    dataset = ViewDataset(Memory([(30, 40)] * 12), BUSY, view_seed=1)
    for index in range(12):
        sample = dataset.sample((index, 0))
        assert bool((sample["image"][:, ~sample["valid"]] == 0.5).all())
        assert 0 <= float(sample["image"].min()) and float(sample["image"].max()) <= 1


# --- order and loading ---


def epoch_of(length: int, seed: int, epoch: int) -> list[int]:
    """The images of an epoch of single-image steps."""
    steps = Steps(length, 1, seed=seed, start=epoch * length, stop=(epoch + 1) * length)
    return [index for ((index, _),) in steps]


def test_an_epoch_is_a_permutation_from_seed_and_epoch_alone():
    order = epoch_of(23, seed=4, epoch=2)
    assert sorted(order) == list(range(23)) != order
    assert epoch_of(23, seed=4, epoch=2) == order
    assert epoch_of(23, seed=4, epoch=3) != order != epoch_of(23, seed=5, epoch=2)
    (batch, _) = Steps(23, 10, seed=4, start=4, stop=6)  # the last 3 images are left out
    assert [index for index, _ in batch] == order[:10]


def test_steps_can_be_resumed_anywhere_and_shared():
    whole_run = list(Steps(10, 4, seed=1, start=0, stop=9))
    assert len(whole_run) == 9 and [batch[0][1] for batch in whole_run] == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
    ]
    for start in range(9):
        assert list(Steps(10, 4, seed=1, start=start, stop=9)) == whole_run[start:]
    halves = [list(Steps(10, 4, seed=1, start=0, stop=9, process=p, processes=2)) for p in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(b) for b in whole_run]
    with pytest.raises(UsageError, match="smaller than one batch"):
        Steps(3, 4, seed=0, start=0, stop=1)
    with pytest.raises(UsageError, match="share a batch"):
        Steps(30, 4, seed=0, start=0, stop=1, processes=3)


def test_the_number_of_workers_changes_no_bit():
    dataset = ViewDataset(Memory([(48, 64), (60, 40), (33, 47)] * 3), BUSY, view_seed=2)
    steps = Steps(len(dataset), 4, seed=0, start=1, stop=6)
    runs = [list(Loader(dataset, steps, workers)) for workers in (0, 1, 2)]
    assert len(runs[0]) == 5
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            for name in ("images", "labels", "valid", "indices", "views"):
                assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_sample_does_not_depend_on_its_batch_and_a_loader_can_be_iterated_twice():
    dataset = ViewDataset(Memory([(48, 64)] * 6), BUSY)
    loader = Loader(dataset, [[(0, 3), (5, 3)], [(2, 7)]], workers=1)
    first, second = list(loader), list(loader)
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
    assert torch.equal(first[0].images[1], dataset.sample((5, 3))["image"])
    assert (
        first[0].indices.tolist() == [0, 5]
        and first[0].views.tolist() == [3, 3]
        and len(loader) == 2
    )


def test_stored_views_repeat():
    dataset = ViewDataset(Memory([(48, 64)] * 2), BUSY, views=3)
    assert [dataset.number(n) for n in range(5)] == [0, 1, 2, 0, 1]
    assert dataset.view((1, 4)) == dataset.view((1, 1)) != dataset.view((1, 2))
    endless = ViewDataset(Memory([(48, 64)] * 2), BUSY)
    assert endless.view((1, 1)) == dataset.view((1, 1)) and endless.view((1, 4)) != dataset.view(
        (1, 4)
    )


def test_a_clean_teacher_gets_geometry_only_and_the_student_new_colors():
    clean = ViewDataset(Memory([(48, 64)]), replace(BUSY, teacher_sees="clean"), views=1)
    first, later = (collate([clean[(0, n)]]) for n in (0, 1))
    assert torch.equal(first.teacher_images, later.teacher_images) and not torch.equal(
        first.images, later.images
    )
    assert torch.equal(
        first.labels, later.labels
    ) and first.views.tolist() == later.views.tolist() == [0]
    plain = ViewDataset(Memory([(48, 64)]), replace(BUSY, color=0.0, blur=0.0), views=1)[(0, 0)]
    assert torch.equal(first.teacher_images[0], plain["image"])
    same = ViewDataset(Memory([(48, 64)]), BUSY, views=1)
    assert (
        torch.equal(same[(0, 0)]["image"], same[(0, 1)]["image"])
        and collate([same[(0, 0)]]).teacher_images is None
    )


SIGNALS = """
import multiprocessing, subprocess
from tests.views.test_views import BUSY, Loader, Memory, ViewDataset
dataset = ViewDataset(Memory([(48, 64)] * 4), BUSY)
batches = iter(Loader(dataset, [[(0, n)] for n in range(30)], workers=1))
next(batches)
(worker,) = multiprocessing.active_children()
for name in ("TERM", "INT"):
    subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
print(len([next(batches) for _ in range(20)]), worker.is_alive())
worker.terminate()
worker.join(10)
print(worker.exitcode)
"""


def test_a_worker_ignores_signals_except_those_of_its_parent():
    """Run in a new process: a worker is a fork, and would inherit threads and open files."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["20", "True", "0"], done.stderr


def test_a_killed_worker_is_an_error_that_names_its_signal():
    before = set(multiprocessing.active_children())
    batches = iter(
        Loader(ViewDataset(Memory([(48, 64)] * 4), BUSY), [[(0, n)] for n in range(30)], workers=1)
    )
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    with pytest.raises(
        FreqKDError, match="a data loading process was killed\n  got  SIGKILL"
    ) as caught:
        list(batches)
    assert caught.value.exit_code == 1 and "data.workers" in caught.value.tip


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reaches_the_main_process_unchanged(workers):
    dataset = ViewDataset(Memory([(48, 64)] * 4, broken=3), BUSY)
    batches = iter(Loader(dataset, [[(0, 0), (1, 0)], [(2, 0), (3, 0)]], workers))
    assert len(next(batches)) == 2
    with pytest.raises(DataBroken) as caught:
        next(batches)
    assert (
        str(caught.value)
        == "cannot read image.png\n  got  rubbish\n  need a image\n  try  another one"
    )
    assert (caught.value.got, caught.value.tip) == ("rubbish", "another one")


def test_images_without_masks_have_no_labels():
    dataset = ViewDataset(Memory([(48, 64)] * 2, labelled=False), BUSY)
    batch = collate([dataset[(0, 0)], dataset[(1, 0)]])
    assert isinstance(batch, Batch) and batch.labels is None and batch.valid.shape == (2, 40, 56)


def test_whole_batches_never_mix_sizes_and_contain_every_image():
    sizes = [(33, 40), (64, 64), (20, 50), (50, 64), (33, 41), (64, 33), (31, 64)]
    image_files = Memory(sizes)
    batches = list(whole_batches(image_files, 2))
    assert sorted(sum((b.indices.tolist() for b in batches), [])) == list(range(7))
    for batch in batches:
        assert len(batch) <= 2 and bool((batch.views == -1).all())
        for row, index in enumerate(batch.indices.tolist()):
            height, width = sizes[index]
            assert int(batch.valid[row].sum()) == height * width
            np.testing.assert_array_equal(
                batch.labels[row, :height, :width].numpy(), image_files.read(index)[1]
            )
    assert [b.indices.tolist() for b in whole_batches(image_files, 2, indices=[1, 5])] == [[1, 5]]
