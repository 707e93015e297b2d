"""``freqkd sweep``: run the recipes of a plan with several seeds."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from freqkd_cli.commands._options import DataRoot, Device, DryRun, Json, Quiet, Verbose
from freqkd_cli.commands._output import check_parents, columns, facts, print_result

log = logging.getLogger(__name__)


def complete_plan(incomplete: str) -> list[str]:
    """Complete the names of shipped plans; the shell adds files itself."""
    from freqkd_cli.recipe.shipped import plan_paths

    return [name for name in plan_paths() if name.startswith(incomplete)]


PlanArgument = Annotated[
    str,
    typer.Argument(
        metavar="PLAN",
        help="A plan file, a study folder, or the name of a shipped plan.",
        autocompletion=complete_plan,
    ),
]
PlanSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of every recipe, for example data.views=1 (repeatable).",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="NAME/seed-N", help="Run this run of the plan alone (repeatable)."
    ),
]
Commands = Annotated[
    bool,
    typer.Option(
        "--commands",
        help="Print one shell line for each missing run, for xargs, GNU parallel or a Slurm array.",
    ),
]
Prepare = Annotated[
    bool,
    typer.Option("--prepare", help="Make the caches and measure fairness, without any run."),
]


def run(
    plan: PlanArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the study.")],
    sets: PlanSets = None,
    data_root: DataRoot = None,
    only: Only = None,
    commands: Commands = False,
    prepare: Prepare = False,
    device: Device = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
) -> None:
    """Run the recipes of a plan with several seeds.

    Finished runs are skipped and interrupted ones resumed, so the same command continues a study.
    Several workers may share one study folder. Runs that share teacher and views read one cache.
    Every recipe is checked before anything runs. With --dry-run, print runs, bytes and hours.

        freqkd sweep rivals --out studies/rivals --dry-run
        freqkd sweep rivals --out studies/rivals
        freqkd sweep rivals --out studies/rivals --commands > commands.txt
    """
    from freqkd_cli.errors import UsageError
    from freqkd_cli.lab import plan as plans
    from freqkd_cli.recipe.resolved import flow
    from freqkd_cli.runtime import launch

    if launch.processes() > 1:
        raise UsageError(
            "freqkd sweep does not run under a launcher",
            got=f"{launch.processes()} processes",
            tip="start freqkd sweep several times: workers share a study folder",
        )
    if commands and plan == "-":
        raise UsageError(
            "--commands prints lines that read the plan again",
            got="- (standard input)",
            need="a plan file, a study folder, or the name of a shipped plan",
        )
    check_parents("--out", out)
    root = [f"data.root={flow(str(data_root.absolute()))}"] if data_root else []
    given = [*(sets or ()), *root]
    loaded = plans.load(plan, given)
    from freqkd_cli.lab import prepare_study, study_cost, study_worker
    from freqkd_cli.report.progress_bars import progress

    opened = prepare_study.open_study(loaded, out)
    listener, runs = progress(verbose - quiet), study_worker.chosen(opened, only or ())
    if commands:
        base = ["freqkd", "sweep", plan, "--out", str(out)]
        base += [word for text in given for word in ("--set", text)]
        base += ["--device", device] if device else []
        lines = [shlex.join([*base, "--only", run.name]) for run in runs if run.summary() is None]
        print_result(lines, as_json, "\n".join)
    elif dry_run:
        print_result(study_cost.cost(opened, device, listener), as_json, _cost_table)
    else:
        _run(opened, listener, device, only or (), prepare, as_json)


def _run(
    opened: Any, listener: Any, device: str | None, only: Any, prepare: bool, as_json: bool
) -> None:
    from freqkd_cli.lab import study_worker

    outcome = study_worker.sweep(opened, listener, device=device, only=only, prepare_only=prepare)
    print_result(outcome.to_json(opened.study.folder), as_json, _table)
    error = study_worker.failure(outcome)
    if error is not None:
        raise error
    if not prepare:
        log.info("Next: freqkd compare %s", shlex.quote(str(opened.study.folder)))


def _table(result: dict[str, Any]) -> str:
    shown = {key: value for key, value in result.items() if key != "failed"}
    return facts(shown | ({"failed": len(result["failed"])} if result["failed"] else {}))


def _cost_table(result: dict[str, Any]) -> str:
    from freqkd_cli.runtime.byte_sizes import size
    from freqkd_cli.train.estimate import duration

    rows: list[tuple[Any, ...]] = [("row", "steps", "teacher", "a run", "on disk")]
    for row in result["rows"]:
        steps = "to be measured" if row["steps"] is None else row["steps"]
        rows.append(
            (row["name"], steps, row["teacher"], duration(row["seconds"]), size(row["bytes"]))
        )
    parts = [columns(rows)]
    for cache in result["caches"]:
        fits = "" if cache["fits"] else ", does not fit on the disk: the teacher runs live"
        seconds = duration(cache["seconds"])
        number = f"{len(cache['rows'])} row{'s' * (len(cache['rows']) != 1)}"
        parts.append(f"{cache['cache']}: {size(cache['bytes'])} for {number}, {seconds}{fits}")
    total = {
        "runs": f"{result['runs']}, {result['finished']} of them finished",
        "baseline": result["baseline"],
        "caches": size(result["bytes"]["caches"]),
        "run folders": f"at most {size(result['bytes']['runs'])}",
        "free": size(result["bytes"]["free"]),
        "time": f"about {duration(3600 * result['hours'])} on this machine, one worker",
    }
    return "\n\n".join([*parts, columns(list(total.items()))])
