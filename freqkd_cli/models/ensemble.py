"""Several trained models as one teacher: their mean probability for every class.

Each member is a model of its own, with its weights, its normalisation and its ``class_map``:

- p_i = softmax of the logits of member i, after its class map, among the classes that it covers;
- p(c) = sum of weight_i p_i(c) / sum of weight_i, over the members that cover the class c, and then
  divided by the sum over all classes (which is 1 where all members cover all classes);
- the logits are log p, so a loss may divide them by a temperature like any other logits.

The grid is that of the member with the smallest stride. Logits of other members are resized to it
bilinearly, before their softmax. The mean is computed in float32, whatever the members run in.

Taps: ``logits``. An ensemble is a teacher only: it stays in eval mode, and no gradient reaches it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from freqkd_cli import registry
from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.features.class_map import NEVER, ClassMap
from freqkd_cli.features.class_names import Classes, known_names
from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.features.trained_weights import in_section
from freqkd_cli.models._ensemble_classes import require_same, resolved_maps
from freqkd_cli.models._ensemble_member import NORMALISATION, Member

TEACHER_ONLY = True
"""A recipe cannot name it as a student."""

Members = Annotated[list[Member], Field(min_length=2)]


def build(*, classes: int, members: Members, class_names: Sequence[str] = ()) -> Ensemble:
    """Build the members and join them.

    Args:
        classes: K of members whose weights do not decide it.
        members: at least two, each with name, weights and the arguments of its model, such as
            {name: smp, weights: runs/a}. Optional keys are class_map, weight (in the mean, 1 by
            default), mean and std (of its images), and classes (K of weights without class names).
        class_names: those of the data, which the class maps name.

    Raises:
        WeightsMissing: weights of a member do not exist or do not fit.
        RecipeError: a member has other classes and no class map, or its map names unknown classes.
    """
    checked = _checked(members)
    models = []
    for number, member in enumerate(checked):
        with _of_member(number):
            models.append(member.build(classes))
    maps = resolved_maps(checked, models, class_names)
    if any(maps):
        return Ensemble(checked, models, maps, class_names)
    names = next((model.id2label for model in models if known_names(model)), None)
    model = Ensemble(checked, models, maps, ())
    model.id2label = names
    return model


def taps(*, classes: int, members: Members, class_names: Sequence[str] = ()) -> tuple[Tap, ...]:
    """Return the tap ``logits``, from the arguments and from weights on this machine."""
    checked = _checked(members)
    listed = []
    for number, member in enumerate(checked):
        with _of_member(number):
            listed.append(member.logits(classes))
    known = [Classes(tap.channels, m.names()) for m, tap in zip(checked, listed, strict=True)]
    require_same(checked, known, class_names)
    mapped = any(member.class_map for member in checked)
    channels = classes if mapped else listed[0].channels
    return (Tap("logits", min(tap.stride for tap in listed), channels, "logits"),)


def fetch(*, members: Members, **_: Any) -> None:
    """Download the descriptions of the members' weights where they are not on this machine.

    Raises:
        WeightsMissing: there are no such weights.
    """
    for number, member in enumerate(_checked(members)):
        fetching = getattr(registry.find("models", member.name), "fetch", None)
        with _of_member(number):
            if fetching:
                fetching(**member.arguments)


def class_maps(*, members: Members, **_: Any) -> dict[str, Mapping[str, str] | None]:
    """Return the class map of every member by its key, None where a member has none."""
    return {f"members.{i}.class_map": m.class_map for i, m in enumerate(_checked(members))}


def class_names(*, members: Members, **_: Any) -> dict[int, str]:
    """Return class number -> name of the first member whose weights have names on record."""
    names = (member.names() for member in _checked(members))
    return next((known for known in names if known), {})


class Ensemble(Segmenter):
    """The joined ``members``; the module's docstring defines the logits.

    Attributes:
        class_map: the classes that any member covers, or None where these are all.
    """

    def __init__(
        self,
        members: Sequence[Member],
        models: Sequence[Segmenter],
        maps: Sequence[ClassMap | None],
        class_names: Sequence[str],
    ) -> None:
        classes = len(class_names) or models[0].classes
        described = [_described(*each) for each in zip(members, models, maps, strict=True)]
        names = {"class_names": list(class_names)} if class_names else {}
        super().__init__(
            classes=classes, arguments={"members": described, **names}, tap_names=["logits"]
        )
        self.members = nn.ModuleList(models)
        self.maps = tuple(maps)
        self.weights = tuple(member.weight for member in members)
        self.covered = [mapping.covered if mapping else tuple(range(classes)) for mapping in maps]
        self.id2label = dict(enumerate(class_names)) or None
        known = [model.license for model in models if model.license]
        self.license = next((x for x in known if x.noncommercial), known[0] if known else None)
        union = tuple(sorted(set().union(*self.covered)))
        alone = tuple((number,) for number in union)
        self.class_map = ClassMap(alone, union, classes) if len(union) < classes else None
        self.set_normalisation([0.0] * 3, [1.0] * 3)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Ensemble:
        """Stay in eval mode: the members are trained."""
        return super().train(False)

    def ready(self, device: torch.device) -> None:
        for model in self.members:
            model.ready(device)

    def normalise(self, images: Tensor) -> Tensor:
        """Return the images as they are; each member normalises them in its own way."""
        return images

    @torch.no_grad()
    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        logits = [model(images)["logits"].float() for model in self.members]
        grid = max((x.shape[-2:] for x in logits), key=lambda size: size[0] * size[1])
        total = logits[0].new_full((len(images), self.classes, *grid), -torch.inf)
        shares = logits[0].new_zeros(self.classes)
        for x, mapping, weight, covered in zip(
            logits, self.maps, self.weights, self.covered, strict=True
        ):
            if x.shape[-2:] != grid:
                x = F.interpolate(x, grid, mode="bilinear", align_corners=False)
            x = (mapping.merged(x) if mapping else x).log_softmax(1) + torch.tensor(weight).log()
            numbers = list(covered)
            total[:, numbers] = torch.logaddexp(total[:, numbers], x)
            shares[numbers] += weight
        # Of a class that no member covers, both are -inf; a NaN of a member stays one.
        total = torch.where(shares[:, None, None] > 0, total - shares.log()[:, None, None], total)
        return {"logits": total.log_softmax(1).clamp(min=NEVER)}


def _checked(members: Sequence[Any]) -> list[Member]:
    """Return the members of a recipe, or of a saved model as JSON values."""
    return [Member.model_validate(member) for member in members]


def _described(member: Member, model: Segmenter, mapping: ClassMap | None) -> dict[str, Any]:
    """Return the keys of a member without weights, from which it can be built again."""
    names = dict(model.recipe_arguments)
    described: dict[str, Any] = {"name": member.name, **names, "weight": member.weight}
    for key in NORMALISATION:
        if key not in names:
            described[key] = [float(f"{x:.7g}") for x in getattr(model, key).flatten().tolist()]
    if mapping is not None and member.class_map:
        described["class_map"] = _by_number(member.class_map, model)
    return described


def _by_number(class_map: Mapping[str, str], model: Segmenter) -> dict[str, str]:
    """Return a class map with numbers for the names of a member's classes, ascending."""
    numbers = {name: str(number) for number, name in (model.id2label or {}).items()}
    pairs = {numbers.get(key, key): name for key, name in class_map.items()}
    return {key: pairs[key] for key in sorted(pairs, key=int)}


@contextmanager
def _of_member(number: int) -> Iterator[None]:
    """Complete the key and the tips of a member's errors with its place."""
    try:
        yield
    except FreqKDError as error:
        start = f"members.{number}."
        if not isinstance(error, UsageError):  # those are shown with their place
            error.what = f"teacher.members.{number}: {error.what}"
        error.key = f"{start}{error.key or 'weights'}"
        if error.tip:
            error.tip = in_section(error.tip, start.removesuffix("."))
        raise
