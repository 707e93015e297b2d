"""The contract of a loss, for every name of the registry, so a new file is tested automatically.

A loss is built with ``student="s"`` and ``teacher="t"`` where it takes taps; otherwise it reads
``logits``. "Student equals teacher" means equal taps with adapters that change nothing. MINIMUM
holds the minimum of a loss that is not 0 there.
"""

from __future__ import annotations

import copy
import inspect
import re
from types import SimpleNamespace
from typing import get_args

import label_loss_references as reference
import numpy as np
import pytest
import torch
from torch import nn

from freqkd_cli import registry
from freqkd_cli.errors import BandError, FreqKDError, RecipeError
from freqkd_cli.features.adapter import Adapter
from freqkd_cli.features.loss import LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.recipe import describe
from freqkd_cli.runtime.processes import ALONE
from freqkd_cli.train import whole_batch
from freqkd_cli.views.batch import Batch

NAMES = registry.names("losses")
CLASSES = 5

# Arguments under which a loss can be 0 at all, where its defaults keep it from that.
AT_ZERO = {
    "cirkd": {"pixel": 0.0, "region": 0.0},
    "fam": {"cutoff": 0.0, "band": "all"},
    "graph_lowrank": {"scaling": "none", "energy": 1.0},
    "graph_match": {"scaling": "none", "energy": 1.0, "matching": "closest"},
}

# Losses with a floor against rounding, which keeps them as far from 0.
NEAR_ZERO = {"dist": 1e-6, "graph_lowrank": 1e-6, "graph_match": 1e-6}

# Arguments that the small taps here ask for. The memories of cirkd are not filled by a batch, and
# all of them is drawn, so that the order of what they hold does not matter.
SMALL = {
    "af_dcd": {"pool": 1, "patch": 2},
    "cirkd": {"pixel_memory": 800, "region_memory": 9, "stored_pixels": 99, "region_samples": 45},
    "graph_match": {"groups": 1},
    "skd_pairwise": {"cells": 1},
}

# Arguments under which a loss is differentiable, where it has weights that are held fixed.
SMOOTH = {"graph_match": {"matching": "closest"}, "octave_kl": {"power": 0.0}}

# Losses that relate the images of a batch with each other, so parts of it are other batches.
ACROSS_IMAGES = {"cirkd"}

# Arguments under which a loss reads labelled cells alone.
LABELS_ALONE = {"cirkd": {"minibatch": 0.0}}

# Losses of feature taps that compare class scores by default.
ON_BOTH = ("cwd", "dist")

# The minimum at "student equals teacher" where it is not 0, as a function of logits and labels.
MINIMUM = {
    "cross_entropy": lambda logits, labels: nn.functional.cross_entropy(
        logits, labels, ignore_index=255
    ),
    "dice": lambda logits, labels: reference.dice(logits.numpy(), labels.numpy()),
    "focal": lambda logits, labels: reference.focal(logits.numpy(), labels.numpy(), 2.0),
    "lovasz": lambda logits, labels: reference.lovasz(logits.numpy(), labels.numpy()),
}

# Arguments under which the parts of a batch add up to the whole. The ratios of a batch do not.
IN_PARTS = {
    "attnfd": {"norm": "image", "batch_norm": False},
    "dice": {"per_image": True},
    "dist": {"over": "image"},
    "lovasz": {"per_image": True},
}

# Losses whose student has parameters that no identity undoes; their own tests hold the minimum.
NO_IDENTITY = {"af_dcd", "attnfd", "mgd"}

# Grids of the student's tap, with image sizes on which both taps divide, or do not.
ODD = [(1, 1), (1, 3), (5, 7), (4, 6)]


class OnLogits(str):
    """The name of a loss that compares class scores where no taps are named."""


@pytest.fixture(params=(*NAMES, *(pytest.param(OnLogits(x), id=f"{x}-logits") for x in ON_BOTH)))
def name(request) -> str:
    return request.param


def tap(name: str, channels: int, stride: int = 8) -> Tap:
    return Tap(name, stride, channels, "logits" if name == "logits" else "features")


