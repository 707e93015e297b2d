"""A cache and the order of a data set's list file: rows are stored by the number of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cache_fakes import Notes
from cached_recipe import load, make_weights
from PIL import Image

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.errors import CacheMismatch
from freqkd_cli.teacher.dump_recipe import DumpOptions, dump_recipe
from freqkd_cli.teacher.recipe_cache import open_cache

STEMS = ("b", "a", "d", "c")


@pytest.fixture
def listed(tmp_path, monkeypatch) -> tuple[recipes.Recipe, Path, Path]:
    """A recipe on the files of a list, its cache and the list."""
    monkeypatch.setenv("FREQKD_CACHE", str(tmp_path / "user-cache"))
    root, random = tmp_path / "data", np.random.default_rng(0)
    for kind, values in (("images", (64, 96, 3)), ("masks", (64, 96))):
        (root / kind).mkdir(parents=True)
        for stem in (*STEMS, "v"):
            pixels = random.integers(0, 3, values, dtype=np.uint8)
            Image.fromarray(pixels).save(root / kind / f"{stem}.png")
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    (root / "val.txt").write_text("v\n")
    write(root / "train.txt", STEMS)
    weights = make_weights(tmp_path / "t", ("road", "car", "sky"))
    data = f"{{name: folder, root: {root}, size: [64, 96], views: 1, workers: 0}}"
    recipe = load(weights, "teacher.min_iou=0", data=data)
    dump_recipe(recipe, tmp_path / "c", Notes(), DumpOptions())
    return recipe, tmp_path / "c", root / "train.txt"


def write(listing: Path, stems: tuple[str, ...]) -> None:
    listing.write_text("".join(f"{stem}\n" for stem in stems))


def use(recipe: recipes.Recipe, cache: Path) -> None:
    plan = assemble.check(recipe)
    dataset = assemble.build_dataset(recipe, "train")
    open_cache(plan, assemble.build_lines(plan), cache, dataset)


def test_a_reordered_list_is_another_data_set(listed):
    recipe, cache, listing = listed
    before = assemble.build_dataset(recipe, "train").manifest()
    use(recipe, cache)
    write(listing, STEMS[::-1])
    after = assemble.build_dataset(recipe, "train").manifest()
    assert before["sha256"] != after["sha256"]
    assert {**before, "sha256": ""} == {**after, "sha256": ""}
    with pytest.raises(CacheMismatch, match="order of the images changed since the cache") as error:
        use(recipe, cache)
    assert error.value.got == "image 0 is c; in the cache it is b"
    assert f"freqkd teacher-dump test.yaml --out {cache}-new" in str(error.value)
    with pytest.raises(CacheMismatch, match="order of the images changed"):
        dump_recipe(recipe, cache, Notes(), DumpOptions(verify=1))
    with pytest.raises(CacheMismatch, match=r"data\.sha256"):
        dump_recipe(recipe, cache, Notes(), DumpOptions(mode="resume"))
    write(listing, STEMS)
    use(recipe, cache)


def test_a_changed_file_is_named_before_the_order(listed):
    recipe, cache, listing = listed
    write(listing, STEMS[1:])
    with pytest.raises(CacheMismatch, match=r"the data set changed.*\n.*b \(missing\)"):
        use(recipe, cache)
