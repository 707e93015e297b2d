"""``freqkd teacher-dump``: build a recipe's parts, then dump, verify or estimate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.build import assemble
from freqkd_cli.build.training_images import training_images
from freqkd_cli.cache.cache_folder import Mode, check_folder
from freqkd_cli.cache.index_file import INDEX
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.doctor import diagnosis
from freqkd_cli.errors import RecipeError, UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.images.pool import WithPool
from freqkd_cli.recipe.command_line import distill_command
from freqkd_cli.runtime.byte_sizes import size
from freqkd_cli.runtime.memory import keep_freed_memory
from freqkd_cli.runtime.processes import Processes, join
from freqkd_cli.runtime.progress import Progress, Silent
from freqkd_cli.teacher.choices import compare
from freqkd_cli.teacher.dump import dump, summary
from freqkd_cli.teacher.dump_plan import SHARD_BYTES, Job, estimate_seconds, plan
from freqkd_cli.teacher.live import LiveTeacher
from freqkd_cli.teacher.opening import show_views
from freqkd_cli.teacher.recipe_cache import Form, needed_fingerprint, require_fit
from freqkd_cli.teacher.recorded import listed_files, teacher_facts
from freqkd_cli.teacher.teacher_classes import check_teacher_classes
from freqkd_cli.teacher.verification import verify

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DumpOptions:
    """Options of ``teacher-dump``.

    Attributes:
        verify: number of views to check; 0 = none.
        also: other recipes with the same teacher and views; taps that they read are stored too.
        hint: log the command that trains from the cache.
        compare: a dry run compares all forms of a cache.
    """

    form: Form = Form()
    device: str | None = None
    mode: Mode = "new"
    verify: int = 0
    shard_bytes: int = SHARD_BYTES
    also: tuple[Recipe, ...] = ()
    hint: bool = True
    compare: bool = False


def dump_recipe(
    recipe: Recipe, out: Path, progress: Progress, options: DumpOptions
) -> dict[str, Any]:
    """Make the cache of a recipe, or only check a finished one where ``verify`` is set.

    Raises:
        FreqKDError: as :func:`freqkd_cli.teacher.dump.dump` and
            :func:`freqkd_cli.teacher.verification.verify` do.
    """
    processes = join(options.device)
    if processes.share(options.verify and options.mode == "new" and (out / INDEX).is_file()):
        return _check_existing(recipe, out, progress, options, processes)
    if processes.first:
        check_folder(out, options.mode)
    job = _build_job(recipe, options, processes, progress)
    result = dump(
        job, out, progress, mode=options.mode, shard_bytes=options.shard_bytes, processes=processes
    )
    if options.verify and processes.first:
        result |= _verified(job, CacheReader(out), options.verify, progress)
    if options.form.split == "train" and options.hint:
        log.info("Next: %s", distill_command(recipe, out))
    return result


def dry_run(recipe: Recipe, out: Path, options: DumpOptions) -> dict[str, Any]:
    """Return size and expected duration of a dump, from one batch. Nothing is written.

    It is refused where the dump would be refused. With ``compare``, ``choices`` has a row for each
    form of the cache, see :func:`freqkd_cli.teacher.choices.compare`.
    """
    check_folder(out, options.mode)
    job = _build_job(recipe, options, join(options.device), Silent())
    _, estimate = plan(job, options.shard_bytes)
    seconds = estimate_seconds(job, estimate.items)
    shards = f"{estimate.shards} shard{'s' * (estimate.shards != 1)}"
    choices = compare(recipe, job, estimate.items, seconds) if options.compare else []
    return {
        "cache": str(out),
        "items": estimate.items,
        "views": job.views or 1,
        "bytes": estimate.bytes,
        "taps": list(estimate.names),
        "seconds": round(seconds, 3),
        "images_per_second": round(estimate.items / seconds, 2),
        "writes": [
            str(out / "index.json"),
            f"{shards} of at most {size(options.shard_bytes)}, {size(estimate.bytes)} in all",
        ],
        **({"choices": choices} if choices else {}),
    }


def _build_job(
    recipe: Recipe, options: DumpOptions, processes: Processes, progress: Progress
) -> Job:
    """Build the parts of a dump, the slow teacher last."""
    _require_teacher_and_views(recipe, options.form)
    checked = assemble.check(recipe, fetch=True)
    assert recipe.teacher is not None
    dataset = assemble.build_dataset(recipe, options.form.split)
    if processes.first:
        diagnosis.require(dataset, options.form.split, progress)
    if options.form.split == "train":
        dataset = training_images(checked, dataset)
        if processes.first and isinstance(dataset, WithPool):
            diagnosis.require(dataset.pool, "the pool", progress)
    lines = assemble.build_lines(checked)
    for number, other in enumerate(options.also):
        others = assemble.build_lines(assemble.check(other, fetch=True))
        lines += tuple(replace(line, id=f"{number}.{line.id}") for line in others)
    if processes.device.type == "cpu":
        keep_freed_memory()
    teacher = assemble.build_teacher(recipe, len(checked.classes))
    class_map = check_teacher_classes(checked, teacher)
    facts = teacher_facts(recipe, teacher, checked.teacher_taps)
    teacher.ready(processes.device)
    views = recipe.data.views if options.form.split == "train" else None
    show_views(teacher, checked, dataset, views)
    fingerprint = needed_fingerprint(checked, lines, teacher, dataset, options.form)
    _check_scores(options.form, fingerprint.fields["taps"], checked.teacher_taps)
    live = LiveTeacher(
        teacher.to(processes.device),
        {line.id: line.loss.to(processes.device).eval() for line in lines},
        checked.teacher_taps,
        dtype=recipe.teacher.dtype,
        class_map=class_map,
    )
    return Job(
        teacher=live,
        split=dataset,
        spec=checked.view_spec,
        view_seed=recipe.data.view_seed,
        views=recipe.data.views if options.form.split == "train" else 0,
        student_taps=checked.student_taps,
        fingerprint=fingerprint,
        images=fingerprint.fields["images"],
        facts=facts,
        files=listed_files(dataset, fingerprint.fields),
        batch_size=recipe.train.batch_size,
        device=processes.device,
        workers=recipe.data.workers,
    )


def _require_teacher_and_views(recipe: Recipe, form: Form) -> None:
    """Refuse a recipe without teacher, or with endless training views."""
    if recipe.teacher is None:
        raise RecipeError(
            "the recipe has no teacher to dump", tip="add a `teacher:` section", key="teacher"
        )
    if form.split == "train" and recipe.data.views == 0:
        raise UsageError(
            "endless views cannot be stored",
            got="data.views 0",
            need="a number of views per image",
            tip="--set data.views=1",
            key="data.views",
        )


def _check_scores(form: Form, stored: Sequence[str], taps: Mapping[str, Tap]) -> None:
    """Refuse ``--scores`` where no class scores are stored, or all of them."""
    if not form.scores:
        return
    if "logits" not in stored:
        raise UsageError(
            "no loss of this recipe reads class scores",
            got=f"--scores {form.scores}",
            tip="leave out --scores",
        )
    if form.scores >= taps["logits"].channels:
        raise UsageError(
            "--scores keeps every class",
            got=f"--scores {form.scores}",
            need=f"less than {taps['logits'].channels} classes",
            tip="a smaller number, or leave out --scores",
        )


def _check_existing(
    recipe: Recipe, out: Path, progress: Progress, options: DumpOptions, processes: Processes
) -> dict[str, Any]:
    if not processes.first:  # one process is enough to check some views
        return {}
    reader = CacheReader(out)
    images = options.form.images
    form = Form.of(reader, options.form.split, images or reader.fingerprint.fields.get("images"))
    job = _build_job(recipe, replace(options, form=form), processes, progress)
    require_fit(reader, job.fingerprint, recipe, replace(form, images=images), job.split)
    verified = _verified(job, reader, options.verify, progress)
    return summary(reader, written=0, seconds=0.0) | verified


def _verified(job: Job, reader: CacheReader, number: int, progress: Progress) -> dict[str, Any]:
    verified = verify(job, reader, number, progress)
    progress.note(
        f"verified {verified.items} views against the live teacher: the largest difference is "
        f"{verified.worst:.0%} of the tolerance"
    )
    return {"verified": verified.items}
