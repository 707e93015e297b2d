"""Judge how the tool reads a generated checkpoint: right, refused in its own words, or wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from checkpoint_files import OneRow
from checkpoint_forms import CheckpointForm
from form_outcome import Outcome, Run
from form_scenes import scene
from PIL import Image
from small_models import MEAN, NAMES, SECTIONS, STD, MMSegmentationHead, images, logits
from tips import alternatives, faults
from torch import Tensor, nn

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble

RECIPE = """version: 1
data: {name: folder, size: [64, 64], workers: 0, classes: [CLASSES]}
teacher: {SECTION, weights: 'WEIGHTS'}
student: {name: fast_scnn, width: 0.25}
losses: [{name: cross_entropy}, {name: logit_kl}]
train: {steps: 1, batch_size: 2}
"""
TOLERANCE = 1e-4


def expected(net: nn.Module) -> Tensor:
    """Return the true logits, before the network's last upsampling."""
    if isinstance(net, OneRow):
        return net.two(logits(net.net, images()))
    if isinstance(net, MMSegmentationHead):
        return net((images() - MEAN) / STD)
    return logits(net, images())


@dataclass
class CheckpointJudge:
    """Examines one form in a folder of its own."""

    form: CheckpointForm
    folder: Path
    run: Run
    fault: str = ""
    notes: str = ""
    sets: tuple[str, ...] = ()
    weights: Path = field(init=False)

    def outcome(self) -> Outcome:
        (self.folder / "files").mkdir()
        self.weights = self.form.write(self.folder / "files")
        self._write_data()
        verdict, message = self._verdict()
        if self.fault and verdict != "traceback":
            verdict, message = "bad message", self.fault
        message = message.replace(str(self.folder), "")
        return Outcome(self.form.number, str(self.form), verdict, message)

    def _verdict(self) -> tuple[str, str]:
        code, text = self._eval(())
        if code is None:
            return "traceback", text[-500:]
        if code == 0:
            return self._compared("right at once")
        groups = alternatives(text)
        for group in groups:
            code, after = self._eval(group)
            if code is None:
                return "traceback", f"after {group}: {after[-300:]}"
            if code == 0:
                self.sets = group
                self.notes += text.replace(str(self.folder), "")
                return self._compared("right after 1 fix")
        if not self.form.refused:
            return "refused, but it can be read", text
        return self._refusal(text)

    def _refusal(self, text: str) -> tuple[str, str]:
        """Judge the words of a refusal that is allowed."""
        own = text.replace(str(self.folder), "")
        if not re.search(self.form.refused, own, re.IGNORECASE):
            return "refused without naming it", text
        if self.form.command and not re.search(self.form.command, own):
            return "refused without a command", text
        return "refused in its own words", text

    def _compared(self, verdict: str) -> tuple[str, str]:
        """Judge a checkpoint that is read."""
        problem = self._logits_problem()
        if problem:
            return "silently other weights", problem
        if self.form.folder:
            problem = self._predict_problem()
            if problem:
                return "predict differs", problem
        return verdict, ""

    # --- the tool ---

    def recipe(self, section: str = "teacher") -> Path:
        names = self._names()
        text = RECIPE.replace("CLASSES", ", ".join(names)).replace("WEIGHTS", str(self.weights))
        text = text.replace("SECTION", self.form.section or SECTIONS[self.form.model])
        if section == "student":
            lines = text.splitlines()
            lines[3] = lines[2].replace("teacher:", "student:")
            lines[4] = "losses: [{name: cross_entropy}]"
            text = "\n".join(lines[:2] + lines[3:]) + "\n"
        path = self.folder / f"{section}.yaml"
        path.write_text(text)
        return path

    def _names(self) -> Sequence[str]:
        return ("background", NAMES[-1]) if self.form.one_row else NAMES

    def _eval(self, sets: Sequence[str]) -> tuple[int | None, str]:
        words = [word for text in sets for word in ("--set", text)]
        code, out, err = self.run(
            "eval",
            self.recipe(),
            "--teacher",
            "--data-root",
            self.folder / "data",
            "--json",
            *words,
        )
        self.fault = self.fault or faults(out + err) or ""
        self.notes = err.replace(str(self.folder), "")
        return code, err

    def _logits_problem(self) -> str | None:
        """Return how the outputs differ from the truth, as teacher and as student."""
        number = len(self._names())
        loaded = recipes.load(
            str(self.recipe()), self.sets, {"data.root": str(self.folder / "data")}
        )
        problem = self._difference(assemble.build_teacher(loaded, number))
        if problem or self.form.one_row:  # a student of one row is refused
            return problem
        sets = [text.replace("teacher.", "student.", 1) for text in self.sets]
        root = {"data.root": str(self.folder / "data")}
        plan = assemble.check(recipes.load(str(self.recipe("student")), sets, root))
        problem = self._difference(assemble.build_student(plan).eval())
        return f"as student: {problem}" if problem else None

    @torch.no_grad()
    def _difference(self, model: nn.Module) -> str | None:
        given = model.eval()(images())["logits"]
        truths = [("", self.form.truth)] if self.form.truth else []
        for note, truth in (*truths, *self.form.noted):
            wanted = expected(truth())
            same = given.shape == wanted.shape and (given - wanted).abs().max() < TOLERANCE
            if same and (not note or re.search(note, self.notes)):
                return None
            if same:
                return f"one of two sets of weights is read, and no message names {note}"
        return f"logits {tuple(given.shape)} are those of no network in the file"

    def _predict_problem(self) -> str | None:
        """Return how the label images of ``freqkd predict`` differ from the truth."""
        out = self.folder / "predictions"
        code, _, err = self.run(
            "predict", self.weights, self.folder / "data/images/val", "--out", out, "--labels-only"
        )
        self.fault = self.fault or faults(err) or ""
        if code != 0:
            return f"predict: {err}"
        if self.form.truth is None:
            return None
        path = next((self.folder / "data/images/val").iterdir())
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
        net = self.form.truth()
        low = net.two(logits(net.net, pixels)) if isinstance(net, OneRow) else logits(net, pixels)
        size = pixels.shape[2:]
        labels = nn.functional.interpolate(low, size=size, mode="bilinear").argmax(1)[0].numpy()
        read = np.array(Image.open(out / f"{path.stem}.png"))
        share = float((labels != read).mean())
        return f"{100 * share:.1f} % of the predicted labels differ" if share > 0.002 else None

    def _write_data(self) -> None:
        rng = np.random.default_rng(3)
        for split in ("train", "val"):
            for number in range(2):
                truth = scene(rng, split, len(self._names()), void=False, absent=-1)
                for kind, pixels in (("images", truth.rgb), ("masks", truth.ids.astype(np.uint8))):
                    path = self.folder / "data" / kind / split / f"p{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
