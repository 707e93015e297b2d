"""Examine the labels of a split: refuse or warn before long work, and report as JSON.

A finding is an error where the labels cannot be read as the recipe says, or where the masks of a
whole split contradict it. It is a warning where they probably mean something else. Only a sample
is examined; every label image is checked again when it is read.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from freqkd_cli.build import assemble
from freqkd_cli.build.recipe_facts import class_names
from freqkd_cli.build.training_images import may_have_pool, pool_of
from freqkd_cli.doctor.image_findings import image_findings
from freqkd_cli.doctor.label_findings import Finding, findings
from freqkd_cli.doctor.survey import HEADERS, Survey, survey
from freqkd_cli.doctor.view_size import small_views
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import SPLITS, spread
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.pairs import printable
from freqkd_cli.runtime.progress import Progress, Silent

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What was examined in one split, and its findings.

    ``survey`` is None where the split has no files or no labels. ``decoded``: every image was.
    """

    split: str
    images: int
    labelled: bool
    survey: Survey | None
    findings: tuple[Finding, ...]
    decoded: bool = False

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def scope(self) -> str:
        """What was examined, in words."""
        if self.survey is not None:
            return (
                f"checked the pixels of {self.survey.read} and the sizes of "
                f"{self.survey.headers} of {self.images} label images"
                + (", and decoded every image" if self.decoded else "")
            )
        kind = "generated, no files to check" if self.labelled else "without labels"
        return f"{self.images} images, {kind}" + (", all decoded" if self.decoded else "")


def examine(
    dataset: Dataset, split: str, *, every: bool = False, progress: Progress | None = None
) -> Report:
    """Examine a sample of a split's labels and images; with ``every`` all of them."""
    if not isinstance(dataset, FileDataset):
        return Report(split, len(dataset), dataset.labelled, None, ())
    result = survey(dataset, every=every) if dataset.labelled else None
    known = {error.what for error in result.broken} if result else set()
    images = image_findings(dataset, known, every, progress or Silent())
    labels = findings(dataset, result) if result else ()
    return Report(split, len(dataset), dataset.labelled, result, (*images, *labels), every)


def require(dataset: Dataset, split: str, progress: Progress) -> None:
    """Refuse labels that cannot be read as the recipe says; log warnings and what was checked.

    Raises:
        DataBroken: with every error of the split.
    """
    report = examine(dataset, split)
    for finding in report.findings:
        if finding.level == "warning":
            log.warning("%s", finding.error().line)
    if len(report.errors) == 1:
        raise report.errors[0].error()
    if report.errors:
        lines = "".join(f"\n  {finding.error().line}" for finding in report.errors)
        kind = "labels" if dataset.labelled else "images"
        raise DataBroken(f"the {kind} of {split} have {len(report.errors)} problems{lines}")
    if report.survey is not None:
        progress.note(f"labels of {split}: {report.scope}")


def describe(
    recipe: Recipe, split: str | None, every: bool, progress: Progress | None = None
) -> dict[str, Any]:
    """Return the document of ``freqkd data --json``: one split, or all; train with its pool.

    Raises:
        DataMissing: the split does not exist; of all splits, train or its pool does not exist.
        DataBroken: class names that cannot be read; they concern all splits.
    """
    class_names(recipe)
    splits: list[dict[str, Any]] = []
    counts = {"error": 0, "warning": 0}
    for name in [split] if split else SPLITS:
        required = bool(split) or name == "train"
        splits.append(_describe_split(recipe, name, every, required, progress))
        if name == "train":
            splits += _describe_pool(recipe, every, progress)
    for finding in itertools.chain.from_iterable(row["findings"] for row in splits):
        counts[finding["level"]] += 1
    return {
        "data": recipe.data.name,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "splits": splits,
    }


