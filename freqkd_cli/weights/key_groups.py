"""Find a network's tensors in a checkpoint: the table, and the prefix of its keys."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqkd_cli.errors import WeightsMissing

log = logging.getLogger(__name__)

_ANCHORS = 64
"""Keys by which prefixes are looked for."""

_SHOWN = 6
_AVERAGED = re.compile(r"(^|[._])(ema|model_ema|ema_model|averaged|swa|n_averaged)([._]|$)")
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|grad|momentum|callback|loop|rng|hyper|config|meta")
_BESIDE = re.compile(
    r"^(criterions?|loss|losses|loss_fn|lossfn|metrics?|(train|val|test)_metrics"
    r"|classification_head|teacher|teacher_model|discriminator"
    r"|mean|std|pixel_mean|pixel_std|n_averaged)($|[._])"
)
"""Top-level keys of a training script beside its network, which no forward pass of it reads."""

_SIZED = ("dict", "OrderedDict", "list", "tuple")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")


def tables_of(content: Any, depth: int = 4) -> dict[str, dict[str, Tensor]]:
    """Return the tables of tensors in a checkpoint, by the path of their entry.

    The path of the checkpoint itself is empty. Tables of optimizers and of other state are left
    out, as are values that are no tensors.
    """
    if not isinstance(content, Mapping):
        return {}
    tensors = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Tensor) and isinstance(key, str)
    }
    tables = {"": tensors} if len(tensors) > 1 or any("." in key for key in tensors) else {}
    for key, value in content.items():
        if depth and isinstance(key, str) and not _NO_WEIGHTS.search(key.lower()):
            for path, table in tables_of(value, depth - 1).items():
                tables[f"{key}.{path}".rstrip(".")] = table
    return tables


def keys_of(content: Any, depth: int = 2) -> list[str]:
    """Return all keys that are texts, of the checkpoint and of its tables."""
    if not isinstance(content, Mapping):
        return []
    keys = [key for key in content if isinstance(key, str)]
    below = (keys_of(value, depth - 1) for value in content.values() if depth)
    return [*keys, *(key for table in below for key in table)]


def one_table(content: Any, where: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's only table, or of all its tables.

    Keys of several tables start with the path of their table, so that :func:`fitting` can choose.
    Averaged weights come before those that they are the average of: published results are theirs.

    Raises:
        WeightsMissing: there is no table; the entries of the file are listed.
    """
    tables = tables_of(content)
    if not tables:
        raise WeightsMissing(
            f"{where} contains no table of tensors", got=_entries(content), need="a state_dict()"
        )
    keys = {path: frozenset(_without_wrapper(table)) for path, table in tables.items()}
    averaged = [path for path in tables if _AVERAGED.search(path)]
    for path in averaged:
        plain = [other for other in tables if other not in averaged and keys[other] & keys[path]]
        for other in plain:
            log.warning("%s: the averaged weights of %s are read, not %s", where, path, other)
            del tables[other]
    if len(tables) == 1:
        return next(iter(tables.values()))
    return {f"{p}.{key}".lstrip("."): x for p, table in tables.items() for key, x in table.items()}


