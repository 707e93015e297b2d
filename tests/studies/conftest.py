"""The table of a study at the end of the session."""

from __future__ import annotations

from collections import Counter


def pytest_terminal_summary(terminalreporter):
    """Print how many forms had which outcome, and a line for each that failed."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
    ]
    rows = [
        value for report in reports for name, value in report.user_properties if name == "study"
    ]
    for study in sorted({row[0] for row in rows}):
        terminalreporter.section(f"study of {study}")
        counts = Counter((not good, verdict) for kind, verdict, good, _ in rows if kind == study)
        for (bad, verdict), number in sorted(counts.items()):
            terminalreporter.write_line(f"{number:4d}  {'FAILED: ' if bad else ''}{verdict}")
        for kind, _, good, line in sorted(rows, key=lambda row: row[3]):
            if kind == study and not good:
                terminalreporter.write_line(line[:600])
