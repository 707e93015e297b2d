"""Class names of ``folder``: from the recipe, else from a class list in the root folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from freqkd_cli.datasets._class_documents import rows_of_json, rows_of_yaml
from freqkd_cli.datasets._class_lines import Color, Row, rows_of
from freqkd_cli.datasets._folder_names import role
from freqkd_cli.errors import DataBroken, some
from freqkd_cli.images.pairs import IMAGE_SUFFIXES
from freqkd_cli.views.labels import IGNORE, IGNORE_16_BIT

log = logging.getLogger(__name__)

NAMES_NEED = "classes.json or classes.txt in the root folder, or data.classes in the recipe"

_FIRST = ("classes.json", "classes.txt")
_STEMS = frozenset(
    """classes class classnames classname classlist classdict classcolors classcolours labels
    labelnames labelmap labelcolors labelcolours categories codes idtolabel namesofclasses
    """.split()
) | {"id2label", "label2id"}
_YOLO = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml", "obj.names")
_VOID = frozenset(
    "void ignore ignored __ignore__ unlabeled unlabelled dontcare don't-care ignorelabel".split()
)
_LABELME_IGNORE = "__ignore__"
_LONGEST = 200


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set.

    Attributes:
        source: the file, or the recipe key.
        names: mask value -> class name.
        ignored: mask value -> name that means void, which is no class.
        colors: mask value -> color.
        ordered: the ids are given, or are the places of lines without colors.
    """

    source: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    ignored: Mapping[int, str] = field(default_factory=dict)
    colors: Mapping[int, Color] = field(default_factory=dict)
    ordered: bool = True


def class_list(root: Path, classes: Sequence[str] | None) -> ClassList:
    """Return the classes; ``classes`` of the recipe come before the files.

    Raises:
        DataBroken: a file with other content, a name or id twice, an id outside 0 .. 254, or
            two files that contradict each other.
    """
    if classes is not None:
        rows = [Row("data.classes", name, number) for number, name in enumerate(classes)]
        return _checked("data.classes", rows, void=False)
    lists = [one for one in map(_read, _files(root)) if one is not None and one.names]
    own = [one for one in lists if Path(one.source).name not in _YOLO]
    ordered = [one for one in own if one.ordered] or own or lists
    if not ordered:
        return ClassList()
    chosen = ordered[0]
    for other in ordered[1:]:
        _compare(chosen, other)
    if chosen.ignored:
        _note_ignored(chosen.source, ", ".join(map(_entry, chosen.ignored.items())))
    return chosen if chosen.colors else _with_colors(chosen, own)


def _files(root: Path) -> list[Path]:
    """Return the files that may be class lists, the usual names first."""
    folders = [root]
    if root.is_dir():
        names = sorted(os.listdir(root))
        folders += [root / name for name in names if role(name).split and (root / name).is_dir()]
    files = [root / name for name in _FIRST if (root / name).is_file()]
    for folder in folders:
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            stem, suffix = os.path.splitext(name)
            word = "".join(c for c in stem.casefold() if c.isalnum())
            known = word in _STEMS and suffix.lower() in _READERS
            inside = folder == root or name == "_classes.csv"
            if (known or name.lower() in _YOLO) and inside and (folder / name).is_file():
                files.append(folder / name)
    return list(dict.fromkeys(files))


def _read(path: Path) -> ClassList | None:
    """Return the classes of a file; None where it is a file of another kind.

    Raises:
        DataBroken: it cannot be read as a list of classes.
    """
    usual = path.name in _FIRST
    try:
        rows = _READERS.get(path.suffix.lower(), _from_text)(path, _text(path))
        if not usual and (_lists_images(rows) or not rows):
            return None
        return _checked(str(path), rows, void=True)
    except DataBroken:
        if usual or not any((path.parent / name).is_file() for name in _FIRST):
            if path.name not in _YOLO:
                raise
        log.debug("%s is not read: it is no list of classes", path)
        return None


def _lists_images(rows: Sequence[Row]) -> bool:
    """Return whether a file lists images with their labels, not classes."""
    header = rows[0].name.casefold().replace(",", " ").split() if rows else []
    by_header = len(header) > 1 and bool({"image", "filename", "file", "path"} & {*header})
    return by_header or any(row.name.lower().endswith(IMAGE_SUFFIXES) for row in rows)