def started(name: str, channels=(3, 3), strides=(8, 8), **arguments):
    """The loss, and the names of the taps it reads on either side."""
    takes = () if isinstance(name, OnLogits) else registry.takes("losses", name)
    if name == "af_dcd":
        arguments["groups"] = channels[1]  # has to divide the channels
    arguments = (
        SMALL.get(name, {})
        | arguments
        | {key: value for key, value in (("student", "s"), ("teacher", "t")) if key in takes}
    )
    torch.manual_seed(0)
    loss = registry.find("losses", name).build(**arguments)
    student = {n: tap(n, c, strides[0]) for n, c in (("s", channels[0]), ("logits", CLASSES))}
    taps = (("t", channels[1]), ("g", channels[1]), ("logits", CLASSES))
    teacher = {n: tap(n, c, strides[1]) for n, c in taps}
    reads = loss.student_taps(student), loss.teacher_taps(teacher)
    loss.start({n: student[n] for n in reads[0]}, {n: teacher[n] for n in reads[1]}, CLASSES)
    return loss, reads


def batch_of(number: int, grid=(6, 8), stride: int = 8, void: float = 0.2) -> Batch:
    rng = np.random.default_rng(5)
    image = (grid[0] * stride, grid[1] * stride)
    labels = np.where(
        rng.random((number, *image)) < void, 255, rng.integers(0, CLASSES, (number, *image))
    )
    return Batch(
        torch.from_numpy(rng.random((number, 3, *image))).float(),
        torch.from_numpy(labels),
        torch.ones(number, *image, dtype=torch.bool),
        torch.arange(number),
        torch.zeros(number, dtype=torch.long),
    )


def taps_of(
    names, number: int, grid, channels: int = 3, seed: int = 0, dtype=torch.float64
) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {
        n: torch.from_numpy(
            rng.standard_normal((number, CLASSES if n == "logits" else channels, *grid))
        ).to(dtype)
        for n in names
    }


def grids_of(student) -> dict[str, tuple[int, int]]:
    return {n: tuple(x.shape[-2:]) for n, x in student.items()}


def rows(batch: Batch, index) -> Batch:
    return Batch(
        batch.images[index],
        batch.labels[index],
        batch.valid[index],
        batch.indices[index],
        batch.views[index],
    )


def as_identity(loss: nn.Module) -> nn.Module:
    """Adapters and 1x1 convolutions that change nothing."""
    with torch.no_grad():
        for module in loss.modules():
            if isinstance(module, Adapter):
                module.weight.copy_(torch.eye(*module.weight.shape))
            elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                module.weight.copy_(torch.eye(*module.weight.shape[:2])[:, :, None, None])
                if module.bias is not None:
                    module.bias.zero_()
    return loss


def evaluate(loss, student, teacher, batch, step=0):
    """The value of a step from here; what the loss remembers of the step is dropped."""
    target = loss.target(teacher, batch, grids_of(student))
    return copy.deepcopy(loss)(student, target, batch, step)


def test_the_drawer_is_not_empty():
    assert {"cross_entropy", "logit_kl", "feature", "attention", "band", "fam"} <= set(NAMES)


def test_parts_weighted_by_their_counts_are_the_whole(name):
    """Processes and passes of a step hold parts of a batch, here of unequal void and size."""
    if name in ACROSS_IMAGES:
        pytest.skip("it relates the images of a batch with each other")
    loss, (student, teacher) = started(name, **IN_PARTS.get(name, {}))
    batch = batch_of(5)
    batch.labels[0, :30] = 255
    batch.valid[0, :, 40:] = False
    of_student, of_teacher = taps_of(student, 5, (6, 8)), taps_of(teacher, 5, (6, 8), seed=1)
    whole = evaluate(loss, of_student, of_teacher, batch)
    total = counted = 0.0
    for part in (slice(0, 1), slice(1, 5)):
        few = rows(batch, part)
        count = loss.count(few, grids_of(of_student))
        value = evaluate(
            loss,
            {n: x[part] for n, x in of_student.items()},
            {n: x[part] for n, x in of_teacher.items()},
            few,
        )
        total, counted = total + count * value.item(), counted + count
    assert counted == pytest.approx(loss.count(batch, grids_of(of_student)))
    assert total / counted == pytest.approx(whole.item(), rel=1e-6)


