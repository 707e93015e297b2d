"""Judge how the tool reads a generated data set: right, refused with a fix, or silently wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from class_lists import plain
from folder_difference import count_problem, difference
from folder_forms import FolderForm, paths, write
from form_outcome import Outcome, Run
from form_scenes import Scene
from tips import alternatives, document, faults, filled, findings, named_keys

from freqkd_cli import recipe as recipes
from freqkd_cli.build.assemble import build_dataset
from freqkd_cli.errors import FreqKDError

RECIPE = """version: 1
data: {name: folder, size: [64, 64], workers: 0CLASSES}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}]
train: {steps: 2, batch_size: 2}
"""
ROUNDS, TRIES = 3, 24
"""Fixes in a row, and runs of ``data`` in all, before a form counts as not fixed."""


@dataclass
class Reading:
    """How ``data --all`` ended with some settings, and whether the labels are right."""

    code: int | None
    wrong: str | None
    errors: list[str]
    warnings: list[str]
    text: str
    content: dict[str, Any]

    @property
    def right(self) -> bool:
        return self.code == 0 and self.wrong is None


@dataclass
class Judge:
    """Examines one form in a folder of its own."""

    form: FolderForm
    folder: Path
    run: Run
    tries: int = 0
    sole_wrong: str = ""
    fault: str = ""
    refusals: list[str] = field(default_factory=list)
    scenes: dict[Path, list[Scene]] = field(default_factory=dict)

    def outcome(self) -> Outcome:
        root = self.folder / "data"
        first = self.read(root, ())
        verdict, message = self._verdict(root, first)
        return Outcome(self.form.number, str(self.form), verdict, message)

    def _verdict(self, root: Path, first: Reading) -> tuple[str, str]:
        if first.code is None:
            return "traceback", first.text[-600:]
        if self.form.defect.refused:
            if first.code == 0 or not re.search(self.form.defect.refused, "\n".join(first.errors)):
                return "damage not noticed", first.wrong or first.text
            return ("bad message", self.fault) if self.fault else ("refused as damaged", "")
        if first.right:
            return self._finish(root, (), "right at once", first)
        fixed = self.fix(root, first, (), ROUNDS)
        if self.fault:
            return "bad message", self.fault
        if fixed is not None:
            return self._finish(fixed[0], fixed[1], fixed[2], self.read(*fixed[:2]))
        return self._failed(first)

    def _failed(self, first: Reading) -> tuple[str, str]:
        text = f"{first.wrong or ''}\n{first.text}".strip()
        if first.code == 0:
            return ("warned but wrong" if first.warnings else "silently wrong"), text
        if self.sole_wrong:
            return "wrong after the only fix", f"{self.sole_wrong}\n{text}"
        if self.form.refusable and re.search(self.form.refusable, "\n".join(self.refusals)):
            return "refused as not supported", text
        offered = any(alternatives(error) for error in first.errors)
        return ("fixes do not help" if offered else "refused without a fix"), text

    # --- one run of data ---

    def read(self, root: Path, sets: Sequence[str]) -> Reading:
        """Run ``data --all`` and, where it passes, compare every label with the truth."""
        if root not in self.scenes:
            root.mkdir(parents=True)
            self.scenes[root] = write(self._form_in(root), root)
        self.tries += 1
        words = [word for text in sets for word in ("--set", text)]
        code, out, err = self.run(
            "data", self.recipe(), "--data-root", root, "--all", "--json", *words
        )
        # The path of the folder holds words and numbers that must not count as the message's own.
        out, err = (text.replace(str(self.folder), "") for text in (out, err))
        content = document(out)
        errors = findings(content, "error") or ([err] if code else [])
        warnings = findings(content, "warning") + _notices(content, err)
        text = "\n".join([*errors, *warnings]) if code is not None else err
        self.refusals += errors
        self.fault = self.fault or faults(out + err) or ""
        if "restore the file" in text and not self.form.defect.refused:
            self.fault = self.fault or f"an intact file is called damaged: {text}"
        wrong = self._difference(root, sets) if code == 0 else None
        return Reading(code, wrong, errors, warnings, text, content)

    def recipe(self) -> Path:
        """Write the recipe of the form; its class names are a key where no file has them."""
        path = self.folder / "recipe.yaml"
        classes = f", classes: {self.form.answers()['data.classes']}"
        named = self.form.listing.name == "recipe"
        path.write_text(RECIPE.replace("CLASSES", classes if named else ""))
        return path

    # --- fixes ---

    def fix(
        self, root: Path, reading: Reading, sets: tuple[str, ...], rounds: int, kind: str = ""
    ) -> tuple[Path, tuple[str, ...], str] | None:
        """Follow the tips; return the folder, the settings and the verdict that read it right."""
        if not rounds or self.fault:
            return None
        texts = reading.errors or reading.warnings
        pasted = list(dict.fromkeys(group for text in texts for group in alternatives(text)))
        for root_then, more, how in self._steps(root, reading, pasted):
            if self.tries >= TRIES:
                return None
            after = self.read(root_then, (*sets, *more))
            number = ROUNDS - rounds + 1
            verdict = kind or how or f"right after {number} fix{'es' * (number > 1)}"
            if after.right:
                return root_then, (*sets, *more), verdict
            if after.code == 0 and len(pasted) == 1 and not how and not after.warnings:
                self.sole_wrong = f"--set {' --set '.join(more)}: {after.wrong}"
            if after.code is None:
                self.fault = f"traceback after {more}: {after.text[-300:]}"
                return None
            if after.text != reading.text:
                deeper = self.fix(root_then, after, (*sets, *more), rounds - 1, kind or how)
                if deeper is not None:
                    return deeper
        return None

    def _steps(
        self, root: Path, reading: Reading, pasted: list[tuple[str, ...]]
    ) -> list[tuple[Path, tuple[str, ...], str]]:
        """Return what a user can do next: paste, fill in a value, or move the files."""
        answers, steps = self.form.answers(), []
        for group in pasted:
            complete = filled(group, answers)
            if complete is not None:
                how = "" if complete == group else "right after a placeholder was filled in"
                steps.append((root, complete, how))
        for group in named_keys(reading.text, answers):
            keys = {text.partition("=")[0] for step in steps for text in step[1]}
            if group[0].partition("=")[0] not in keys:
                steps.append((root, group, "right after a named key was set"))
        if "tidied" not in root.name and self._shows_places(reading):
            tidied = root.with_name(root.name + "-tidied")
            steps.append((tidied, (), "right after files were moved"))
        if "relisted" not in root.name and self._shows_list(reading):
            relisted = root.with_name(root.name + "-relisted")
            steps.append((relisted, (), "right after the class list was rewritten"))
        return steps

    def _form_in(self, root: Path) -> FolderForm:
        form = self.form.tidied() if "tidied" in root.name else self.form
        return form.relisted() if "relisted" in root.name else form

    def _shows_places(self, reading: Reading) -> bool:
        """Whether moving or renaming is a fair fix: the message shows what is on either side."""
        image, mask = paths(self.form, "train", 0)
        moved = self.form.layout.by_hand and mask.parts[0] in reading.text
        stems = (self.form.naming.image, self.form.naming.mask)
        shown = all(any(stem(k) in reading.text for k in range(6)) for stem in stems)
        return reading.code != 0 and (moved or (self.form.naming.by_hand and shown))

    def _shows_list(self, reading: Reading) -> bool:
        """Whether rewriting the class list is a fair fix: the message names the file."""
        listing = self.form.listing
        return reading.code != 0 and listing.by_hand and str(listing.file) in reading.text

    # --- the truth ---

    def _difference(self, root: Path, sets: Sequence[str]) -> str | None:
        """Return how the labels differ from the truth, None where they are right."""
        try:
            recipe = recipes.load(str(self.recipe()), sets, {"data.root": str(root)})
            return difference(self.scenes[root], self.form, recipe)
        except FreqKDError as error:
            return f"data passes, but reading fails: {error.line}"

    def _finish(
        self, root: Path, sets: tuple[str, ...], verdict: str, reading: Reading
    ) -> tuple[str, str]:
        """Train two steps and score; return the final verdict."""
        if self.fault:
            return "bad message", self.fault
        wrong_count = count_problem(self.scenes[root], self.form, reading.content)
        if wrong_count:
            return "data counts other pixels", wrong_count
        words = [word for text in sets for word in ("--set", text)]
        run = self.folder / "run"
        code, out, err = self.run(
            "distill", self.recipe(), "--data-root", root, "--out", run, "--json", *words
        )
        if code != 0:
            return "distill or eval failed", err[-500:]
        code, out, err_of_eval = self.run("eval", run, "--data-root", root, "--json")
        if code != 0:
            return "distill or eval failed", err_of_eval[-500:]
        scores = document(out)
        problem = self._score_problem(root, scores, words)
        if problem:
            return "distill or eval failed", problem
        if self.form.defect.name == "absent class":
            name = self.form.names[-1]
            absent = " ".join(scores["absent"])
            texts = {"data": reading.text, "distill": err, "eval": err_of_eval + absent}
            silent = [command for command, text in texts.items() if name not in text]
            if silent:
                return "absent class not named", f"{name} in {', '.join(silent)}"
        return verdict, f"{list(sets)}" if sets else ""

    def _score_problem(self, root: Path, content: dict[str, Any], words: list[str]) -> str | None:
        """Return what ``eval`` reports wrongly of the validation split."""
        recipe = recipes.load(str(self.recipe()), words[1::2], {"data.root": str(root)})
        split = build_dataset(recipe, "val")
        truths = [truth for truth in self.scenes[root] if truth.split == "val"]
        if self.form.layout.pooled:  # the tool chooses the split; its images were compared before
            number, truths = len(split), []
        else:
            number = len(truths)
        if content["images"] != number:
            return f"eval scored {content['images']} of {number} images"
        present = {self.form.names[k] for truth in truths for k in np.unique(truth.ids) if k >= 0}
        missing = {plain(name) for name in content["absent"]} & {*map(plain, present)}
        return f"eval calls {missing} absent" if missing else None


def _notices(content: dict[str, Any], err: str) -> list[str]:
    """Return what a user is told beside the findings: a split that is not there, the log."""
    missing = [
        f"{split['split']}: {split['missing']}"
        for split in content.get("splits", ())
        if "missing" in split and split["split"] != "test"
    ]
    return missing + [line for line in err.splitlines() if "warning" in line.lower()]
