"""How commands print their result to standard output, and check where they will write."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.launch import rank
from freqkd_cli.runtime.writable import nearest_folder, require_writable


def print_result(result: Any, as_json: bool, table: Callable[[Any], str]) -> None:
    """Write a result to standard output, in the first process only.

    Args:
        as_json: write one JSON document, else the text that ``table(result)`` returns.
    """
    if rank() != 0:
        return
    text = _json_text(result) if as_json else table(result)
    try:
        if text:
            sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except OSError as error:
        error.filename = error.filename or "standard output"
        raise


def _json_text(result: Any) -> str:
    """A JSON document; characters that standard output cannot encode are JSON escapes in it."""
    values = _jsonable(result)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a narrow terminal, or a file name that is not UTF-8
        return json.dumps(values, indent=2)
    return text


def _jsonable(value: Any) -> Any:
    """Plain JSON values: numbers that are not finite become null, other objects their text."""
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
    """Rows as aligned text, numbers flush right.

    On a terminal, cells that do not fit its width are wrapped. Elsewhere a row is one line and
    nothing is cut, so that other programs can read it.
    """
    rows = list(rows)
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = _widths(cells)
    room = shutil.get_terminal_size().columns - len(indent)
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) - 2 > room:
        from freqkd_cli.report.tables import drawn

        flush_right = [map(_is_number, row) for row in rows]
        lines = drawn(cells, flush_right, width=max(room, 20)).splitlines()
    else:
        lines = [_aligned(row, texts, widths) for row, texts in zip(rows, cells, strict=True)]
    return "\n".join((indent + line).rstrip() for line in lines)


def blocks(rows: Sequence[Sequence[str]], more: Sequence[Sequence[str]]) -> list[list[Any]]:
    """Return tables that fit a terminal: ``rows`` and ``more``, as one table where that fits.

    Else ``rows`` are cut into groups of columns, each after the first column, with ``more`` last.
    """
    room, whole = shutil.get_terminal_size().columns, [*rows, ("",), *more]
    widths = _widths(whole)
    if not sys.stdout.isatty() or sum(widths) + 2 * len(widths) - 2 <= room:
        return [whole]
    first, *others = _widths(rows)
    groups: list[list[int]] = [[]]
    for number, width in enumerate(others, start=1):
        used = first + sum(2 + others[other - 1] for other in groups[-1])
        if groups[-1] and used + 2 + width > room:
            groups.append([])
        groups[-1].append(number)
    return [*([(row[0], *(row[i] for i in group)) for row in rows] for group in groups), [*more]]


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(len(row[i]) for row in cells if i < len(row))
        for i in range(max(map(len, cells), default=0))
    ]


def _aligned(row: Sequence[Any], texts: list[str], widths: list[int]) -> str:
    padded = [
        text.rjust(width) if _is_number(cell) else text.ljust(width)
        for cell, text, width in zip(row, texts, widths, strict=False)
    ]
    return "  ".join(padded)


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def facts(result: Mapping[str, Any]) -> str:
    """One ``name  value`` a line; scores in percent, values that are None left out."""
    return columns(
        [(name, _fact(name, value)) for name, value in result.items() if value is not None]
    )


def _fact(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        known = {key: child for key, child in value.items() if child is not None}
        return ", ".join(f"{key} {_fact(key, child)}" for key, child in known.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        if name == "gap_closed":
            return f"{value:.0%}"
        return f"{100 * value:.2f}" if name.endswith("miou") else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def check_file(option: str, path: Path | None, suffix: str) -> None:
    """Refuse a file that could not be written, before the work whose result it is to hold.

    Raises:
        UsageError: the path does not end in ``suffix``, is a folder, or would lie below a file.
        FreqKDError: the folder is read-only.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix or path.is_dir():
        raise UsageError(f"{option} {path} cannot be written", need=f"a file ending in {suffix}")
    require_writable(option, path)


def check_parents(option: str, path: Path) -> None:
    """Refuse a folder that could not be created, before the work whose result it is to hold.

    Raises:
        UsageError: the path would lie below a file, or it is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # safetensors cannot read such a path
        raise UsageError(f"{option} {path} is not UTF-8", need="a name in UTF-8") from error
    nearest_folder(option, path)


def definition(module: ModuleType) -> str:
    """Return the docstring of a loss or metric as plain text, without its first line."""
    text = (module.__doc__ or "").partition("\n")[2].strip().replace("``", "")
    return re.sub(r"(?m)^\*\*([\w ]+)\*\*", r"\1:", text).replace("**", "")


def argument_table(arguments: Sequence[Mapping[str, Any]]) -> str:
    """The arguments of a loss, model or data set, as ``recipe.describe.arguments`` lists them."""
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
    return columns([("argument", "type", "default", "description"), *rows])
