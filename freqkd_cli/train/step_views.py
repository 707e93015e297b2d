"""The views of the steps of a run, as the loop reads them."""

from __future__ import annotations

from dataclasses import replace

from freqkd_cli.runtime.precision import Compute
from freqkd_cli.teacher.cached import read_ahead
from freqkd_cli.teacher.targets import Source
from freqkd_cli.train.setting import Setting
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import Loader, ViewDataset
from freqkd_cli.views.worker_count import Workers, worker_count


def step_views(
    setting: Setting, step: int, stop: int | None = None, source: Source | None = None
) -> Loader:
    """Return the batches from ``step`` up to ``stop``, or to the end: one per forward pass.

    They are in pinned memory where the run is on a CUDA GPU.

    Args:
        source: where it is a cache, the rows of the next batches are read ahead.
    """
    checked, data = setting.checked, setting.checked.recipe.data
    accumulate = checked.recipe.train.accumulate
    views = ViewDataset(
        setting.images, checked.view_spec, view_seed=data.view_seed, views=data.views
    )
    last = setting.steps.stop if stop is None else stop * accumulate
    steps = replace(setting.steps, start=step * accumulate, stop=last)
    workers: Workers = 0
    if stop is None:  # before the rows are planned, since "auto" looks at the first batch
        gpu, first = setting.device.type != "cpu", next(iter(steps), [])
        workers = worker_count(data.workers, views, first, gpu=gpu)
    ahead = read_ahead(source, steps, data.views, setting.device)
    return Loader(views, ahead, workers, device=setting.device)


def laid_out(batch: Batch, compute: Compute) -> Batch:
    """Return the batch with its images in the memory format of the run."""
    return replace(batch, images=compute.layout(batch.images)) if compute.channels_last else batch
