"""What a command says: the result to standard output, everything else to standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.launch import rank


def print_result(result: Any, as_json: bool, table: Callable[[Any], str]) -> None:
    """Write the result to standard output: one JSON document, or what ``table(result)`` makes of it; the first process alone does."""
    if rank() != 0:
        return
    text = json.dumps(_jsonable(result), indent=2, ensure_ascii=False) if as_json else table(result)
    if text:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def _jsonable(value: Any) -> Any:
    """Plain JSON values: numbers that are not finite become null, paths and other objects their text."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(child) for key, child in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(child) for child in value]
    if hasattr(value, "tolist"):  # numpy and torch, without importing them
        return _jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def columns(rows: Iterable[Sequence[Any]], indent: str = "") -> str:
    """Rows as aligned text; numbers to the right. Nothing is cut, so it can be piped on."""
    cells = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not cells:
        return ""
    kinds = [
        [isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in row]
        for row in rows
    ]
    widths = [
        max(len(row[i]) for row in cells if i < len(row)) for i in range(max(map(len, cells)))
    ]
    lines = []
    for row, kind in zip(cells, kinds, strict=True):
        padded = [
            cell.rjust(w) if right else cell.ljust(w)
            for cell, w, right in zip(row, widths, kind, strict=False)
        ]
        lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def facts(result: Mapping[str, Any]) -> str:
    """A result as one ``name  value`` a line; scores in percent, what is not known left out."""
    return columns(
        [(name, _fact(name, value)) for name, value in result.items() if value is not None]
    )


def _fact(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(key, child)}" for key, child in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{100 * value:.2f}" if name.endswith("miou") else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def check_file(option: str, path: Path | None, suffix: str) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold.

    Raises:
        UsageError: it ends in something other than ``suffix``, is a folder, or would lie below a file.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix or path.is_dir():
        raise UsageError(
            f"{option} {path} is no file that can be written", need=f"a file ending in {suffix}"
        )
    check_parents(option, path)


def check_parents(option: str, path: Path) -> None:
    """Refuse a place that could not be made, before the work whose result it is to hold.

    Raises:
        UsageError: the path would lie below a file.
    """
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise UsageError(f"{option} {path} lies below {there}, which is a file", need="a folder")


def argument_table(arguments: Sequence[Mapping[str, Any]]) -> str:
    """The arguments of a part, as ``recipe.describe.arguments`` gives them."""
    if not arguments:
        return "no arguments"
    rows = [
        (
            row["name"],
            row["type"],
            "required" if row["required"] else json.dumps(row["default"], ensure_ascii=False),
            row["about"],
        )
        for row in arguments
    ]
    return columns([("argument", "type", "default", ""), *rows])