def _from_text(path: Path, text: str) -> list[Row]:
    lines = [(f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), 1)]
    for where, line in lines:
        if len(line) > _LONGEST:
            raise DataBroken(
                f"{where} is too long for a class name",
                got=f"{len(line)} characters",
                need=f"at most {_LONGEST}",
                key="classes",
            )
    return rows_of(lines)


_READERS: dict[str, Callable[[Path, str], list[Row]]] = {
    ".json": rows_of_json,
    ".yaml": rows_of_yaml,
    ".yml": rows_of_yaml,
    ".txt": _from_text,
    ".csv": _from_text,
    ".tsv": _from_text,
    ".names": _from_text,
    ".ctbl": _from_text,
    ".label": _from_text,
}


def _checked(source: str, rows: Sequence[Row], *, void: bool) -> ClassList:
    """Return rows as classes; rows without an id count from 0, as labelme after __ignore__.

    Raises:
        DataBroken: see :func:`class_list`.
    """
    numbered = any(row.id is not None for row in rows)
    start = -1 if void and rows and rows[0].name == _LABELME_IGNORE and not numbered else 0
    names: dict[int, str] = {}
    ignored: dict[int, str] = {}
    colors: dict[int, Color] = {}
    for place, row in enumerate(rows, start):
        number = row.id if numbered else place
        means_void = void and row.name.casefold().replace(" ", "-") in _VOID
        problem = _problem(row, number, {**names, **ignored}, means_void)
        if number == IGNORE and len(rows) <= IGNORE and not means_void:
            problem = f"the id {number}, which is void"
        if problem or number is None:
            raise DataBroken(
                f"{row.where} is not a list of class names"
                if row.where == source
                else f"{row.where} names no class of its own",
                got=f"{problem}: {row.name[:60]!r}",
                need="each name once and not empty, ids from 0 to 65534 without 255, which is void",
                key="classes",
            )
        (ignored if means_void else names)[number] = row.name
        if row.color is not None:
            colors[number] = row.color
    kept = {number: name for number, name in ignored.items() if 0 <= number <= IGNORE_16_BIT}
    return ClassList(source, names, kept, colors, numbered or not colors)


def _problem(row: Row, number: int | None, before: Mapping[int, str], void: bool) -> str:
    """Return what is wrong with a row, the empty string where nothing is."""
    if not row.name.strip():
        return "an empty name"
    if row.name in before.values():
        return "a name that occurs twice"
    if number is None:
        return "no id, but other classes have one"
    if number in before:
        return f"the id {number} occurs twice"
    return "" if void or 0 <= number < IGNORE_16_BIT else f"the id {number}"


def _compare(first: ClassList, second: ClassList) -> None:
    """
    Raises:
        DataBroken: the lists contradict each other.
    """
    if {**first.names, **first.ignored} == {**second.names, **second.ignored}:
        return
    raise DataBroken(
        "two class lists contradict each other",
        got=f"{first.source}: {_short(first)}; {second.source}: {_short(second)}",
        need="one list of classes",
        tip=f"remove or rename {Path(first.source).name} or {Path(second.source).name}, "
        "or name the classes in data.classes",
        key="classes",
    )


def _with_colors(chosen: ClassList, others: Sequence[ClassList]) -> ClassList:
    """Return the list with the colors of another file that has the same names."""
    numbers = {name: number for number, name in {**chosen.names, **chosen.ignored}.items()}
    for other in others:
        names = {**other.names, **other.ignored}
        if other.colors and set(numbers) <= {*names.values()}:
            colors = {
                numbers[name]: other.colors[number]
                for number, name in names.items()
                if name in numbers and number in other.colors
            }
            return ClassList(chosen.source, chosen.names, chosen.ignored, colors)
    return chosen


@cache
def _note_ignored(source: str, names: str) -> None:
    log.warning(
        "%s lists %s: read as void, not as a class; name the classes in data.classes to change it",
        source,
        names,
    )


def _short(classes: ClassList) -> str:
    return some(map(_entry, sorted({**classes.names, **classes.ignored}.items())), 4)


def _entry(pair: tuple[int, str]) -> str:
    return f"{pair[0]} {pair[1]}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataBroken(f"cannot read {path}", got=error, need="text in UTF-8") from error
