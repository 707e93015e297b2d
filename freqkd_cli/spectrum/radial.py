"""Power spectra of a model's taps over radial frequency, the student beside its teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.features.taps import stored_as
from freqkd_cli.registry import did_you_mean
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.progress import Progress, bar
from freqkd_cli.spectral.power import RingSums, radial_spectrum, ring_sums
from freqkd_cli.spectrum.cached_subject import first_views, open_cache
from freqkd_cli.spectrum.locate import SpectrumSource
from freqkd_cli.spectrum.padded_views import warn_of_padding
from freqkd_cli.spectrum.radial_result import RadialSpectra, TapSpectrum
from freqkd_cli.spectrum.subjects import SpectrumOptions, Subject, open_networks

if TYPE_CHECKING:
    from freqkd_cli.cache.reader import CacheReader, Item

STAGES = ("stage1", "stage2", "stage3", "stage4")

FeatureMaps = dict[tuple[str, str], Tensor]
"""(role, tap) -> features ``[B, C, h, w]`` of one image."""


def radial_spectra(
    source: SpectrumSource, options: SpectrumOptions, progress: Progress
) -> RadialSpectra:
    """Load the networks or the cache of a source, and measure the spectra of its taps.

    Raises:
        WeightsMissing, DataMissing: weights or images do not exist.
        UsageError: a tap that does not exist, or a cache of targets.
        ShapeError: a grid too small to have frequencies.
    """
    wanted = wanted_taps(options.stages, options.taps)
    if source.kind == "cache":
        reader, subject = open_cache(source, options)
        subjects, views = [subject], first_views(reader, options.limit)
        total = len(views)
        warn_of_padding(reader, views, options.data_root)
        names = choose_taps(subjects, wanted, named=options.named)
        maps = cached_maps(reader, subject, views, names["teacher"])
    else:
        subjects, dataset = open_networks(source, options)
        total = min(options.limit, len(dataset))
        names = choose_taps(subjects, wanted, named=options.named)
        images = cut_images(dataset, total)
        maps = live_maps(subjects, images, names, pick_device(options.device))
    with bar(progress, "image", total):
        count, spectra = measure(subjects, maps, wanted, options.cutoff, progress)
    return RadialSpectra(str(source), source.kind, count, options.cutoff, spectra)


@torch.inference_mode()
def measure(
    subjects: Sequence[Subject],
    maps: Iterable[FeatureMaps],
    wanted: Sequence[str],
    cutoff: float,
    progress: Progress,
) -> tuple[int, list[TapSpectrum]]:
    """Sum the power of all images ring by ring, and return the number of images and the spectra.

    Args:
        subjects: student before teacher.
        maps: the features of each image.
        wanted: tap names, in the order of the result.
        cutoff: rho between the low and the high band.

    Raises:
        UsageError: there is no image.
        ShapeError: a grid too small to have frequencies.
    """
    sums: dict[tuple[str, str], RingSums] = {}
    grids: dict[tuple[str, str], tuple[int, int]] = {}
    count = 0
    for count, features in enumerate(maps, start=1):
        for key, x in features.items():
            sums[key] = _added(sums.get(key), x, cutoff, " ".join(key))
            grids.setdefault(key, (x.shape[-2], x.shape[-1]))
        progress.advance(count)
    if count == 0:
        raise UsageError("there are no images", tip="use another --split", key="split")
    keys = [(subject, (subject.role, name)) for name in wanted for subject in subjects]
    return count, [
        TapSpectrum(
            tap=subject.taps[key[1]],
            role=subject.role,
            model=subject.name,
            grid=grids[key],
            spectrum=radial_spectrum(sums[key]),
        )
        for subject, key in keys
        if key in sums
    ]


def _added(before: RingSums | None, x: Tensor, cutoff: float, name: str) -> RingSums:
    """Return the ring sums of the images so far and of one more."""
    try:
        after = ring_sums(x, cutoff, before.step if before else None)
    except FreqKDError as error:
        raise type(error)(
            f"{name}: {error.what}",
            got=error.got,
            need=error.need,
            tip="use larger images, or an earlier stage",
        ) from error
    return before + after if before else after


def live_maps(
    subjects: Sequence[Subject],
    images: Iterable[Tensor],
    names: Mapping[str, Sequence[str]],
    device: torch.device | str = "cpu",
) -> Iterator[FeatureMaps]:
    """Run every network on every image, and yield the features.

    Args:
        images: ``[1, 3, H, W]`` in [0, 1]; sides are multiples of 32, so that all grids cover the
            same pixels.
        names: role -> taps to read.
    """
    used = [subject for subject in subjects if names[subject.role] and subject.model is not None]
    for subject in used:
        subject.model.to(device).eval()
    for image in images:
        features: FeatureMaps = {}
        for subject in used:
            taps = subject.model(image.to(device), taps=names[subject.role])
            features |= {(subject.role, name): taps[name] for name in names[subject.role]}
        yield features


def cached_maps(
    reader: CacheReader, subject: Subject, views: Iterable[Item], names: Sequence[str]
) -> Iterator[FeatureMaps]:
    """Yield the stored features of each view."""
    stored = {name: stored_as(name, subject.taps) for name in names}
    for view in views:
        rows = reader.read([view], set(stored.values()))
        yield {(subject.role, name): rows[place] for name, place in stored.items()}


def cut_images(dataset: Any, total: int) -> Iterator[Tensor]:
    """Yield images ``[1, 3, H, W]`` in [0, 1], cut at the right and bottom to multiples of 32.

    They are cut and not padded, because the edge of a padding has frequencies of its own.

    Raises:
        UsageError: an image with a side under 32 pixels.
    """
    for index in range(total):
        image, _ = dataset.read(index)
        height, width = (side - side % 32 for side in image.shape[:2])
        if not height or not width:
            raise UsageError(
                f"the image {dataset.name(index)} is too small for a spectrum",
                got=f"{image.shape[0]}x{image.shape[1]}",
                need="32x32",
            )
        yield torch.from_numpy(image[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255


def wanted_taps(stages: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """Return the tap names of ``--stage`` and ``--tap``; the four stages by default.

    Raises:
        UsageError: a stage that is not 1 to 4.
    """
    wrong = [stage for stage in stages if stage not in (1, 2, 3, 4)]
    if wrong:
        raise UsageError(
            "there is no such stage",
            got=f"--stage {wrong[0]}",
            need="1, 2, 3 or 4",
            tip="--tap NAME reads any other tap",
            key="stage",
        )
    return tuple(dict.fromkeys([f"stage{stage}" for stage in stages] + list(names))) or STAGES


def choose_taps(
    subjects: Sequence[Subject], wanted: Sequence[str], *, named: bool
) -> dict[str, tuple[str, ...]]:
    """Return role -> the wanted taps of this subject that are feature maps.

    Args:
        named: the user named the taps, so each must exist; otherwise those that exist are taken.

    Raises:
        UsageError: a tap that no subject has, or one that is not a feature map.
    """
    maps = {tap for subject in subjects for tap in subject.taps if subject.is_map(tap)}
    for name in wanted if named else ():
        if name in maps:
            continue
        need = f"one of {', '.join(sorted(maps))}"
        kinds = {subject.taps[name].kind for subject in subjects if name in subject.taps}
        if not kinds:
            hint = did_you_mean(name, sorted(maps))
            raise UsageError(f"no model here has a tap {name!r}{hint}", need=need, key="tap")
        raise UsageError(
            f"the tap {name!r} is not a feature map, so it has no power spectrum",
            need=need,
            tip="--graph shows its graph" if kinds & {"nodes", "graph"} else None,
            key="tap",
        )
    names = {
        subject.role: tuple(name for name in wanted if subject.is_map(name)) for subject in subjects
    }
    if not any(names.values()):
        known = sorted({name for subject in subjects for name in subject.taps})
        raise UsageError(
            "none of the four stages exists here",
            got=", ".join(known),
            tip=f"--tap {known[0]}" if known else None,
            key="tap",
        )
    return names
