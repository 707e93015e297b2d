"""The model card of an exported folder: what the model is, how to run it, where it comes from, what was measured and what was not.

Everything in it is read from the model and from what its run left; what nobody recorded is said to be missing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from freqkd_cli import __version__, registry
from freqkd_cli import recipe as recipes
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.operations import parameters
from freqkd_cli.weights.config import OBJECT, TEXT, Config, number, read_config, whole

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

MISSING = "Not recorded."


def card(model: nn.Module, config: Config, run: Path | None, checked: dict[str, Any]) -> str:
    """The text of ``README.md``.

    Args:
        config: the model's ``config.json``.
        run: holds ``recipe.yaml``, ``summary.json`` and ``environment.json`` of its training, each of them or none;
            what is damaged counts as missing.
        checked: the result of the export's check.
    """
    recipe = (
        recipes.load(run / "recipe.yaml", parts=False)
        if run and (run / "recipe.yaml").is_file()
        else None
    )
    summary, environment = (_recorded(run, name) for name in ("summary.json", "environment.json"))
    notes = _licence_notes(model, recipe)
    parts = [
        _front_matter(config, notes),
        f"# {config.ours.model}, {parameters(model) / 1e6:.2f} M parameters, semantic segmentation",
        f"Made with freqkd {__version__}. Input: `image` float32 [B, 3, H, W], RGB in [0, 1], any batch and size; normalised inside.\n"
        "Output: `logits` at the model's own stride.",
        "## Use\n\n" + _use(config, model),
        "## Classes\n\n" + _classes(model),
        "## Data\n\n" + _data(recipe),
        "## Results\n\n" + _results(recipe, summary),
        "## Training\n\n" + _training(summary, environment),
        "## Teacher\n\n" + _teacher(recipe),
        "## Licence\n\n"
        + (
            "\n\n".join(notes)
            or f"{MISSING} It is set by the data and the weights that this model was trained with."
        ),
        "## Measured\n\n" + _measured(checked),
        "## Recipe\n\n" + (f"```yaml\n{recipes.dump(recipe).strip()}\n```" if recipe else MISSING),
    ]
    return "\n\n".join(parts) + "\n"


KINDS = {
    "miou": number(0, 1),
    "steps": whole(0, 2**63),
    "best_step": whole(0, 2**63),
    **dict.fromkeys(("source", "device", "compute"), TEXT),
    "threads": whole(1, 2**31),
    "libraries": OBJECT,
}
"""What the card tells of a run's records, and what of it can be told."""


def _recorded(run: Path | None, name: str) -> dict[str, Any]:
    """What a file of a run says that can be told; a damaged one is warned of."""
    path = run / name if run else None
    if path is None or not path.is_file():
        return {}
    found = object_or_none(path)
    kept = (
        {key: found[key] for key, kind in KINDS.items() if key in found and kind.holds(found[key])}
        if found is not None
        else {}
    )
    if found is None or any(
        key in found and found[key] is not None for key in KINDS.keys() - kept.keys()
    ):
        log.warning("%s is damaged: the model card leaves out what it cannot read there", path)
    return kept


def _front_matter(config: Config, notes: list[str]) -> str:
    lines = [
        f"library_name: {'transformers' if config.of_segformer else 'freqkd'}",
        "pipeline_tag: image-segmentation",
    ]
    lines += ["tags: [semantic-segmentation, knowledge-distillation, freqkd]"]
    lines += (
        ["license: other"]
        if any(note.startswith("Weights published by NVIDIA") for note in notes)
        else []
    )
    return "\n".join(["---", *lines, "---"])


def _use(config: Config, model: nn.Module) -> str:
    ours = [
        "import freqkd_cli, torch",
        'model = freqkd_cli.load("this/folder")',
        'logits = model(torch.rand(1, 3, 192, 256))["logits"]',
    ]
    parts = ["In torch:", _python(ours)]
    if config.of_segformer:
        mean, std = (
            ", ".join(f"{value:.4g}" for value in getattr(model, side).flatten().tolist())
            for side in ("mean", "std")
        )
        read = 'model = SegformerForSemanticSegmentation.from_pretrained("this/folder")'
        parts += [f"In transformers, with images normalised by mean ({mean}) and std ({std}):"]
        parts += [_python(["from transformers import SegformerForSemanticSegmentation", read])]
    onnx = ["import numpy, onnxruntime", 'session = onnxruntime.InferenceSession("model.onnx")']
    onnx += [
        '(logits,) = session.run(None, {"image": numpy.zeros((1, 3, 192, 256), numpy.float32)})'
    ]
    return "\n\n".join(
        [
            *parts,
            "Without torch, after `freqkd export this/folder --format onnx --out model.onnx`:",
            _python(onnx),
        ]
    )


def _python(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _classes(model: nn.Module) -> str:
    names = getattr(model, "id2label", None) or {}
    return (
        ", ".join(str(names[key]) for key in sorted(names, key=int)) or f"{model.classes}, unnamed."
    )


def _data(recipe: Recipe | None) -> str:
    if recipe is None:
        return MISSING
    height, width = recipe.data.size
    return f"{recipe.data.name}, split train, in views of {height} x {width} pixels."


def _results(recipe: Recipe | None, summary: dict[str, Any]) -> str:
    if summary.get("miou") is None:
        return MISSING
    some = (
        f"the first {recipe.train.eval_limit} images of "
        if recipe and recipe.train.eval_limit
        else ""
    )
    where = f" on {some}{recipe.data.name}, split val" if recipe else ""
    steps = summary.get("best_step", summary.get("steps", "?"))
    return f"mIoU {100 * summary['miou']:.2f}{where}, after {steps} steps: the best evaluation of the run. One seed."


def _training(summary: dict[str, Any], environment: dict[str, Any]) -> str:
    facts = []
    if "steps" in summary:
        facts.append(
            f"{summary['steps']} steps, the teacher's half from: {summary.get('source', 'unknown')}"
        )
    if "device" in environment:
        compute, threads = (environment.get(key, "unknown") for key in ("compute", "threads"))
        torch_version = environment.get("libraries", {}).get("torch")
        facts.append(
            f"{environment['device']}, {compute}, threads: {threads}, torch {torch_version}"
        )
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
        known = _note_of(Path(weights) / "config.json")
        if known or (part and weights.lower().startswith("nvidia/")):
            notes.append(known or part)
        else:
            notes.append(
                f"The licence of the teacher's weights, {weights}, is not recorded: look where they come from. {part or ''}"
            )
    return [" ".join(note.split()) for note in dict.fromkeys(notes) if note]


def _note_of(config: Path) -> str | None:
    """What a folder on this machine says of the licence of its weights."""
    try:
        return read_config(config).ours.licence_note
    except WeightsMissing:  # a hub id, or another program's folder
        return None


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
    missing = "accuracy on the test split, on other data and at other sizes; noise and bad light; calibration; half-precision or quantised forms"
    return "\n".join(
        [*lines, f"- Not measured: {'' if checked['latency_ms'] else 'latency, '}{missing}."]
    )
