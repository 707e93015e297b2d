"""A trained model as a folder for other people: weights, configuration and a model card; loaded again before it gets its name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import CONFIG, load_model, save_model
from freqkd_cli.errors import CheckFailed
from freqkd_cli.export.card import card
from freqkd_cli.export.graph_file import ExportForm, Options, result
from freqkd_cli.export.parity import compare
from freqkd_cli.export.quiet import exporter_voice
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.latency import latency_table
from freqkd_cli.weights.config import read_config

PACKAGED = "--format onnx"
RECIPE = "recipe.yaml"
ALONG = (RECIPE, "summary.json")
"""Files of a run that travel with its weights, unless they are damaged."""


def export_folder(
    model: nn.Module,
    name: str,
    out: Path,
    *,
    run: Path | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Write ``model`` as a folder: config.json, model.safetensors, preprocessor_config.json, README.md, and a run's recipe and summary.

    The folder is read back by ``freqkd_cli.load`` and, for a SegFormer, by transformers' ``from_pretrained``; both must answer like the
    model. Of a folder that is there already, these files alone are replaced.

    Args:
        name: the model's name in a recipe.
        run: folder whose recipe and summary are told in the card and travel along.

    Returns:
        The result's JSON: file, format, bytes, max_abs_difference, relative_difference, argmax_agreement, sizes, output, checked_by,
        latency_ms, device, threads.

    Raises:
        CheckFailed: what was read back answers differently; nothing is written.
    """
    options = options or Options()
    model = model.float().cpu().eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".freqkd-", dir=out.parent))
    try:
        save_model(aside, model, name)
        parity = compare(ExportForm(model), ExportForm(load_model(aside)), options.sizes, PACKAGED)
        parity.require("the folder")
        checked = ["freqkd"]
        config = read_config(aside / CONFIG)
        if config.of_segformer:
            compare(
                ExportForm(model), _from_transformers(aside, model), options.sizes, PACKAGED
            ).require("the folder, read by transformers,")
            checked.append("transformers")
        for file in ALONG if run else ():
            if (run / file).is_file() and (
                file == RECIPE or object_or_none(run / file) is not None
            ):
                shutil.copyfile(run / file, aside / file)
        found = result(out, "safetensors", 0, parity) | {"output": "logits", "checked_by": checked}
        found |= latency_table(
            {"torch": ExportForm(model)}, options.latency_sizes, options.latency_runs
        )
        (aside / "README.md").write_text(card(model, config, run, found), encoding="utf-8")
        aside.chmod(0o755)
        found["bytes"] = sum(path.stat().st_size for path in aside.iterdir())
        _move(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return found


def _move(aside: Path, out: Path) -> None:
    """One rename for a new folder; file by file into one that is there, which may hold other things."""
    if not out.exists():
        os.rename(aside, out)
        return
    for path in sorted(aside.iterdir(), key=lambda path: path.name == CONFIG):
        os.replace(path, out / path.name)


def _from_transformers(folder: Path, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The folder as transformers reads it; its images are normalised outside, as its processor does.

    Raises:
        CheckFailed: a tensor is missing, unexpected or of another shape there.
    """
    from transformers import SegformerForSemanticSegmentation

    with exporter_voice("transformers cannot read the folder", PACKAGED):
        read, said = SegformerForSemanticSegmentation.from_pretrained(
            folder, output_loading_info=True, local_files_only=True
        )
    wrong = {key: sorted(map(str, value)) for key, value in said.items() if value}
    if wrong:
        said = "transformers does not find the model's tensors in the folder, so it was not written"
        raise CheckFailed(said, got=json.dumps(wrong)[:300])
    read.eval()
    mean, std = model.mean, model.std  # type: ignore[union-attr]
    return lambda image: read(pixel_values=(image - mean) / std).logits


def latency_sizes(source: Path) -> tuple[tuple[int, int], ...]:
    """The size of the views that a model was trained on, where its folder says so, and one beside it."""
    recipe = source / RECIPE
    height, width = recipes.load(recipe, parts=False).data.size if recipe.is_file() else (192, 256)
    large = height * width > 512 * 512
    return (height, width), (height // 2, width // 2) if large else (2 * height, 2 * width)


def model_name(folder: Path) -> str:
    """The recipe's name for the model in a folder; transformers' own folders hold a SegFormer."""
    return read_config(folder / CONFIG).ours.model or "segformer"