def test_parts_come_near_the_whole_with_the_default_arguments(name):
    """As a step adds them up. attnfd, which divides twice by the images, was doubled.

    Some losses relate the images of a batch, so their parts are not exactly the whole.
    """
    loss, (student, teacher) = started(name)
    of_student, of_teacher = taps_of(student, 6, (6, 8)), taps_of(teacher, 6, (6, 8), seed=1)
    batch, halves = batch_of(6), (slice(0, 3), slice(3, 6))
    objective = SimpleNamespace(lines=[SimpleNamespace(loss=loss)])
    shares = whole_batch.shares(
        objective, [rows(batch, half) for half in halves], grids_of(of_student), ALONE
    )
    values = [
        evaluate(
            loss,
            {n: x[half] for n, x in of_student.items()},
            {n: x[half] for n, x in of_teacher.items()},
            rows(batch, half),
        )
        for half in halves
    ]
    mean = sum(value * share for value, share in zip(values, shares, strict=True)) / 2
    whole = evaluate(loss, of_student, of_teacher, batch)
    assert mean.item() == pytest.approx(whole.item(), rel=0.06)


def test_its_docstring_has_what_why_shapes_and_source(name):
    text = inspect.getdoc(registry.find("losses", name))
    assert re.match(r"[A-Z].*\.$", text.splitlines()[0])
    places = [text.find(f"**{part}") for part in ("What", "Why", "Shapes", "Source")]
    assert min(places) > 0 and places == sorted(places), (
        f"four parts in this order; they are at {places}"
    )


def test_it_declares_its_group_and_one_line(name):
    module = registry.find("losses", name)
    assert module.GROUP in get_args(LossGroup)
    assert len(registry.first_line(module)) <= 100


def test_its_arguments_are_a_schema_and_those_that_shape_the_target_exist(name):
    known = set(registry.arguments("losses", name).model_fields)
    assert set(registry.find("losses", name).build(**_taps(name)).target_arguments) <= known
    assert all(
        p.kind is p.KEYWORD_ONLY
        for p in inspect.signature(registry.find("losses", name).build).parameters.values()
    )


def test_its_arguments_are_described(name):
    assert [row["name"] for row in describe.arguments("losses", name) if not row["about"]] == []


def _taps(name):
    return {
        key: value
        for key, value in (("student", "s"), ("teacher", "t"))
        if key in registry.takes("losses", name)
    }


def test_it_is_at_its_minimum_when_the_student_equals_the_teacher(name):
    if name in NO_IDENTITY:
        pytest.skip("its student's side has more parameters than adapters")
    loss, (of_student, of_teacher) = started(name, **AT_ZERO.get(name, {}))
    as_identity(loss)
    batch = batch_of(2)
    student = taps_of(of_student, 2, (48, 64) if name in MINIMUM else (6, 8))
    teacher = {t: student[s] for s, t in zip(of_student, of_teacher, strict=False)}
    known = MINIMUM[name](student["logits"], batch.labels) if name in MINIMUM else 0.0
    value = evaluate(loss, student, teacher, batch).detach()
    assert abs(float(value) - float(known)) < NEAR_ZERO.get(name, 1e-10)
    if name not in MINIMUM:
        other = {
            n: x + 0.5 * torch.from_numpy(np.random.default_rng(9).standard_normal(x.shape))
            for n, x in student.items()
        }
        assert float(evaluate(loss, other, teacher, batch).detach()) > 1e-5


@pytest.mark.parametrize("grids", [((4, 3), (4, 3)), ((3, 4), (6, 8))], ids=str)
def test_its_gradient_is_right(name, grids):
    loss, (of_student, of_teacher) = started(
        name, (2, 3), strides=(8, 8 * grids[0][0] // grids[1][0]), **SMOOTH.get(name, {})
    )
    loss.double()
    batch, teacher = batch_of(1, grids[0]), taps_of(of_teacher, 1, grids[1], seed=1)
    student = taps_of(of_student, 1, grids[0], channels=2)
    target = loss.target(teacher, batch, grids_of(student))
    key = of_student[0]

    def of_tap(x):
        return copy.deepcopy(loss)(student | {key: x}, target, batch, 0)

    assert torch.autograd.gradcheck(of_tap, (student[key].requires_grad_(True),))


def test_no_gradient_reaches_the_teacher_and_nothing_trained_shapes_the_target(name):
    loss, (of_student, of_teacher) = started(name, (3, 4))
    batch, student = batch_of(2), taps_of(of_student, 2, (6, 8))
    teacher = {
        n: x.requires_grad_(True)
        for n, x in taps_of(of_teacher, 2, (6, 8), channels=4, seed=1).items()
    }
    target = loss.target(teacher, batch, grids_of(student))
    assert not any(x.requires_grad for x in target.values())
    state = copy.deepcopy(loss.state_dict())
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.normal_()
    again = loss.target(teacher, batch, grids_of(student))
    assert target.keys() == again.keys() and all(torch.equal(target[k], again[k]) for k in target)
    loss.load_state_dict(state)
    student = {n: x.requires_grad_(True) for n, x in student.items()}
    evaluate(loss, student, teacher, batch).backward()
    assert all(x.grad is None for x in teacher.values())
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in student.values())


