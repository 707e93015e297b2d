"""``freqkd compare`` of recipes over their seeds: tables, JSON, sections of files, and speed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import fake_runs
import pytest

from freqkd_cli.commands import _comparing
from freqkd_cli.lab.comparison import compare_records
from freqkd_cli.lab.run_collection import collect
from freqkd_cli.report.comparison_table import as_text
from freqkd_cli.report.marked_section import markers, with_section

CE = {0: 0.744, 1: 0.740, 2: 0.738}
KL = {0: 0.760, 1: 0.754, 2: 0.755}


@pytest.fixture
def study(tmp_path) -> Path:
    return fake_runs.study(tmp_path / "st", {"ce": CE, "kl": KL})


def test_the_table_of_a_study_is_in_percent(study, freqkd):
    code, out, err = freqkd("compare", study)
    assert (code, err) == (0, "")
    head, ce, kl = (line.split("\t") for line in out.splitlines()[:3])
    assert head == [
        *("", "seeds", "mIoU", "sd", "difference", "95 % interval", "wins", "gap closed"),
        *("ms per step", "cost", "unequal", "verdict"),
    ]
    assert ce[:5] == ["ce", "0, 1, 2", "74.07", "0.31", ""] and ce[-1] == "baseline"
    assert kl[:7] == ["kl", "0, 1, 2", "75.63", "0.32", "+1.57", "+1.19 to +1.95", "3 of 3"]
    assert kl[-4:] == ["100", "1.00", "", "better"]
    assert "intervals: 95 %, of a paired t test over the seeds" in out.splitlines()


def test_a_narrow_terminal_cuts_nothing(study, freqkd, monkeypatch):
    """Before, each heading and name was cut to five letters."""
    monkeypatch.setattr("freqkd_cli.report.tables.sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    comparison = compare_records(collect([study]).records, "ce")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", as_text(comparison)).splitlines()
    assert lines[1].split("  ")[0] == "" and "95 % interval" in lines[1]
    assert max(len(line.rstrip()) for line in lines[:4]) <= 80
    assert lines[3].split()[:4] == ["kl", "75.63", "0.32", "+1.57"]
    assert lines[5:7] == ["ce: baseline", "kl: better"] and "…" not in "".join(lines)


@pytest.mark.parametrize("folder", ["started", "never started"])
def test_a_baseline_of_a_study_that_has_not_finished_is_named(tmp_path, freqkd, folder):
    """Before, the message was about an option that was not given, without the reason."""
    study = fake_runs.study(tmp_path / "st", {"ce": {0: 0.7}, "kl": {0: 0.8}}, baseline="ce")
    run = study / "runs" / "ce" / "seed-0"
    (run / "summary.json").unlink()
    if folder == "never started":
        (run / "recipe.yaml").unlink()
    run.with_name("seed-0.log").write_text("failed: exit code 1: the loss is not finite\n")
    code, _, err = freqkd("compare", study)
    assert code == 2 and "error: the baseline 'ce' has no finished run" in err
    assert "failed: exit code 1: the loss is not finite" in err and "--baseline kl" in err


def test_json_holds_fractions(study, freqkd):
    code, out, _ = freqkd("compare", study, "--json", "--baseline", "kl")
    document = json.loads(out)
    assert code == 0 and document["baseline"] == "kl" and document["metric"] == "miou"
    ce = document["rows"][0]
    assert ce["verdict"] == "worse" and ce["wins"] == 0 and ce["seeds"] == [0, 1, 2]
    assert ce["miou"]["mean"] == pytest.approx(sum(CE.values()) / 3)
    assert ce["low"] < ce["difference"] < ce["high"] < 0
    assert ce["runs"] == [str(study / f"runs/ce/seed-{seed}") for seed in CE]


def test_runs_with_an_option_of_rows_are_not_scored(study, freqkd):
    """Their folders have no models here."""
    runs = sorted(study.glob("runs/*/seed-*"))
    for options in (("--baseline", "ce"), ("--metric", "pole"), ("--markdown",), ("--no-score",)):
        assert freqkd("compare", *runs, *options)[0] == 0
    assert freqkd("compare", *runs)[0] == 4


def test_the_markdown_table_has_every_seed_and_its_command(study, freqkd):
    out = freqkd("compare", study, "--markdown", "--name", "labels | alone", "--name", "KL")[1]
    lines = out.splitlines()
    assert lines[0].startswith("| Recipe | mIoU | sd | Seeds 0, 1, 2 | Difference |")
    assert lines[2].startswith(r"| `labels \| alone` | 74.07 | 0.31 | 74.40, 74.00, 73.80 |")
    assert lines[-1] == (
        f"- command: `freqkd compare {study} --name 'labels | alone' --name KL --markdown`"
    )
    assert {line.count(" | ") for line in lines[:4]} == {10}


def test_a_section_of_a_file_is_replaced_and_the_rest_is_left(study, freqkd, tmp_path):
    page = tmp_path / "results.md"
    first, last = markers("rivals")
    before = f"# Results\r\n\nMore *prose*.\n{first}\nold table\n{last}\nThe end, no line feed"
    page.write_bytes(before.encode())
    code, out, _ = freqkd("compare", study, "--out", page, "--section", "rivals")
    assert code == 0 and f"section rivals: {page}" in out and "\t+1.57\t" in out
    after = page.read_bytes().decode()
    table = freqkd("compare", study, "--markdown")[1].split("- command")[0]
    head, rest = before.split("old table")
    assert after.startswith(f"{head}\n{table}") and after.endswith(rest)
    assert freqkd("compare", study, "--out", page, "--section", "rivals")[0] == 0
    assert page.read_bytes().decode() == after


@pytest.mark.parametrize("text", ["", "{first}\n", "{last}\n{first}\n", 2 * "{first}\n{last}\n"])
def test_a_file_without_the_section_is_refused_and_unchanged(study, freqkd, tmp_path, text):
    page = tmp_path / "results.md"
    text = text.format(**dict(zip(("first", "last"), markers("a"), strict=True)))
    page.write_text(text)
    code, out, err = freqkd("compare", study, "--out", page, "--section", "a")
    assert (code, out) == (2, "") and "has no section 'a'" in err
    assert page.read_text() == text
    tip = err[err.index("belongs:") :].splitlines()[1:]
    page.write_text("\n".join(line.strip() for line in tip))
    assert with_section(page, "a", "t") == f"{markers('a')[0]}\n\nt\n\n{markers('a')[1]}"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--out", "x.md"), "--out is given without --section"),
        (("--section", "a"), "--section is given without --out"),
        (("--out", "nowhere.md", "--section", "a"), "--out nowhere.md cannot be read"),
        (("--no-score", "--image", "a.png"), "--no-score scores no models"),
        (("--baseline", "kk1"), "--baseline: no row is called 'kk1'"),
        (("--metric", "boundary_iou"), "no run has a number called 'boundary_iou'"),
    ],
)
def test_bad_options_are_one_message(study, freqkd, options, text):
    code, out, err = freqkd("compare", study, *options)
    assert (code, out) == (2, "") and text in err and err.count("error:") == 1


def test_a_folder_without_runs_is_one_message(freqkd, tmp_path):
    code, out, err = freqkd("compare", tmp_path)
    assert (code, out) == (4, "") and "is not a run and contains none" in err


def test_a_number_of_eval_is_compared(study, freqkd):
    for name, scores, step in (("ce", CE, 0.0), ("kl", KL, 0.01)):
        for seed, miou in scores.items():
            result = {"images": 200, "miou": miou, "boundary_iou": 0.1 * (seed + 1) + step * seed}
            (study / f"runs/{name}/seed-{seed}/eval.json").write_text(json.dumps(result))
    document = json.loads(freqkd("compare", study, "--metric", "boundary_iou", "--json")[1])
    assert document["rows"][1]["boundary_iou"]["mean"] == pytest.approx(0.21)
    assert document["rows"][1]["wins"] == 2


def test_a_run_that_ends_while_the_others_are_scored_is_left_out(tmp_path, monkeypatch):
    """Before, its score of val stood among the scores of the test split."""
    from freqkd_cli.score import side_by_side

    study = fake_runs.study(tmp_path / "st", {"ce": CE, "kl": KL})
    summary = study / "runs/kl/seed-1/summary.json"
    finished = summary.read_text()
    summary.unlink()

    def scored(folders, *others, **options):
        summary.write_text(finished)
        rows = [{"miou": 0.5, "iou": {"road": 0.5, "pole": 0.5}} for _ in folders]
        return side_by_side.Comparison(rows, [], ("road", "pole"), None)

    monkeypatch.setattr(side_by_side, "compare", scored)
    request = _comparing.Request([study], score=True, split="test", markdown=True)
    _, rows = _comparing.scored(request, 0)
    values = {row.name: row.values for row in rows.rows}
    assert values == {"ce": {0: 0.5, 1: 0.5, 2: 0.5}, "kl": {0: 0.5, 2: 0.5}}
    assert "not finished" in rows.left_out[str(summary.parent)]


@pytest.mark.timing
def test_many_runs_are_compared_at_once_and_without_torch(tmp_path):
    for number in range(67):
        fake_runs.seeds(tmp_path, f"kl{number}", KL, kl=1.0 + number)
    script = "import sys; sys.argv = ['freqkd', 'compare', sys.argv[1], '--json', '-q']\n"
    script += "from freqkd_cli.app import main\ntry:\n    main()\nfinally:\n"
    script += "    assert 'torch' not in sys.modules and 'scipy.stats' not in sys.modules\n"

    def seconds(*arguments: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    nothing = min(seconds("-c", "import freqkd_cli.lab.comparison") for _ in range(2))
    every = min(seconds("-c", script, str(tmp_path)) for _ in range(2))
    assert every < 4 * nothing + 0.5, (every, nothing)
