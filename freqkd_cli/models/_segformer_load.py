"""The tensors of a SegFormer's weights under the names of its modules, and loading them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from freqkd_cli.errors import WeightsMissing, some
from freqkd_cli.models._segformer_mmseg import FIRST as MMSEG_FIRST
from freqkd_cli.models._segformer_names import first_tensors, to_module_names
from freqkd_cli.weights.key_groups import one_network
from freqkd_cli.weights.single_output import with_background_row
from freqkd_cli.weights.state_dict import load_exact

log = logging.getLogger(__name__)

CLASSIFIER = "decode_head.classifier."
_SILENT = ("classifier.", "decode_head.conv_seg.", "head.")
"""Heads of image classifiers, and layers that no forward pass calls: left out without a word."""
_SHOWN = 3


@dataclass(frozen=True)
class NamedTensors:
    """The tensors of one network under the names of the modules.

    Attributes:
        where: the file or folder, for messages.
        state: encoder ``segformer.*`` and decoder ``decode_head.*``.
        from_mmseg: whether mmsegmentation wrote them.
    """

    where: str
    state: Mapping[str, Tensor]
    from_mmseg: bool = False

    @property
    def rows(self) -> int | None:
        """Number of rows of the classifier, or None where there is no decoder."""
        classifier = self.state.get(CLASSIFIER + "weight")
        return None if classifier is None else len(classifier)

    @property
    def has_conv_decoder(self) -> bool:
        """Whether the decoder is mmsegmentation's."""
        names = [f"decode_head.projections.{i}.conv.weight" for i in range(4)]
        return {*names, "decode_head.linear_fuse.weight"} <= self.state.keys()


def named_tensors(state: Mapping[str, Tensor], where: str) -> NamedTensors:
    """Return the network in a state dict, whatever prefix its names have; the rest is logged.

    Of several networks the only one with a decoder is used, or the averaged one (``ema``).

    Raises:
        WeightsMissing: there is no SegFormer in it, or there are several, of which neither is the
            average of the other.
    """
    places = first_tensors(state)
    if not places or any(key.startswith("segmentation_head.") for key in state):
        raise _another_model(state, where)
    prefix = _prefix(state, places, where)
    if len(places) > 1:
        log.warning(
            "%s contains several networks (%s): that of %s is used",
            where,
            ", ".join(name or "no prefix" for name in sorted(places)),
            prefix or "no prefix",
        )
    own = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    converted = to_module_names(own, places[prefix])
    parts = ("segformer.", "decode_head.")
    others = [prefix + k for k in converted if not k.startswith((*parts, *_SILENT))]
    others += [key for key in state if not key.startswith((prefix, *places))]
    if others:
        log.warning(
            "%s: left out %d tensor%s that a SegFormer does not have (%s)",
            where,
            len(others),
            "s" * (len(others) != 1),
            some(others, _SHOWN),
        )
    kept = {key: x for key, x in converted.items() if key.startswith(parts)}
    return NamedTensors(where, kept, places[prefix] == MMSEG_FIRST)


def _prefix(state: Mapping[str, Tensor], places: Collection[str], where: str) -> str:
    """Return what stands before the names of the network to read, out of ``places``."""
    whole = [name for name in places if any(key.startswith(f"{name}decode_head.") for key in state)]
    prefixes = sorted(whole or places, key=len)
    own = prefixes[-1]
    names = [key.removeprefix(own) for key in state if key.startswith(own)]
    return one_network(state, prefixes, names, where)


def _another_model(state: Mapping[str, Tensor], where: str) -> WeightsMissing:
    of_smp = any(key.startswith("segmentation_head.") for key in state)
    return WeightsMissing(
        f"{where} contains no weights of a SegFormer",
        got=", ".join(sorted(state)[:_SHOWN]) + " ...",
        need="the encoder of a SegFormer, such as segformer.encoder.patch_embeddings.0.proj.weight",
        tip="the model of segmentation-models-pytorch: --set 'name=smp', with its arch and encoder"
        if of_smp
        else None,
    )


def load_any(net: nn.Module, tensors: NamedTensors, *, new_head: bool) -> None:
    """Load every tensor of the network; with ``new_head``, all but the classifier.

    A classifier with one row gets a row of zeros before it. With ``new_head``, a decoder that the
    weights lack, or have in another form, keeps its initial values.

    Raises:
        WeightsMissing: a tensor is missing, unexpected or of another shape.
    """
    if not new_head:
        if not any(key.startswith("decode_head.") for key in tensors.state):
            raise WeightsMissing(
                f"{tensors.where} has no segmentation head",
                need="an encoder and a decoder that was trained with it",
                tip=TRAIN_A_HEAD,
            )
        if _fits(net, tensors.state, "segformer.") and _unexpected(net, tensors.state):
            raise _another_decoder(net, tensors)
        names = (CLASSIFIER + "weight", CLASSIFIER + "bias")
        load_exact(net, with_background_row(tensors.state, *names), where=tensors.where)
        return
    kept = _fits(net, tensors.state, "decode_head.", without=CLASSIFIER)
    fresh = CLASSIFIER if kept else "decode_head."
    if not kept and any(key.startswith("decode_head.") for key in tensors.state):
        log.warning(
            "%s: its decoder is another than SegFormer's and is left out; a new one starts",
            tensors.where,
        )
    given = {key: x for key, x in tensors.state.items() if not key.startswith(fresh)}
    ignore = [key for key in net.state_dict() if key.startswith(fresh)]
    load_exact(net, given, where=tensors.where, ignore=ignore)


TRAIN_A_HEAD = (
    "--set 'student.head=new' (a student's start; for a teacher, first train one so: "
    "freqkd recipe copy starter_teacher)"
)
"""What to do with weights that have no head for classes."""


def _fits(
    net: nn.Module, state: Mapping[str, Tensor], prefix: str, without: str | None = None
) -> bool:
    """Whether the tensors of a part of the network are all given; rows of the classifier aside."""
    left_out = without or CLASSIFIER

    def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {
            key: tuple(x.shape)
            for key, x in tensors.items()
            if key.startswith(prefix) and not key.startswith(left_out)
        }

    return shapes(net.state_dict()) == shapes(state)


def _unexpected(net: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights' decoder that the network's decoder has not."""
    wanted = net.state_dict().keys()
    return sorted(key for key in state if key.startswith("decode_head.") and key not in wanted)


def _another_decoder(net: nn.Module, tensors: NamedTensors) -> WeightsMissing:
    names = _unexpected(net, tensors.state)
    return WeightsMissing(
        f"the encoder of {tensors.where} fits, its decoder is not that of this SegFormer",
        got=f"{len(names)} tensors of another decoder ({some(names, _SHOWN)})",
        need="the decoder of transformers, of the authors or of mmsegmentation's SegformerHead",
        tip=TRAIN_A_HEAD,
    )
