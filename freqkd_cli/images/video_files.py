"""Frames of videos, read and written with PyAV (the optional extra ``video``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from freqkd_cli.errors import DataBroken, UsageError

DEFAULT_RATE = 25
"""Frames per second of a file that names none."""


def require_library() -> ModuleType:
    """Import PyAV.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UsageError(
            "videos need PyAV, which is not installed",
            got=error,
            need="the extra video",
            tip="pip install 'freqkd[video]'",
        ) from error
    return av


def frames(path: Path, limit: int = 0) -> Iterator[np.ndarray]:
    """The frames of a video, ``[H, W, 3]`` uint8 RGB, upright; ``limit`` 0 = all.

    Raises:
        DataBroken: it cannot be read, or has no video stream.
    """
    av = require_library()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataBroken(f"cannot read {path}", got="no video stream")
            for number, frame in enumerate(container.decode(video=0)):
                if limit and number == limit:
                    return
                turns = round(frame.rotation / 90) % 4
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    except (av.error.FFmpegError, OSError) as error:
        raise DataBroken(f"cannot read {path}", got=error.strerror or error) from error


def frame_rate(path: Path) -> Fraction:
    """Frames per second of a video.

    Raises:
        DataBroken: it cannot be read.
    """
    av = require_library()
    try:
        with av.open(str(path)) as container:
            streams = container.streams.video
            rate = streams[0].average_rate if streams else None
            return rate or Fraction(DEFAULT_RATE)
    except (av.error.FFmpegError, OSError) as error:
        raise DataBroken(f"cannot read {path}", got=error.strerror or error) from error


class VideoWriter:
    """An MP4 file that grows by one frame at a time. Sides are padded to even numbers of pixels."""

    def __init__(self, file: BinaryIO, rate: Fraction) -> None:
        self.av = require_library()
        self.container = self.av.open(file, "w", format="mp4")
        self.rate, self.stream = rate, None

    def write(self, image: np.ndarray) -> None:
        """Append ``[H, W, 3]`` uint8 RGB; all frames have the size of the first."""
        height, width = (side + side % 2 for side in image.shape[:2])
        if self.stream is None:
            available = self.av.codecs_available
            codec = "libx264" if "libx264" in available else "mpeg4"
            self.stream = self.container.add_stream(codec, rate=self.rate)
            self.stream.width, self.stream.height = width, height
            self.stream.pix_fmt = "yuv420p"
        padding = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
        frame = self.av.VideoFrame.from_ndarray(np.pad(image, padding, mode="edge"))
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Write the frames that are left, and the end of the file."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())
        self.container.close()


def write_video(rate: Fraction, images: Callable[[], Iterator[np.ndarray]]) -> Callable[..., Any]:
    """A function that writes ``images()`` to an open file as MP4."""

    def write(file: BinaryIO) -> None:
        writer = VideoWriter(file, rate)
        try:
            for image in images():
                writer.write(image)
        finally:
            writer.close()

    return write
