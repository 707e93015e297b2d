"""Where images and masks lie, and what their files are called."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Folders of one form.

    Attributes:
        images, masks: patterns of the folder; ``{s}`` is the split, ``{n}`` a subfolder.
        splits: the words for train and val.
        pooled: one folder without splits.
        listing: pattern of the list files, ``{s}`` is the split.
        line: content of a line; may use stem, image, mask (paths below the root).
        shared: images and masks in one folder.
        by_hand: a refusal that shows the folders is right; files have to be moved.
    """

    name: str
    images: str = "images/{s}"
    masks: str = "masks/{s}"
    splits: tuple[str, str] = ("train", "val")
    pooled: bool = False
    listing: str | None = None
    line: str = "{stem}"
    by_hand: bool = False

    @property
    def shared(self) -> bool:
        return self.images == self.masks

    def folder(self, what: str, split: str, number: int) -> str:
        """Return the folder of an image or a mask, below the root."""
        word = dict(zip(("train", "val"), self.splits, strict=True))[split]
        return getattr(self, what).format(s=word, n=("aachen", "zürich")[number % 2])


LAYOUTS = (
    Layout("images/train"),
    Layout("train/images", "{s}/images", "{s}/masks"),
    Layout("images, labels", masks="labels/{s}"),
    Layout("train/labels", "{s}/images", "{s}/labels"),
    Layout("images, annotations", masks="annotations/{s}"),
    Layout("train/annotations", "{s}/images", "{s}/annotations"),
    Layout("images, gt", masks="gt/{s}"),
    Layout("train/gt", "{s}/images", "{s}/gt"),
    Layout("train/mask, image", "{s}/image", "{s}/mask"),
    Layout("train/label, image", "{s}/image", "{s}/label"),
    Layout("img_dir, ann_dir", "img_dir/{s}", "ann_dir/{s}"),
    Layout("ground_truth", masks="ground_truth/{s}"),
    Layout("segmentation", masks="segmentation/{s}"),
    Layout("Images, Masks", "Images/{s}", "Masks/{s}"),
    Layout("Train, Val", splits=("Train", "Val")),
    Layout("valid", splits=("train", "valid")),
    Layout("valid/images", "{s}/images", "{s}/masks", ("train", "valid")),
    Layout("validation", splits=("train", "validation")),
    Layout("training, validation", masks="annotations/{s}", splits=("training", "validation")),
    Layout("nested", "images/{s}/{n}", "masks/{s}/{n}"),
    Layout("nested labels", "{s}/images/{n}", "{s}/labels/{n}"),
    Layout("nested images alone", "images/{s}/{n}", "masks/{s}", by_hand=True),
    Layout("train, train_labels", "{s}", "{s}_labels", by_hand=True),
    Layout("train, trainannot", "{s}", "{s}annot", by_hand=True),
    Layout("train_images, train_masks", "{s}_images", "{s}_masks", by_hand=True),
    Layout("masks under another name", masks="targets_v2/{s}", by_hand=True),
    Layout("masks beside train", "{s}/images", "{s}/segm_out", by_hand=True),
    Layout("no splits", "images", "masks", pooled=True),
    Layout("no splits, labels", "images", "labels", pooled=True),
    Layout("no splits, annotations", "JPEGImages", "annotations", pooled=True, by_hand=True),
    Layout("lists of stems", "images", "masks", listing="{s}.txt"),
    Layout("lists of files", "images", "masks", listing="{s}.txt", line="{file}"),
    Layout("lists of paths", "images", "masks", listing="{s}.txt", line="{image}"),
    Layout("lists of pairs", "images", "masks", listing="{s}.txt", line="{image} {mask}"),
    Layout("lists in splits", "images", "masks", listing="splits/{s}.txt"),
    Layout(
        "VOC lists",
        "JPEGImages",
        "SegmentationClass",
        listing="ImageSets/Segmentation/{s}.txt",
        by_hand=True,
    ),
    Layout("one folder a split", "{s}", "{s}", by_hand=True),
    Layout("one folder", "pics", "pics", pooled=True, by_hand=True),
    Layout("images of a split in one folder", "images/{s}", "images/{s}", by_hand=True),
)
"""Every layout of the study."""


