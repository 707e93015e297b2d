"""The files of ``freqkd predict``: images are labelled in batches, and their results written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.conversion import AS_STORED, Conversion
from freqkd_cli.images.decode import read_upright
from freqkd_cli.images.video_files import frame_rate, frames, write_video
from freqkd_cli.runtime.memory import out_of_memory
from freqkd_cli.runtime.written_files import WrittenFiles
from freqkd_cli.score.evaluate import batch_size_for
from freqkd_cli.score.input_images import Input
from freqkd_cli.score.label_files import OVERLAY, write_labels
from freqkd_cli.score.predicted_labels import Predictor
from freqkd_cli.views.view import whole

if TYPE_CHECKING:
    from torch import nn

    from freqkd_cli.score.predict_images import PredictOptions

Draw = Callable[..., Image.Image]
"""``draw(image, labels, legend, every=False)`` draws an overlay. With ``every``, its legend has all
classes and not only those that occur."""

NO_MEMORY = "memory ran out; try --slide 512,512 to label it in windows, or a smaller copy"
NO_MEMORY_IN_WINDOWS = "memory ran out; try smaller windows (--slide H,W), or a smaller copy"
NO_MEMORY_TO_AVERAGE = "memory ran out; try it without --flip and --scales, or a smaller copy"


def labels_path(name: Path) -> Path:
    """The label PNG of an image whose files are called ``name``."""
    return name.with_name(f"{name.name}.png")


def overlay_path(name: Path, video: bool) -> Path:
    """The overlay of an image or a video whose files are called ``name``."""
    return name.with_name(f"{name.name}{OVERLAY}{'.mp4' if video else '.png'}")


class PredictionFiles:
    """Labels inputs one after the other and writes their files.

    Attributes:
        done: a row of ``files`` per input that was labelled.
        failed: a row of ``unreadable`` per input that was not.
    """

    def __init__(
        self,
        model: nn.Module,
        legend: Sequence[Mapping[str, Any]],
        options: PredictOptions,
        written: WrittenFiles,
        conversion: Conversion = AS_STORED,
    ) -> None:
        self.predictor = Predictor(model, options.averaging)
        self.legend, self.options, self.written = legend, options, written
        self.conversion = conversion
        self.palette = np.array([row["color"] for row in legend], np.uint8)
        self.done: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self._waiting: list[tuple[Input, np.ndarray]] = []
        self._label_files: set[Path] = set()

    def add(self, entry: Input) -> None:
        """Label a video, or an image together with others of its size; see :meth:`flush`."""
        if entry.video:
            self.flush()
            self._attempt(entry, lambda: self.done.append(self._video(entry)))
            return
        self._attempt(entry, lambda: self._add_image(entry, self._read(entry)))

    def _read(self, entry: Input) -> np.ndarray:
        return read_upright(entry.path, self.conversion)

    def _add_image(self, entry: Input, image: np.ndarray) -> None:
        if self._waiting and self._waiting[0][1].shape != image.shape:
            self.flush()
        self._waiting.append((entry, image))
        if len(self._waiting) >= self._batch_size(image):
            self.flush()

    def flush(self) -> None:
        """Label and write the images that were added and not labelled yet."""
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            names = [str(entry.path) for entry, _ in batch]
            labels = self.predictor.labels([image for _, image in batch], names)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            labels = None
        # Outside the handler: the error holds on to the memory of the pass that failed.
        if labels is not None:
            for (entry, image), predicted in zip(batch, labels, strict=True):
                self._attempt(entry, lambda e=entry, x=image, y=predicted: self._save(e, x, y))
        elif len(batch) == 1:
            self._fail(batch[0][0], self._no_memory())
        else:
            for pair in batch:
                self._waiting = [pair]
                self.flush()

    def _attempt(self, entry: Input, work: Callable[[], None]) -> None:
        """Do some work; an input that cannot be read, or is too large, is listed as failed."""
        try:
            work()
        except DataBroken as error:
            parts = (
                error.got,
                error.need and f"need {error.need}",
                error.tip and f"try {error.tip}",
            )
            self._fail(entry, "; ".join(str(part) for part in parts if part))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self._fail(entry, self._no_memory())

    def _no_memory(self) -> str:
        averaging = self.options.averaging
        if averaging.only_windows:
            return NO_MEMORY_IN_WINDOWS
        return NO_MEMORY if averaging.plain else NO_MEMORY_TO_AVERAGE

    def _fail(self, entry: Input, reason: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.failed.append({"image": str(entry.path), "why": reason})

    def _batch_size(self, image: np.ndarray) -> int:
        view = whole(image.shape[:2])
        return self.options.batch_size or batch_size_for(view.height, view.width)

    def _save(self, entry: Input, image: np.ndarray, labels: np.ndarray) -> None:
        """Write an image's files and add its row."""
        name = self.options.out / entry.name
        row = {"image": str(entry.path), "size": list(labels.shape)}
        row["labels"] = str(self._write_labels(labels_path(name), labels))
        if self.options.draw:
            path = overlay_path(name, video=False)
            overlay = self.options.draw(image, labels, self.legend)
            self.written.write(path, lambda file: overlay.save(file, "PNG"))
            row["overlay"] = str(path)
        self.done.append(row)

    def _write_labels(self, path: Path, labels: np.ndarray) -> Path:
        """Write a label PNG, but not over that of another input.

        Raises:
            DataBroken: another input has it, such as a frame of ``clip.mp4`` and an image of
                ``clip/``.
        """
        if path in self._label_files:
            raise DataBroken(
                "two inputs have one label file",
                got=f"{path} has the labels of another input",
                tip="one command with its own --out for each",
            )
        self._label_files.add(path)
        write_labels(self.written, path, labels, len(self.palette), self.palette)
        return path

    def _video(self, entry: Input) -> dict[str, Any]:
        """Write a video's files; its row."""
        folder = self.options.out / entry.name
        row: dict[str, Any] = {"image": str(entry.path), "labels": str(folder), "frames": 0}
        draw = self.options.draw

        def overlays() -> Iterator[np.ndarray]:
            for image, labels in self._frames(entry):
                self._write_labels(folder / f"{row['frames']:06d}.png", labels)
                row["size"] = list(labels.shape)
                row["frames"] += 1
                if draw:
                    yield np.asarray(draw(image, labels, self.legend, every=True))

        if draw:
            path = overlay_path(folder, video=True)
            self.written.write(path, write_video(frame_rate(entry.path), overlays))
            row["overlay"] = str(path)
        else:
            list(overlays())
        self._remove_frames(folder, row["frames"])
        return row

    def _remove_frames(self, folder: Path, first: int) -> None:
        """Remove frames from number ``first`` on: those of an earlier, longer video."""
        images = {row["labels"] for row in self.done}
        for path in folder.glob("[0-9]*.png"):
            is_frame = path.stem.isdecimal() and path.name == f"{int(path.stem):06d}.png"
            if is_frame and int(path.stem) >= first and str(path) not in images:
                path.unlink()

    def _frames(self, entry: Input) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Frames of a video with their labels, labelled in batches."""
        batch: list[np.ndarray] = []
        for image in frames(entry.path, self.options.limit):
            batch.append(image)
            if len(batch) >= self._batch_size(image):
                yield from self._labelled(entry, batch)
                batch = []
        if batch:
            yield from self._labelled(entry, batch)

    def _labelled(
        self, entry: Input, batch: Sequence[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        names = [str(entry.path)] * len(batch)
        yield from zip(batch, self.predictor.labels(batch, names), strict=True)
