"""Which layers of an int8 graph change its output most: each alone is in int8 once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from freqkd_cli.build.exported_model import onnx_session
from freqkd_cli.export.activation_ranges import Ranges
from freqkd_cli.export.quantized_graph import Layer, layers, write_int8
from freqkd_cli.runtime.latency import threads


def most_harmful(
    source: Path,
    ranges: Ranges,
    images: Sequence[np.ndarray],
    folder: Path,
    done: Callable[[int], None] = lambda number: None,
) -> list[tuple[Layer, float]]:
    """Return the layers, the most harmful first, with the share of the error that each causes.

    The error is the mean squared difference of the output from that of the float32 file, or the
    share of other labels. A layer's share is its error where all other layers are in float32. The
    reverse, one layer in float32, misses a tensor between two layers, which both store in 8 bits.

    Args:
        source: the float32 file.
        images: a few calibration images ``[1, 3, H, W]``.
        folder: where trial files are written.
        done: called with the number of layers that were tried.
    """
    expected = _outputs(source, images)
    trial = folder / "trial.onnx"

    graph = layers(onnx.load(source))

    def error(in_float: Sequence[Layer] = ()) -> float:
        write_int8(source, trial, ranges, [layer.node for layer in in_float])
        return _difference(_outputs(trial, images), expected)

    whole = error()
    shares = []
    for number, layer in enumerate(graph, start=1):
        alone = error([other for other in graph if other is not layer])
        shares.append((layer, alone / whole if whole > 0 else 0.0))
        done(number)
    return sorted(shares, key=lambda pair: -pair[1])


def _outputs(path: Path, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    session = onnx_session(path, threads())
    return [session.run(None, {"image": image})[0] for image in images]


def _difference(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    pairs = list(zip(actual, expected, strict=True))
    if np.issubdtype(expected[0].dtype, np.integer):
        return float(np.mean([np.mean(one != other) for one, other in pairs]))
    return float(np.mean([np.mean(np.square(one - other)) for one, other in pairs]))
