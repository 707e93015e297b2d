"""The label doctor: what is wrong with the labels of a data set, told before any long work, with the setting that mends it.

A finding is an error where the labels cannot be read as the recipe says or the masks of a whole split contradict it, and a warning where
they probably mean something else. What was not looked at is checked when it is read, in the same words.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freqkd_cli.build import assemble
from freqkd_cli.build.recipe_facts import class_names
from freqkd_cli.doctor.label_findings import Finding, findings
from freqkd_cli.doctor.survey import Survey, survey
from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.images.dataset import SPLITS
from freqkd_cli.images.decode import FileDataset

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe
    from freqkd_cli.runtime.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What was looked at in one split, and what was found. ``seen`` is None where the split has no files or no labels."""

    split: str
    images: int
    labelled: bool
    seen: Survey | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def looked(self) -> str:
        """What was looked at, in words."""
        if self.seen is None:
            return f"{self.images} images {'drawn, not read from files' if self.labelled else 'without labels'}"
        return f"the pixels of {self.seen.read} and the sizes of {self.seen.headers} of {self.images} label images"


def examine(dataset: Dataset, split: str, *, every: bool = False) -> Report:
    """Look at the labels of a split; with ``every`` at all of them."""
    if not isinstance(dataset, FileDataset) or not dataset.labelled:
        return Report(split, len(dataset), dataset.labelled, None, ())
    seen = survey(dataset, every=every)
    return Report(split, len(dataset), True, seen, findings(dataset, seen))


def require(dataset: Dataset, split: str, progress: Progress) -> None:
    """Refuse labels that cannot be read as the recipe says; warn of what may be wrong; say what was looked at.

    Raises:
        DataBroken: with every error found.
    """
    report = examine(dataset, split)
    if report.seen is None:
        return
    for finding in report.findings:
        if finding.level == "warning":
            log.warning("%s", finding.error().line)
    if len(report.errors) == 1:
        raise report.errors[0].error()
    if report.errors:
        lines = "".join(f"\n  {finding.error().line}" for finding in report.errors)
        raise DataBroken(f"{len(report.errors)} things are wrong with the labels of {split}{lines}")
    progress.note(f"labels of {split}: looked at {report.looked}")


def describe(recipe: Recipe, split: str | None, every: bool) -> dict[str, Any]:
    """The document of ``freqkd data --json``: one split, or all.

    Raises:
        DataMissing: the split is not there; of all, the train split.
        DataBroken: class names that cannot be read, which no split has for itself.
    """
    class_names(recipe)
    splits: list[dict[str, Any]] = []
    counts = {"error": 0, "warning": 0}
    for name in [split] if split else SPLITS:
        try:
            dataset = assemble.build_dataset(recipe, name)
        except DataMissing as error:
            if split or name == "train":
                raise
            splits.append({"split": name, "missing": error.line, "findings": []})
        except DataBroken as error:
            finding = Finding(
                "error",
                error.what,
                (),
                *(part and str(part) for part in (error.got, error.need, error.tip)),
            )
            splits.append(
                {
                    "split": name,
                    "looked_at": "nothing, its files cannot be paired",
                    "findings": _told((finding,)),
                }
            )
        else:
            splits.append(_as_json(examine(dataset, name, every=every), dataset.classes))
        for finding in splits[-1]["findings"]:
            counts[finding["level"]] += 1
    return {
        "data": recipe.data.name,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "splits": splits,
    }


def _as_json(report: Report, classes: Sequence[str]) -> dict[str, Any]:
    """A split's part of ``freqkd data --json``."""
    document: dict[str, Any] = {
        "split": report.split,
        "images": report.images,
        "labelled": report.labelled,
        "looked_at": report.looked,
    }
    if report.seen is not None:
        counted = zip(classes, report.seen.pixels.tolist(), report.seen.masks.tolist(), strict=True)
        document |= {
            "masks_read": report.seen.read,
            "sizes_compared": report.seen.headers,
            "per_class": [
                {"name": name, "pixels": pixels, "masks": masks} for name, pixels, masks in counted
            ],
            "void_pixels": report.seen.void_pixels,
        }
    return document | {"findings": _told(report.findings)}


def _told(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    parts = ("level", "what", "got", "need", "tip")
    return [
        {part: getattr(finding, part) for part in parts} | {"files": list(finding.files)}
        for finding in findings
    ]
