"""A section of a text file between two markers, which a command replaces."""

from __future__ import annotations

import re
from pathlib import Path

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.files import write_aside

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def markers(name: str) -> tuple[str, str]:
    """Return the lines before and after the section called ``name``."""
    return f"<!-- freqkd: {name} -->", f"<!-- freqkd: end of {name} -->"


def with_section(path: Path, name: str, text: str) -> str:
    """Return the text of a file with ``text`` as its section called ``name``.

    Raises:
        UsageError: the file cannot be read, or it has not each marker once and in order.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"--section {name!r} is not a name", need="letters, digits and _ . -")
    try:
        lines = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        tip = f"a text file with the lines {' and '.join(markers(name))}"
        raise UsageError(f"--out {path} cannot be read", got=reason, need=tip) from error
    places = [
        [number for number, line in enumerate(lines) if line.strip() == marker]
        for marker in markers(name)
    ]
    if [len(place) for place in places] != [1, 1] or places[0] > places[1]:
        raise UsageError(
            f"{path} has no section {name!r}",
            got=f"{len(places[0])} lines that open it, {len(places[1])} that end it",
            need="one of each, in this order",
            tip=f"add these two lines where the table belongs:\n{'       '.join(_lines(name))}",
        )
    (first,), (last,) = places
    return "\n".join([*lines[: first + 1], "", text.strip("\n"), "", *lines[last:]])


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the section called ``name`` in a file and leave all other lines.

    Raises:
        UsageError: as :func:`with_section`.
        OSError: the file cannot be written.
    """
    whole = with_section(path, name, text)
    write_aside(path, lambda file: file.write(whole.encode()))


def _lines(name: str) -> list[str]:
    first, last = markers(name)
    return ["       " + first + "\n", last]
