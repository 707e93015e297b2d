"""Class lists as text: one class per line, as labelling tools and data sets write them.

A line is a name, or a name with an id or a color. All lines of a file have one form.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

from freqkd_cli.errors import DataBroken

Color = tuple[int, int, int]
Line = tuple[str, str]
"""``file:line`` and the text of a line."""


@dataclass(frozen=True)
class Row:
    """One class of a list.

    Attributes:
        where: ``file:line``, or the file.
        id: None where the place in the list is the id.
    """

    where: str
    name: str
    id: int | None = None
    color: Color | None = None


_S = r"(?:\s*[,;:|\t]\s*|\s+)"
_NAME = r"(?P<name>.*?[^\d\s,;:|.].*?)"
_RGB = rf"(?P<r>\d{{1,3}}){_S}(?P<g>\d{{1,3}}){_S}(?P<b>\d{{1,3}})"
_HEX = r"(?P<hex>#[0-9a-fA-F]{6})"
_ID = r"(?P<id>-?\d{1,5})"

_COLORED = tuple(
    re.compile(text)
    for text in (
        r"(?P<name>[^:]+):(?:(?P<r>\d{1,3}),(?P<g>\d{1,3}),(?P<b>\d{1,3}))?:[^:]*:[^:]*",
        rf"{_ID}\s+{_RGB}\s+[\d.]+\s+[01]\s+[01]\s+(?P<name>.+)",
        rf"{_ID}{_S}{_RGB}{_S}{_NAME}",
        rf"{_ID}{_S}{_NAME}{_S}{_RGB}(?:{_S}\d{{1,3}})?",
        rf"{_ID}{_S}{_NAME}{_S}{_HEX}",
        rf"{_RGB}{_S}{_NAME}",
        rf"{_NAME}{_S}{_RGB}",
        rf"{_HEX}{_S}{_NAME}",
        rf"{_NAME}{_S}{_HEX}",
    )
)
_NUMBERED = re.compile(rf"{_ID}(?:\s*(?P<sep>[:,;=|\t)]|\.\s|-\s)\s*|\s+){_NAME}")
_NUMBER_LAST = re.compile(rf"{_NAME}(?:\s*(?P<sep>[:,;=|\t])\s*|\s+){_ID}")

_NAME_CELLS = (
    "name", "names", "classname", "classnames", "labelname", "categoryname", "class", "classes",
    "category", "categories", "label", "labels",
)  # fmt: skip
_ID_CELLS = (
    "id", "ids", "idx", "index", "value", "pixelvalue", "pixel", "classid", "labelid", "number",
    "classindex", "labelindex", "label", "class",
)  # fmt: skip
_COLOR_CELLS = (("r", "g", "b"), ("red", "green", "blue"))
_NEED = "one form for all lines: a name, or a name with an id or a color"


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """Return the classes of a text.

    Raises:
        DataBroken: a line that has another form than the others; the message names it.
    """
    lines = [line for line in ((where, _content(text)) for where, text in lines) if line[1]]
    if not lines:
        return []
    header = [_word(cell) for cell in _cells(lines[0][1])]
    if len(header) == 1 and header[0] in _NAME_CELLS and len(lines) > 1:
        return rows_of(lines[1:])
    if _is_header(header):
        return _table(header, lines)
    if len(lines) == 1 and re.fullmatch(r"[^\d,;\t]+([,;\t][^\d,;\t]+)+[,;]?", lines[0][1]):
        return [Row(lines[0][0], _unquoted(part)) for part in _cells(lines[0][1]) if part.strip()]
    return _colored(lines) or _numbered(lines) or _number_last(lines) or _plain(lines)


def _content(text: str) -> str:
    """Return a line without spaces and comments."""
    text = text.strip()
    if text.startswith("//") or (text.startswith("#") and not re.match(rf"{_HEX}\b", text)):
        return ""
    return re.split(r"\s+(?:#|//)\s", text, maxsplit=1)[0].rstrip()


def _unquoted(text: str) -> str:
    text = text.strip().removesuffix(",").strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1].strip() if quoted else text


def _row(where: str, match: re.Match[str]) -> Row:
    parts = match.groupdict()
    color = None
    if parts.get("hex"):
        red, green, blue = bytes.fromhex(parts["hex"][1:])
        color = (red, green, blue)
    elif parts.get("r"):
        color = (int(parts["r"]), int(parts["g"]), int(parts["b"]))
    number = None if parts.get("id") is None else int(parts["id"])
    return Row(where, _unquoted(parts["name"]), number, color)


def _colored(lines: Sequence[Line]) -> list[Row]:
    """Return the rows of lines with colors, none where no line has one."""
    best: list[Row | None] = []
    for form in _COLORED:
        rows = [
            _row(where, match) if (match := form.fullmatch(text)) and _fits(match) else None
            for where, text in lines
        ]
        if all(rows):
            return [row for row in rows if row]
        if sum(map(bool, rows)) > sum(map(bool, best)):
            best = rows
    if not any(best):
        return []
    raise _other_form(lines, best, "a color")


def _fits(match: re.Match[str]) -> bool:
    return all(int(match[key] or 0) < 256 for key in "rgb" if key in match.groupdict())


def _numbered(lines: Sequence[Line]) -> list[Row]:
    """Return the rows of lines that start with an id, none where they start with names."""
    matches = [_NUMBERED.fullmatch(text) for _, text in lines]
    rows = [
        _row(where, match) if match else None
        for (where, _), match in zip(lines, matches, strict=True)
    ]
    if all(rows):
        return [row for row in rows if row]
    # A name may start with a number, but not many with those of their places.
    steps = {int(m["id"]) - place for place, m in enumerate(matches) if m and not m["sep"]}
    counted = steps in ({0}, {1}) and 2 * sum(map(bool, rows)) >= len(rows)
    ids = counted or any(match and match["sep"] for match in matches)
    if ids:
        raise _other_form(lines, rows, "an id")
    return []


def _number_last(lines: Sequence[Line]) -> list[Row]:
    """Return the rows of lines that end with an id, none where they are names alone."""
    matches = [_NUMBER_LAST.fullmatch(text) for _, text in lines]
    rows = [
        _row(where, match) if match else None
        for (where, _), match in zip(lines, matches, strict=True)
    ]
    whole = [row for row in rows if row]
    separated = any(match and match["sep"] for match in matches)
    if len(whole) < len(lines):
        if separated:
            raise _other_form(lines, rows, "an id")
        return []
    ids = sorted(row.id for row in whole if row.id is not None)
    ascending = ids in ([*range(len(ids))], [*range(1, len(ids) + 1)])
    distinct = len({row.name for row in whole}) == len(whole)
    return whole if separated or (ascending and distinct) else []


def _plain(lines: Sequence[Line]) -> list[Row]:
    return [Row(where, _unquoted(text)) for where, text in lines]


def _other_form(lines: Sequence[Line], rows: Sequence[Row | None], part: str) -> DataBroken:
    """Return the error of the first line without ``part``, which other lines have."""
    where, text = next(line for line, row in zip(lines, rows, strict=True) if row is None)
    return DataBroken(
        f"{where} has no {part.split()[-1]}, but other lines have",
        got=text[:80],
        need=_NEED,
        tip="write all lines in one form, or put # before a line that names no class",
        key="classes",
    )


def _cells(text: str) -> list[str]:
    for delimiter in "\t;,":
        if delimiter in text:
            return next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))
    alone = _word(text) in _NAME_CELLS and not any(c.isdigit() for c in text)
    return [text] if alone else text.split()


def _word(cell: str) -> str:
    return re.sub(r"[^a-z]", "", cell.casefold())


def _is_header(header: Sequence[str]) -> bool:
    others = {*_ID_CELLS, "color", "rgb", *_COLOR_CELLS[0], *_COLOR_CELLS[1]}
    names = [cell for cell in header if cell in _NAME_CELLS]
    rest = [cell for cell in header if cell in others and cell not in names[:1]]
    return bool(names and rest)


def _table(header: Sequence[str], lines: Sequence[Line]) -> list[Row]:
    """Return the rows of a table with a header line."""
    name = next(header.index(cell) for cell in _NAME_CELLS if cell in header)
    number = next(
        (header.index(c) for c in _ID_CELLS if c in header[:name] + header[name + 1 :]), None
    )
    rgb = next((names for names in _COLOR_CELLS if set(names) <= set(header)), ())
    one = next((header.index(c) for c in ("color", "rgb") if c in header), None)
    rows = []
    for where, text in lines[1:]:
        cells = [cell.strip() for cell in _cells(text)]
        try:
            if len(cells) < len(header):
                raise ValueError
            color = [int(cells[header.index(part)]) for part in rgb]
            if one is not None and not color:
                color = _color(cells[one])
            identity = None if number is None else int(cells[number])
        except ValueError:
            raise DataBroken(
                f"{where} does not fit the header of the table",
                got=text[:80],
                need=", ".join(_cells(lines[0][1])),
                key="classes",
            ) from None
        rows.append(Row(where, _unquoted(cells[name]), identity, tuple(color) or None))  # type: ignore[arg-type]
    return rows


def _color(text: str) -> list[int]:
    """Return ``#rrggbb`` or three numbers as a color.

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch(_HEX, text):
        return list(bytes.fromhex(text[1:]))
    numbers = [int(part) for part in re.findall(r"\d+", text)]
    if len(numbers) < 3 or max(numbers) > 255:
        raise ValueError(text)
    return numbers[:3]
