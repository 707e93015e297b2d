"""A step on a GPU waits for no result of it: counted on a device without data, so on any machine.

Every loss is called as the loop calls it, with a live teacher and with a cached target.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

from freqkd_cli import registry

SOLVER = "the solver checks on the host whether it converged"
EXCUSED = {
    ("graph_band", "live"): SOLVER,
    ("graph_basis", "live"): SOLVER,
    ("graph_laplacian", "live"): SOLVER,
    ("graph_laplacian", "cached"): SOLVER,
    ("graph_lowrank", "live"): SOLVER,
    ("graph_match", "live"): SOLVER,
    ("graph_match", "cached"): "heads are matched on the host",
    ("graph_spectrum", "live"): SOLVER,
    ("graph_spectrum", "cached"): SOLVER,
}
"""(loss, source of its target) -> why a step with it may wait."""


@pytest.fixture(scope="module")
def calls() -> dict[str, list[str]]:
    """What ``waiting_calls.py`` prints."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot be given a device without data")
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (root, root / "tests/helpers", root / "tests/losses")))
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("waiting_calls.py")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("source", ["live", "cached"])
@pytest.mark.parametrize("name", registry.names("losses"))
def test_a_loss_waits_for_nothing_or_is_excused(calls, name, source):
    seen = calls[f"{name} {source}"]
    assert bool(seen) == ((name, source) in EXCUSED), seen


def test_other_arguments_wait_for_nothing(calls):
    variants = {name: seen for name, seen in calls.items() if name.endswith("}")}
    assert len(variants) > 20 and not any(variants.values()), variants


@pytest.mark.parametrize("what", ["of a step", "of a tally"])
def test_the_loop_and_the_scores_wait_for_nothing(calls, what):
    assert calls[what] == []


def test_a_call_that_waits_is_seen(calls):
    assert len(calls["of calls that wait"]) == 3
