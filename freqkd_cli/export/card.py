"""The model card of an export: what the model is, how to run it, and what was measured.

All facts come from the model and from the records of its run. Missing records are named as such.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError
from torch import nn

from freqkd_cli import __version__, registry
from freqkd_cli import recipe as recipes
from freqkd_cli.build.saved import CONFIG
from freqkd_cli.export.card_measured import measured
from freqkd_cli.export.card_use import output_text, use
from freqkd_cli.export.teacher_weights import license_of_weights, networks, teacher_license
from freqkd_cli.runtime.files import write_synced
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.operations import parameters
from freqkd_cli.weights.config import License, ModelConfig, any_number, read_config, whole_number
from freqkd_cli.weights.folder_kinds import model_folder

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

MISSING = "Not recorded."


class RunRecord(BaseModel):
    """The fields of ``summary.json`` and ``environment.json`` that the card shows."""

    model_config = ConfigDict(frozen=True)

    miou: any_number(0, 1) | None = None  # type: ignore[valid-type]
    steps: whole_number(0, 2**63) | None = None  # type: ignore[valid-type]
    best_step: whole_number(0, 2**63) | None = None  # type: ignore[valid-type]
    source: StrictStr | None = None
    device: StrictStr | None = None
    compute: StrictStr | None = None
    threads: whole_number(1, 2**31) | None = None  # type: ignore[valid-type]
    libraries: dict[str, Any] | None = None


def card(model: nn.Module, config: ModelConfig, run: Path | None, checks: dict[str, Any]) -> str:
    """Return the text of a folder's ``README.md``, or of the card beside an exported file.

    Args:
        config: the model's ``config.json``.
        run: folder with ``recipe.yaml``, ``summary.json`` and ``environment.json`` of the training.
            Each may be missing; a damaged one counts as missing.
        checks: the result of the export's check.
    """
    recipe = None
    if run and (run / "recipe.yaml").is_file():
        recipe = recipes.load(run / "recipe.yaml", parts=False)
    summary, environment = (_recorded(run, f"{name}.json") for name in ("summary", "environment"))
    millions = f"{parameters(model) / 1e6:.2f} M parameters"
    parts = [
        _front_matter(config, _licenses(model, recipe)),
        f"# {config.section.model or model.model_name}, {millions}, semantic segmentation",
        f"Made with freqkd {__version__}. Input: `image` float32 [B, 3, H, W], RGB in [0, 1], "
        f"{_accepted(checks)}; normalised inside.\nOutput: {output_text(checks)}.",
        "## Use\n\n" + use(config, model, checks),
        "## Classes\n\n" + _classes(model),
        "## Data\n\n" + _data(recipe),
        "## Results\n\n" + _results(recipe, summary),
        "## Training\n\n" + _training(summary, environment),
        "## Teacher\n\n" + _teacher(recipe),
        "## License\n\n" + _license(model, recipe),
        "## Measured\n\n" + measured(checks),
        "## Recipe\n\n" + (f"```yaml\n{recipes.dump(recipe).strip()}\n```" if recipe else MISSING),
    ]
    return "\n\n".join(parts) + "\n"


def write_card(model: nn.Module, source: Path, target: Path, checks: dict[str, Any]) -> Path:
    """Write the card of an exported file beside it, as ``NAME.md``, and return its path.

    Args:
        source: folder of the model, with the records of its training.
        checks: the result of the export.
    """
    path = card_path(target)
    folder = source if (source / CONFIG).is_file() else model_folder(source)
    text = card(model, read_config(folder / CONFIG), source, checks)
    write_synced(path, lambda file: file.write(text.encode()))
    return path


def card_path(target: Path) -> Path:
    """Return the path of the card of an exported file."""
    return target.with_name(f"{target.name}.md")


def _accepted(checks: dict[str, Any]) -> str:
    size = checks.get("size")
    return "any batch, images of {}x{}".format(*size) if size else "any batch and size"


def _recorded(run: Path | None, name: str) -> RunRecord:
    """Return the valid fields of a run's record; a damaged one is logged as a warning."""
    path = run / name if run else None
    if path is None or not path.is_file():
        return RunRecord()
    content, damaged = object_or_none(path), set()
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        damaged = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
    log.warning("%s is damaged: the model card leaves out what cannot be read", path)
    valid = {key: value for key, value in (content or {}).items() if key not in damaged}
    return RunRecord.model_validate(valid)


