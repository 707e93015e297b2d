"""What a GPU computes in another way, so that it need not be waited for, has the same numbers."""

from __future__ import annotations

import pytest
import torch

from freqkd_cli import registry
from freqkd_cli.losses import cross_entropy
from freqkd_cli.views.upsample import upsampled

CLASSES, IGNORE = 5, 255


def scene(void: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels without the last class; the last image is all void."""
    torch.manual_seed(0)
    logits = torch.randn(3, CLASSES, 4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, CLASSES - 1, (3, 16, 24))
    labels[torch.rand(labels.shape) < void] = IGNORE
    labels[2] = IGNORE
    return logits, labels


@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("labelled", [True, False])
def test_lovasz_with_void_pixels_last_is_that_without_them(classes, per_image, labelled):
    loss = registry.find("losses", "lovasz").build(classes=classes, per_image=per_image)
    logits, labels = scene()
    labels = labels if labelled else torch.full_like(labels, IGNORE)
    true = loss.head(logits, labels, IGNORE)
    shares = upsampled(logits, (16, 24)).softmax(1)
    groups = zip(shares, labels, strict=True) if per_image else [(shares.movedim(1, 0), labels)]
    flat = [(share.flatten(1), label.flatten()) for share, label in groups]
    value = loss._of_all(flat, IGNORE)
    assert value.item() == pytest.approx(true.item(), rel=1e-12, abs=1e-12)
    gradients = [torch.autograd.grad(x, logits)[0] for x in (true, value)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("share", [0.001, 0.0625, 0.5, 1.0])
def test_the_hardest_pixels_are_the_same_by_sorting_all(share):
    _, labels = scene()
    scores = torch.rand(labels.shape)
    scores[0, :8] = 0.5  # equal scores at the limit
    labelled = labels != IGNORE
    true = cross_entropy.least_kept(scores, labelled, share)
    assert torch.equal(cross_entropy._least_of_sorted(scores, labelled, share), true)
