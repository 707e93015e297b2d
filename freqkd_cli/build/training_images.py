"""The images that a recipe trains on: those of its data set, and a pool without labels.

A pool comes from ``data.pool``, or from the images without a mask of a data set that keeps them
apart (``data.unlabelled: pool``). ``images/pool.py`` explains the design. Only losses that compare
with a teacher learn from a pool.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from freqkd_cli import registry
from freqkd_cli.errors import DataMissing, FreqKDError
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.pool import WithPool, without_labels
from freqkd_cli.recipe.data_section import Pool
from freqkd_cli.views.pool_share import exact, has_both

if TYPE_CHECKING:
    from freqkd_cli.build.assemble import CheckedRecipe
    from freqkd_cli.build.objective import Line
    from freqkd_cli.features.taps import Tap
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)


def training_images(checked: CheckedRecipe, dataset: Dataset) -> Dataset:
    """Return the training split of a recipe together with its pool, where it has one.

    Images without a mask that no loss could use are left out.

    Raises:
        DataMissing, DataBroken: the pool is not there, or cannot be read.
        RecipeError: the share leaves no image of a kind in a batch.
    """
    recipe = checked.recipe
    pool = pool_of(recipe, dataset)
    if pool is None:
        return dataset
    if not compares(recipe, checked.teacher_taps):
        log.info("%d images without masks are not used: no loss compares with a teacher", len(pool))
        return dataset
    if problems := _share_problems(recipe):
        raise recipe.error(problems)
    _note_same_files(pool, dataset)
    return WithPool(dataset, pool)


def may_have_pool(recipe: Recipe) -> bool:
    """Return whether a recipe names a pool."""
    return recipe.data.pool is not None or recipe.data.arguments.get("unlabelled") == "pool"


def share_of(recipe: Recipe) -> float:
    """Return ``data.pool.share``, or its default where the data set alone names a pool."""
    return (recipe.data.pool or Pool()).share


def pool_of(recipe: Recipe, dataset: Dataset | None) -> Dataset | None:
    """Return the images of a recipe's pool, without labels.

    Args:
        dataset: the training split, which may keep images without masks apart; not read where
            ``data.pool`` names a data set.

    Raises:
        DataMissing: the pool has no images.
        DataBroken: it cannot be read.
    """
    section = recipe.data.pool
    if section is None or section.name is None:
        return getattr(dataset, "rest", None)
    try:
        pool = _build(section, recipe)
    except FreqKDError as error:
        raise _of_pool(error) from error
    if not len(pool):
        raise DataMissing("the pool has no images", tip="--set data.pool=null", key="data.pool")
    return pool


def _build(section: Pool, recipe: Recipe) -> Dataset:
    module = registry.find("datasets", str(section.name))
    if hasattr(module, "build_pool"):
        return module.build_pool(root=section.root, arguments=section.arguments)
    keywords = registry.keywords("datasets", str(section.name), section.arguments)
    return without_labels(
        module.build(split="train", root=section.root, size=tuple(recipe.data.size), **keywords)
    )


def _of_pool(error: FreqKDError) -> FreqKDError:
    """Return the error with the keys of the pool, where it is about keys of a data set."""
    tip = error.tip
    if tip and "--data-root" in tip:
        tip = "--set 'data.pool.root=DIR'"
    elif tip:
        tip = re.sub(r"(?<![\w.])data\.(?!pool)", "data.pool.", tip)
    key = f"data.pool.{error.key or 'root'}"
    return type(error)(f"the pool: {error.what}", got=error.got, need=error.need, tip=tip, key=key)


def problems(recipe: Recipe, teacher_taps: Mapping[str, Tap]) -> list[tuple[str, str]]:
    """Return what is wrong with ``data.pool``, as (key path, text)."""
    section = recipe.data.pool
    if section is None:
        return []
    from_split = recipe.data.arguments.get("unlabelled") == "pool"
    if section.name is None and not from_split:
        text = "missing, need a data set, or data.unlabelled: pool with images without masks"
        return [("data.pool.name", text)]
    if section.name is not None and from_split:
        text = "data.unlabelled: pool names another pool, need one of them"
        return [("data.pool.name", f"{text}; try --set data.unlabelled=refuse")]
    if section.name is not None and not compares(recipe, teacher_taps):
        text = (
            "no loss compares with a teacher on images without labels, so the student learns "
            "nothing from them"
        )
        return [("data.pool", f"{text}; add one such as logit_kl, or --set data.pool=null")]
    return [*_root_problems(section), *_share_problems(recipe)]


def _root_problems(section: Pool) -> list[tuple[str, str]]:
    module = registry.find("datasets", section.name) if section.name else None
    if section.root is None or getattr(module, "READS_FOLDER", True):
        return []
    text = f"the data set {section.name} is made on the fly and reads no folder"
    return [("data.pool.root", f"{text}; try --set data.pool.root=null")]


def _share_problems(recipe: Recipe) -> list[tuple[str, str]]:
    share, batch_size = share_of(recipe), recipe.train.batch_size
    if has_both(batch_size, share):
        return []
    text = (
        f"{share} of train.batch_size {batch_size} is {float(exact(share) * batch_size):g} images, "
        "need at least one labelled image and one of the pool in a batch"
    )
    smaller = min(exact(share), 1 - exact(share))
    tips = [f"--set 'train.batch_size={-(-1 // smaller)}'"]
    if batch_size > 1:
        tips.insert(0, "--set 'data.pool.share=0.5'")
    return [("data.pool.share", f"{text}; try {', or '.join(tips)}")]


def compares(recipe: Recipe, teacher_taps: Mapping[str, Tap]) -> bool:
    """Return whether a loss compares with the teacher on images without labels.

    A loss of labels that weights its pixels by the teacher does not.
    """
    if recipe.teacher is None:
        return False
    for line in recipe.losses:
        if line.weight == 0:
            continue
        try:
            loss = registry.find("losses", line.name).build(**line.arguments)
            copies = bool(loss.teacher_taps(teacher_taps)) and loss.learns_without_labels
        except (FreqKDError, KeyError):
            # A line that cannot be built, or names no tap of the teacher, has an error of its own.
            return True
        if copies:
            return True
    return False


def _note_same_files(pool: Dataset, dataset: Dataset) -> None:
    """Log how many files of the pool are labelled training images as well."""
    if isinstance(pool, FileDataset) and isinstance(dataset, FileDataset):
        own = {pair.image.resolve() for pair in dataset.pairs}
        same = sum(pair.image.resolve() in own for pair in pool.pairs)
        if same:
            log.info("%d of %d images of the pool are labelled images too", same, len(pool))


def check_labels(checked: CheckedRecipe, lines: Sequence[Line], dataset: Dataset) -> None:
    """Refuse losses that read labels on images that have none.

    Raises:
        RecipeError: with the line of every such loss.
    """
    if dataset.labelled:
        return
    built, problems = {line.id: line for line in lines}, []
    for number, spec in enumerate(checked.recipe.losses):
        if spec.id in built and built[spec.id].loss.needs_labels:
            text = "reads labels, and these images have none; leave it out, or add a masks folder"
            problems.append((f"losses.{number}", text))
        elif spec.id in built and spec.arguments.get("only_where_right"):
            tip = f"--set 'losses.{spec.id}.only_where_right=false', or add a masks folder"
            text = f"reads labels, and these images have none; try {tip}"
            problems.append((f"losses.{number}.only_where_right", text))
    if problems:
        raise checked.recipe.error(problems)