def _entries(content: Any) -> str:
    """Return what a file holds, for a message."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    rows = []
    for key, value in list(content.items())[:12]:
        kind = type(value).__name__
        kind = getattr(value, "class_name", kind)  # the class in whose place an object stands
        size = f" of {len(value)}" if kind in _SIZED else ""
        rows.append(f"{key} ({kind}{size})")
    return f"the entries {', '.join(rows)}" if rows else "no entry"


def _without_wrapper(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Remove the prefixes that a wrapper (many GPUs, a compiler, a framework) put before all."""
    for prefix in _WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            return _without_wrapper({key.removeprefix(prefix): x for key, x in state.items()})
    return state


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes that all its keys share."""
    return dict(_without_wrapper(state))


def fitting(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor] | Collection[str], where: str
) -> dict[str, Tensor]:
    """Return the group of tensors that has the wanted names after one prefix.

    The other keys are listed in the log. Where no group has all names, the one with the most is
    returned, for a message about what it lacks; where none has any, ``state`` itself.

    Args:
        state: all tensors of a checkpoint.
        wanted: the names in the network, or its tensors: groups of their shapes come first.
        where: the file, for messages.

    Raises:
        WeightsMissing: two groups fit equally, and neither is the average of the other.
    """
    prefix = _prefix(state, wanted, where)
    if prefix is None:
        return dict(state)
    group = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    kept = {key: x for key, x in group.items() if key in wanted or not _BESIDE.match(key)}
    left = [key for key in state if not (key.startswith(prefix) and key[len(prefix) :] in kept)]
    if left:
        parts = Counter(key.partition(".")[0] for key in left)
        listed = ", ".join(f"{name} ({number})" for name, number in list(parts.items())[:_SHOWN])
        place = f" under {prefix.rstrip('.')!r}" if prefix else ""
        log.info("%s: read the %d tensors%s; left out: %s", where, len(kept), place, listed)
    return kept


def _prefix(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor] | Collection[str], where: str
) -> str | None:
    """Return the prefix of the group with the most wanted names, and the most of their shapes."""
    counts: Counter[str] = Counter()
    anchors = sorted(wanted, key=len, reverse=True)[:_ANCHORS]
    for anchor in anchors:
        for key in state:
            prefix = key.removesuffix(anchor)
            if len(prefix) < len(key) and (not prefix or prefix.endswith(".")):
                counts[prefix] += 1
    if not counts:
        return None
    totals = {prefix: _agreement(state, wanted, prefix) for prefix in counts}
    most = max(totals.values())
    best = [prefix for prefix, total in totals.items() if total == most]
    return one_network(state, best, wanted, where)


def one_network(
    state: Mapping[str, Tensor], prefixes: Sequence[str], names: Collection[str], where: str
) -> str:
    """Return the prefix of the network to read, of several with the same names.

    Raises:
        WeightsMissing: they are not equal, and none is the average of the others.
    """
    if all(_equal(state, names, prefixes[0], prefix) for prefix in prefixes[1:]):
        return prefixes[0]
    averaged = [prefix for prefix in prefixes if _AVERAGED.search(prefix)]
    if len(averaged) == 1:
        rest = ", ".join(repr(p.rstrip(".")) for p in prefixes if p not in averaged)
        log.warning("%s: the averaged weights of %r are read, not %s", where, averaged[0], rest)
        return averaged[0]
    raise _ambiguous(where, prefixes)


def _agreement(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor] | Collection[str], prefix: str
) -> tuple[int, int]:
    """Return how many wanted names a group has, and how many of these have the wanted shape."""
    common = [name for name in wanted if prefix + name in state]
    if not isinstance(wanted, Mapping):
        return len(common), 0
    shaped = [name for name in common if state[prefix + name].shape == wanted[name].shape]
    return len(common), len(shaped)


def _equal(state: Mapping[str, Tensor], wanted: Collection[str], first: str, other: str) -> bool:
    """Whether two groups are the same network, saved under two names."""
    pairs = ((state.get(first + name), state.get(other + name)) for name in wanted)
    return all(a is b or (a is not None and b is not None and _same(a, b)) for a, b in pairs)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _ambiguous(where: str, prefixes: Sequence[str]) -> WeightsMissing:
    groups = [prefix or "(no prefix)" for prefix in prefixes]
    chosen = min(prefixes, key=lambda prefix: "teacher" in prefix)
    out = str(Path(where).with_suffix("")) + "-chosen.pth"
    code = (
        "import torch, pathlib; from freqkd_cli.weights.state_dict import read_state; "
        f"s = read_state(pathlib.Path({where!r}).expanduser()); p = {chosen!r}; "
        f"torch.save({{k[len(p):]: v for k, v in s.items() if k.startswith(p)}}, {out!r})"
    )
    return WeightsMissing(
        f"{where} holds several networks that fit",
        got=f"groups of keys with the prefixes {', '.join(groups)}",
        need="one of them in a file of its own",
        tip=f"python -c \"{code}\" (p is the prefix of the one), and then --set 'weights={out}'",
    )
