"""Class lists as labelling tools, frameworks and people write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("road", "car", "tree", "traffic light", "fence-post", "Straße", "sky", "person", "wall")
IGNORED = frozenset({"void", "ignore", "unlabeled", "unlabelled"})
"""Names that stand for void. A class of such a name that covers the void pixels is right."""


@dataclass(frozen=True)
class ListForm:
    """One form of a class list.

    Attributes:
        file: its place in the root folder; None = no file.
        text: (names, ids, colors) -> content.
        needs_background: the first class is the background.
        codings: the only codings for which it makes sense; empty = all.
        unknown: no documented name of a class list, so a refusal that names data.classes is right.
        by_hand: a refusal that names the file is right; the list has to be rewritten.
    """

    name: str
    file: str | None
    text: Callable[[Sequence[str], Sequence[int], Sequence[int]], str | bytes]
    needs_background: bool = False
    codings: tuple[str, ...] = ()
    unknown: bool = False
    by_hand: bool = False


def plain(name: str) -> str:
    """Return a class name without capitals, separators and the marks of labelling tools."""
    return name.strip().strip("_").casefold().replace("_", " ").replace("-", " ")


def _rgb(color: int, separator: str = ",") -> str:
    return separator.join(str(color >> shift & 255) for shift in (16, 8, 0))


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def _table(keys: Iterable[Any], values: Iterable[Any]) -> dict[Any, Any]:
    return dict(zip(keys, values, strict=True))


def _rows(pattern: str, first: str = "") -> Callable[..., str]:
    """Return a writer of one line per class; the pattern may use name, id, rgb and spaced."""

    def text(names: Sequence[str], ids: Sequence[int], colors: Sequence[int]) -> str:
        head = [first] if first else []
        rows = zip(names, ids, colors, strict=True)
        return _lines(
            *head,
            *(
                pattern.format(name=name, id=number, rgb=_rgb(color), spaced=_rgb(color, " "))
                for name, number, color in rows
            ),
        )

    return text


def _labelme(names: Sequence[str], ids: Sequence[int], colors: Sequence[int]) -> str:
    return _lines("__ignore__", "_background_", *names[1:])


def _categories(names: Sequence[str], ids: Sequence[int], colors: Sequence[int]) -> str:
    pairs = zip(names, ids, strict=True)
    return _json({"categories": [{"id": number, "name": name} for name, number in pairs]})


def _objects(names: Sequence[str], ids: Sequence[int], colors: Sequence[int]) -> str:
    rows = zip(names, ids, colors, strict=True)
    return _json(
        [
            {"name": name, "id": number, "color": [color >> 16, color >> 8 & 255, color & 255]}
            for name, number, color in rows
        ]
    )


LISTS = (
    ListForm("recipe", None, lambda names, ids, colors: ""),
    ListForm("txt", "classes.txt", _rows("{name}")),
    ListForm("json_list", "classes.json", lambda names, ids, colors: _json(list(names))),
    ListForm("json_dict", "classes.json", lambda n, i, c: _json(_table(map(str, i), n))),
    ListForm(
        "txt_bom_crlf",
        "classes.txt",
        lambda n, i, c: b"\xef\xbb\xbf" + "".join(f" {name}\r\n\r\n" for name in n).encode(),
    ),
    ListForm(
        "txt_utf16", "classes.txt", lambda n, i, c: "\r\n".join(n).encode("utf-16"), by_hand=True
    ),
    ListForm(
        "txt_latin1", "classes.txt", lambda n, i, c: "\n".join(n).encode("latin-1"), by_hand=True
    ),
    ListForm("txt_header_name", "classes.txt", _rows("{name}", "name")),
    ListForm("txt_header_class", "classes.txt", _rows("{name}", "class_name")),
    ListForm("txt_header_ids", "classes.txt", _rows("{id},{name}", "id,name")),
    ListForm("txt_comments", "classes.txt", _rows("{name}", "# classes of the masks")),
    ListForm("txt_end_comments", "classes.txt", _rows("{name}  # value {id}"), by_hand=True),
    ListForm("txt_id_colon", "classes.txt", _rows("{id}: {name}")),
    ListForm("txt_id_space", "classes.txt", _rows("{id} {name}")),
    ListForm("txt_id_tab", "classes.txt", _rows("{id}\t{name}")),
    ListForm("txt_id_dot", "classes.txt", _rows("{id}. {name}"), by_hand=True),
    ListForm("txt_name_colon_id", "classes.txt", _rows("{name}: {id}"), by_hand=True),
    ListForm("txt_colors", "classes.txt", _rows("{name},{rgb}")),
    ListForm("txt_spaced_colors", "classes.txt", _rows("{name} {spaced}"), by_hand=True),
    ListForm("txt_one_line", "classes.txt", lambda n, i, c: ", ".join(n), by_hand=True),
    ListForm("txt_quoted", "classes.txt", _rows('"{name}",'), by_hand=True),
    ListForm("txt_labelme", "classes.txt", _labelme, needs_background=True),
    ListForm("labelme", "labels.txt", _labelme, needs_background=True, unknown=True),
    ListForm(
        "txt_void_last",
        "classes.txt",
        lambda n, i, c: _lines(*n, "void"),
        codings=("last_void",),
    ),
    ListForm(
        "txt_void_first",
        "classes.txt",
        lambda n, i, c: _lines("unlabeled", *n),
        codings=("zero_void", "palette_zero_void"),
    ),
    ListForm(
        "json_void_255",
        "classes.json",
        lambda n, i, c: _json({**_table(map(str, i), n), "255": "void"}),
        codings=("ids", "palette", "sparse", "u16_ids_255"),
        by_hand=True,
    ),
    ListForm("json_inverted", "classes.json", lambda n, i, c: _json(_table(n, i)), by_hand=True),
    ListForm("json_names", "classes.json", lambda n, i, c: _json({"names": list(n)}), by_hand=True),
    ListForm(
        "json_id2label",
        "classes.json",
        lambda n, i, c: _json({"id2label": _table(i, n)}),
        by_hand=True,
    ),
    ListForm("json_categories", "classes.json", _categories, by_hand=True),
    ListForm("json_objects", "classes.json", _objects, by_hand=True),
    ListForm(
        "cvat",
        "labelmap.txt",
        _rows("{name}:{rgb}::", "# label:color_rgb:parts:actions"),
        unknown=True,
    ),
    ListForm("cvat_txt", "classes.txt", _rows("{name}:{rgb}::", "# label:color_rgb:parts:actions")),
    ListForm("class_dict", "class_dict.csv", _rows("{name},{rgb}", "name,r,g,b"), unknown=True),
    ListForm(
        "roboflow", "train/_classes.csv", _rows("{id}, {name}", "Pixel Value, Class"), unknown=True
    ),
    ListForm(
        "yolo",
        "data.yaml",
        lambda n, i, c: "names:\n" + _rows("  {id}: {name}")(n, i, c),
        unknown=True,
    ),
    ListForm("darknet", "obj.names", _rows("{name}"), unknown=True),
    ListForm("label_map_json", "label_map.json", lambda n, i, c: _json(_table(n, i)), unknown=True),
    ListForm("missing", None, lambda names, ids, colors: "", unknown=True),
    ListForm(
        "one_name",
        "classes.txt",
        lambda n, i, c: _lines(n[1]),
        True,
        ("bw", "bw_jpg", "bw_mode1", "u16_bw"),
    ),
)
"""Every class list of the study."""


def write_list(
    form: ListForm, root: Path, names: Sequence[str], ids: Sequence[int], colors: Sequence[int]
) -> None:
    """Write the file of a class list; nothing where it has none."""
    if form.file is None:
        return
    path = root / form.file
    path.parent.mkdir(parents=True, exist_ok=True)
    content = form.text(names, ids, colors)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
