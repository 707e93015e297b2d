"""Pretrained weights of an encoder of segmentation-models-pytorch, from a file on this machine."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import RecipeError, WeightsMissing
from freqkd_cli.features.segmenter import IMAGENET_MEAN, IMAGENET_STD
from freqkd_cli.models._smp_guess import encoder_families
from freqkd_cli.models._smp_network import Network, unfilled
from freqkd_cli.models._smp_weights import Normalisation, encoder_normalisation
from freqkd_cli.weights.hub import is_path
from freqkd_cli.weights.key_groups import fitting
from freqkd_cli.weights.state_dict import difference, read_state

log = logging.getLogger(__name__)

_TIMM, _DEPRECATED = "tu-", "timm-"
_TRIED = 24
"""Encoders of timm whose tensors are compared with a file that does not fit."""

_COUNTERS = "num_batches_tracked"
"""Ending of buffers that old files lack and that no forward pass reads."""

_BEFORE = ("", "encoder.", "encoder.model.")
"""Prefixes that the names of another encoder are looked for under."""


def encoder_file(encoder_weights: str | None, weights: str | None) -> Path | None:
    """Return the file of ``encoder_weights``; None for published weights, or without any.

    Raises:
        RecipeError: ``weights`` hold the whole network, so the file would not be used.
    """
    if encoder_weights is None or not is_path(encoder_weights):
        return None
    if weights is not None:
        raise RecipeError(
            "weights contain the encoder too, so encoder_weights would not be used",
            got=f"weights {weights} and encoder_weights {encoder_weights}",
            need="one of them",
            tip="--set 'encoder_weights=null', or --set 'weights=null'",
            key="encoder_weights",
        )
    return Path(encoder_weights).expanduser()


def load_encoder(encoder: nn.Module, path: Path, network: Network) -> None:
    """Load a file in timm's, torchvision's or the library's names into an encoder.

    Tensors of a classifier, and of the other parts of a whole network, are left out with an info
    line.

    Raises:
        WeightsMissing: there is no such file, or the encoder has a tensor that the file lacks or
            has in another shape, or the file is of a deeper encoder; nothing has been loaded then.
    """
    with _for_encoders():
        state = read_state(path)
        own = encoder.state_dict()
        names = _names_in_file(own, state)
        group = fitting(state, {name: own[key] for name, key in names.items()}, str(path))
    given, text = _matched(group, own, names, network.encoder)
    if text:
        other = _other_encoder(group, path, network)
        raise WeightsMissing(
            f"{path} does not fit the encoder {network.encoder}",
            got=text,
            need=f"the {len(own)} tensors of that encoder, under timm's names or the library's",
            tip=f"--set 'encoder={other}'"
            if other
            else "use the file of that encoder, or set encoder to that of the file",
            key="encoder_weights",
        )
    left = Counter(key.partition(".")[0] for key in group.keys() - names.keys())
    if left:
        listed = ", ".join(f"{name} ({number})" for name, number in sorted(left.items()))
        text = "%s: read the %d tensors of the encoder; left out: %s"
        log.info(text, path, len(given), listed)
    # Some encoders of the library rename keys in their own method, and these are the final names.
    nn.Module.load_state_dict(encoder, own | given)


def file_normalisation(path: Path, network: Network) -> Normalisation:
    """Return mean and std of timm's published weights of this encoder, else ImageNet's.

    A file does not contain its own, so the choice is logged.
    """
    normalisation, source = (list(IMAGENET_MEAN), list(IMAGENET_STD)), "ImageNet"
    if network.encoder.startswith(_TIMM):
        with suppress(ValueError):
            normalisation = encoder_normalisation(network.encoder, "imagenet")
            source = "timm's published weights"
    text = "%s: mean %s and std %s of the images are those of %s; give mean and std if others fit"
    log.info(text, path, *normalisation, source)
    return normalisation


@contextmanager
def _for_encoders() -> Iterator[None]:
    """Name ``encoder_weights`` in the errors about weight files, and in their tips."""
    try:
        yield
    except WeightsMissing as error:
        error.key = "encoder_weights"
        error.tip = error.tip and error.tip.replace("--set 'weights=", "--set 'encoder_weights=")
        raise


def _names_in_file(own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each tensor in a file -> its name in the encoder.

    The library keeps a network of timm as ``model``. Timm's feature extractors rename the blocks of
    a sequence, ``stages.0`` to ``stages_0``, and files have the former name.
    """
    ends = {key[i:] for key in state for i in (0, *_after_points(key))}
    names = {}
    for key in own:
        plain = key
        while plain.startswith("model."):
            plain = plain.removeprefix("model.")
        first, point, rest = plain.partition(".")
        split = (
            f"{first[:i]}.{first[i + 1 :]}{point}{rest}" for i, c in enumerate(first) if c == "_"
        )
        names[next((name for name in (plain, *split) if name in ends), plain)] = key
    return names


def _after_points(key: str) -> list[int]:
    return [i + 1 for i, c in enumerate(key) if c == "."]


def _matched(
    group: Mapping[str, Tensor], own: Mapping[str, Tensor], names: Mapping[str, str], encoder: str
) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file under the encoder's names, and what does not fit, if any."""
    given = {names[key]: x for key, x in group.items() if key in names}
    wanted = {key: x for key, x in own.items() if key in given or not key.endswith(_COUNTERS)}
    parts = {name.partition(".")[0] for name in names}
    extra = [key for key in group if key not in names and key.partition(".")[0] in parts]
    published = _published_names(encoder) if extra else frozenset()
    deeper = {key: group[key] for key in extra if key not in published}
    return given, difference(given | deeper, wanted)


def _published_names(encoder: str) -> frozenset[str]:
    """Return the names of timm's whole classifier, or of the encoder at its full depth."""
    with suppress(Exception), torch.device("meta"):
        if encoder.startswith(_TIMM):
            import timm

            return frozenset(timm.create_model(encoder.removeprefix(_TIMM)).state_dict())
    with suppress(RecipeError):
        return frozenset(unfilled(Network(encoder=encoder), 1)[0].encoder.state_dict())
    return frozenset()


def _other_encoder(state: Mapping[str, Tensor], path: Path, given: Network) -> str | None:
    """Return the first encoder with the tensors of a file, or None."""
    for start in _BEFORE:
        group = {key.removeprefix(start): x for key, x in state.items() if key.startswith(start)}
        for name in _candidates(group, path, given) if group else ():
            own = _expected(name)
            if own and not _matched(group, own, _names_in_file(own, group), name)[1]:
                return name
    return None


def _candidates(state: Mapping[str, Tensor], path: Path, given: Network) -> Iterator[str]:
    """Yield timm's encoders with such a name, then families of the library with such tensors."""
    import timm

    known = timm.list_models()
    yield from (f"{_TIMM}{name}" for name in get_close_matches(path.stem, known))
    if given.encoder.startswith(_TIMM):
        family = re.match(r"\D*", given.encoder.removeprefix(_TIMM))[0]  # type: ignore[index]
        relatives = (name for name in known if name.startswith(family))
        yield from (f"{_TIMM}{name}" for name in islice(relatives, _TRIED))
    for members in encoder_families():
        names = () if members[0].startswith(_DEPRECATED) else _expected(members[0]).keys()
        if names and len(names & state.keys()) > len(names) / 2:
            yield from members


@cache
def _expected(encoder: str) -> dict[str, Tensor]:
    """Return the tensors of an encoder without storage; none where it cannot be built."""
    try:
        return unfilled(Network(encoder=encoder), 1)[0].encoder.state_dict()
    except RecipeError:
        return {}
