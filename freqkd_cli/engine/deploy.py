"""A trained model as a folder for other people: weights, configuration and a model card; loaded again before it gets its name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli import __version__, registry
from freqkd_cli import recipe as recipes
from freqkd_cli.engine.export import ExportForm, Options, exporter_voice
from freqkd_cli.engine.latency import median_ms, threads
from freqkd_cli.engine.parity import Parity, compare, probe_image
from freqkd_cli.errors import CheckFailed

if TYPE_CHECKING:
    from freqkd_cli.recipe.schema import Recipe

ALONG = ("recipe.yaml", "summary.json")
"""Files of a run that travel with its weights."""


def export_folder(model: nn.Module, name: str, out: Path, *, run: Path | None = None, options: Options | None = None) -> dict[str, Any]:
    """Write ``model`` as a folder: config.json, model.safetensors, preprocessor_config.json, README.md, and a run's recipe and summary.

    The folder is read back by ``freqkd_cli.load`` and, for a SegFormer, by transformers' ``from_pretrained``; both must answer like the
    model. Of a folder that is there already, these files alone are replaced.

    Args:
        name: the model's name in a recipe.
        run: folder whose recipe and summary are told in the card and travel along.

    Returns:
        The result's JSON: file, format, bytes, max_abs_difference, relative_difference, argmax_agreement, sizes, latency_ms, threads.

    Raises:
        CheckFailed: what was read back answers differently; nothing is written.
    """
    from freqkd_cli.engine.saved import load_model, save_model

    options = options or Options()
    model = model.float().cpu().eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".freqkd-", dir=out.parent))
    try:
        save_model(aside, model, name)
        parity = compare(ExportForm(model), ExportForm(load_model(aside)), options.sizes)
        parity.require("the folder")
        checked = ["freqkd"]
        if json.loads((aside / "config.json").read_text(encoding="utf-8")).get("model_type"):
            compare(ExportForm(model), _from_transformers(aside, model), options.sizes).require("the folder, read by transformers,")
            checked.append("transformers")
        for file in ALONG if run else ():
            if (run / file).is_file():
                shutil.copyfile(run / file, aside / file)
        (aside / "README.md").write_text(card(model, aside, run), encoding="utf-8")
        aside.chmod(0o755)
        size = sum(path.stat().st_size for path in aside.iterdir())
        _move(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _result(model, out, size, parity, options) | {"checked_by": checked}


def _result(model: nn.Module, out: Path, size: int, parity: Parity, options: Options) -> dict[str, Any]:
    form, image = ExportForm(model), probe_image(1, *options.latency_size)
    with torch.inference_mode():
        latency = median_ms(lambda: form(image), runs=10)
    return {
        "file": str(out),
        "format": "safetensors",
        "bytes": size,
        "max_abs_difference": parity.max_abs_difference,
        "relative_difference": parity.relative_difference,
        "argmax_agreement": parity.argmax_agreement,
        "sizes": [list(size) for size in parity.sizes],
        "output": "logits",
        "latency_ms": {"size": [1, *options.latency_size], "torch": latency},
        "threads": threads(),
    }


def _move(aside: Path, out: Path) -> None:
    """One rename for a new folder; file by file into one that is there, which may hold other things."""
    if not out.exists():
        os.rename(aside, out)
        return
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        os.replace(path, out / path.name)


def _from_transformers(folder: Path, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The folder as transformers reads it; its images are normalised outside, as its processor does.

    Raises:
        CheckFailed: a tensor is missing, unexpected or of another shape there.
    """
    from transformers import SegformerForSemanticSegmentation

    with exporter_voice("transformers cannot read the folder"):
        read, said = SegformerForSemanticSegmentation.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    wrong = {key: sorted(map(str, value)) for key, value in said.items() if value}
    if wrong:
        said = "transformers does not find the model's tensors in the folder, so it was not written"
        raise CheckFailed(said, got=json.dumps(wrong)[:300])
    read.eval()
    mean, std = model.mean, model.std  # type: ignore[union-attr]
    return lambda image: read(pixel_values=(image - mean) / std).logits


