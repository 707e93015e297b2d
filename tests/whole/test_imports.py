"""Imports go down only, and files of a drawer do not import each other; late imports count too."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

import freqkd_cli

PACKAGE = Path(freqkd_cli.__file__).parent
ROWS = (
    ("errors",),
    ("registry", "runtime"),
    ("spectral", "scan", "views"),
    ("images", "recipe", "weights"),
    ("features",),
    ("models", "losses", "datasets", "metrics", "cache"),
    ("build",),
    ("train", "teacher", "score", "spectrum", "export", "doctor", "bench"),
    ("lab",),
    ("report",),
    ("commands",),
    ("app",),
    ("__main__", "__init__"),
)
ROW = {room: number for number, row in enumerate(ROWS) for room in row}
NEIGHBOURS = ROWS[7]
"""Rooms that may import each other, as long as no circle arises."""
DRAWERS = ("models", "losses", "datasets", "metrics", "commands")
HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "segmentation_models_pytorch",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "numba",
    "optuna",
    "jinja2",
}
LIGHT_ROOMS = ("app", "errors", "registry", "recipe", "commands", "__main__", "__init__")
LIGHT_FILES = {f"freqkd_cli.runtime.{name}" for name in ("launch", "logs", "writable")}


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Everything inside ``if TYPE_CHECKING:``; such imports never run."""
    blocks = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING"
    ]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imported(tree: ast.Module) -> list[tuple[int, tuple[str, ...]]]:
    """(line, module path inside freqkd_cli) of every import that can run."""
    targets = []
    skipped = for_types_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        targets += [
            (node.lineno, tuple(name.split(".")[1:]))
            for name in names
            if name.split(".")[0] == "freqkd_cli"
        ]
    return targets


def room_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def breaches(root: Path) -> list[str]:
    """Imports that go upward, between files of a drawer, or to another folder's private file."""
    problems = []
    for path in sorted(root.rglob("*.py")):
        here = room_of(path, root)
        for line, target in imported(ast.parse(path.read_text(encoding="utf-8"))):
            # A name of freqkd_cli itself, such as __version__, belongs to the lowest row.
            there = target[0] if target and target[0] in ROW else "errors"
            where = f"{path.relative_to(root)}:{line} imports {'.'.join(target)}"
            if ROW[there] > ROW[here]:
                problems.append(
                    f"{where}: {here} (row {ROW[here]}) from {there} (row {ROW[there]})"
                )
            elif ROW[there] == ROW[here] and there != here and here not in NEIGHBOURS:
                problems.append(f"{where}: {here} and {there} are in the same row")
            elif here == there and here in DRAWERS and len(target) > 1:
                files = (part for part in target[1:] if (root / here / f"{part}.py").is_file())
                neighbour = next(files, None)
                if neighbour and not neighbour.startswith("_") and neighbour != path.stem:
                    problems.append(f"{where}: a neighbour in the drawer {here}")
            elif here != there and any(part.startswith("_") for part in target[1:2]):
                problems.append(f"{where}: a private file of {there}")
    return problems


def room_graph(root: Path) -> dict[str, set[str]]:
    """Room -> the other rooms that its files import."""
    graph: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        here = room_of(path, root)
        targets = imported(ast.parse(path.read_text(encoding="utf-8")))
        rooms = {target[0] for _, target in targets if target and target[0] in ROW}
        graph.setdefault(here, set()).update(rooms - {here})
    return graph


def repeated_names(root: Path) -> dict[str, list[str]]:
    """File names that occur in more than one room, with the paths of their files."""
    paths: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            paths.setdefault(path.name, []).append(str(path.relative_to(root)))
    return {name: where for name, where in paths.items() if len(where) > 1}


