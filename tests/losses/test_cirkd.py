"""Known answers of ``cirkd``, its memory, and its random numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.special
import torch
from rival_tensors import CLASSES, batch_of, fill, fill_memory, started, tensors, value

from freqkd_cli.errors import RecipeError
from freqkd_cli.losses import _memory
from freqkd_cli.losses._memory import Memory, few_of_each
from tests.losses import test_every_loss as contract

# A memory that two steps do not fill, of which everything is drawn.
WHOLE = {
    "pixel_memory": 64,
    "region_memory": 8,
    "stored_pixels": 30,
    "pixel_samples": 64 * CLASSES,
    "region_samples": 8 * CLASSES,
}
MEMORIES_ALONE = {"minibatch": 0.0, **WHOLE}


def filled(**arguments):
    student, teacher, _ = tensors()
    loss = started("cirkd", student, teacher, stride=4, **arguments)
    fill(loss.head[0].weight, loss.head[3].weight)
    fill_memory(*(memory.vectors for memory in loss.memories.values()))
    return loss


def test_the_pairs_of_a_batch_equal_the_authors_code():
    """winycg/CIRKD, losses/cirkd_mini_batch.py, commit dab64db: value and gradient."""
    student, teacher, labels = tensors()
    student.requires_grad_(True)
    loss = started("cirkd", student, teacher, stride=4, pixel=0.0, region=0.0)
    assert not loss.needs_labels and not list(loss.parameters()) and not loss.state_dict()
    result = value(loss, student, teacher, batch_of(labels))
    assert float(result.detach()) == pytest.approx(4.735846709933729, rel=1e-12)
    result.backward()
    assert float(student.grad.abs().sum()) == pytest.approx(6.383596227686883, rel=1e-12)


@pytest.mark.parametrize(
    ("kd_temperature", "steps"),
    [
        (
            1.0,
            [
                (7.909734528404988, 6.436669871174006, 1.23315727317084),
                (7.619036844142174, 6.453741168961098, 1.4191754606252198),
            ],
        ),
        (
            2.0,
            [
                (12.10860661442758, 10.65412534132151, 1.8463863841718746),
                (11.601227546113737, 10.352953351265633, 2.116364893865594),
            ],
        ),
    ],
)
def test_the_memories_equal_the_authors_code_with_its_fault_fixed(kd_temperature, steps):
    """winycg/CIRKD, losses/cirkd_memory.py, commit dab64db, over two steps.

    One change was made there: ``this_feat[:, idxs[perm[:K], 0]]`` are stored in the pixel memory,
    the pixels of the class. As released, ``this_feat[:, perm[:K]]``, the pixel terms of the steps
    are 7.508848554310819 and 7.4182708583515975; the region terms are as here.
    """
    pixels = filled(region=0.0, kd_temperature=kd_temperature, **MEMORIES_ALONE)
    regions = filled(pixel=0.0, kd_temperature=kd_temperature, **MEMORIES_ALONE)
    regions.memories["region"].load_state_dict(
        filled(**MEMORIES_ALONE).memories["region"].state_dict()
    )
    for step, (pixel, region, gradient) in enumerate(steps):
        student, teacher, labels = tensors(step)
        student.requires_grad_(True)
        total = 0.0
        for loss, known in ((pixels, pixel), (regions, region)):
            term = value(loss, student, teacher, batch_of(labels), step)
            assert float(term.detach()) == pytest.approx(0.1 * known, rel=1e-12)
            total = total + term
        total.backward()
        assert float(student.grad.abs().sum()) == pytest.approx(gradient, rel=1e-9)
    assert pixels.memories["pixel"].place.tolist() == [26, 34, 40]
    assert regions.memories["region"].place.tolist() == [4, 4, 4]


def test_the_pairs_of_a_batch_are_scipy_s_relative_entropy():
    student, teacher, _ = tensors(2)
    total = 0.0
    for i in range(2):
        for j in range(2):
            log_p = []
            for x in (teacher.numpy(), student.numpy()):
                rows = x.reshape(2, x.shape[1], -1)
                rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
                log_p.append(scipy.special.log_softmax(rows[i].T @ rows[j] / 0.2, axis=1))
            total += (np.exp(log_p[0]) * (log_p[0] - log_p[1])).sum(1).mean()
    loss = started("cirkd", student, teacher, temperature=0.2, pixel=0.0, region=0.0)
    assert float(value(loss, student, teacher, batch_of(None))) == pytest.approx(total / 4)


def test_large_grids_are_averaged_for_the_pairs_of_a_batch():
    x, y = torch.randn(1, 2, 256, 260).double(), torch.randn(1, 2, 256, 260).double()
    loss = started("cirkd", x, y, pixel=0.0, region=0.0)
    small = [torch.nn.functional.avg_pool2d(z, 4) for z in (x, y)]
    for grid, known in (((256, 260), value(loss, *small, batch_of(None, (64, 65), 1))),):
        assert float(value(loss, x, y, batch_of(None, grid, 1))) == pytest.approx(float(known))


def test_the_gradient_of_the_memories_is_right():
    student, teacher, labels = tensors()
    loss = filled(**WHOLE).eval()  # nothing is stored in evaluation mode
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: value(loss, x, teacher, batch_of(labels)), student)


# The memory


@pytest.mark.parametrize("selects", [True, False])
def test_the_memory_is_a_ring_with_a_place_for_each_class(monkeypatch, selects):
    """A GPU selects no rows."""
    monkeypatch.setattr(_memory, "selects", lambda x: selects)
    memory, expected = Memory(2, 3, 1), [[None] * 3, [None] * 3]
    places, number = [0, 0], 0
    rng = np.random.default_rng(0)
    for length in (1, 2, 0, 9, 3, 5):
        classes = rng.integers(0, 2, length)
        taken = torch.from_numpy(rng.random(length) < 0.8)
        vectors = torch.arange(number, number + length, dtype=torch.float32)
        number += length
        memory.add(vectors[:, None], torch.from_numpy(classes), taken)
        for vector, k in zip(vectors[taken].tolist(), classes[taken.numpy()], strict=True):
            expected[k][places[k]] = vector
            places[k] = (places[k] + 1) % 3
    assert memory.vectors[..., 0].tolist() == expected and memory.place.tolist() == places


def test_a_memory_starts_with_unit_vectors_and_samples_the_same_places_of_each_class():
    torch.manual_seed(0)
    memory = Memory(3, 10, 4)
    norms = torch.linalg.vector_norm(memory.vectors, dim=2)
    torch.testing.assert_close(norms, torch.ones(3, 10))
    drawn = memory.sample(4, torch.Generator().manual_seed(1)).view(3, 4, 4)
    places = [
        [int((memory.vectors[k] == row).all(1).nonzero()) for row in drawn[k]] for k in range(3)
    ]
    assert places[0] == places[1] == places[2] and len(set(places[0])) == 4
    assert memory.sample(99, torch.Generator()).shape == (30, 4)


def test_few_cells_of_each_class_are_stored_and_only_cells_of_the_class():
    """The code of the authors stores the first cells of the image instead."""
    labels = torch.tensor([[0] * 5 + [2] * 20 + [255] * 5, [1] * 30])
    draws = torch.rand(2, 30, generator=torch.Generator().manual_seed(3))
    taken = few_of_each(labels, 3, 16, draws)
    assert taken.sum(1).tolist() == [5 + 16, 16]
    assert taken[0, :5].all() and not taken[0, 25:].any()
    least = draws[1].argsort()[:16].sort().values
    assert taken[1].nonzero()[:, 0].tolist() == least.tolist()


def test_a_step_repeats_after_a_checkpoint_and_another_step_differs():
    """State is in buffers alone, and random numbers depend on seed, line and step alone."""
    student, teacher, labels = tensors()
    small = {"pixel_memory": 9, "region_memory": 5, "stored_pixels": 2, "pixel_samples": 9}
    loss, batch = filled(**small), batch_of(labels)
    for step in range(3):
        value(loss, student, teacher, batch, step)
    state = copy.deepcopy(loss.state_dict())
    torch.rand(7)
    going_on = value(loss, student, teacher, batch, 3).item()
    resumed = started("cirkd", student, teacher, stride=4, **small)
    resumed.load_state_dict(state)
    assert value(resumed, student, teacher, batch, 3).item() == going_on
    resumed.load_state_dict(state)
    assert value(resumed, student, teacher, batch, 4).item() != going_on


def test_bad_input_is_refused():
    student, teacher, _ = tensors()
    with pytest.raises(RecipeError, match="cirkd: no part has a weight"):
        started("cirkd", student, teacher, minibatch=0.0, pixel=0.0, region=0.0)
    with pytest.raises(RecipeError, match="cirkd needs labels"):
        value(started("cirkd", student, teacher, **WHOLE), student, teacher, batch_of(None))


def test_a_gpu_which_selects_no_rows_gets_the_same_loss_and_memories(monkeypatch):
    results = []
    for selects in (True, False):
        monkeypatch.setattr(_memory, "selects", lambda x, selects=selects: selects)
        loss, (of_student, of_teacher) = contract.started("cirkd")
        batch = contract.batch_of(3)
        batch.labels[2] = 255
        student = contract.taps_of(of_student, 3, (6, 8))
        student = {n: x.requires_grad_() for n, x in student.items()}
        teacher = contract.taps_of(of_teacher, 3, (6, 8), seed=1)
        target = loss.target(teacher, batch, contract.grids_of(student))
        value = loss(student, target, batch, 3)
        (gradient,) = torch.autograd.grad(value, list(student.values()))
        results.append((value.detach(), gradient, *loss.buffers()))
    for selected, masked in zip(*results, strict=True):
        torch.testing.assert_close(masked, selected, rtol=1e-9, atol=1e-12)


def test_the_key_of_a_checkpoint_is_the_one_that_is_used():
    first, other = (contract.started("cirkd")[0] for _ in range(2))
    first.key.fill_(77)
    other.load_state_dict(first.state_dict())
    assert other.key_number == 77
