"""Load views in batches, in worker processes.

Views depend on seeds, epoch and index alone, so the number of workers changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from freqkd_cli.errors import FreqKDError
from freqkd_cli.views.apply import apply_geometry, apply_photometric
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.labels import void_label
from freqkd_cli.views.steps import WHOLE, Item
from freqkd_cli.views.view import View, ViewSpec, draw, whole
from freqkd_cli.views.worker_count import PREFETCHED, Workers, worker_count
from freqkd_cli.views.workers import Watched, prepare_worker

Sample = dict[str, Any]


class ImageSource(Protocol):
    """The part of a data set that views use.

    With ``labelled``, single images may still have no labels, such as those of a pool. A source may
    have an attribute ``kept`` (``images/keep.py``), from which views then read.
    """

    labelled: bool

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def image_size(self, index: int) -> tuple[int, int]: ...
    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]: ...


class ViewDataset(TorchDataset):
    """Views of a data set, by item (index, n).

    The geometry is that of draw ``n % views`` where views are stored, else of draw ``n``. With
    ``teacher_sees: clean`` the colors are always those of draw ``n``, because only the teacher's
    side is stored. An error that a user can cause is returned in place of the sample: so it reaches
    the main process unchanged, not as a worker's traceback.
    """

    def __init__(
        self, images: ImageSource, spec: ViewSpec | None, *, view_seed: int = 0, views: int = 0
    ) -> None:
        self.images, self.spec, self.view_seed, self.views = images, spec, view_seed, views
        self.ignore = void_label(len(getattr(images, "classes", ())))

    def __len__(self) -> int:
        return len(self.images)

    def number(self, n: int) -> int:
        """Return the number of the view of the n-th draw."""
        return n % self.views if self.views > 0 and n != WHOLE else n

    def view(self, item: Item) -> View:
        """Return the view of an item, as data."""
        index, n = item
        size = self.images.image_size(index)
        if n == WHOLE or self.spec is None:
            return whole(size)
        number = self.number(n)
        colors = n if self.spec.teacher_sees == "clean" else number
        return draw(
            self.spec, size, view_seed=self.view_seed, index=index, draw=number, color_draw=colors
        )

    def __getitem__(self, item: Item) -> Sample | FreqKDError:
        try:
            return self.sample(item)
        except FreqKDError as error:
            return error
        except MemoryError:
            return FreqKDError(
                f"not enough memory to cut a view from image {item[0]}",
                tip="set data.workers or train.batch_size to a smaller number",
            )

    def sample(self, item: Item) -> Sample:
        index, n = item
        view = self.view(item)
        kept = getattr(self.images, "kept", None)
        content = kept.read(self.images, index) if kept else self.images.read(index)
        image, labels, valid = apply_geometry(view, *content, self.ignore)
        sample: Sample = {"labels": labels, "valid": valid, "index": index, "view": self.number(n)}
        sample["ignore"] = self.ignore
        if labels is None and self.images.labelled:
            sample["labels"] = torch.full_like(valid, self.ignore, dtype=torch.int64)
            sample["from_pool"] = True
        sample["image"] = apply_photometric(view, image, valid)
        if self.spec is not None and self.spec.teacher_sees == "clean" and n != WHOLE:
            sample["teacher_image"] = image
        return sample


def collate(samples: Sequence[Sample | FreqKDError]) -> Batch | FreqKDError:
    """Return a batch of samples of one size, or their first error."""
    for sample in samples:
        if isinstance(sample, FreqKDError):
            return sample

    def stack(name: str) -> Tensor | None:
        tensors = [sample[name] for sample in samples if sample.get(name) is not None]
        # In a worker, directly into memory that the main process shares.
        return default_collate(tensors) if len(tensors) == len(samples) else None

    def numbers(name: str) -> Tensor:
        return torch.tensor([sample[name] for sample in samples], dtype=torch.int64)

    images, valid = stack("image"), stack("valid")
    assert images is not None and valid is not None
    from_pool = torch.tensor([sample.get("from_pool", False) for sample in samples])
    return Batch(
        images,
        stack("labels"),
        valid,
        numbers("index"),
        numbers("view"),
        stack("teacher_image"),
        samples[0]["ignore"],
        from_pool if from_pool.any() else None,
    )


class _QuietDataLoader(DataLoader):
    """A loader without torch's warning about few cores.

    A recipe is written once for many machines, some with fewer cores than ``data.workers``.
    """

    def check_worker_number_rationality(self) -> None: ...


class Loader:
    """Batches of the items that ``batches`` lists.

    The worker processes of an iteration end with it, or when its generator is closed.

    Args:
        dataset: the views.
        batches: lists of items; any iterable, such as :class:`Steps` for a training.
        workers: processes that read and cut images, one torch thread each; 0 = in this process,
            auto = :func:`worker_count`.
        device: where the batches are used. For a CUDA GPU they are in pinned memory.

    Raises:
        FreqKDError: while iterating: the error of an image that cannot be read, as raised in the
            worker; a worker was killed; or no worker can be started.
    """

    def __init__(
        self,
        dataset: ViewDataset,
        batches: Iterable[list[Item]],
        workers: Workers = 0,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.batches, kind = batches, torch.device(device).type
        if workers == "auto":
            workers = worker_count(workers, dataset, next(iter(batches), []), gpu=kind != "cpu")
        self._loader = _QuietDataLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=prepare_worker,
            # An iteration draws a seed, which must not come from the run's random numbers.
            generator=torch.Generator(),
            prefetch_factor=PREFETCHED if workers > 0 else None,
            pin_memory=kind == "cuda",
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Generator[Batch, None, None]:
        # Only this generator holds the iterator, so closing it ends the workers.
        batches = Watched(self._loader)
        while (batch := batches.next()) is not None:
            if isinstance(batch, FreqKDError):
                raise batch
            yield batch


def whole_batches(
    images: ImageSource,
    batch_size: int | Callable[[int, int], int],
    workers: Workers = 0,
    *,
    indices: Sequence[int] | None = None,
    process: int = 0,
    processes: int = 1,
    device: torch.device | str = "cpu",
) -> Loader:
    """Return a loader of the view ``whole`` of every image of a split, or of ``indices``.

    ``batch_size`` may be a function of the padded height and width.

    Images of different padded sizes never share a batch. Of several processes each loads whole
    batches, so that the batch of an image, and every bit, does not depend on their number.
    """
    dataset = ViewDataset(images, None)
    waiting: dict[tuple[int, int], list[Item]] = {}
    batches: list[list[Item]] = []
    for index in range(len(images)) if indices is None else indices:
        view = dataset.view((index, WHOLE))
        group = waiting.setdefault((view.height, view.width), [])
        group.append((index, WHOLE))
        most = batch_size(view.height, view.width) if callable(batch_size) else batch_size
        if len(group) == most:
            batches.append(waiting.pop((view.height, view.width)))
    batches = [*batches, *waiting.values()][process::processes]
    return Loader(dataset, batches, workers, device=device)
