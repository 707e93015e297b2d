"""The model card of an exported folder: what the model is, how to run it, where it comes from, what was measured and what was not.

Everything in it is read from the model and from what its run left; what nobody recorded is said to be missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from freqkd_cli import __version__, registry
from freqkd_cli import recipe as recipes
from freqkd_cli.engine.operations import parameters

if TYPE_CHECKING:
    from freqkd_cli.recipe.schema import Recipe

MISSING = "Not recorded."


def card(model: nn.Module, folder: Path, run: Path | None, checked: dict[str, Any]) -> str:
    """The text of ``README.md``.

    Args:
        folder: holds the model's ``config.json``.
        run: holds ``recipe.yaml``, ``summary.json`` and ``environment.json`` of its training, each of them or none.
        checked: the result of the export's check.
    """
    recipe = recipes.load(run / "recipe.yaml", parts=False) if run and (run / "recipe.yaml").is_file() else None
    summary, environment = (_read(run, name) for name in ("summary.json", "environment.json"))
    config = _read(folder, "config.json")
    name = config.get("freqkd", config)["model"]
    notes = _licence_notes(model, recipe)
    parts = [
        _front_matter(config, notes),
        f"# {name}, {parameters(model) / 1e6:.2f} M parameters, semantic segmentation",
        f"Made with freqkd {__version__}. Input: `image` float32 [B, 3, H, W], RGB in [0, 1], any batch and size; normalised inside.\n"
        "Output: `logits` at the model's own stride.",
        "## Use\n\n" + _use(config, model),
        "## Classes\n\n" + _classes(model),
        "## Data\n\n" + _data(recipe),
        "## Results\n\n" + _results(recipe, summary),
        "## Training\n\n" + _training(summary, environment),
        "## Teacher\n\n" + _teacher(recipe),
        "## Licence\n\n" + ("\n\n".join(notes) or f"{MISSING} It is set by the data and the weights that this model was trained with."),
        "## Measured\n\n" + _measured(checked),
        "## Recipe\n\n" + (f"```yaml\n{recipes.dump(recipe).strip()}\n```" if recipe else MISSING),
    ]
    return "\n\n".join(parts) + "\n"


def _read(folder: Path | None, name: str) -> dict[str, Any]:
    path = folder / name if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}


def _front_matter(config: dict[str, Any], notes: list[str]) -> str:
    lines = [f"library_name: {'transformers' if config.get('model_type') else 'freqkd'}", "pipeline_tag: image-segmentation"]
    lines += ["tags: [semantic-segmentation, knowledge-distillation, freqkd]"]
    lines += ["license: other"] if any(note.startswith("Weights published by NVIDIA") for note in notes) else []
    return "\n".join(["---", *lines, "---"])


def _use(config: dict[str, Any], model: nn.Module) -> str:
    ours = ["import freqkd_cli, torch", 'model = freqkd_cli.load("this/folder")', 'logits = model(torch.rand(1, 3, 192, 256))["logits"]']
    parts = ["In torch:", _python(ours)]
    if config.get("model_type"):
        mean, std = (", ".join(f"{value:.4g}" for value in getattr(model, side).flatten().tolist()) for side in ("mean", "std"))
        read = 'model = SegformerForSemanticSegmentation.from_pretrained("this/folder")'
        parts += [f"In transformers, with images normalised by mean ({mean}) and std ({std}):"]
        parts += [_python(["from transformers import SegformerForSemanticSegmentation", read])]
    onnx = ["import numpy, onnxruntime", 'session = onnxruntime.InferenceSession("model.onnx")']
    onnx += ['(logits,) = session.run(None, {"image": numpy.zeros((1, 3, 192, 256), numpy.float32)})']
    return "\n\n".join([*parts, "Without torch, after `freqkd export this/folder --format onnx --out model.onnx`:", _python(onnx)])


def _python(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _classes(model: nn.Module) -> str:
    names = getattr(model, "id2label", None) or {}
    return ", ".join(str(names[key]) for key in sorted(names, key=int)) or f"{model.classes}, unnamed."


def _data(recipe: Recipe | None) -> str:
    if recipe is None:
        return MISSING
    height, width = recipe.data.size
    return f"{recipe.data.name}, split train, in views of {height} x {width} pixels."


def _results(recipe: Recipe | None, summary: dict[str, Any]) -> str:
    if summary.get("miou") is None:
        return MISSING
    some = f"the first {recipe.train.eval_limit} images of " if recipe and recipe.train.eval_limit else ""
    where = f" on {some}{recipe.data.name}, split val" if recipe else ""
    steps = summary.get("best_step", summary.get("steps", "?"))
    return f"mIoU {100 * summary['miou']:.2f}{where}, after {steps} steps: the best evaluation of the run. One seed."


def _training(summary: dict[str, Any], environment: dict[str, Any]) -> str:
    facts = []
    if "steps" in summary:
        facts.append(f"{summary['steps']} steps, the teacher's half from: {summary.get('source', 'unknown')}")
    if "device" in environment:
        torch_version = (environment.get("libraries") or {}).get("torch")
        facts.append(f"{environment['device']}, {environment.get('compute')}, threads: {environment.get('threads')}, torch {torch_version}")
    return "; ".join(facts) + "." if facts else MISSING


def _teacher(recipe: Recipe | None) -> str:
    if recipe is None:
        return MISSING
    if recipe.teacher is None:
        return "None: trained on labels alone."
    return f"{recipe.teacher.name}, weights {_teacher_weights(recipe) or 'its own'}."


def _teacher_weights(recipe: Recipe) -> str | None:
    return recipe.teacher and (recipe.teacher.arguments.get("weights") or recipe.teacher.weights)


def _licence_notes(model: nn.Module, recipe: Recipe | None) -> list[str]:
    notes = [getattr(model, "licence_note", None)]
    weights = _teacher_weights(recipe) if recipe else None
    if weights == "embedded":
        notes.append("The teacher is freqkd's own, trained on synthetic scenes (Apache-2.0).")
    elif recipe and weights:
        part = getattr(registry.find("models", recipe.teacher.name), "LICENCE_NOTE", None)
        known = (_read(Path(weights), "config.json").get("freqkd") or {}).get("licence_note")
        if known or (part and weights.lower().startswith("nvidia/")):
            notes.append(known or part)
        else:
            notes.append(f"The licence of the teacher's weights, {weights}, is not recorded: look where they come from. {part or ''}")
    return [" ".join(note.split()) for note in dict.fromkeys(notes) if note]


def _measured(checked: dict[str, Any]) -> str:
    sizes = ", ".join("x".join(map(str, size)) for size in checked["sizes"])
    by = " and ".join(checked["checked_by"])
    lines = [
        f"- Read back by {by}: the largest difference from the trained model is {checked['relative_difference']:.1e} of the largest logit, "
        f"the class is the same in {100 * checked['argmax_agreement']:.4f} % of the cells, at {sizes}."
    ]
    threads = f"{checked['threads']} thread{'s' * (checked['threads'] != 1)}"
    lines += [
        f"- torch, one image of {row['size'][1]} x {row['size'][2]}: {row['torch']:.1f} ms ({checked['device']}, {threads}, median of "
        f"{checked['latency_runs']}, on the machine that exported it)."
        for row in checked["latency_ms"]
    ]
    missing = (
        "accuracy on the test split, on other data and at other sizes; noise and bad light; calibration; half-precision or quantised forms"
    )
    return "\n".join([*lines, f"- Not measured: {'' if checked['latency_ms'] else 'latency, '}{missing}."])
