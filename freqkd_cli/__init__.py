"""freqkd: tell a student network *what* to copy from its SegFormer teacher.

A tour in one paragraph. A recipe (``recipe/``) names a data set, a teacher, a student and the losses, each the name of a
file in a drawer (``datasets/ models/ losses/``, found by ``registry``). ``engine/assemble`` turns the names into objects and checks
the whole recipe at once. Images become views (``views/``), a view's key decides its crop and colour; the student is run on the
view, the teacher's side of every loss comes from a live teacher or from a cache on disk (``features/``), and the weighted sum is trained
(``engine/distill``). ``spectral/`` holds the Fourier arithmetic as pure functions, ``metrics/`` the scores, ``report/`` what a person sees,
``commands/`` one file per subcommand.

Symbols, the same everywhere::

    B C K     batch, channels, classes
    H W       image height and width in pixels
    h w       height and width of a feature grid in cells; N = h * w cells
    s         stride: image pixels per cell of a tap
    rho       radial frequency in Nyquist units of a grid: 0 = DC, 1 = Nyquist along an axis, sqrt(2) at the corners
    lambda    weight of a loss, or an eigenvalue where a graph is spoken of

``cycles_per_pixel = rho / (2 * s)``. Student before teacher in every signature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def load(folder: str | Path) -> nn.Module:
    """Load a trained model from a run or export folder, in eval mode on the CPU.

    The module takes RGB images in [0, 1], ``[B, 3, H, W]`` float32, and returns ``{"logits": [B, K, H/s, W/s]}``;
    ``load(folder)(images, taps=["encoder"])`` adds the named taps.

    Raises:
        WeightsMissing: the folder holds no ``config.json`` and ``model.safetensors``, or they do not fit each other.
    """
    from freqkd_cli.build.saved import load_model

    return load_model(folder)
