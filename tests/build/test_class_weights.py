"""Class weights: the rules against scikit-learn and their papers, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from cache_fakes import Notes
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble, class_weights
from freqkd_cli.build.class_weights import Frequencies, count_pixels, counted_weights
from freqkd_cli.errors import DataBroken, RecipeError
from freqkd_cli.runtime.progress import Silent

RECIPE = """
version: 1
data: {name: folder, root: ROOT, size: [32, 32], classes: [road, car, sign], workers: 0}
student: {name: fast_scnn, width: 0.25}
losses:
  - {name: cross_entropy, class_weights: auto}
  - {name: focal, class_weights: effective}
train: {steps: 2, batch_size: 2}
"""


class Masks:
    """A data set of label images that are given as arrays."""

    classes = ("road", "car", "sign")
    labelled = True

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks, self.reads = masks, []

    def __len__(self) -> int:
        return len(self.masks)

    def read(self, index: int):
        self.reads.append(index)
        return None, self.masks[index]


def masks(number: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Masks with void pixels; the first one has no sign."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice([0, 0, 0, 1, 2, 255], (12, 16)).astype(np.uint8) for _ in range(number)]
    drawn[0][drawn[0] == 2] = 0
    return drawn


def test_inverse_is_the_balanced_weight_of_scikit_learn():
    drawn = masks()
    pixels = np.concatenate([mask.ravel() for mask in drawn])
    known = compute_class_weight("balanced", classes=np.arange(3), y=pixels[pixels != 255])
    frequencies = count_pixels(Masks(drawn), 3, Silent())
    assert class_weights.class_weights("inverse", frequencies, 0.9) == pytest.approx(known)


@pytest.mark.parametrize("rule", ["auto", "median"])
def test_median_divides_by_the_images_in_which_a_class_occurs(rule):
    drawn = masks()
    share = []
    for number in range(3):
        within = [mask for mask in drawn if (mask == number).any()]
        labelled = sum((mask != 255).sum() for mask in within)
        share.append(sum((mask == number).sum() for mask in within) / labelled)
    frequencies = count_pixels(Masks(drawn), 3, Silent())
    known = np.median(share) / np.array(share)
    assert class_weights.class_weights(rule, frequencies, 0.9) == pytest.approx(known)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 0.9999999])
def test_effective_is_one_minus_beta_over_one_minus_beta_to_the_n(beta):
    pixels = np.array([10, 2000, 300_000])
    each = (1 - beta) / (1 - beta ** pixels.astype(float))
    frequencies = Frequencies(pixels, pixels, 1)
    weights = class_weights.class_weights("effective", frequencies, beta)
    assert weights == pytest.approx(3 * each / each.sum(), rel=1e-6)


def test_a_class_without_a_pixel_has_the_weight_0_and_changes_no_other(caplog):
    recipe = recipes.loads(RECIPE.replace("auto", "inverse").replace("effective", "auto"))
    drawn = [np.where(mask == 2, 0, mask) for mask in masks()]
    weights = counted_weights(recipe, Masks.classes, Masks(drawn), Silent())
    (text,) = caplog.messages
    assert text == "no pixel of sign in the training split: the class weight is 0"
    pixels = np.concatenate([mask.ravel() for mask in drawn])
    known = compute_class_weight("balanced", classes=np.arange(2), y=pixels[pixels != 255])
    assert list(weights["cross_entropy"].values()) == pytest.approx([*known, 0.0])
    assert weights["focal"]["sign"] == 0.0 and weights["focal"]["road"] > 0


def test_a_large_split_is_sampled_but_every_class_is_looked_for(monkeypatch):
    monkeypatch.setattr(class_weights, "MASKS", 3)
    drawn = [np.array([[0, 1]], np.uint8) for _ in range(9)]
    drawn[8], drawn[4] = np.array([[0, 2]], np.uint8), np.array([[1, 1]], np.uint8)
    dataset = Masks(drawn)
    assert count_pixels(dataset, 3, Silent()).masks == 3 and dataset.reads == [0, 4, 8]
    drawn[8], drawn[2] = drawn[0], drawn[8]
    dataset = Masks(drawn)
    assert count_pixels(dataset, 3, Silent()).pixels.tolist() == [4, 5, 1]
    assert dataset.reads == [0, 4, 8, 1, 2]


def test_effective_without_an_effect_is_a_warning_whose_tip_has_one(caplog):
    rng = np.random.default_rng(0)
    drawn = [rng.choice([0, 0, 0, 0, 1, 2], (600, 800)).astype(np.uint8)]
    counted_weights(recipes.loads(RECIPE), Masks.classes, Masks(drawn), Silent())
    (text,) = caplog.messages
    tip = text.partition("--set '")[2].rstrip("'")
    assert tip == "losses.focal.class_beta=0.99999"
    caplog.clear()
    weights = counted_weights(
        recipes.loads(RECIPE, sets=[tip]), Masks.classes, Masks(drawn), Silent()
    )
    assert not caplog.messages
    assert weights["focal"]["car"] > 1.01 * weights["focal"]["road"]


def test_masks_of_a_folder_are_counted_without_their_images(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part / "train").mkdir(parents=True)
    drawn = masks()
    for number, mask in enumerate(drawn):
        Image.new("RGB", (16, 12)).save(tmp_path / "images" / "train" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / "train" / f"{number}.png")
    recipe = recipes.loads(RECIPE.replace("ROOT", str(tmp_path)))
    dataset = assemble.build_dataset(recipe, "train")
    pixels = count_pixels(dataset, 3, Silent()).pixels
    assert pixels.tolist() == [sum((mask == number).sum() for mask in drawn) for number in range(3)]
    Image.fromarray(np.full((12, 16), 7, np.uint8)).save(tmp_path / "masks" / "train" / "2.png")
    with pytest.raises(DataBroken, match="belong to no class"):
        count_pixels(dataset, 3, Silent())


def test_numbers_take_the_place_of_rules_and_an_unknown_rule_is_refused():
    recipe = recipes.loads(RECIPE)
    assert list(class_weights.rules(recipe)) == ["cross_entropy", "focal"]
    weights = counted_weights(recipe, Masks.classes, Masks(masks()), Silent())
    replaced = class_weights.with_weights(recipe, weights)
    assert replaced.losses[0].arguments["class_weights"] == list(weights["cross_entropy"].values())
    assert not class_weights.rules(replaced)
    with pytest.raises(RecipeError, match="class_weights: got 'balanced', need a list or 'auto'"):
        recipes.loads(RECIPE.replace("auto", "balanced"))


def test_images_without_labels_are_not_counted_among_the_masks():
    """Before, a split of which two images have labels had "2 of 4 masks"."""
    dataset, notes = Masks(masks()), Notes()
    dataset.labelled_images = 2
    counted_weights(recipes.loads(RECIPE), Masks.classes, dataset, notes)
    assert notes.said and all(", 2 of 2 masks): road " in text for text in notes.said)