def _describe_split(
    recipe: Recipe, split: str, every: bool, required: bool, progress: Progress | None
) -> dict[str, Any]:
    try:
        dataset = assemble.build_dataset(recipe, split)
    except DataMissing as error:
        if required:
            raise
        missing = f"{error.what} ({error.got})" if error.got else error.what
        return {"split": split, "missing": printable(missing), "findings": []}
    except DataBroken as error:
        return _unread(split, error, "nothing was checked, the files cannot be paired")
    report = examine(dataset, split, every=every, progress=progress)
    document = _as_json(_with_views(report, recipe, dataset), dataset.classes)
    if split != "train" and (rest := getattr(dataset, "rest", None)):
        document["without_masks"] = len(rest)
        document["looked_at"] += f"; images without masks, left out: {len(rest)}"
    return document


def _describe_pool(recipe: Recipe, every: bool, progress: Progress | None) -> list[dict[str, Any]]:
    """Return the part of the pool, none where the recipe has no pool."""
    if not may_have_pool(recipe):
        return []
    from_split = recipe.data.pool is None or recipe.data.pool.name is None
    try:
        # A broken train split is reported by itself.
        dataset = assemble.build_dataset(recipe, "train") if from_split else None
    except DataBroken:
        return []
    try:
        pool = pool_of(recipe, dataset)
    except DataBroken as error:
        return [_unread("pool", error, "nothing was checked")]
    if pool is None:
        return []
    report = examine(pool, "pool", every=every, progress=progress)
    document = _as_json(_with_views(report, recipe, pool), ())
    if sizes := _sizes(pool):
        document["sizes"] = [f"{height}x{width}" for height, width in sizes]
        document["looked_at"] += f", {' to '.join(document['sizes'])} (height x width)"
    return [document]


def _sizes(pool: Dataset) -> list[tuple[int, int]]:
    """Return the smallest and the largest size of a sample of images, once where they are equal."""
    sizes = set()
    for index in spread(len(pool), HEADERS):
        with suppress(DataBroken):  # reported by the examination
            sizes.add(pool.image_size(index))
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return ordered[:1] + ordered[1:][-1:]


def _with_views(report: Report, recipe: Recipe, dataset: Dataset) -> Report:
    """Return the report of training images with the finding about small views, if any."""
    if report.split not in ("train", "pool") or not isinstance(dataset, FileDataset):
        return report
    views = small_views(dataset, tuple(recipe.data.size), recipe.data.augment.scale)
    return report if views is None else replace(report, findings=(*report.findings, views))


def _unread(split: str, error: DataBroken, scope: str) -> dict[str, Any]:
    parts = (part and str(part) for part in (error.got, error.need, error.tip))
    finding = Finding("error", error.what, (), *parts)
    return {"split": split, "looked_at": scope, "findings": _as_rows((finding,))}


def _as_json(report: Report, classes: Sequence[str]) -> dict[str, Any]:
    """Return a split's part of ``freqkd data --json``."""
    document: dict[str, Any] = {
        "split": report.split,
        "images": report.images,
        "labelled": report.labelled,
        "looked_at": report.scope,
    }
    if report.survey is not None:
        pixels, masks = report.survey.pixels.tolist(), report.survey.masks.tolist()
        document |= {
            "masks_read": report.survey.read,
            "sizes_compared": report.survey.headers,
            "per_class": [
                {"name": name, "pixels": count, "masks": files}
                for name, count, files in zip(classes, pixels, masks, strict=True)
            ],
            "void_pixels": report.survey.void_pixels,
        }
    return document | {"findings": _as_rows(report.findings)}


def _as_rows(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings as JSON; names that are not UTF-8 are escaped."""
    rows = []
    for finding in findings:
        row: dict[str, Any] = {"level": finding.level}
        for name in ("what", "got", "need", "tip"):
            text = getattr(finding, name)
            row[name] = None if text is None else printable(text)
        rows.append(row | {"files": [printable(file) for file in finding.files]})
    return rows
