"""A trained model as a folder for other people: weights, configuration and a model card.

The folder is loaded again before it gets its name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import CONFIG, load_model, save_model
from freqkd_cli.errors import CheckFailed
from freqkd_cli.export.card import card
from freqkd_cli.export.graph_file import ExportForm, ExportOptions, result
from freqkd_cli.export.latency_rows import Form, bfloat16_form, latency_rows
from freqkd_cli.export.parity import Parity, compare, require_finite
from freqkd_cli.export.quiet import quiet_exporter
from freqkd_cli.export.target import folder_beside
from freqkd_cli.export.teacher_weights import teacher_license
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.weights.config import read_config

OTHERWISE = "--format onnx"
"""What to try where the folder is impossible."""
RECIPE = "recipe.yaml"
COPIED = (RECIPE, "summary.json")
"""Files of a run that are copied into the folder, unless they are damaged."""


def export_folder(
    model: nn.Module,
    name: str,
    out: Path,
    *,
    run: Path | None = None,
    options: ExportOptions | None = None,
) -> dict[str, Any]:
    """Write ``model`` as a folder with a model card, and a run's recipe and summary.

    The folder is read back by ``freqkd_cli.load`` and, for a SegFormer, by transformers'
    ``from_pretrained``; both must give the model's results. In a folder that exists already, only
    these files are replaced; a recipe and a summary that this model lacks are removed.

    Args:
        name: the model's name in a recipe.
        run: folder whose recipe and summary are described in the card and copied.

    Returns:
        The result's JSON: file, format, bytes, max_abs_difference, relative_difference,
        argmax_agreement, sizes, output, checked_by, latency_ms, device, threads.

    Raises:
        CheckFailed: a weight is not finite, or the folder gives other results; nothing is written.
        FreqKDError: ``out`` cannot be written.
    """
    options = options or ExportOptions()
    require_finite(model)
    model = model.float().cpu().eval()
    model.license = getattr(model, "license", None) or _inherited(run)
    with folder_beside(out) as folder:
        save_model(folder, model, name)
        config = read_config(folder / CONFIG)
        parity, checked_by = _check(model, folder, config.of_segformer, options)
        if run:
            _copy_records(run, folder)
        document = result(out, "safetensors", 0, parity)
        document |= {"output": "logits", "checked_by": checked_by}
        form = ExportForm(model)
        forms: dict[str, Form] = {"torch": lambda count: form}
        if options.latency_threads:
            forms |= bfloat16_form(form)
        document |= latency_rows(
            forms, options.timed_sizes, options.latency_runs, options.latency_threads
        )
        text = card(model, config, run, document)
        (folder / "README.md").write_text(text, encoding="utf-8")
        folder.chmod(0o755)
        document["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
        _move(folder, out)
    return document


def _check(
    model: nn.Module, folder: Path, of_segformer: bool, options: ExportOptions
) -> tuple[Parity, list[str]]:
    """Compare the model with its folder, as freqkd and transformers read it; name the readers."""
    form = ExportForm(model)
    parity = compare(form, ExportForm(load_model(folder)), options.sizes, OTHERWISE)
    parity.require("the folder")
    if not of_segformer:
        return parity, ["freqkd"]
    network = _from_transformers(folder, model)
    other = compare(form, network, options.sizes, OTHERWISE)
    other.require("the folder, read by transformers,")
    return parity, ["freqkd", "transformers"]


def _inherited(run: Path | None) -> Any:
    """Return the teacher's license where it also holds for models trained from it."""
    if not run or not (run / RECIPE).is_file():
        return None
    license = teacher_license(recipes.load(run / RECIPE, parts=False))
    return license if license and license.noncommercial else None


def _copy_records(run: Path, folder: Path) -> None:
    for name in COPIED:
        path = run / name
        if path.is_file() and (name == RECIPE or object_or_none(path) is not None):
            shutil.copyfile(path, folder / name)


def _move(folder: Path, out: Path) -> None:
    """Rename a new folder; into an existing one, which may hold other files, move each file."""
    if not out.exists():
        os.rename(folder, out)
        return
    for name in COPIED:  # of an earlier export, which may be that of another model
        if not (folder / name).exists():
            (out / name).unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG):
        os.replace(path, out / path.name)


def _from_transformers(folder: Path, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the folder's model as transformers reads it, with the normalisation before it.

    Raises:
        CheckFailed: a tensor is missing, unexpected or of another shape there.
    """
    from transformers import SegformerForSemanticSegmentation

    with quiet_exporter("transformers cannot read the folder", OTHERWISE):
        network, report = SegformerForSemanticSegmentation.from_pretrained(
            folder, output_loading_info=True, local_files_only=True
        )
    problems = {key: sorted(map(str, value)) for key, value in report.items() if value}
    if problems:
        raise CheckFailed(
            "transformers does not find the model's tensors in the folder, so it was not written",
            got=json.dumps(problems)[:300],
        )
    network.eval()
    mean, std = model.mean, model.std  # type: ignore[union-attr]
    return lambda image: network(pixel_values=(image - mean) / std).logits


def own_sizes(source: Path) -> tuple[tuple[int, int], ...]:
    """Return the size of a model's training views and one more; 192 x 256 without a recipe."""
    recipe = source / RECIPE
    height, width = recipes.load(recipe, parts=False).data.size if recipe.is_file() else (192, 256)
    large = height * width > 512 * 512
    return (height, width), (height // 2, width // 2) if large else (2 * height, 2 * width)


def model_name(folder: Path) -> str:
    """Return the recipe's name of the model in a folder, also of smp's or transformers' own."""
    config = read_config(folder / CONFIG)
    return config.section.model or ("smp" if config.of_smp else "segformer")
