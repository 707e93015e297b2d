"""Folders as people bring them: each is read right, or refused with a message that fixes it."""

from __future__ import annotations

import os
import traceback
from collections import Counter

import pytest
from class_lists import LISTS
from folder_defects import DEFECTS
from folder_forms import FolderForm, forms
from folder_judge import Judge
from folder_places import LAYOUTS, NAMINGS
from form_outcome import Outcome
from image_kinds import IMAGES
from mask_codings import CODINGS
from mask_files import WRITERS

NUMBER = int(os.environ.get("FREQKD_FOLDER_FORMS", "200"))
SAMPLE = (4, 8, 15, 37, 57, 75, 92, 123, 128, 161, 165, 198)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def judged(freqkd, tmp_path, record_property):
    """Return a function that judges a form and records its outcome for the table."""

    def run(*words: object) -> tuple[int | None, str, str]:
        try:
            return freqkd(*words)
        except Exception:
            return None, "", traceback.format_exc()

    def judge(form: FolderForm) -> Outcome:
        outcome = Judge(form, tmp_path, run).outcome()
        record_property("study", ("folders", outcome.verdict, outcome.good, outcome.line))
        return outcome

    return judge


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(k, id=f"form-{k:03d}") for k in range(NUMBER)])
def test_every_folder_is_right_or_fixed(judged, number):
    outcome = judged(forms(number + 1)[number])
    assert outcome.good, outcome.line


@pytest.mark.parametrize("number", [pytest.param(k, id=f"sample-{k:03d}") for k in SAMPLE])
def test_a_sample_of_folders_is_right_or_fixed(judged, number):
    outcome = judged(forms(number + 1)[number])
    assert outcome.good, outcome.line


def test_200_forms_have_every_value_of_every_dimension():
    generated = forms(200)
    for kind, values in (
        ("coding", CODINGS),
        ("listing", LISTS),
        ("layout", LAYOUTS),
        ("naming", NAMINGS),
        ("image", IMAGES),
        ("defect", DEFECTS),
    ):
        counts = Counter(getattr(form, kind).name for form in generated)
        assert {value.name for value in values} == {*counts}, kind
    assert {form.file for form in generated} == {*WRITERS}
