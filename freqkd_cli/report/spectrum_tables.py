"""Tables of ``freqkd spectrum``: radial spectra, and with ``--graph`` graph spectra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freqkd_cli.report.tables import Column, by_stage, render


def radial_table(document: Mapping[str, Any]) -> str:
    """One row per tap and model."""
    columns = [
        "tap",
        "model",
        "stride",
        "channels",
        Column(f"low % (rho <= {document['cutoff']:g})", ".1f"),
        Column("high %", ".1f"),
        Column("log amplitude at Nyquist", ".2f"),
    ]
    rows = [
        [tap, role, numbers["stride"], numbers["channels"], *_shares(numbers)]
        for tap, sides in by_stage(document)
        for role, numbers in sides
    ]
    return render(columns, rows, title=f"{document['source']}, {document['images']} images")


def _shares(numbers: Mapping[str, Any]) -> list[float | None]:
    """The shares in percent, and the log amplitude of the ring nearest to Nyquist."""
    shares = [numbers["low_energy"], numbers["high_energy"]]
    rings = range(len(numbers["rho"]))
    nearest = min(rings, key=lambda ring: abs(numbers["rho"][ring] - 1.0))
    amplitude = numbers["relative_log_amplitude"][nearest]
    return [*(None if share is None else 100 * share for share in shares), amplitude]


def graph_table(document: Mapping[str, Any]) -> str:
    """One row per stage and model."""
    columns = [
        "stage",
        "model",
        "tap",
        "nodes",
        Column("effective rank", ".1f"),
        Column("first eigenvalue %", ".1f"),
        Column("first 4 %", ".1f"),
        Column("2nd of Laplacian", ".3f"),
        Column("mean distance px", ".1f"),
    ]
    sides = [(stage, *side) for stage, present in by_stage(document) for side in present]
    rows = [[stage, role, *_cells(numbers)] for stage, role, numbers in sides]
    return render(columns, rows, title=f"{document['source']}, {document['images']} images")


def _cells(numbers: Mapping[str, Any]) -> list[Any]:
    """The cells of one graph, from its tap on."""
    shares, laplacian = numbers["shares"], numbers["laplacian"]
    return [
        numbers["tap"],
        "x".join(map(str, numbers["grid"])),
        numbers["effective_rank"],
        *(100 * sum(shares[:n]) if shares else None for n in (1, 4)),
        laplacian[1] if len(laplacian) > 1 else None,
        numbers["distance"],
    ]
