"""Files of torch.save: tensors beside anything are read, and nothing in a file is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import os
import pathlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights.state_dict import read_state

STATE = {"encoder.conv.weight": torch.ones(2, 2), "head.bias": torch.zeros(2)}
FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Level(enum.Enum):
    HIGH = 1


class Settings(dict):
    """As yacs, addict and others have them."""


class Lines(list):
    pass


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(2, 2)


class Runs:
    """Runs ``function`` when a careless reader unpickles it."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def write(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def equal(state: dict) -> bool:
    return state.keys() == STATE.keys() and all(
        torch.equal(state[key], STATE[key]) for key in STATE
    )


@FORMS
@pytest.mark.parametrize(
    "entry",
    "state_dict model_state_dict model_state net network weights params model module ema "
    "ema_state_dict student generator my_own_name".split(),
)
def test_any_entry_is_found(tmp_path: Path, entry: str, zipped: bool) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    (optimizer.param_groups[0]["params"][0] ** 2).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        entry: STATE,
        "optimizer": optimizer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": 0.1,
    }
    assert equal(read_state(write(tmp_path / "w.pth", content, zipped)))
    assert equal(read_state(write(tmp_path / "w.pth", {"checkpoint": {"a": content}}, zipped)))


@FORMS
def test_objects_beside_the_tensors_do_no_harm(tmp_path: Path, zipped: bool) -> None:
    content = {
        "net": STATE,
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("out")),
        "best": np.float64(1),
        "history": np.arange(3),
        "level": Level.HIGH,
        "counts": collections.defaultdict(list, {"a": [1]}),
        "queue": collections.deque([1, 2]),
        "lines": Lines([1]),
        "settings": Settings(model=Settings(depth=2)),
        "date": datetime.datetime(2024, 1, 1),
        "function": functools.partial(print, 1),
        "slice": slice(1, 2),
        Level.HIGH: 1,
    }
    assert equal(read_state(write(tmp_path / "w.pth", content, zipped)))


@FORMS
@pytest.mark.parametrize("kind", [Settings, functools.partial(collections.defaultdict, int)])
def test_tensors_in_a_kind_of_dictionary_are_read(tmp_path: Path, kind: type, zipped: bool) -> None:
    assert equal(read_state(write(tmp_path / "w.pth", kind(STATE), zipped)))
    assert equal(read_state(write(tmp_path / "w.pth", {"net": kind(STATE)}, zipped)))


@FORMS
def test_several_networks_keep_the_names_of_their_entries(tmp_path: Path, zipped: bool) -> None:
    path = write(tmp_path / "w.pth", {"model": STATE, "critic": STATE, "epoch": 1}, zipped)
    names = {f"{entry}.{key}" for entry in ("model", "critic") for key in STATE}
    assert read_state(path).keys() == names


@FORMS
@pytest.mark.parametrize("function", ["os.system", "subprocess", "eval", "exec", "open", "import"])
def test_nothing_is_run(tmp_path: Path, function: str, zipped: bool) -> None:
    """Functions of the system are refused, others are replaced by something inert."""
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')"
    evil = {
        "os.system": Runs(os.system, f"touch {trace}"),
        "subprocess": Runs(subprocess.check_output, ["touch", str(trace)]),
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "open": Runs(open, str(trace), "w"),
        "import": Runs(__import__, "antigravity"),
    }[function]
    path = write(tmp_path / "w.pth", {"net": STATE, "x": evil}, zipped)
    if function == "os.system":
        with pytest.raises(WeightsMissing) as caught:
            read_state(path)
        assert caught.value.got == f"code: {os.system.__module__}.system"
        assert "weights_only" not in str(caught.value)
    else:
        assert equal(read_state(path))
    assert not trace.exists() and "antigravity" not in sys.modules


@FORMS
def test_the_state_of_a_replaced_object_is_dropped(tmp_path: Path, zipped: bool) -> None:
    class_in_file = type("Evil", (), {"__module__": __name__, "__qualname__": "Evil"})
    globals()["Evil"] = class_in_file
    thing = class_in_file()
    thing.__dict__.update(append=print, __class__=int, class_name="x")
    path = write(tmp_path / "w.pth", {"net": STATE, "x": thing}, zipped)
    del globals()["Evil"]
    assert equal(read_state(path))


@FORMS
@pytest.mark.parametrize("entry", [None, "model"])
def test_a_whole_module_is_named_and_the_command_converts_it(
    tmp_path: Path, entry: str | None, zipped: bool
) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    content = {"epoch": 1, entry: network} if entry else network
    path = write(tmp_path / "whole.pth", content, zipped)
    with pytest.raises(WeightsMissing, match="whole pickled module") as caught:
        read_state(path)
    assert "torch.nn.modules.container.Sequential" in str(caught.value.got)
    assert "only on a file that you trust" in caught.value.tip
    run_tip(caught.value.tip)
    written = read_state(tmp_path / "whole-torch.pth")
    assert all(torch.equal(x, written[key]) for key, x in network.state_dict().items())


def run_tip(tip: str) -> None:
    """Run the command of a tip as a user would, and check that the tip names its result."""
    command, then = tip[tip.index('python -c "') :].split('", and then ')
    program = command.removeprefix('python -c "')
    subprocess.run([sys.executable, "-c", program], check=True)
    assert Path(then.removeprefix("--set 'weights=").partition("'")[0]).exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@FORMS
def test_other_pickle_protocols_are_named_and_the_command_converts_them(
    tmp_path: Path, protocol: int, zipped: bool
) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    try:
        assert equal(read_state(path))  # a protocol of few new codes
    except WeightsMissing as error:
        assert error.got == f"a pickle of protocol {protocol}"
        run_tip(str(error.tip))
        assert equal(read_state(tmp_path / "w-torch.pth"))


@pytest.mark.parametrize("by_torch", [True, False])
def test_arrays_of_numpy_are_named_and_the_command_converts_them(
    tmp_path: Path, by_torch: bool
) -> None:
    arrays = {key: x.numpy() for key, x in STATE.items()}
    path = tmp_path / "w.pkl"
    if by_torch:
        torch.save({"model": arrays}, path)
    else:
        path.write_bytes(pickle.dumps(arrays))
    with pytest.raises(WeightsMissing) as caught:
        read_state(path)
    assert not by_torch or caught.value.got == "arrays of numpy"
    run_tip(str(caught.value.tip))
    assert equal(read_state(tmp_path / "w-torch.pth"))


def test_without_tensors_the_entries_are_listed(tmp_path: Path) -> None:
    content = {"epoch": 3, "config": {"a": 1}, "args": argparse.Namespace(), "scores": [1, 2]}
    with pytest.raises(WeightsMissing, match="no table of tensors") as caught:
        read_state(write(tmp_path / "w.pth", content))
    assert caught.value.got == (
        "the entries epoch (int), config (dict of 1), args (argparse.Namespace), scores (list of 2)"
    )


def test_dtypes_and_a_single_layer(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, dtype=torch.float64), "bias": torch.ones(2).bfloat16()}
    read = read_state(write(tmp_path / "w.pth", state))
    assert {key: x.dtype for key, x in read.items()} == {key: x.dtype for key, x in state.items()}
