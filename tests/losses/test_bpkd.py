"""Known answers of bpkd: its edges, and its two parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from rival_inputs import batch_of, blocks, numbers, tap
from scipy import ndimage

from freqkd_cli.errors import RecipeError
from freqkd_cli.losses import bpkd, cwd
from freqkd_cli.losses.bpkd import edge_shares

K, GRID = 5, (12, 16)


def started(build, **arguments):
    loss = build(**arguments)
    loss.start({"logits": tap("logits", K, 4)}, {"logits": tap("logits", K, 4)}, K)
    return loss


def logits(seed: int) -> torch.Tensor:
    return numbers(2, K, *GRID, seed=seed)


def value(loss, batch) -> float:
    target = loss.target({"logits": logits(2)}, batch, {"logits": GRID})
    return loss({"logits": logits(1)}, target, batch, 0).item()


@pytest.mark.parametrize(("radius", "classes"), [(1, 5), (3, 5), (3, 130), (60, 5)])
def test_edges_are_the_dilation_less_the_erosion_of_each_class(radius, classes):
    labels = blocks(2, 6, 8, 8, classes=classes, seed=3)
    valid = torch.ones_like(labels, dtype=torch.bool)
    got = edge_shares(labels, valid, classes, radius, (48, 64))
    side = 2 * radius + 1  # a square's dilation is the maximum in it, which scipy takes by rows
    for image in range(2):
        for label in range(classes):
            region = labels[image].numpy() == label
            grown = ndimage.maximum_filter(region, side, mode="constant", cval=False)
            shrunk = ndimage.minimum_filter(region, side, mode="constant", cval=True)
            known = grown & ~shrunk & (labels[image].numpy() != 255)
            np.testing.assert_array_equal(got[image, label].numpy() > 0, known)


def test_the_border_of_the_image_is_no_edge_where_the_view_is_padded():
    labels = torch.full((1, 16, 16), 2)
    labels[:, :, 10:] = 255
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    assert edge_shares(labels, valid, K, 3, (16, 16)).any()
    valid[:, :, 10:] = False
    assert not edge_shares(labels, valid, K, 3, (16, 16)).any()


def test_without_edges_it_is_channel_wise_distillation():
    batch = batch_of(48, 64, torch.full((2, 48, 64), 1))
    known = value(started(cwd.build), batch)
    assert value(started(bpkd.build, body=3.0), batch) == pytest.approx(3.0 * known, rel=1e-9)


def test_edges_of_one_cell_wide_stripes_are_whole():
    """All cells are edges of both classes, so the body is empty and phi is a plain mean."""
    labels = (torch.arange(64) // 4 % 2).expand(2, 48, 64)
    batch = batch_of(48, 64, labels)
    loss = started(bpkd.build, radius=4, edge=1.0, body=0.0, alpha=1.0, temperature=1.0)
    edges = loss.target({"logits": logits(2)}, batch, {"logits": GRID})["edges"]
    assert (edges[:, :2] == 1).all() and not edges[:, 2:].any()
    sides = [x * edges for x in (logits(1), logits(2))]
    log_student, log_teacher = (torch.log_softmax(x, 1) for x in sides)
    phi = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
    assert value(loss, batch) == pytest.approx(2 * phi.mean().item(), rel=1e-6)


def test_images_without_labels_take_the_edges_of_the_prediction():
    labels = blocks(2, 6, 8, 8, classes=K, seed=3)
    labels[1] = 255
    batch = batch_of(48, 64, labels)
    by = {
        edges: started(bpkd.build, edges=edges).target(
            {"logits": logits(2)}, batch, {"logits": GRID}
        )["edges"]
        for edges in ("labels", "prediction")
    }
    assert not torch.equal(by["labels"][0], by["prediction"][0])
    assert torch.equal(by["labels"][1], by["prediction"][1]) and by["labels"][1].any()
    nothing = dataclasses.replace(batch, labels=None)
    loss = started(bpkd.build)
    target = loss.target({"logits": logits(2)}, nothing, {"logits": GRID})
    assert torch.equal(target["edges"], by["prediction"])


def test_padded_cells_take_no_part():
    labels = blocks(2, 6, 8, 8, classes=K, seed=3)
    batch = batch_of(48, 64, labels)
    batch.valid[:, :, 32:] = False
    batch.labels[:, :, 32:] = 255
    loss, student = started(bpkd.build), logits(1).requires_grad_(True)
    target = loss.target({"logits": logits(2)}, batch, {"logits": GRID})
    loss({"logits": student}, target, batch, 0).backward()
    assert not student.grad[..., 8:].any() and student.grad[..., :8].abs().min() > 0


def test_labels_need_a_whole_class_map(tmp_path):
    from freqkd_cli import recipe as recipes
    from freqkd_cli.build import assemble

    text = """
version: 1
data: {name: scenes, size: [64, 96]}
teacher: {name: segformer, weights: embedded, class_map: {road: road, sky: sky}}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}, {name: bpkd, edges: EDGES}]
train: {epochs: 1, batch_size: 2}
"""
    assemble.check(recipes.loads(text.replace("EDGES", "prediction")))
    with pytest.raises(RecipeError) as caught:
        assemble.check(recipes.loads(text.replace("EDGES", "labels")))
    assert "bpkd reads labels of classes that teacher.class_map does not cover" in str(caught.value)
    assert "--set 'losses.bpkd.edges=prediction'" in str(caught.value)
    assert "losses.1.edges" in str(caught.value)
