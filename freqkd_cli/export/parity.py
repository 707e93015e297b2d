"""Does an exported model still say what the trained one says? Both are run on the same images, and the worst difference counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import CheckFailed, FreqKDError

LARGEST_DIFFERENCE = 1e-4
"""Of the largest logit."""
LEAST_AGREEMENT = 0.9999
"""Share of pixels whose class is the same."""

SIZES: tuple[tuple[int, int, int], ...] = (
    (1, 192, 256),
    (3, 128, 160),
    (1, 225, 301),
    (2, 64, 96),
    (1, 352, 480),
)
"""(batch, height, width): odd sides, batches of one to three, and 64 x 96, whose 1/32 grid has fewer cells than a pooling into six bins."""


@dataclass(frozen=True)
class Parity:
    """The worst case over all sizes.

    Attributes:
        sizes: (batch, height, width) of every check.
        max_abs_difference: largest |exported - trained| of a logit; None where the output is labels.
        relative_difference: the same as a share of the largest |logit| of that check; None likewise.
        argmax_agreement: share of pixels with the same class, over all checks together.
        tip: what else can be tried where this is not enough.
    """

    sizes: list[tuple[int, int, int]]
    max_abs_difference: float | None
    relative_difference: float | None
    argmax_agreement: float
    tip: str | None = None

    def require(self, what: str) -> None:
        """Raise unless the export may be called the same model.

        Raises:
            CheckFailed: logits or classes differ by more than rounding.
        """
        far = (
            self.relative_difference is not None
            and not self.relative_difference <= LARGEST_DIFFERENCE
        )
        if far or not self.argmax_agreement >= LEAST_AGREEMENT:
            difference = (
                ""
                if self.relative_difference is None
                else f"{self.relative_difference:.2e} of the largest logit, "
            )
            raise CheckFailed(
                f"{what} does not answer like the trained model, so it was not written",
                got=f"{difference}{self.argmax_agreement:.6f} of the pixels with the same class",
                need=f"at most {LARGEST_DIFFERENCE:g} of the largest logit, at least {LEAST_AGREEMENT} of the pixels",
                tip=self.tip,
            )


def probe_image(batch: int, height: int, width: int) -> Tensor:
    """A soft, coloured pattern with some grain, ``[B, 3, H, W]`` in [0, 1]: nearer to a photograph than noise is, the same each time."""
    source = torch.Generator().manual_seed(height * 10_007 + width * 101 + batch)
    coarse = torch.rand(batch, 3, 7, 9, generator=source)
    soft = nn.functional.interpolate(
        coarse, size=(height, width), mode="bicubic", align_corners=False
    )
    return (soft + 0.1 * torch.randn(batch, 3, height, width, generator=source)).clamp(0, 1)


@torch.inference_mode()
def compare(
    trained: Callable[[Tensor], Tensor],
    exported: Callable[[Tensor], Tensor],
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    tip: str | None = None,
) -> Parity:
    """Run both on probe images of every size.

    Args:
        trained, exported: images ``[B, 3, H, W]`` -> logits ``[B, K, h, w]``, or labels ``[B, h, w]`` of an integer type.
        tip: what else can be tried where the exported model fails.

    Raises:
        CheckFailed: the exported model fails on a size, or answers in another shape.
    """
    largest = relative = 0.0
    same = pixels = 0
    labels = False
    for size in sizes:
        image = probe_image(*size)
        wanted = trained(image)
        try:
            got = exported(image)
        except FreqKDError:
            raise
        except Exception as error:  # runtimes raise classes of their own, and any of them means the same: this size does not work
            raise CheckFailed(
                f"the exported model fails on {_words(size)}, so it was not written",
                got=_first_line(error),
                tip=tip,
            ) from error
        if got.shape != wanted.shape:
            raise CheckFailed(
                f"the exported model answers in another shape on {_words(size)}",
                got=tuple(got.shape),
                need=tuple(wanted.shape),
                tip=tip,
            )
        labels = not wanted.is_floating_point()
        if not labels:
            worst = _largest_difference(got, wanted)
            largest, relative = (
                max(largest, worst),
                max(relative, worst / max(float(wanted.abs().max()), 1e-30)),
            )
            got, wanted = got.argmax(1), wanted.argmax(1)
        same += int((got == wanted).sum())
        pixels += wanted.numel()
    agreement = same / pixels
    return Parity(
        list(sizes), None if labels else largest, None if labels else relative, agreement, tip
    )


def _largest_difference(got: Tensor, wanted: Tensor) -> float:
    """max() of Python drops NaN silently; infinity does not pass any check."""
    worst = float((got - wanted).abs().max())
    return worst if worst == worst else float("inf")


def _words(size: tuple[int, int, int]) -> str:
    return f"{size[0]} image{'s' * (size[0] > 1)} of {size[1]}x{size[2]}"


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
