"""Spectra of the graphs of a model's taps: eigenvalues, Laplacian, and leading eigenvectors.

Both graphs of a pair have the same nodes, those of the coarser grid, without void ones. The heads
of a graph are averaged into one graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.errors import TrainingFailed, UsageError
from freqkd_cli.features.graphs import GraphSide, node_validity
from freqkd_cli.features.loss import Grid
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.progress import Progress, Silent, bar
from freqkd_cli.spectral.attention_distance import attention_distance
from freqkd_cli.spectral.graph import laplacian
from freqkd_cli.spectral.graph_forms import Graph
from freqkd_cli.spectral.modes import Modes, effective_rank, eigenvalues, shares
from freqkd_cli.spectrum.cached_subject import first_views, open_cache
from freqkd_cli.spectrum.eigen_maps import eigen_maps
from freqkd_cli.spectrum.graph_inputs import GraphInput, cached_inputs, live_inputs
from freqkd_cli.spectrum.graph_pairs import GraphPair, choose_pairs
from freqkd_cli.spectrum.graph_result import TAU, EigenMaps, GraphImage, GraphSpectra, TapGraph
from freqkd_cli.spectrum.locate import SpectrumSource
from freqkd_cli.spectrum.subjects import SpectrumOptions, Subject, open_networks

COUNT = 20
"""Number of reported eigenvalues, as many as CASS compares (arXiv 2411.17150)."""

DRAWN = 3
"""Number of drawn images where one tap is measured, else one. They are spread over the measured
images, since neighbours may be frames of one film."""


def graph_spectra(
    source: SpectrumSource, options: SpectrumOptions, progress: Progress
) -> GraphSpectra:
    """Load the networks or the cache of a source, and measure the graphs of its taps.

    Raises:
        WeightsMissing, DataMissing: weights or images do not exist.
        UsageError: a tap that does not exist, or a cache of targets.
    """
    if source.kind == "cache":
        reader, subject = open_cache(source, options)
        subjects, pairs = [subject], _pairs_of_cache(subject, reader, options)
        # Images of a pool come after those of the data set, which has no views of them.
        own = reader.fingerprint.fields["data"]["number"]
        items = first_views(reader, min(options.limit, own))
        total = len(items)
        inputs = cached_inputs(reader, subject, pairs, items, options.data_root)
    else:
        subjects, dataset = open_networks(source, options)
        pairs = choose_pairs(subjects, options.stages, options.taps)
        total = min(options.limit, len(dataset))
        inputs = live_inputs(subjects, pairs, dataset, total, pick_device(options.device))
    drawn = range(0, total, -(-total // DRAWN)) if len(pairs) == 1 else (0,)
    with bar(progress, "image", total):
        count, graphs, images = measure_graphs(
            subjects, pairs, inputs, drawn=drawn, progress=progress
        )
    return GraphSpectra(str(source), source.kind, count, graphs, images)


def _pairs_of_cache(
    subject: Subject, reader: CacheReader, options: SpectrumOptions
) -> list[GraphPair]:
    try:
        return choose_pairs([subject], options.stages, options.taps)
    except UsageError as error:
        raise UsageError(
            f"the cache {reader.folder}: {error.what}",
            got=error.got,
            tip="freqkd teacher-dump RECIPE --content taps, where a loss of the recipe reads that "
            "tap; or use the recipe itself as the source",
            key=error.key,
        ) from error


@torch.inference_mode()
def measure_graphs(
    subjects: Sequence[Subject],
    pairs: Sequence[GraphPair],
    inputs: Iterable[GraphInput],
    *,
    drawn: Collection[int] = (0,),
    progress: Progress | None = None,
) -> tuple[int, list[TapGraph], list[GraphImage]]:
    """Measure every pair of graphs image by image.

    Args:
        drawn: places in ``inputs`` of the images whose eigenvectors are kept.

    Returns:
        The number of images, the mean numbers of each graph, and the images to draw.

    Raises:
        UsageError: there is no image, or none with two valid nodes.
        ShapeError, RecipeError: a grid that is too small, or taps whose nodes differ.
        TrainingFailed: features that are not finite.
    """
    progress = progress or Silent()
    numbers: dict[tuple[str, str], _Numbers] = {}
    images: list[GraphImage] = []
    count = 0
    for count, item in enumerate(inputs, start=1):
        rows: list[EigenMaps] = []
        for pair in pairs:
            rows += _add_image(pair, item, numbers, keep_maps=count - 1 in drawn)
        images += [_drawn(item, rows)] if rows else []
        progress.advance(count)
    if not numbers:
        what = "no image has two nodes that are not void" if count else "there are no images"
        raise UsageError(what, tip="use a larger --limit, or another --split", key="limit")
    models = {subject.role: subject.name for subject in subjects}
    keys = [(pair, role) for pair in pairs for role in pair.taps]
    graphs = [
        numbers[pair.name, role].mean(pair, role, models[role])
        for pair, role in keys
        if (pair.name, role) in numbers
    ]
    return count, graphs, images


def _add_image(
    pair: GraphPair,
    item: GraphInput,
    numbers: dict[tuple[str, str], _Numbers],
    *,
    keep_maps: bool,
) -> list[EigenMaps]:
    """Add one image's graphs of a pair to ``numbers``, and return its eigenvectors to draw."""
    grid = pair.grid(*item.batch.images.shape[-2:])
    valid = node_validity(item.batch, grid)
    if int(valid.sum()) < 2:
        return []
    modes: dict[str, Modes] = {}
    for role, tap in pair.taps.items():
        x = item.taps[role][tap.name]
        graph = _graph(role, tap, x, grid, valid, item.name)
        modes[role] = graph.modes()
        of_graph = numbers.setdefault((pair.name, role), _Numbers(grid))
        of_graph.add(graph, modes[role], _distance(tap, x, grid, valid))
    return eigen_maps(pair, modes, valid, grid) if keep_maps else []