def card(model: nn.Module, folder: Path, run: Path | None) -> str:
    """The README of an exported model: what it is, how to load it, what it was trained on and by whom, how good it is, and licences."""
    recipe = recipes.load(run / "recipe.yaml", parts=False) if run and (run / "recipe.yaml").is_file() else None
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8")) if run and (run / "summary.json").is_file() else {}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("freqkd", config)["model"]
    count = sum(parameter.numel() for parameter in model.parameters())
    names = getattr(model, "id2label", None) or {}
    parts = [
        _front_matter(config),
        f"# {name}, {count / 1e6:.2f} M parameters, semantic segmentation",
        f"Made with freqkd {__version__}. Input: RGB in [0, 1], any size; normalised inside. Output: logits at the model's stride.",
        _use(config, model),
        "## Classes\n\n" + (", ".join(str(names[key]) for key in sorted(names, key=int)) or f"{model.classes}, unnamed"),
        "## Results\n\n" + _results(recipe, summary),
        "## Teacher\n\n" + _teacher(recipe),
        "## Licence\n\n" + _licence(model, recipe),
    ]
    if recipe:
        parts.append(f"## Recipe\n\n```yaml\n{recipes.dump(recipe).strip()}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(config: dict[str, Any]) -> str:
    library = "transformers" if config.get("model_type") else "freqkd"
    tags = "[semantic-segmentation, knowledge-distillation, freqkd]"
    return f"---\nlibrary_name: {library}\npipeline_tag: image-segmentation\ntags: {tags}\n---"


def _use(config: dict[str, Any], model: nn.Module) -> str:
    lines = [
        "```python",
        "import freqkd_cli",
        "",
        'model = freqkd_cli.load("this/folder")',
        'logits = model(images)["logits"]  # images [B, 3, H, W]',
        "```",
    ]
    if config.get("model_type"):
        mean, std = (", ".join(f"{value:.4g}" for value in getattr(model, side).flatten().tolist()) for side in ("mean", "std"))
        lines += ["", "or, with images normalised by", f"mean ({mean}) and std ({std}),", "", "```python"]
        lines += ["from transformers import SegformerForSemanticSegmentation", ""]
        lines += ['model = SegformerForSemanticSegmentation.from_pretrained("this/folder")', "```"]
    return "\n".join(lines)


def _results(recipe: Recipe | None, summary: dict[str, Any]) -> str:
    if "miou" not in summary:
        return "Not recorded."
    where = f" on {recipe.data.name}, split val" if recipe else ""
    steps = summary.get("best_step", summary.get("steps", "?"))
    return f"mIoU {100 * summary['miou']:.2f}{where}, the best of the run, after {steps} steps. One seed."


def _teacher(recipe: Recipe | None) -> str:
    if recipe is None:
        return "Not recorded."
    if recipe.teacher is None:
        return "None: trained on labels alone."
    weights = recipe.teacher.arguments.get("weights") or recipe.teacher.weights or "its own"
    return f"{recipe.teacher.name}, weights {weights}."


def _licence(model: nn.Module, recipe: Recipe | None) -> str:
    notes = [getattr(model, "licence_note", None)]
    if recipe and recipe.teacher:
        weights = recipe.teacher.arguments.get("weights") or recipe.teacher.weights
        note = getattr(registry.find("models", recipe.teacher.name), "LICENCE_NOTE", None)
        if weights == "embedded":
            notes.append("The teacher is freqkd's own, trained on synthetic scenes (Apache-2.0).")
        elif note and weights:
            notes.append(f"Check where the teacher's weights come from. {note}")
    said = [" ".join(note.split()) for note in dict.fromkeys(notes) if note]
    return "\n\n".join(said) or "Set by the data and the weights that this model was trained with."


def model_name(folder: Path) -> str:
    """The recipe's name for the model in a folder; transformers' own folders hold a SegFormer."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str(config.get("freqkd", config).get("model", "segformer"))
