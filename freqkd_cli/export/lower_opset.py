"""An ONNX graph rewritten for an older operator set than torch writes.

The schemas of the installed onnx decide which nodes an older set can hold. The others are replaced
by older operators, see ``_REWRITES``. onnx's own version_converter is not used: it cannot convert
Shape, Split and Pad, which nearly every model has. The caller must compare the result with the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli.errors import FreqKDError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OLDEST = 13
"""The oldest operator set that a graph is rewritten for."""
BASE = 18
"""The operator set of the graphs that are rewritten: the oldest that torch writes."""

Constants = Mapping[str, Sequence[int]]
"""Name -> the values of the integer vectors that the graph holds."""


def lowered(model: ModelProto, opset: int) -> ModelProto:
    """Return a model of the operator set :data:`BASE` in an older one.

    Raises:
        FreqKDError: an operator has no older form; the message has the lowest set that works.
    """
    older, missing = _rewritten(model, opset)
    if not missing:
        return older
    sets = range(opset + 1, BASE)
    lowest = next((number for number in sets if not _rewritten(model, number)[1]), BASE)
    raise FreqKDError(
        "the model cannot be written in that operator set",
        got=f"--opset {opset}, which has no {' and no '.join(missing)} as the model uses it",
        need=f"at least --opset {lowest}",
        tip=f"--opset {lowest}",
        key="opset",
    )


def _rewritten(model: ModelProto, opset: int) -> tuple[ModelProto, list[str]]:
    """The model in the older set, and the operators that it cannot hold."""
    import onnx

    older, missing = onnx.ModelProto(), set()
    older.CopyFrom(model)
    del older.graph.node[:], older.opset_import[:], older.graph.value_info[:]
    constants = _constants(model)
    for node in model.graph.node:
        for entry in _older_nodes(node, constants, opset):
            if not _fits(entry, opset):
                missing.add(node.op_type)
            older.graph.node.append(entry)
    older.opset_import.append(onnx.helper.make_opsetid("", opset))
    older.ir_version = onnx.helper.find_min_ir_version_for(older.opset_import)
    return older, sorted(missing)


def _constants(model: ModelProto) -> Constants:
    from onnx import TensorProto, numpy_helper

    vectors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    return {t.name: numpy_helper.to_array(t).tolist() for t in vectors if len(t.dims) == 1}


def _older_nodes(node: NodeProto, constants: Constants, opset: int) -> list[NodeProto]:
    """A node, or what computes the same in the older set where that is known."""
    node = _without(node, *_defaults_unknown_to(node, opset))
    rewrite = _REWRITES.get(node.op_type)
    return [node] if rewrite is None or _fits(node, opset) else list(rewrite(node, constants))


def _fits(node: NodeProto, opset: int) -> bool:
    """Whether the older set has this operator, with these attributes and as many inputs."""
    from onnx import defs

    if node.domain or not defs.has(node.op_type, opset):
        return False
    schema = defs.get_schema(node.op_type, opset)
    known = all(entry.name in schema.attributes for entry in node.attribute)
    return known and len(node.input) <= schema.max_input


def _defaults_unknown_to(node: NodeProto, opset: int) -> list[str]:
    """Attributes that the older set does not have, and whose value changes nothing."""
    from onnx import defs, helper

    if node.domain or not defs.has(node.op_type, opset):
        return []
    new = defs.get_schema(node.op_type, BASE).attributes
    old = defs.get_schema(node.op_type, opset).attributes
    defaults = {name: new[name].default_value for name in new.keys() - old.keys()}
    return [
        entry.name
        for entry in node.attribute
        if entry.name in defaults
        and defaults[entry.name].name
        and helper.get_attribute_value(entry) == helper.get_attribute_value(defaults[entry.name])
    ]


def _without(node: NodeProto, *names: str) -> NodeProto:
    """A copy of a node without these attributes."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    copy.attribute.extend(entry for entry in node.attribute if entry.name not in names)
    return copy


def _values(node: NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _chain(
    node: NodeProto, steps: Sequence[tuple[str, Sequence[Any], dict]]
) -> Iterator[NodeProto]:
    """Nodes for (operator, inputs, attributes); the last one has the output of ``node``.

    An input is a name, the number of an earlier step, or an array.
    """
    from onnx import helper, numpy_helper

    prefix = node.output[0]
    names = [*(f"{prefix}_step{k}" for k in range(len(steps) - 1)), prefix]
    for step, (operator, inputs, attributes) in enumerate(steps):
        given = []
        for k, entry in enumerate(inputs):
            if isinstance(entry, np.ndarray):
                name = f"{prefix}_constant{step}_{k}"
                value = numpy_helper.from_array(entry)
                yield helper.make_node("Constant", [], [name], value=value)
                given.append(name)
            else:
                given.append(names[entry] if isinstance(entry, int) else entry)
        yield helper.make_node(operator, given, [names[step]], **attributes)


def _reshape(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    """Without ``allowzero``: no map of a segmentation net has a side of 0."""
    yield _without(node, "allowzero")


def _split(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    """Without ``num_outputs``: older sets split into equal parts, one for each output."""
    yield _without(node, "num_outputs")


def _shape(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    """The whole shape, of which ``start`` and ``end`` cut a part."""
    bounds = _values(node)
    start = np.array([bounds.get("start", 0)])
    end = np.array([bounds.get("end", np.iinfo(np.int64).max)])
    return _chain(node, [("Shape", node.input, {}), ("Slice", [0, start, end], {})])


def _reduce(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    """The axes as an attribute instead of an input."""
    from onnx import helper

    axes = constants.get(node.input[1])
    if axes is None:
        yield node
        return
    older = _without(node)
    del older.input[1:]
    older.attribute.append(helper.make_attribute("axes", axes))
    yield older


def _layer_normalization(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    """Written out; onnxruntime recognises this form and runs it as one operation."""
    attributes = _values(node)
    axes = list(range(attributes.get("axis", -1), 0))
    if not axes or len(node.output) > 1:
        return iter([node])
    mean = {"axes": axes, "keepdims": 1}
    scale, bias = node.input[1], [*node.input[2:]]
    epsilon = np.array(attributes.get("epsilon", 1e-5), np.float32)
    steps = [
        ("ReduceMean", [node.input[0]], mean),
        ("Sub", [node.input[0], 0], {}),
        ("Pow", [1, np.array(2, np.float32)], {}),
        ("ReduceMean", [2], mean),
        ("Add", [3, epsilon], {}),
        ("Sqrt", [4], {}),
        ("Div", [1, 5], {}),
        ("Mul", [6, scale], {}),
    ]
    return _chain(node, [*steps, ("Add", [7, bias[0]], {})] if bias else steps)


def _hard_swish(node: NodeProto, constants: Constants) -> Iterator[NodeProto]:
    slope = {"alpha": 1 / 6, "beta": 0.5}
    return _chain(node, [("HardSigmoid", node.input, slope), ("Mul", [node.input[0], 0], {})])


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_REWRITES: dict[str, Callable[[NodeProto, Constants], Iterator[NodeProto]]] = {
    "Reshape": _reshape,
    "Split": _split,
    "Shape": _shape,
    "LayerNormalization": _layer_normalization,
    "HardSwish": _hard_swish,
    **{f"Reduce{name}": _reduce for name in _REDUCTIONS},
}
"""What older sets compute instead, for an operator that does not fit into them."""
