"""Writing an exported program as one ONNX file with its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.export.lower_opset import BASE, OLDEST, lowered


def require_opset(opset: int) -> None:
    """Check an operator set.

    Raises:
        UsageError: the installed onnx does not have it, or it is too old.
    """
    from onnx.defs import onnx_opset_version

    if not OLDEST <= opset <= onnx_opset_version():
        raise UsageError(
            "there is no export to that operator set",
            got=f"--opset {opset}",
            need=f"{OLDEST} .. {onnx_opset_version()} (that of the installed onnx)",
            tip="leave --opset out",
            key="opset",
        )


@torch.no_grad()
def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    output_name: str,
    metadata: Mapping[str, str],
    opset: int | None,
) -> int:
    """Write a program as ONNX, with ``metadata``, see ``file_metadata``.

    Returns:
        The operator set of the file.

    Raises:
        FreqKDError: the model cannot be written in the operator set ``opset``.
    """
    exported = opset if opset is None else max(opset, BASE)
    torch.onnx.export(
        program,
        (),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        opset_version=exported,
        input_names=["image"],
        output_names=[output_name],
    )
    import onnx

    graph = onnx.load(path)
    written = next(entry.version for entry in graph.opset_import if not entry.domain)
    if exported not in (None, written):  # the exporter keeps its own without a word
        raise FreqKDError(
            "torch cannot write this model in that operator set",
            got=written,
            need=f"--opset {opset}",
            tip="leave --opset out",
            key="opset",
        )
    if opset is not None and opset < BASE:
        graph, written = lowered(graph, opset), opset
    _name_axes(graph.graph)
    for key, value in metadata.items():
        graph.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    onnx.checker.check_model(graph, full_check=written < BASE)
    onnx.save(graph, path)
    return written


def _name_axes(graph: Any) -> None:
    """Name the free axes batch, height and width; the exporter numbers them."""
    axes = graph.input[0].type.tensor_type.shape.dim
    names = {axes[i].dim_param: name for i, name in ((0, "batch"), (2, "height"), (3, "width"))}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.dim_param = re.sub(
                    r"\w+", lambda word: names.get(word[0], word[0]), axis.dim_param
                )
