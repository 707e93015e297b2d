"""Whether an exported model gives the results of the trained one, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freqkd_cli.errors import CheckFailed, FreqKDError, some

LARGEST_DIFFERENCE = 1e-4
"""Largest accepted difference of a logit, as a share of the largest logit."""
LEAST_AGREEMENT = 0.9999
"""Least accepted share of pixels with the same class."""

SIZES: tuple[tuple[int, int, int], ...] = (
    (1, 192, 256),
    (3, 128, 160),
    (1, 225, 301),
    (2, 64, 96),
    (1, 352, 480),
)
"""(batch, height, width): odd sides, batches of one to three, and 64 x 96, whose 1/32 grid has
fewer cells than a pooling into six bins."""

_SHOWN = 4


@dataclass(frozen=True)
class Parity:
    """The worst case over all sizes.

    Attributes:
        sizes: (batch, height, width) of every check.
        max_abs_difference: largest |exported - trained| of a logit; None for labels.
        relative_difference: the same as a share of the largest |logit| of that check.
        argmax_agreement: share of pixels with the same class, over all checks together.
        tip: what to try where this is not enough.
    """

    sizes: list[tuple[int, int, int]]
    max_abs_difference: float | None
    relative_difference: float | None
    argmax_agreement: float
    tip: str | None = None

    def require(self, what: str) -> None:
        """Check that ``what`` is the same model up to rounding.

        Raises:
            CheckFailed: logits or classes differ by more than rounding.
        """
        relative = self.relative_difference
        far = relative is not None and not relative <= LARGEST_DIFFERENCE
        if far or not self.argmax_agreement >= LEAST_AGREEMENT:
            difference = "" if relative is None else f"{relative:.2e} of the largest logit, "
            raise CheckFailed(
                f"{what} gives other results than the trained model, so it was not written",
                got=f"{difference}{self.argmax_agreement:.6f} of the pixels with the same class",
                need=f"at most {LARGEST_DIFFERENCE:g} of the largest logit, "
                f"at least {LEAST_AGREEMENT} of the pixels",
                tip=self.tip,
            )


def require_finite(model: nn.Module) -> None:
    """Check that every weight of the model is a finite number.

    Raises:
        CheckFailed: names the tensors with NaN or infinite values.
    """
    bad = [
        key
        for key, value in model.state_dict().items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if bad:
        raise CheckFailed(
            "the model has weights that are NaN or infinite, so it was not exported",
            got=some(bad, _SHOWN),
            need="finite numbers in every tensor",
            tip="train again with a lower learning rate, or use a checkpoint from before",
        )


def probe_image(batch: int, height: int, width: int) -> Tensor:
    """Return a smooth color pattern with some noise, ``[B, 3, H, W]`` in [0, 1].

    It is nearer to a photograph than noise is, and the same for every call with one size.
    """
    source = torch.Generator().manual_seed(height * 10_007 + width * 101 + batch)
    coarse = torch.rand(batch, 3, 7, 9, generator=source)
    smooth = nn.functional.interpolate(
        coarse, size=(height, width), mode="bicubic", align_corners=False
    )
    return (smooth + 0.1 * torch.randn(batch, 3, height, width, generator=source)).clamp(0, 1)


@torch.inference_mode()
def compare(
    trained: Callable[[Tensor], Tensor],
    exported: Callable[[Tensor], Tensor],
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    tip: str | None = None,
) -> Parity:
    """Run both on probe images of every size.

    Args:
        trained, exported: images ``[B, 3, H, W]`` -> logits ``[B, K, h, w]``, or labels ``[B, h,
            w]`` of an integer type.
        tip: what to try where the exported model fails.

    Raises:
        CheckFailed: the trained model's logits are not finite, or the exported model fails on a
            size or gives another shape.
    """
    largest = relative = 0.0
    same = pixels = 0
    labels = False
    for size in sizes:
        image = probe_image(*size)
        expected = trained(image)
        actual = _run(exported, image, expected, tip)
        labels = not expected.is_floating_point()
        if not labels:
            _require_finite_logits(expected, size)
            difference = _largest_difference(actual, expected)
            largest = max(largest, difference)
            relative = max(relative, difference / max(float(expected.abs().max()), 1e-30))
            actual, expected = actual.argmax(1), expected.argmax(1)
        same += int((actual == expected).sum())
        pixels += expected.numel()
    differences = (None, None) if labels else (largest, relative)
    return Parity(list(sizes), *differences, same / pixels, tip)


def _run(
    exported: Callable[[Tensor], Tensor], image: Tensor, expected: Tensor, tip: str | None
) -> Tensor:
    """Return the exported model's output, which has the expected shape."""
    batch, _, height, width = image.shape
    size = f"{batch} image{'s' * (batch > 1)} of {height}x{width}"
    try:
        actual = exported(image)
    except FreqKDError:
        raise
    except Exception as error:  # each runtime has its own classes; all mean that this size fails
        lines = str(error).strip().splitlines()
        raise CheckFailed(
            f"the exported model fails on {size}, so it was not written",
            got=f"{type(error).__name__}: {lines[0] if lines else ''}"[:300],
            tip=tip,
        ) from error
    if actual.shape != expected.shape:
        raise CheckFailed(
            f"the exported model gives another shape for {size}, so it was not written",
            got=tuple(actual.shape),
            need=tuple(expected.shape),
            tip=tip,
        )
    return actual


def _require_finite_logits(logits: Tensor, size: tuple[int, int, int]) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise CheckFailed(
            "the trained model's logits are NaN or infinite, so it was not exported",
            got=f"a test image of {size[1]}x{size[2]}",
            need="finite logits",
            tip="train again with a lower learning rate, or use a checkpoint from before",
        )


def _largest_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference; NaN, which Python's max() drops, becomes infinity."""
    difference = float((actual - expected).abs().max())
    return difference if difference == difference else float("inf")
