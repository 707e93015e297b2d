"""Checkpoints as people bring them: each gives its own outputs, or is refused by its name."""

from __future__ import annotations

import os
import traceback

import pytest
from checkpoint_forms import BESIDE_KEYS, BESIDE_TABLE, PREFIXES, WRAPPERS, checkpoints
from checkpoint_judge import CheckpointJudge

NUMBER = int(os.environ.get("FREQKD_CHECKPOINT_FORMS", "110"))
SAMPLE = (1, 4, 13, 20, 30, 39, 50, 97)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def judged(freqkd, capsys, tmp_path, record_property):
    """Return a function that judges a form and records its outcome for the table."""

    def run(*words: object) -> tuple[int | None, str, str]:
        capsys.readouterr()  # what the form printed while it was written
        try:
            return freqkd(*words)
        except Exception:
            return None, "", traceback.format_exc()

    def judge(number: int):
        form = checkpoints(number + 1)[number]
        outcome = CheckpointJudge(form, tmp_path, run).outcome()
        record_property("study", ("checkpoints", outcome.verdict, outcome.good, outcome.line))
        return outcome

    return judge


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(k, id=f"form-{k:03d}") for k in range(NUMBER)])
def test_every_checkpoint_is_right_or_refused(judged, number):
    outcome = judged(number)
    assert outcome.good, outcome.line


@pytest.mark.parametrize("number", [pytest.param(k, id=f"sample-{k:03d}") for k in SAMPLE])
def test_a_sample_of_checkpoints_is_right_or_refused(judged, number):
    outcome = judged(number)
    assert outcome.good, outcome.line


def test_forms_have_every_wrapper_prefix_and_extra():
    names = " ".join(form.name for form in checkpoints(110))
    for words in (WRAPPERS, BESIDE_KEYS, BESIDE_TABLE):
        assert not [word for word in words if word not in names]
    assert not [prefix for prefix in PREFIXES if repr(prefix) not in names]
