"""freqkd: distil a SegFormer into real-time students, by stage, frequency band or patch graph.

A recipe (``recipe/``) names a data set, a teacher, a student and the losses. Each name is a file in
``datasets/``, ``models/`` or ``losses/``, found by ``registry``. ``build/`` turns the names into
objects and checks the whole recipe. Images become views (``views/``). The student runs on a view;
the teacher's half of every loss comes from a live teacher or from a cache on disk (``teacher/``,
``cache/``). ``train/`` minimizes the weighted sum. ``spectral/`` contains the Fourier and graph
arithmetic as pure functions, ``metrics/`` the scores, ``report/`` tables and figures, ``commands/``
one file per subcommand.

Symbols, the same everywhere::

    B C K     batch, channels, classes
    H W       image height and width in pixels
    h w       height and width of a feature grid in cells; N = h * w cells
    s         stride: image pixels per cell of a tap
    rho       radial frequency in Nyquist units of a grid: 0 = DC, 1 = Nyquist along an axis,
              sqrt(2) at the corners
    lambda    weight of a loss, or an eigenvalue of a graph

``cycles_per_pixel = rho / (2 * s)``. Every signature has the student before the teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "from_pretrained", "load"]

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def load(folder: str | Path) -> nn.Module:
    """Load a trained model from a run or export folder, in eval mode on the CPU.

    The module takes RGB images in [0, 1], ``[B, 3, H, W]`` float32, and returns
    ``{"logits": [B, K, H/s, W/s]}``; ``load(folder)(images, taps=["encoder"])`` adds named taps.

    Raises:
        WeightsMissing: ``config.json`` or ``model.safetensors`` is missing, or they do not match.
    """
    from freqkd_cli.build.saved import load_model

    return load_model(folder)


def from_pretrained(name: str | Path, revision: str | None = None) -> nn.Module:
    """Load a trained model from a folder, or from a repository of the Hugging Face hub.

    Of a repository only ``*.json`` and ``*.safetensors`` are downloaded, never a pickle. A download
    is kept in the hub's cache, which is used without a connection too. The module is that of
    :func:`load`.

    Args:
        name: a folder, or OWNER/NAME.
        revision: branch, tag or commit of a repository.

    Raises:
        WeightsMissing: there is no such model, or the hub cannot be reached and nothing is cached.
    """
    from freqkd_cli.build.saved import load_pretrained

    return load_pretrained(name, revision)
