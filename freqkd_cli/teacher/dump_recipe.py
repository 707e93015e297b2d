"""``teacher-dump`` for a recipe: its parts are built here, ``engine/dump_plan.py`` and ``engine/dump.py`` do the work on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.build import assemble
from freqkd_cli.cache.index_file import INDEX
from freqkd_cli.cache.reader import CacheReader
from freqkd_cli.cache.writer import Mode, check_folder
from freqkd_cli.doctor import diagnosis
from freqkd_cli.errors import RecipeError, UsageError
from freqkd_cli.runtime.memory import keep_freed_memory
from freqkd_cli.runtime.processes import Processes, join
from freqkd_cli.runtime.progress import Progress, Silent
from freqkd_cli.teacher.dump import dump, result
from freqkd_cli.teacher.dump_plan import SHARD_BYTES, Job, plan
from freqkd_cli.teacher.opening import Form, command_for, fingerprint
from freqkd_cli.teacher.sources import LiveTeacher
from freqkd_cli.teacher.teacher_classes import check_teacher_classes
from freqkd_cli.teacher.verification import verify

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class DumpOptions:
    """What ``teacher-dump`` may be told beside the recipe. ``verify`` is the number of views to check, 0 = none."""

    form: Form = Form()
    device: str | None = None
    mode: Mode = "new"
    verify: int = 0
    shard_bytes: int = SHARD_BYTES


def _job(recipe: Recipe, options: DumpOptions, processes: Processes, progress: Progress) -> Job:
    """Build what a dump needs, the teacher last, because it takes longest."""
    if recipe.teacher is None:
        raise RecipeError("the recipe has no teacher to dump", tip="add a `teacher:` section")
    checked = assemble.check(recipe, fetch=True)
    if options.form.split == "train" and recipe.data.views == 0:
        raise UsageError(
            "endless views cannot be stored",
            got="data.views 0",
            need="a number of views of each image",
            tip="--set data.views=1",
        )
    dataset = assemble.build_dataset(recipe, options.form.split)
    if processes.first:
        diagnosis.require(dataset, options.form.split, progress)
    lines = assemble.build_lines(checked)
    if processes.device.type == "cpu":
        keep_freed_memory()
    teacher = assemble.build_teacher(recipe, len(checked.classes))
    class_map = check_teacher_classes(checked, teacher)
    teacher.ready(processes.device)
    identity = fingerprint(checked, lines, teacher, dataset, options.form)
    losses = {line.id: line.loss.to(processes.device).eval() for line in lines}
    return Job(
        teacher=LiveTeacher(
            teacher.to(processes.device),
            losses,
            checked.teacher_taps,
            dtype=recipe.teacher.dtype,
            class_map=class_map,
        ),
        pictures=dataset,
        spec=checked.view_spec,
        view_seed=recipe.data.view_seed,
        views=recipe.data.views if options.form.split == "train" else 0,
        student_taps=checked.student_taps,
        fingerprint=identity,
        images=identity.fields["images"],
        batch_size=recipe.train.batch_size,
        device=processes.device,
        workers=recipe.data.workers,
    )


def dump_recipe(
    recipe: Recipe, out: Path, progress: Progress, options: DumpOptions
) -> dict[str, Any]:
    """``teacher-dump``: make the cache, or, with ``verify`` on a finished one, only check it.

    Raises:
        FreqKDError: as :func:`freqkd_cli.teacher.dump.dump` and :func:`freqkd_cli.teacher.verification.verify` do.
    """
    processes = join(options.device)
    if processes.share(options.verify and options.mode == "new" and (out / INDEX).is_file()):
        return _check_existing(recipe, out, progress, options, processes)
    if processes.first:
        check_folder(out, options.mode)
    job = _job(recipe, options, processes, progress)
    found = dump(
        job, out, progress, mode=options.mode, shard_bytes=options.shard_bytes, processes=processes
    )
    if options.verify and processes.first:
        found |= _verified(job, CacheReader(out), options.verify, progress)
    return found


def _check_existing(
    recipe: Recipe, out: Path, progress: Progress, options: DumpOptions, processes: Processes
) -> dict[str, Any]:
    if not processes.first:  # a check of some views is work for one
        return {}
    reader = CacheReader(out)
    form = Form.of(
        reader, options.form.split, options.form.images or reader.fingerprint.fields.get("images")
    )
    job = _job(recipe, replace(options, form=form), processes, progress)
    command = command_for(recipe, out, replace(form, images=options.form.images))
    for warning in reader.fingerprint.require(job.fingerprint, where=out, command=command):
        progress.note(f"warning: {out}: {warning}")
    return result(reader, written=0, seconds=0.0) | _verified(job, reader, options.verify, progress)


def _verified(job: Job, reader: CacheReader, number: int, progress: Progress) -> dict[str, Any]:
    found = verify(job, reader, number, progress)
    progress.note(
        f"verified {found.items} views against the live teacher: the largest difference is {found.worst:.0%} of what is allowed"
    )
    return {"verified": found.items}


def dry_run(recipe: Recipe, out: Path, options: DumpOptions) -> dict[str, Any]:
    """What :func:`dump_recipe` would write, from one picture; nothing is written. Refused for what the dump would be refused for."""
    check_folder(out, options.mode)
    job = _job(recipe, options, join(options.device), Silent())
    _, estimate = plan(job, options.shard_bytes)
    shards = f"{estimate.shards} shard{'s' * (estimate.shards != 1)}"
    return {
        "cache": str(out),
        "items": estimate.items,
        "views": job.views or 1,
        "bytes": estimate.bytes,
        "taps": list(estimate.names),
        "seconds": None,
        "images_per_second": None,
        "writes": [
            str(out / "index.json"),
            f"{shards} of {options.shard_bytes / 2**20:.0f} MiB at most",
        ],
    }