@pytest.mark.parametrize("grid", ODD)
def test_odd_sizes_are_finite_or_refused_with_a_reason(name, grid):
    for strides, finer in (((8, 8), 1), ((8, 4), 2)):
        loss, (of_student, of_teacher) = started(name, (3, 4), strides)
        teacher_grid = (grid[0] * finer, grid[1] * finer)
        try:
            loss.check_grids(
                dict.fromkeys(of_student, grid), dict.fromkeys(of_teacher, teacher_grid)
            )
        except (BandError, RecipeError) as error:
            assert ("cells" in str(error) or "nodes" in str(error)) and "need" in str(error)
            continue
        student = {
            n: x.float().requires_grad_(True) for n, x in taps_of(of_student, 2, grid).items()
        }
        value = evaluate(
            loss,
            student,
            taps_of(of_teacher, 2, teacher_grid, 4, seed=1, dtype=torch.float32),
            batch_of(2, grid),
        )
        value.backward()
        assert value.ndim == 0 and value.dtype == torch.float32 and torch.isfinite(value)
        assert all(torch.isfinite(x.grad).all() for x in student.values())


def test_the_order_of_a_batch_does_not_matter(name):
    loss, (of_student, of_teacher) = started(name, (3, 4))
    batch, student, teacher = (
        batch_of(3),
        taps_of(of_student, 3, (6, 8)),
        taps_of(of_teacher, 3, (6, 8), 4, seed=1),
    )
    order = torch.tensor([2, 0, 1])
    shuffled = evaluate(
        loss,
        {n: x[order] for n, x in student.items()},
        {n: x[order] for n, x in teacher.items()},
        rows(batch, order),
    )
    torch.testing.assert_close(
        evaluate(loss, student, teacher, batch), shuffled, rtol=1e-10, atol=1e-12
    )


