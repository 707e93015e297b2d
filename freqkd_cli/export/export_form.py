"""A model with the head of an export, and the metadata of its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from freqkd_cli.export.graph_file import ExportOptions


class ExportForm(nn.Module):
    """The model as a function of one tensor ``[B, 3, H, W]``.

    It returns logits or probabilities ``[B, K, h, w]``, or labels ``[B, h, w]`` int64.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        upsample: bool = False,
        argmax: bool = False,
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.upsample = model, upsample
        self.argmax, self.probabilities = argmax, probabilities
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits = self.model(image)["logits"]
        if self.upsample:
            size = image.shape[-2:]
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        if self.argmax:
            return logits.argmax(1)
        return logits.softmax(1) if self.probabilities else logits

    @property
    def output_name(self) -> str:
        """The name of the file's output."""
        if self.argmax:
            return "labels"
        return "probabilities" if self.probabilities else "logits"


def form_of(model: nn.Module, options: ExportOptions) -> ExportForm:
    """Return the model with the head of the options."""
    return ExportForm(
        model,
        upsample=options.upsample,
        argmax=options.argmax,
        probabilities=options.probabilities,
    )


def file_metadata(form: ExportForm, options: ExportOptions) -> dict[str, str]:
    """Return the metadata that a user of the file needs; lists and objects are JSON."""
    names: Mapping[int, str] = getattr(form.model, "id2label", None) or {}
    listed = [str(names[number]) for number in sorted(names, key=int)]
    metadata = {
        "producer": "freqkd",
        "input": "RGB in [0, 1], float32 [B, 3, H, W]",
        "output": form.output_name,
        "number_of_classes": str(form.model.classes),
        "classes": json.dumps(listed, ensure_ascii=False),
        "colors": json.dumps([list(map(int, color)) for color in options.colors]),
    }
    if options.conversion is not None:
        metadata["conversion"] = json.dumps(dict(options.conversion))
    return metadata
