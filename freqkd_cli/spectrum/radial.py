"""Where in frequency the features of a model lie, tap by tap; the student beside its teacher where both are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.registry import did_you_mean
from freqkd_cli.runtime.files import write_csv
from freqkd_cli.runtime.progress import Progress, Silent
from freqkd_cli.spectral.power import RadialSpectrum, RingSums, radial_spectrum, ring_sums

STAGES = ("stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class Subject:
    """A network that is looked at.

    Attributes:
        role: ``student`` or ``teacher``.
        name: the model's name, for titles.
        taps: what it offers, by name.
        model: None where its features come from a cache.
    """

    role: str
    name: str
    taps: Mapping[str, Tap]
    model: nn.Module | None = None

    def is_map(self, tap: str) -> bool:
        """Whether there is such a tap and it is a map ``[B, C, h, w]``, as opposed to a graph or a training-only head."""
        return tap in self.taps and self.taps[tap].kind in ("features", "logits")


@dataclass(frozen=True)
class TapSpectrum:
    """The spectrum of one tap, averaged over images and channels. ``cycles_per_pixel`` is rho / (2 stride)."""

    tap: str
    role: str
    model: str
    stride: int
    channels: int
    grid: tuple[int, int]
    spectrum: RadialSpectrum

    @property
    def cycles_per_pixel(self) -> list[float]:
        return [rho / (2 * self.stride) for rho in self.spectrum.rho]

    def to_json(self) -> dict[str, Any]:
        facts = {
            "model": self.model,
            "stride": self.stride,
            "channels": self.channels,
            "grid": list(self.grid),
        }
        return asdict(self.spectrum) | {"cycles_per_pixel": self.cycles_per_pixel} | facts


@dataclass(frozen=True)
class Spectra:
    """The result: one :class:`TapSpectrum` per tap and subject, in the order asked, student before teacher."""

    source: str
    kind: str
    images: int
    cutoff: float
    found: list[TapSpectrum] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        facts = {
            "source": self.source,
            "kind": self.kind,
            "images": self.images,
            "cutoff": self.cutoff,
        }
        return facts | by_role((item.role, item.tap, item.to_json()) for item in self.found)

    def write_csv(self, path: Path) -> None:
        """One row per tap, subject and ring."""
        heads = [
            "tap",
            "role",
            "model",
            "stride",
            "rho",
            "cycles_per_pixel",
            "power",
            "relative_log_amplitude",
            "cells",
        ]
        rows: list[list[Any]] = [heads]
        for item in self.found:
            s = item.spectrum
            for row in zip(
                s.rho,
                item.cycles_per_pixel,
                s.power,
                s.relative_log_amplitude,
                s.cells,
                strict=True,
            ):
                rows.append(
                    [
                        item.tap,
                        item.role,
                        item.model,
                        item.stride,
                        *(f"{value:.9g}" for value in row),
                    ]
                )
        write_csv(path, rows)


def by_role(found: Iterable[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """``of`` and ``stages``, the student's where there is one, and ``teacher``, where it stands beside a student.

    Args:
        found: role, stage or tap, numbers.
    """
    roles: dict[str, dict[str, Any]] = {}
    for role, name, numbers in found:
        roles.setdefault(role, {})[name] = numbers
    main = "student" if "student" in roles else "teacher"
    beside = {"teacher": roles["teacher"]} if main == "student" and "teacher" in roles else {}
    return {"of": main, "stages": roles.get(main, {})} | beside


def wanted_taps(stages: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """Tap names from ``--stage`` and ``--tap``; the four stages where neither was given.

    Raises:
        UsageError: a stage that is not 1 to 4.
    """
    wrong = [stage for stage in stages if stage not in (1, 2, 3, 4)]
    if wrong:
        raise UsageError(
            "there is no such stage",
            got=f"--stage {wrong[0]}",
            need="1, 2, 3 or 4",
            tip="--tap NAME reads any other place",
        )
    return tuple(dict.fromkeys([f"stage{stage}" for stage in stages] + list(names))) or STAGES


def choose_taps(
    subjects: Sequence[Subject], wanted: Sequence[str], *, exact: bool
) -> dict[str, tuple[str, ...]]:
    """Role -> the wanted taps that this subject has and that are maps.

    Args:
        exact: every tap must be somewhere; otherwise (nobody named one) those that exist are taken.

    Raises:
        UsageError: a tap that no subject has, or one that is no map of features.
    """
    for name in wanted if exact else ():
        owners = [subject for subject in subjects if name in subject.taps]
        known = sorted({tap for subject in subjects for tap in subject.taps if subject.is_map(tap)})
        if not owners:
            raise UsageError(
                f"no model here has a tap {name!r}{did_you_mean(name, known)}",
                need=f"one of {', '.join(known)}",
            )
        if not any(subject.is_map(name) for subject in owners):
            raise UsageError(
                f"the tap {name!r} is no map of features, so it has no power spectrum",
                need=f"one of {', '.join(known)}",
            )
    picked = {
        subject.role: tuple(name for name in wanted if subject.is_map(name)) for subject in subjects
    }
    if not any(picked.values()):
        known = sorted({name for subject in subjects for name in subject.taps})
        raise UsageError(
            "there is none of the four stages here",
            got=", ".join(known),
            tip=f"--tap {known[0]}" if known else None,
        )
    return picked


class Accumulator:
    """Ring sums of every (role, tap), growing image by image."""

    def __init__(self, cutoff: float) -> None:
        self.cutoff = cutoff
        self.sums: dict[tuple[str, str], RingSums] = {}
        self.grids: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, role: str, tap: str, maps: Tensor) -> None:
        key = (role, tap)
        before = self.sums.get(key)
        try:
            new = ring_sums(maps, self.cutoff, before.step if before else None)
        except FreqKDError as error:
            said = f"{role} {tap}: {error.what}"
            raise type(error)(
                said, got=error.got, need=error.need, tip="larger images, or an earlier stage"
            ) from error
        self.sums[key] = before + new if before else new
        self.grids.setdefault(key, (maps.shape[-2], maps.shape[-1]))

    def result(self, subjects: Sequence[Subject], wanted: Sequence[str]) -> list[TapSpectrum]:
        found = []
        for name in wanted:
            for subject in subjects:
                if (subject.role, name) in self.sums:
                    tap = subject.taps[name]
                    key = (subject.role, name)
                    spectrum = radial_spectrum(self.sums[key])
                    found.append(
                        TapSpectrum(
                            name,
                            subject.role,
                            subject.name,
                            tap.stride,
                            tap.channels,
                            self.grids[key],
                            spectrum,
                        )
                    )
        return found


@torch.inference_mode()
def measure(
    subjects: Sequence[Subject],
    images: Iterable[Tensor],
    wanted: Sequence[str],
    *,
    cutoff: float = 0.25,
    exact: bool = True,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[int, list[TapSpectrum]]:
    """Run every subject on every image and gather the spectra of the wanted taps.

    Args:
        subjects: student before teacher.
        images: ``[B, 3, H, W]`` in [0, 1]; both sides a multiple of 32, so that all grids cover the same pixels.
        wanted: tap names.
        cutoff: rho that parts low from high.

    Returns:
        The number of images, and the spectra.

    Raises:
        UsageError: a tap that nobody has; no image at all.
        ShapeError: a grid too small to have frequencies.
    """
    progress = progress or Silent()
    picked = choose_taps(subjects, wanted, exact=exact)
    sums, count = Accumulator(cutoff), 0
    for subject in subjects:
        assert subject.model is not None
        subject.model.to(device).eval()
    for batch in images:
        batch = batch.to(device)
        for subject in subjects:
            if picked[subject.role]:
                taps = subject.model(batch, taps=picked[subject.role])
                for name in picked[subject.role]:
                    sums.add(subject.role, name, taps[name])
        count += len(batch)
        progress.advance(count)
    if count == 0:
        raise UsageError("there is no image to look at", tip="a larger --limit, or another --split")
    return count, sums.result(subjects, wanted)


@torch.inference_mode()
def measure_cache(
    subject: Subject,
    items: Iterable[Mapping[str, Tensor]],
    wanted: Sequence[str],
    *,
    cutoff: float = 0.25,
    exact: bool = True,
) -> tuple[int, list[TapSpectrum]]:
    """The same from stored taps: each item maps tap names to ``[C, h, w]``.

    Raises:
        UsageError: a tap that the cache lacks; no item at all.
    """
    picked = choose_taps([subject], wanted, exact=exact)[subject.role]
    sums, count = Accumulator(cutoff), 0
    for item in items:
        for name in picked:
            sums.add(subject.role, name, item[name][None])
        count += 1
    if count == 0:
        raise UsageError("the cache holds no item to look at", tip="a larger --limit")
    return count, sums.result([subject], wanted)


def pictures(dataset: Any, limit: int) -> Iterator[Tensor]:
    """Images of a data set, ``[1, 3, H, W]`` in [0, 1], cut at the right and the bottom to multiples of 32.

    Cut and not padded: the edge of a padding would be a frequency of its own.

    Raises:
        UsageError: an image with a side under 32 pixels.
    """
    for index in range(min(limit, len(dataset)) if limit else len(dataset)):
        image, _ = dataset.read(index)
        height, width = (side - side % 32 for side in image.shape[:2])
        if not height or not width:
            got = f"{image.shape[0]}x{image.shape[1]}"
            raise UsageError(
                f"the image {dataset.name(index)} is too small for a spectrum",
                got=got,
                need="32x32",
            )
        yield torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255