@dataclass(frozen=True)
class Naming:
    """Names of the files of an image.

    Attributes:
        image, mask: number -> stem.
        template: value of ``data.mask``; None where no template says it.
        by_hand: a refusal that shows names of either side is right; files have to be renamed.
        keeps_suffix: the mask's stem is the whole name of the image.
        upper: the suffixes of the images are in capitals.
    """

    name: str
    image: Callable[[int], str]
    mask: Callable[[int], str]
    template: str | None = None
    by_hand: bool = False
    keeps_suffix: bool = False
    upper: bool = False


def _p(number: int) -> str:
    return f"p{number:03d}"


def _behind(end: str) -> Naming:
    return Naming(end, _p, lambda n: _p(n) + end, "{stem}" + end)


def _before(start: str) -> Naming:
    return Naming(start, _p, lambda n: start + _p(n), start + "{stem}")


def _collision(number: int) -> str:
    return "a" if not number else f"a_{'1' * number}" if number < 4 else f"a_{number}"


def _hash(number: int) -> str:
    return f"{(number + 7) * 2654435761 % 2**32:08x}"


def _umlaut(form: str) -> Callable[[int], str]:
    return lambda n: unicodedata.normalize(form, f"größe é{n}")


NAMINGS = (
    Naming("equal", _p, _p),
    _behind("_mask"),
    _behind("_label"),
    _behind("_gt"),
    _behind("_seg"),
    _behind("-mask"),
    _behind("_segmentation"),
    _behind("_labelIds"),
    _behind("_L"),
    _behind(".mask"),
    _behind("_mask_v2"),
    _before("mask_"),
    _before("gt_"),
    _before("label-"),
    Naming("double suffix", _p, _p, keeps_suffix=True),
    Naming("img_, mask_", lambda n: f"img_{n:04d}", lambda n: f"mask_{n:04d}", by_hand=True),
    Naming("_image, _mask", lambda n: f"{_p(n)}_image", lambda n: f"{_p(n)}_mask", by_hand=True),
    Naming(
        "_rgb, _semantic", lambda n: f"scene{n}_rgb", lambda n: f"scene{n}_semantic", by_hand=True
    ),
    Naming(
        "leftImg8bit",
        lambda n: f"ulm_{n:06d}_leftImg8bit",
        lambda n: f"ulm_{n:06d}_gtFine_labelIds",
        by_hand=True,
    ),
    Naming("_sat, _mask", lambda n: f"{1000 + n}_sat", lambda n: f"{1000 + n}_mask", by_hand=True),
    Naming("capitals", lambda n: f"IMG_{n}", lambda n: f"img_{n}"),
    Naming("capital suffix", _p, _p, upper=True),
    Naming("NFC, NFD", _umlaut("NFC"), _umlaut("NFD")),
    Naming("NFD, NFC", _umlaut("NFD"), _umlaut("NFC")),
    Naming("dots", lambda n: f"v1.{n}.final", lambda n: f"v1.{n}.final"),
    Naming("spaces", lambda n: f"Photo ({n}) [a]", lambda n: f"Photo ({n}) [a]"),
    Naming("braces", lambda n: f"p{{{n}}}", lambda n: f"p{{{n}}}"),
    Naming("prefixes of each other", _collision, lambda n: _collision(n) + "_mask", "{stem}_mask"),
    Naming(
        "roboflow",
        lambda n: f"p{n}_jpg.rf.{_hash(n)}",
        lambda n: f"p{n}_jpg.rf.{_hash(n)}_mask",
        "{stem}_mask",
    ),
    Naming("numbers", lambda n: f"{n + 1}", lambda n: f"{n + 1:05d}", by_hand=True),
    Naming("unrelated", _p, _hash, by_hand=True),
    Naming("shifted", lambda n: f"frame{n}", lambda n: f"label{n + 1}", by_hand=True),
)
"""Every way to name files in the study."""
