"""Whether the weights of a recipe's teacher are on this machine, and the cache used instead."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from freqkd_cli.build.recipe_facts import weights_of_teacher
from freqkd_cli.cache.index_file import read_index
from freqkd_cli.cache.stored_teacher import StoredTeacher
from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.hub import hub_file, is_hub_id, is_path

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def teacher_of_cache(recipe: Recipe, cache: Path | None) -> StoredTeacher | None:
    """Return the teacher of a cache, where the weights of the recipe's teacher are not here.

    None without a cache, where the weights are here, and where the cache is too old to describe
    its teacher.

    Raises:
        Missing: there is no cache.
        UsageError, CacheDamaged: it is unfinished, or its index cannot be used.
    """
    if cache is None or recipe.teacher is None or not any(absent_weights(recipe)):
        return None
    return StoredTeacher.of(cache, read_index(cache))


def warn_of_absent_weights(recipe: Recipe, stored: StoredTeacher) -> None:
    """Log that the recipe's weights are not compared with those of the cache."""
    log.warning(
        "%s is not on this machine, so the teacher of the cache %s is used and not compared with "
        "it (%s, sha256 %s)",
        next(absent_weights(recipe)),
        stored.folder,
        stored.identity.get("name"),
        str(stored.identity.get("weights_sha256"))[:16],
    )


def absent_weights(recipe: Recipe) -> Iterator[str]:
    """Yield the recipe key and the name of all weights of the teacher that are not on this machine.

    A hub id counts as absent where it would have to be downloaded.
    """
    for key, name in weights_of_teacher(recipe):
        if name == "embedded" or Path(name).expanduser().exists():
            continue
        if is_hub_id(name) and not key.endswith(".root"):
            try:
                hub_file(name, _HUB_FILES, offline=True)
            except WeightsMissing:
                yield f"{key}: {name}"
        elif not key.endswith(".encoder_weights") or is_path(name):  # not a published name
            yield f"{key}: {name}"
