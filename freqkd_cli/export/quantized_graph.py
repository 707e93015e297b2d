"""An ONNX graph in int8: QuantizeLinear and DequantizeLinear around its layers, by onnxruntime.

Weights are symmetric int8 with a scale for each output channel. Activations are uint8 with one
scale and zero point for each tensor.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli.export.activation_ranges import QUANTIZED, Ranges
from freqkd_cli.export.quiet import quiet_exporter

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from freqkd_cli.weights.quantization import Quantization

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of a node: the modules of torch that it comes from, the outermost first."""
WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MERGED = ("BatchNormalization", "Relu", "Clip")
"""Operators that become one with the convolution before them."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        node: name of its node in the graph.
        name: its module in the model, such as ``classifier.3``.
        given, returned: its input tensor, and its output after merged operators.
    """

    node: str
    name: str
    given: str
    returned: str


def layers(graph: ModelProto) -> list[Layer]:
    """Return the layers that can become int8, in the order of the graph."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.graph.output}
    return [
        Layer(node.name, _module(node), node.input[0], _merged(node, consumers, outputs))
        for node in graph.graph.node
        if node.op_type in WITH_WEIGHTS
        and node.input[1] in constants
        and node.input[0] not in constants
    ]


def _module(node: NodeProto) -> str:
    """Return the module of a layer: from the name of its weights, else from its scopes."""
    weight = node.input[1].removesuffix(".weight")
    if weight != node.input[1]:
        return weight.removeprefix("model.")
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    listed = ast.literal_eval(scopes)
    return listed[-2].removeprefix("model.") if len(listed) > 1 else node.name


def _merged(
    node: NodeProto, consumers: Mapping[str, list[NodeProto]], outputs: Collection[str]
) -> str:
    """Return the tensor after the operators that are merged into a layer."""
    name = node.output[0]
    while name not in outputs:
        following = consumers.get(name, [])
        if len(following) != 1 or following[0].op_type not in MERGED:
            break
        name = following[0].output[0]
    return name


def write_int8(source: Path, out: Path, ranges: Ranges, in_float: Collection[str] = ()) -> None:
    """Write an ONNX file with its layers in int8; products of two activations stay in float32.

    Args:
        source: the file in float32.
        ranges: those of :func:`freqkd_cli.export.activation_ranges.calibrated_ranges`.
        in_float: nodes of layers that stay in float32.

    Raises:
        FreqKDError: onnxruntime cannot quantize the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    bounds: dict[str, Any] = {
        name: (np.array(low, np.float32), np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    graph = onnx.load(source)
    weighted = {layer.node for layer in layers(graph)}.difference(in_float)
    with quiet_exporter("onnxruntime cannot write this model in int8", "leave --int8 out"):
        quantizer = QDQQuantizer(
            graph,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
            nodes_to_quantize=[],
            nodes_to_exclude=[
                node.name
                for node in graph.graph.node
                if node.op_type in WITH_WEIGHTS and node.name not in weighted
            ],
            op_types_to_quantize=list(QUANTIZED),
            # A bias is added to the products of a linear layer in float32, as in training.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
        )
        quantizer.quantize_model()
        onnx.save(quantizer.model.model, out)


def with_trained_ranges(graph: ModelProto, ranges: Ranges, trained: Quantization) -> Ranges:
    """Return ``ranges`` with those that ``train.quantize`` trained in place of calibrated ones."""
    result, weighted = dict(ranges), layers(graph)
    for layer in weighted:
        # The output of one layer may be the input of the next: the output's range was trained.
        if layer.name in trained.inputs:
            result[layer.given] = trained.inputs[layer.name]
    activated = {node.output[0] for node in graph.graph.node if node.op_type in ("Relu", "Clip")}
    for layer in weighted:
        bounds = trained.outputs.get(layer.name)
        # A negative range ends before an activation that is no module of the network. The graph
        # merges it, and onnxruntime leaves it to the range, so the calibrated one stays.
        if bounds and not (layer.returned in activated and bounds[0] < 0):
            result[layer.returned] = bounds
    return result
