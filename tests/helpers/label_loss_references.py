"""Losses that read labels, in numpy and by their definitions."""

from __future__ import annotations

import numpy as np
import scipy.special


def shares_of(logits: np.ndarray) -> np.ndarray:
    """The softmax probabilities ``[N, K]`` of logits ``[B, K, H, W]``."""
    classes = logits.shape[1]
    return scipy.special.softmax(logits, axis=1).transpose(0, 2, 3, 1).reshape(-1, classes)


def labelled_pixels(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities ``[N, K]`` and labels ``[N]`` of the pixels that are not void."""
    flat = labels.ravel()
    return shares_of(logits)[flat != 255], flat[flat != 255]


def focal(logits: np.ndarray, labels: np.ndarray, gamma: float, weights=None) -> float:
    """The weighted mean of -(1 - p)^gamma log p."""
    shares, truth = labelled_pixels(logits, labels)
    p = shares[np.arange(len(truth)), truth]
    weight = np.ones(len(truth)) if weights is None else np.asarray(weights)[truth]
    return float((weight * -((1 - p) ** gamma) * np.log(p)).sum() / weight.sum())


def classes_of(truth: np.ndarray, classes: int, present: bool) -> list[int]:
    return [c for c in range(classes) if not present or (truth == c).any()]


def dice(
    logits: np.ndarray, labels: np.ndarray, *, smooth: float = 0.0, present: bool = True
) -> float:
    """The mean over classes of 1 - (2 I + s) / (P + G + s)."""
    shares, truth = labelled_pixels(logits, labels)
    return float(
        np.mean(
            [
                1
                - (2 * shares[truth == c, c].sum() + smooth)
                / (shares[:, c].sum() + (truth == c).sum() + smooth)
                for c in classes_of(truth, shares.shape[1], present)
            ]
        )
    )


def jaccard_loss(wrong: np.ndarray, of_class: np.ndarray) -> float:
    """1 - IoU of one class where the ``wrong`` pixels are mistaken; 0 without a mistake."""
    if not wrong.any():
        return 0.0
    predicted = of_class ^ wrong
    return 1 - (predicted & of_class).sum() / (predicted | of_class).sum()


def lovasz_extension(errors: np.ndarray, of_class: np.ndarray) -> float:
    """The integral over t of the Jaccard loss of the pixels whose error is at least t."""
    levels = np.unique(np.append(errors, 0.0))
    return float(
        sum(
            (high - low) * jaccard_loss(errors >= high, of_class)
            for low, high in zip(levels[:-1], levels[1:], strict=True)
        )
    )


def lovasz(logits: np.ndarray, labels: np.ndarray, *, present: bool = True) -> float:
    """The mean over classes of the Lovász extension of the Jaccard loss."""
    shares, truth = labelled_pixels(logits, labels)
    return float(
        np.mean(
            [
                lovasz_extension(np.abs((truth == c) - shares[:, c]), truth == c)
                for c in classes_of(truth, shares.shape[1], present)
            ]
        )
    )