def test_a_row_of_the_target_depends_on_its_sample_alone(name):
    loss, (of_student, of_teacher) = started(name, (3, 4), (8, 4))
    batch, teacher = batch_of(3), taps_of(of_teacher, 3, (12, 16), 4, seed=1, dtype=torch.float32)
    grids = dict.fromkeys(of_student, (6, 8))
    whole = loss.target(teacher, batch, grids)
    for i in range(3):
        one = loss.target(
            {n: x[i : i + 1] for n, x in teacher.items()}, rows(batch, slice(i, i + 1)), grids
        )
        assert one.keys() == whole.keys()
        for key, x in one.items():
            assert x.shape[0] == 1 and whole[key].shape[0] == 3
            torch.testing.assert_close(x[0], whole[key][i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("void", ["labels", "everything"])
def test_batches_without_a_label_are_finite(name, void):
    loss, (of_student, of_teacher) = started(name, **LABELS_ALONE.get(name, {}))
    batch = batch_of(2, void=1.0)
    if void == "everything":
        batch = Batch(
            batch.images, batch.labels, torch.zeros_like(batch.valid), batch.indices, batch.views
        )
    student = {n: x.requires_grad_(True) for n, x in taps_of(of_student, 2, (6, 8)).items()}
    value = evaluate(loss, student, taps_of(of_teacher, 2, (6, 8), seed=1), batch)
    value.backward()
    assert torch.isfinite(value) and all(torch.isfinite(x.grad).all() for x in student.values())
    if loss.needs_labels:
        assert value.item() == 0.0 and not any(x.grad.any() for x in student.values())


def test_taps_of_zeros_have_finite_gradients(name):
    loss, (of_student, of_teacher) = started(name)
    for student_scale, teacher_scale in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        student = {
            n: (x * student_scale).requires_grad_(True)
            for n, x in taps_of(of_student, 2, (6, 8)).items()
        }
        teacher = {n: x * teacher_scale for n, x in taps_of(of_teacher, 2, (6, 8), seed=1).items()}
        value = evaluate(loss, student, teacher, batch_of(2))
        value.backward()
        assert torch.isfinite(value) and all(torch.isfinite(x.grad).all() for x in student.values())


def test_bfloat16_taps_are_computed_in_float32(name):
    loss, (of_student, of_teacher) = started(name, (3, 4))
    batch, teacher = batch_of(2), taps_of(of_teacher, 2, (6, 8), 4, seed=1, dtype=torch.float32)
    student = {
        n: x.requires_grad_(True)
        for n, x in taps_of(of_student, 2, (6, 8), dtype=torch.bfloat16).items()
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = evaluate(loss, student, teacher, batch)
    value.backward()
    wide = evaluate(loss, {n: x.detach().float() for n, x in student.items()}, teacher, batch)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, wide, rtol=1e-6, atol=1e-7)
    assert all(x.grad.dtype == torch.bfloat16 for x in student.values())


def test_it_can_be_planned_without_memory(name):
    """The check of a recipe makes every loss on the meta device; nothing of it may remain."""
    with torch.device("meta"):
        loss, (of_student, of_teacher) = started(name)
        loss.check_grids(dict.fromkeys(of_student, (6, 8)), dict.fromkeys(of_teacher, (6, 8)))
    loss, (of_student, of_teacher) = started(name)
    value = evaluate(
        loss, taps_of(of_student, 2, (6, 8)), taps_of(of_teacher, 2, (6, 8), seed=1), batch_of(2)
    )
    assert value.device.type == "cpu" and torch.isfinite(value)


def of_broken_teacher(name, images, **arguments) -> torch.Tensor:
    """The value where a teacher's first tap is NaN in some of two images; NaN if it is refused."""
    loss, (of_student, of_teacher) = started(name, **arguments)
    teacher = taps_of(of_teacher, 2, (6, 8), seed=1)
    if not teacher:
        pytest.skip("it reads no teacher")
    teacher[of_teacher[0]][images] = torch.nan
    try:
        return evaluate(loss, taps_of(of_student, 2, (6, 8)), teacher, batch_of(2))
    except FreqKDError:
        return torch.tensor(torch.nan)


BROKEN = pytest.mark.parametrize("images", [slice(2), slice(1)], ids=["every", "one of two"])


@BROKEN
def test_nan_of_a_teacher_reaches_the_loss(name, images):
    """The run stops and names the line. Some losses read NaN as features of zeros."""
    assert not torch.isfinite(of_broken_teacher(name, images))


def test_nan_of_a_student_reaches_the_loss(name):
    """graph_match ended with an error of scipy, which did not name the line."""
    loss, (of_student, of_teacher) = started(name)
    student = taps_of(of_student, 2, (6, 8))
    student[of_student[0]][0, 0, 1, 1] = torch.nan
    try:
        value = evaluate(loss, student, taps_of(of_teacher, 2, (6, 8), seed=1), batch_of(2))
    except FreqKDError:
        return
    assert not torch.isfinite(value)


@pytest.mark.parametrize("matching", ["complementary", "closest"])
def test_one_head_of_nan_reaches_the_loss_of_matched_heads(matching):
    """Also where the student has more heads than are paired."""
    loss, _ = started("graph_match", (6, 4), groups=3, matching=matching)
    student, teacher = taps_of(["s"], 2, (6, 8), 6), taps_of(["t"], 2, (6, 8), 4, seed=1)
    assert torch.isfinite(evaluate(loss, student, teacher, batch_of(2)))
    student["s"][0, 2, 1, 1] = torch.nan
    assert evaluate(loss, student, teacher, batch_of(2)).isnan()


@BROKEN
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((x, {"attention": "high"}) for x in ("cross_entropy", "logit_kl", "feature")),
        *(("band", {"filter_side": x, "band": "mix"}) for x in ("teacher", "student")),
        *(("band", {"distance": x}) for x in ("mse", "log_mse", "l1", "cosine")),
        ("band", {"normalize": "none"}),
        ("band", {"attention": "low"}),
        ("graph_band", {"basis": "g"}),
        ("graph_band", {"basis": "g", "normalize": "none", "band": "mix"}),
    ],
)
def test_nan_of_a_teacher_reaches_the_loss_through_every_filter(name, arguments, images):
    cutoff = {"cutoff": 0.5} if name != "graph_band" else {}
    assert not torch.isfinite(of_broken_teacher(name, images, **cutoff, **arguments))
