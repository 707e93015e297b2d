"""The installation: recipes, weights, the command, and every library that the code imports."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from freqkd_cli import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULE_OF = {
    "segmentation-models-pytorch": "segmentation_models_pytorch",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "mamba-ssm": "mamba_ssm",
    "scikit-learn": "sklearn",
    "scikit-image": "skimage",
    "pywavelets": "pywt",
}


def distribution(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0].lower()


def modules(requirements: list[str]) -> set[str]:
    return {MODULE_OF.get(name, name.replace("-", "_")) for name in map(distribution, requirements)}


def imports(folder: Path) -> dict[str, str]:
    """Return top-level module -> one file that imports it, third parties only."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            modules |= {name.split(".")[0]: str(path) for name in names}
    own = {"freqkd_cli", "tests", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    skipped = sys.stdlib_module_names | own
    return {name: path for name, path in modules.items() if name not in skipped}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without a network from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("freqkd_cli", "recipes"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tree / "dist")]
    subprocess.run(words, cwd=tree, check=True, capture_output=True)
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_contains_every_file_of_the_package_and_every_recipe(unpacked):
    package = [
        p for p in (ROOT / "freqkd_cli").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ]
    assert len(package) > 50
    missing = [p for p in package if not (unpacked / p.relative_to(ROOT)).is_file()]
    assert missing == []
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        assert (
            unpacked / "freqkd_cli" / "shipped_recipes" / recipe.name
        ).read_bytes() == recipe.read_bytes()


def test_the_installed_package_finds_its_recipes(unpacked, tmp_path):
    env = os.environ | {"PYTHONPATH": str(unpacked)}
    words = [sys.executable, "-m", "freqkd_cli", "recipe"]
    out = subprocess.run(
        [*words, "list", "--json"],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    rows = json.loads(out)
    assert [row["name"] for row in rows] == sorted(
        path.stem for path in (ROOT / "recipes").glob("*.yaml")
    )
    assert all(Path(row["path"]).is_relative_to(unpacked) and row["question"] for row in rows)
    subprocess.run(
        [*words, "copy", rows[0]["name"]],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (tmp_path / f"{rows[0]['name']}.yaml").is_file()


def test_the_metadata_matches_the_code(unpacked):
    (info,) = unpacked.glob("*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert (
        f"\nVersion: {__version__}\n" in metadata
        and "\nName: freqkd\n" in metadata
        and "License-Expression: Apache-2.0" in metadata
    )
    assert "freqkd = freqkd_cli.app:main" in (info / "entry_points.txt").read_text(encoding="utf-8")
    assert (
        yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
        == __version__
    )


def test_every_import_of_the_package_is_a_dependency():
    declared = modules(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared |= modules(extra)
    used = imports(ROOT / "freqkd_cli")
    # dependencies of these: pydantic brings its core, transformers the hub's client
    brought = {"pydantic_core", "huggingface_hub"}
    assert {name: path for name, path in used.items() if name not in declared | brought} == {}


def test_every_import_of_the_tests_is_in_the_dev_group():
    declared = modules(PROJECT["project"]["dependencies"]) | modules(
        PROJECT["dependency-groups"]["dev"]
    )
    local = {"tests", *(path.stem for path in (ROOT / "tests" / "helpers").glob("*.py"))}
    used = imports(ROOT / "tests")
    assert {name: path for name, path in used.items() if name not in declared | local} == {}


def test_lower_bounds_are_not_above_what_is_promised():
    promised = {
        "torch": (2, 11),
        "torchvision": (0, 26),
        "transformers": (5, 17),
    }
    bounds = dict(line.split(">=") for line in PROJECT["project"]["dependencies"])
    for name, highest in promised.items():
        assert tuple(map(int, bounds[name].split("."))) <= highest
    assert all(">=" in line for line in PROJECT["project"]["dependencies"])


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
@pytest.mark.parametrize("target", ["quickstart", "test", "lint", "clean"])
def test_the_makefile_has_its_targets(target):
    planned = subprocess.run(
        ["make", "-n", target, "VENV=/nowhere/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "/nowhere/venv" in planned.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
def test_the_ci_script_is_executable_and_sound():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=60)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


def test_every_folder_of_tests_is_collected(pytestconfig):
    """By default pytest leaves out folders called build: the tests of tests/build never ran."""
    patterns = set(pytestconfig.getini("norecursedirs")) - {"__pycache__"}
    folders = {path.name for path in (ROOT / "tests").rglob("*/")}
    assert not [name for name in folders for pattern in patterns if fnmatch(name, pattern)]
