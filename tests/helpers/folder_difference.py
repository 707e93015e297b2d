"""Compare the splits that the tool reads with the truth of a generated data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from class_lists import IGNORED, plain
from folder_forms import FolderForm
from form_scenes import VOID, Scene, closest, luminance

from freqkd_cli.build.assemble import build_dataset


def difference(scenes: list[Scene], form: FolderForm, recipe: Any) -> str | None:
    """Return how the splits of a recipe differ from the truth, None where they are right."""
    shown: dict[int, str] = {}
    for split in ("train", "val"):
        dataset = build_dataset(recipe, split)
        if not dataset.labelled:
            return f"{split} is read as images without labels"
        numbers = _class_numbers(dataset.classes, form.names)
        if isinstance(numbers, str):
            return numbers
        for index in range(len(dataset)):
            image, labels = dataset.read(index)
            number, problem = _same_image(image, scenes, form)
            if problem:
                return f"{split} {dataset.name(index)}: {problem}"
            if number in shown:
                return f"image {number} is read twice, in {shown[number]} and {split}"
            shown[number] = split
            problem = _same_labels(numbers[labels.astype(int)], scenes[number], form)
            if problem:
                return f"{split} {dataset.name(index)}: {problem}"
    if len(shown) != len(scenes):
        return f"only {len(shown)} of {len(scenes)} images are read"
    moved = [k for k, split in shown.items() if scenes[k].split != split]
    return f"images {moved} are in the other split" if moved and not form.layout.pooled else None


def count_problem(scenes: list[Scene], form: FolderForm, content: Mapping[str, Any]) -> str | None:
    """Return which pixel counts of ``data --all --json`` are not those of the truth.

    Pixels whose reading is free may be counted anywhere. Where the tool chooses the split, the
    splits are added up.
    """
    counted = {row["split"]: row for row in content["splits"] if "per_class" in row}
    groups = [("train", "val")] if form.layout.pooled else [("train",), ("val",)]
    for splits in groups:
        truths = [truth for truth in scenes if truth.split in splits]
        free = sum(int(truth.loose.sum()) for truth in truths)
        true: Counter[str] = Counter()
        for truth in truths:
            for number, name in enumerate([*map(plain, form.names)]):
                true[name] += int((truth.ids == number).sum())
            true["void"] += int((truth.ids == VOID).sum())
        read: Counter[str] = Counter()
        for split in splits:
            for row in counted[split]["per_class"]:
                name = plain(row["name"])
                read["void" if name in IGNORED else name] += row["pixels"]
            read["void"] += counted[split]["void_pixels"]
        for name in true | read:
            if abs(true[name] - read[name]) > free:
                return f"{'+'.join(splits)}: {read[name]} pixels of {name} instead of {true[name]}"
    return None


def _class_numbers(classes: Sequence[str], names: Sequence[str]) -> np.ndarray | str:
    """Return the tool's train id -> truth id, or what is wrong with the list of classes."""
    wanted = {plain(name): number for number, name in enumerate(names)}
    table = np.full(max(256, len(classes) + 1), VOID)
    for number, name in enumerate(map(plain, classes)):
        if name not in wanted and name not in IGNORED:
            return f"the classes are {list(classes)} instead of {list(names)}"
        table[number] = wanted.get(name, VOID)
    missing = {*wanted} - {plain(name) for name in classes}
    return f"no class {', '.join(sorted(missing))} in {list(classes)}" if missing else table


def _same_image(image: np.ndarray, scenes: list[Scene], form: FolderForm) -> tuple[int, str | None]:
    """Return which scene an image shows, and what is wrong with its pixels."""
    number, correlation = closest(image, scenes)
    if correlation < 0.8:
        return number, f"the image shows no image of the truth (correlation {correlation:.2f})"
    seen, true = luminance(image).std(), luminance(scenes[number].rgb).std()
    low, high = (0.4, 2.6) if (form.image.bits or form.image.refusable) else (0.8, 1.25)
    if not low < seen / true < high:
        return number, f"the image has {seen / true:.2f} of its contrast"
    return number, None


def _same_labels(labels: np.ndarray, truth: Scene, form: FolderForm) -> str | None:
    if labels.shape != truth.ids.shape:
        return f"the labels have the size {labels.shape}"
    wrong = (labels != truth.ids) & ~truth.loose
    if not wrong.any():
        return None
    names = [*form.names, "void"]
    row, column = np.argwhere(wrong)[0]
    share = 100 * wrong.mean()
    true, read = names[truth.ids[row, column]], names[labels[row, column]]
    return f"{share:.1f} % of the pixels differ, such as {read} instead of {true}"
