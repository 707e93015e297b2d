"""docs/losses.md: every loss has a section with a recipe that passes the check, and a plot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from freqkd_cli import recipe, registry
from freqkd_cli.build import assemble

DOCS = Path(__file__).resolve().parents[2] / "docs"
SECTIONS = {
    text.split("\n", 1)[0]: text
    for text in re.split(r"^### ", (DOCS / "losses.md").read_text(encoding="utf-8"), flags=re.M)[1:]
}


def test_every_loss_has_a_section():
    assert sorted(SECTIONS) == sorted(registry.names("losses"))


@pytest.mark.parametrize("name", registry.names("losses"))
def test_recipes_of_a_section_pass_the_check_and_use_its_loss(name):
    texts = re.findall(r"```yaml\n(.*?)```", SECTIONS[name], flags=re.S)
    assert texts
    for text in texts:
        loaded = recipe.loads(text)
        assemble.check(loaded)
        assert name in {line.name for line in loaded.losses}


@pytest.mark.parametrize("name", registry.names("losses"))
def test_the_plots_of_a_section_exist(name):
    plots = re.findall(r"\((losses/[a-z_]+\.png)\)", SECTIONS[name])
    assert plots and all((DOCS / plot).is_file() for plot in plots)
