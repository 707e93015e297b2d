"""The question, the answer and the facts of a page, in words."""

from __future__ import annotations

from collections import Counter

from freqkd_cli.lab.comparison import Comparison
from freqkd_cli.lab.comparison_row import Row
from freqkd_cli.report import page_curves, page_tables
from freqkd_cli.report.page_roles import Roles, best_row


def question(comparison: Comparison) -> str:
    data = comparison.rows[0].records[0].recipe["data"].get("name", "this data")
    if len(comparison.rows) == 1:
        return f"What did {comparison.rows[0].name} learn on {data}?"
    if len(comparison.rows) == 2:
        return f"Is {best_row(comparison).name} better than {comparison.baseline} on {data}?"
    number = len(comparison.rows) - 1
    return f"Which of {number} recipes is better than {comparison.baseline} on {data}?"


def answer(comparison: Comparison, best: Row) -> list[str]:
    """Return the result in sentences: the best row, then how many rows have which verdict."""
    number, seeds = comparison.number, len(best.seeds)
    score = page_tables.printed(best.mean, number)
    score += "" if best.sd is None else f" ± {page_tables.printed(best.sd, number)}"
    score += " %" if number.percent else ""
    sentences = [f"{best.name}: {number.title} {score} over {seeds} seed{'s' * (seeds != 1)}."]
    if best.difference is not None:
        text = f"Its difference to {comparison.baseline} is "
        text += page_tables.change(best.difference, number) + " points" * number.percent
        if best.low is not None and best.high is not None:
            ends = (page_tables.change(end, number) for end in (best.low, best.high))
            text += f", 95 % interval {' to '.join(ends)}"
        sentences += [f"{text} ({best.verdict.words})."]
    if (best.gap_closed or 0) > 0 and best.verdict.kind != "open":
        sentences.append(f"It closes {best.gap_closed:.0%} of the gap to the teacher.")
    kinds = Counter(row.verdict.kind for row in comparison.rows)
    words = {"better": "better", "worse": "worse", "open": "without a difference that is shown"}
    counts = [f"{kinds[kind]} {text}" for kind, text in words.items() if kinds[kind]]
    if len(comparison.rows) > 2 and counts:
        sentences.append(f"Of {len(comparison.rows) - 1} recipes: {', '.join(counts)}.")
    return sentences


def facts(comparison: Comparison, roles: Roles) -> list[tuple[str, str]]:
    records = [record for row in comparison.rows for record in row.records]
    recipe, rows = records[0].recipe, len(comparison.rows)
    students = dict.fromkeys(record.recipe["student"].get("name", "") for record in records)
    teachers = [record.recipe["teacher"] for record in records if record.recipe.get("teacher")]
    names = dict.fromkeys(str(teacher.get("name")) for teacher in teachers)
    summary = records[0].summary
    part = "held-out" if summary.get("held_out_images") else "validation"
    images = summary.get("val_images")
    size = "x".join(map(str, recipe["data"].get("size", ())))
    score = page_tables.printed(page_curves.teacher_of(comparison, roles), comparison.number)
    facts = [
        ("data", f"{recipe['data'].get('name')}, {size} pixels"),
        (f"{part} images", "" if images is None else f"{images:,}"),
        ("student", ", ".join(students)),
        ("teacher", ", ".join(names) + (f", {score} %" if score else "")),
        ("baseline", comparison.baseline if len(comparison.rows) > 1 else ""),
        ("runs", f"{len(records)}, of {rows} recipe{'s' * (rows != 1)}"),
    ]
    return [(name, value) for name, value in facts if value]
