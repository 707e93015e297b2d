"""The weights that a recipe names for a SegFormer, with their own description."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.models._segformer_config import Description, describe
from freqkd_cli.models._segformer_load import TRAIN_A_HEAD, NamedTensors, named_tensors
from freqkd_cli.models._segformer_preprocessor import normalisation, reduces_labels
from freqkd_cli.runtime.json_file import read_object
from freqkd_cli.weights.config import License, ModelConfig, ModelSection, read_config
from freqkd_cli.weights.folder_kinds import WEIGHT_FILES, has_weights, model_folder
from freqkd_cli.weights.hub import hub_file, is_hub_id, is_unreachable
from freqkd_cli.weights.state_dict import read_state

log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parent.parent / "weights" / "segformer_scenes"

NVIDIA_LICENSE = License(
    name="NVIDIA Source Code License for SegFormer",
    note="The SegFormer weights that NVIDIA published are for research and evaluation, not for "
    "commercial use. This also holds for models trained from them. Read the license on the "
    "model's page before you deploy.",
    noncommercial=True,
)


TRANSFORMERS_ROWS = 2
"""Rows that transformers gives the classifier of a config without classes."""


@dataclass(frozen=True)
class SegFormerWeights:
    """Weights that a recipe names, and their description. Tensors are read on request.

    ``description`` is None for weights without a ``config.json``, ``folder`` for weights on the
    hub.
    """

    name: str
    description: Description | None
    license: License | None
    preprocessor: Mapping[str, Any] | None
    folder: Path | None

    @cached_property
    def tensors(self) -> NamedTensors:
        """The tensors under the names of the modules."""
        state = read_state(self.folder or hub_file(self.name, WEIGHT_FILES))
        return named_tensors(state, self.name)

    def rows(self) -> int:
        """Return the rows of the classifier, as the config or else the tensors have them.

        Raises:
            WeightsMissing: the weights have no config and no decoder.
        """
        if self.description is not None and self.description.rows is not None:
            return self.description.rows
        readable = self.folder is not None and (self.folder.is_file() or has_weights(self.folder))
        if self.description is not None and not readable:
            return TRANSFORMERS_ROWS
        rows = self.tensors.rows
        if rows is None and self.description is not None:
            return TRANSFORMERS_ROWS
        if rows is None:
            raise WeightsMissing(
                f"{self.name} has no segmentation head",
                need="an encoder and a decoder that was trained with it",
                tip=TRAIN_A_HEAD,
            )
        return rows

    def classes(self) -> int:
        """Return K, which is 2 for a classifier with one row."""
        return max(2, self.rows())

    def id2label(self) -> dict[int, str] | None:
        """Return the class names, or None where the classes have none."""
        names = self.description.row_names if self.description else []
        if self.rows() == 1:
            names = names_of_one_row(*names)
        return dict(enumerate(names)) or None

    def check_rows(self) -> None:
        """Refuse weights whose classifier has another number of rows than their description.

        Raises:
            WeightsMissing: with both numbers.
        """
        described, rows = self.description and self.description.rows, self.tensors.rows
        if rows is None or described in (None, rows):
            return
        names = list((self.description and self.description.id2label or {}).values())
        listed = f": {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}" if names else ""
        key = "id2label" if names else "num_labels"
        raise WeightsMissing(
            f"{self.name} describes another number of classes than its classifier has",
            got=f"{described} classes in {key}{listed}",
            need=f"{rows} classes, one for each row of the classifier",
            tip=f"correct {key} in its config.json; without id2label and num_labels the classes "
            "are read without names",
        )


def describe_model(model: Segmenter, source: SegFormerWeights, *, kept: bool) -> None:
    """Take license and normalisation of the weights, and warn of what users must know."""
    names = list((model.id2label or {}).values())
    for remark in source.description.remarks(names) if source.description and kept else ():
        log.warning("%s: %s", source.name, remark)
    if kept and source.rows() == 1:
        log.warning(
            "%s has one output row, trained with a sigmoid; it is read as two classes: "
            "0 is %s, 1 is %s where the output is above 0",
            source.name,
            *names,
        )
    model.license = source.license
    if model.license and model.license.noncommercial:
        log.warning("%s: %s", source.name, model.license.note or model.license.name)
    if reduces_labels(source.preprocessor):
        log.warning(
            "%s was trained with reduced labels: its class 0 is value 1 in the masks, 0 is void",
            source.name,
        )
    mean_and_std = normalisation(source.preprocessor, source.name)
    if mean_and_std:
        model.set_normalisation(*mean_and_std)


def names_of_one_row(name: str = "foreground") -> list[str]:
    """Return the names of the two classes of a classifier with one row: 0, then that of the row."""
    return ["foreground" if name.lower() == "background" else "background", name]


def find_weights(name: str, *, offline: bool = False) -> SegFormerWeights:
    """Find ``embedded``, a local folder or file, or a hub id (``owner/name``).

    For a hub id, ``config.json`` is downloaded, unless ``offline``.

    Raises:
        WeightsMissing: there is nothing of that name, or its ``config.json`` describes no
        SegFormer.
    """
    place = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if place.exists():
        return _local_weights(name, place)
    if name == "embedded":
        raise WeightsMissing(
            "this installation has no embedded teacher",
            need=EMBEDDED,
            tip="install freqkd again, or name other weights",
        )
    if not is_hub_id(name):
        raise WeightsMissing(
            f"no weights at {name}",
            need="embedded, a folder, a weight file, or a hub id such as owner/name",
        )
    config = read_config(hub_file(name, ("config.json",), offline=offline), f"{name}/config.json")
    preprocessor = None
    try:
        preprocessor = hub_file(name, ("preprocessor_config.json",), offline=offline)
    except WeightsMissing as error:  # a repository may leave it out: ImageNet's mean and std hold
        if not (offline or config.section.mean) and is_unreachable(error):
            log.warning(
                "%s: its preprocessor_config.json is not in the hub's cache and could not be "
                "fetched, so mean and std of the images are those of ImageNet",
                name,
            )
    license = hub_license(name) or config.section.license
    fields = read_object(preprocessor) if preprocessor else _recorded(config.section)
    return SegFormerWeights(name, describe(config), license, fields, folder=None)


def _local_weights(name: str, place: Path) -> SegFormerWeights:
    config: ModelConfig | None = None
    if place.is_dir():
        place = model_folder(place)
    folder = place if place.is_dir() else place.parent
    if (folder / "config.json").is_file():
        config = read_config(folder / "config.json")
    preprocessor = folder / "preprocessor_config.json"
    recorded = _recorded(config.section) if config else None
    return SegFormerWeights(
        name,
        describe(config) if config else None,
        config.section.license if config else None,
        read_object(preprocessor) if preprocessor.is_file() else recorded,
        place,
    )


def _recorded(section: ModelSection) -> dict[str, Any] | None:
    """Return mean and std that freqkd wrote into a ``config.json``, as fields of a preprocessor."""
    known = section.mean and section.std
    return {"image_mean": section.mean, "image_std": section.std} if known else None


def local_weights(name: str) -> SegFormerWeights | None:
    """Return weights that are on this machine, or None for a hub id or a run that is not yet."""
    try:
        return find_weights(name, offline=True)
    except WeightsMissing:
        if name == "embedded" or Path(name).expanduser().exists():
            raise
        return None


def hub_license(name: str) -> License | None:
    """Return the license of a hub repository whose owner publishes all weights under one."""
    owner, slash, _ = name.lower().partition("/")
    return NVIDIA_LICENSE if slash and owner == "nvidia" else None


def weights_license(name: str) -> License | None:
    """Return the license of weights that a recipe names, or None where it is not known.

    Nothing is downloaded.
    """
    try:
        return find_weights(name, offline=True).license
    except WeightsMissing:
        return hub_license(name)