def _graph(role: str, tap: Tap, x: Tensor, grid: Grid, valid: Tensor, image: str) -> Graph:
    if not bool(torch.isfinite(x).all()):
        raise TrainingFailed(
            f"{role} {tap.name}: features of the image {image} are not finite",
            tip="use a checkpoint from before the training diverged",
        )
    return GraphSide(tap)(x, grid, valid).mean()


def _distance(tap: Tap, x: Tensor, grid: Grid, valid: Tensor) -> Tensor:
    """Return the mean attention distance between valid nodes, or nothing for other taps."""
    if tap.kind != "graph":
        return x.new_empty(0)
    both = valid[:, None, :, None] & valid[:, None, None, :]
    return attention_distance(x * both, grid, tap.stride).mean()[None].cpu()


class _Numbers:
    """The numbers of one graph, one row per image."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.rows: dict[str, list[Tensor]] = {}

    def add(self, graph: Graph, modes: Modes, distance: Tensor) -> None:
        """Append the numbers of one image; entries that it does not have are NaN."""
        nodes = int(graph.valid.sum())
        edges = graph.edges("exp", TAU)
        low = eigenvalues(laplacian(edges), graph.valid, min(COUNT, nodes), end="smallest")[0, 0]
        values = modes.values[modes.kept]
        row = {
            "nodes": torch.tensor([nodes]),
            "eigenvalues": values[:COUNT],
            "shares": shares(values)[:COUNT],
            "effective_rank": effective_rank(values)[None],
            "laplacian": low,
            "distance": distance,
        }
        for name, entries in row.items():
            padding = (0, COUNT - len(entries))
            padded = torch.nn.functional.pad(entries.cpu().double(), padding, value=torch.nan)
            self.rows.setdefault(name, []).append(padded)

    def mean(self, pair: GraphPair, role: str, model: str) -> TapGraph:
        """Return the means over the images, entry by entry over those that have it."""
        means = {name: torch.stack(rows).nanmean(0) for name, rows in self.rows.items()}
        lists = {name: values[~values.isnan()].tolist() for name, values in means.items()}
        return TapGraph(
            stage=pair.name,
            role=role,
            model=model,
            tap=pair.taps[role].name,
            grid=self.grid,
            nodes=lists["nodes"][0],
            eigenvalues=lists["eigenvalues"],
            shares=lists["shares"],
            effective_rank=lists["effective_rank"][0],
            laplacian=lists["laplacian"],
            distance=next(iter(lists["distance"]), None),
        )


def _drawn(item: GraphInput, rows: list[EigenMaps]) -> GraphImage:
    batch = item.batch
    image = batch.images if batch.teacher_images is None else batch.teacher_images
    pixels = (image[0] * 255).round().byte().permute(1, 2, 0).cpu()
    return GraphImage(item.name, pixels, batch.valid[0].cpu(), rows)
