"""The part of a model card that shows how to run the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from freqkd_cli.runtime.onnx_options import EXACT_INT8
from freqkd_cli.weights.config import ModelConfig

OUTPUTS = {
    "logits": "`logits` at the model's own stride",
    "upsampled": "`logits` at the image's size",
    "argmax": "`labels`, int64 class numbers, at the image's size",
    "labels": "`labels`, int64 class numbers, at the model's own stride",
    "probabilities": "`probabilities` of the classes at the image's size",
}


def output_text(checks: dict[str, Any]) -> str:
    """Return what the output is; ``checks`` is the result of the export."""
    return OUTPUTS[checks.get("head", "logits")]


def use(config: ModelConfig, model: nn.Module, checks: dict[str, Any]) -> str:
    """Return examples of how to run a folder or an exported file."""
    if checks["format"] == "safetensors":
        return _use_of_folder(config, model)
    name, output = Path(checks["file"]).name, checks["output"]
    height, width = checks.get("size") or (192, 256)
    if checks["format"] == "pt2":
        return _python(
            [
                "import torch",
                f'model = torch.export.load("{name}").module()',
                f"{output} = model(torch.rand(1, 3, {height}, {width}))",
            ]
        )
    return _python(
        [
            "import numpy, onnxruntime",
            *_session(name, int8="int8" in checks),
            f"image = numpy.zeros((1, 3, {height}, {width}), numpy.float32)",
            f'({output},) = session.run(None, {{"image": image}})',
        ]
    )


def _session(name: str, *, int8: bool) -> list[str]:
    if not int8:
        return [f'session = onnxruntime.InferenceSession("{name}")']
    return [
        "options = onnxruntime.SessionOptions()",
        "# For x86 without VNNI, which otherwise cuts sums of int8 products to 16 bits.",
        'options.add_session_config_entry("{}", "{}")'.format(*EXACT_INT8),
        f'session = onnxruntime.InferenceSession("{name}", options)',
    ]


def _use_of_folder(config: ModelConfig, model: nn.Module) -> str:
    in_torch = [
        "import freqkd_cli, torch",
        'model = freqkd_cli.load("this/folder")',
        'logits = model(torch.rand(1, 3, 192, 256))["logits"]',
    ]
    parts = ["In torch:", _python(in_torch)]
    if config.of_segformer:
        mean, std = (
            ", ".join(f"{value:.4g}" for value in getattr(model, side).flatten().tolist())
            for side in ("mean", "std")
        )
        read = 'model = SegformerForSemanticSegmentation.from_pretrained("this/folder")'
        parts += [
            f"In transformers, with images normalised by mean ({mean}) and std ({std}):",
            _python(["from transformers import SegformerForSemanticSegmentation", read]),
        ]
    in_onnx = [
        "import numpy, onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx")',
        '(logits,) = session.run(None, {"image": numpy.zeros((1, 3, 192, 256), numpy.float32)})',
    ]
    parts += [
        "Without torch, after `freqkd export this/folder --format onnx --out model.onnx`:",
        _python(in_onnx),
    ]
    return "\n\n".join(parts)


def _python(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