def _front_matter(config: ModelConfig, licenses: Iterable[License]) -> str:
    lines = [
        f"library_name: {'transformers' if config.of_segformer else 'freqkd'}",
        "pipeline_tag: image-segmentation",
        "tags: [semantic-segmentation, knowledge-distillation, freqkd]",
    ]
    restricted = [license for license in licenses if license.noncommercial]
    if restricted:
        lines += ["license: other", f"license_name: {restricted[0].name}"]
    return "\n".join(["---", *lines, "---"])


def _classes(model: nn.Module) -> str:
    names = getattr(model, "id2label", None) or {}
    listed = ", ".join(str(names[key]) for key in sorted(names, key=int))
    return listed or f"{model.classes}, unnamed."


def _data(recipe: Recipe | None) -> str:
    if recipe is None:
        return MISSING
    height, width = recipe.data.size
    return f"{recipe.data.name}, split train, in views of {height} x {width} pixels."


def _results(recipe: Recipe | None, summary: RunRecord) -> str:
    if summary.miou is None:
        return MISSING
    where = ""
    if recipe:
        limit = recipe.train.eval_limit
        first = f"the first {limit} images of " if limit else ""
        held_out = recipe.data.hold_out
        part = f"{held_out:.0%} of the training images, held out" if held_out else "split val"
        where = f" on {first}{recipe.data.name}, {part}"
    steps = summary.steps if summary.best_step is None else summary.best_step
    steps = "an unknown number of" if steps is None else steps
    score = f"mIoU {100 * summary.miou:.2f}{where}, after {steps} steps"
    return f"{score}: the best evaluation of the run. One seed."


def _training(summary: RunRecord, environment: RunRecord) -> str:
    facts = []
    if summary.steps is not None:
        source = summary.source or "unknown"
        facts.append(f"{summary.steps} steps. The teacher's targets came from: {source}.")
    if environment.device is not None:
        version = (environment.libraries or {}).get("torch")
        facts.append(
            f"{environment.device}, {environment.compute or 'unknown'}, "
            f"threads: {environment.threads or 'unknown'}, torch {version}."
        )
    return " ".join(facts) or MISSING


def _teacher(recipe: Recipe | None) -> str:
    if recipe is None:
        return MISSING
    if recipe.teacher is None:
        return "None: trained on labels alone."
    parts = [f"{name}, weights {weights or 'its own'}" for name, weights in networks(recipe)]
    if len(parts) == 1:
        return f"{parts[0]}."
    return f"The mean of {len(parts)} models: {'; '.join(parts)}."


def _licenses(model: nn.Module, recipe: Recipe | None) -> dict[License, str]:
    """Return the known licenses -> the weights that they are for; one license may be for both."""
    known = [
        (teacher_license(recipe) if recipe else None, "Teacher"),
        (getattr(model, "license", None), "Model"),
    ]
    return {license: owner for license, owner in reversed(known) if license}


def _license(model: nn.Module, recipe: Recipe | None) -> str:
    texts = []
    for license, owner in _licenses(model, recipe).items():
        use = "no commercial use" if license.noncommercial else "commercial use allowed"
        texts.append(f"{owner}: {license.name} ({use}). {license.note or ''}".strip())
    for name, weights in networks(recipe) if recipe else ():
        if not weights or license_of_weights(name, weights):
            continue
        published = getattr(registry.find("models", name), "PUBLISHED_LICENSE", None)
        texts.append(
            f"The license of the teacher's weights, {weights}, is not recorded. Check it. "
            f"{published.note if published else ''}".strip()
        )
    return "\n\n".join(texts) or f"{MISSING} It depends on the data and weights of the training."