def heavy_at_the_top(path: Path) -> list[str]:
    """Libraries that cost seconds, imported when the file is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        inner
        for n in ast.walk(tree)
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(n)
    }
    late |= for_types_only(tree)
    names = []
    for node in ast.walk(tree):
        if node not in late and isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif node not in late and isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return [name for name in names if name.split(".")[0] in HEAVY]


def test_every_room_has_a_row():
    rooms = {room_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert rooms <= set(ROW), rooms - set(ROW)
    assert len(rooms) > 10


def test_imports_go_downward():
    assert breaches(PACKAGE) == []


def test_rooms_import_each_other_in_no_circle():
    graph = room_graph(PACKAGE)
    assert len(graph) > 10
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_a_file_name_occurs_once():
    assert repeated_names(PACKAGE) == {}


@pytest.mark.parametrize(
    "room", [*LIGHT_ROOMS, "runtime/launch", "runtime/logs", "runtime/writable"]
)
def test_light_rooms_import_nothing_heavy(room):
    file, folder = PACKAGE / f"{room}.py", PACKAGE / room
    files = [file] if file.is_file() else sorted(folder.rglob("*.py"))
    assert files
    assert {str(path): names for path in files if (names := heavy_at_the_top(path))} == {}


def test_commands_import_no_engine_at_the_top():
    """The help must not wait for torch, which other rooms import."""
    for path in sorted((PACKAGE / "commands").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = for_types_only(tree)
        top = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n not in skipped]
        modules = {n.module or "" for n in top if (n.module or "").startswith("freqkd_cli.")}
        rooms = {module.split(".")[1] for module in modules - LIGHT_FILES}
        assert rooms <= {"commands", "errors", "registry"}, f"{path}: {rooms}"


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("errors.py", "from freqkd_cli.registry import names", "errors (row 0) from registry"),
        (
            "spectral/new.py",
            "def f():\n    from freqkd_cli.build import assemble",
            "spectral (row 2) from build",
        ),
        ("recipe/new.py", "import freqkd_cli.models.smp", "recipe (row 3) from models"),
        ("recipe/new.py", "from freqkd_cli import app", "recipe (row 3) from app"),
        (
            "recipe/new.py",
            "from freqkd_cli.features.taps import Tap",
            "recipe (row 3) from features",
        ),
        (
            "losses/new.py",
            "from freqkd_cli.losses.band import build",
            "a neighbour in the drawer losses",
        ),
        ("losses/new.py", "from freqkd_cli.losses import band", "a neighbour in the drawer losses"),
        ("train/new.py", "from freqkd_cli.losses._private import f", "a private file of losses"),
        ("train/new.py", "from freqkd_cli.losses import _private", "a private file of losses"),
        ("spectral/new.py", "from freqkd_cli.views.view import View", "are in the same row"),
    ],
)
def test_a_planted_breach_is_caught(tmp_path, file, text, expected):
    for path in ("losses/band.py", "losses/_private.py", "losses/ok.py", file):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(
            "from freqkd_cli.features.loss import Loss\n" if "ok" in path else "", encoding="utf-8"
        )
    assert breaches(tmp_path) == []
    (tmp_path / file).write_text(text, encoding="utf-8")
    problems = breaches(tmp_path)
    assert len(problems) == 1 and expected in problems[0]


def test_a_planted_heavy_import_is_caught(tmp_path):
    file = tmp_path / "a.py"
    text = "if True:\n    import torch.nn\ndef f():\n    import transformers\n"
    text += "if TYPE_CHECKING:\n    import onnx\n"
    file.write_text(text, encoding="utf-8")
    assert heavy_at_the_top(file) == ["torch.nn"]


def test_a_planted_circle_and_a_planted_second_name_are_caught(tmp_path):
    planted = {"train/a.py": "teacher.b", "teacher/b.py": "score.c", "score/c.py": "train.a"}
    for path, target in planted.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(f"import freqkd_cli.{target}\n", encoding="utf-8")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(room_graph(tmp_path)).prepare()
    (tmp_path / "train" / "b.py").touch()
    assert repeated_names(tmp_path) == {"b.py": ["teacher/b.py", "train/b.py"]}
