"""``freqkd datasets``: every data set with its layout, classes and arguments."""

from __future__ import annotations

import json
import sys

import pytest

from freqkd_cli import registry
from freqkd_cli.datasets import hf
from freqkd_cli.errors import DataMissing


def test_all_data_sets_are_listed(freqkd):
    code, out, err = freqkd("datasets")
    assert (code, err) == (0, "")
    for name in registry.names("datasets"):
        assert any(line.startswith(name) for line in out.splitlines()), name
    rows = json.loads(freqkd("datasets", "--json")[1])
    assert [row["name"] for row in rows] == list(registry.names("datasets"))
    classes = {row["name"]: row["classes"] for row in rows}
    assert classes == {
        "ade20k": 150,
        "camvid": 11,
        "cityscapes": 19,
        "folder": None,
        "hf": None,
        "scenes": 12,
        "voc": 21,
    }
    assert all(row["layout"] and row["about"] for row in rows)


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_one_data_set_is_shown_with_layout_and_arguments(freqkd, name):
    (row,) = json.loads(freqkd("datasets", name, "--json")[1])
    assert row["layout"] == registry.find("datasets", name).LAYOUT
    out = freqkd("datasets", name)[1]
    assert row["layout"][:40] in out
    for argument in row["arguments"]:
        assert argument["name"] in out and argument["about"], argument["name"]


def test_an_unknown_name_suggests_the_nearest(freqkd):
    code, out, err = freqkd("datasets", "camvit")
    assert (code, out) == (2, "") and "did you mean 'camvid'" in err


def test_hf_without_its_library_is_one_message(freqkd, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    words = ("--set", "data={name: hf, size: [64, 64]}", "--data-root", tmp_path)
    code, out, err = freqkd("data", "quickstart", *words)
    assert (code, out) == (2, "") and "pip install 'freqkd[hf]'" in err and "Traceback" not in err


def test_a_missing_folder_of_hf_names_its_missing_library_too(tmp_path, monkeypatch):
    """The library was named only after the folder was there."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataMissing, match="there is no .*gone") as caught:
        hf.build(split="train", root=tmp_path / "gone", size=(32, 32))
    assert caught.value.tip.endswith("; pip install 'freqkd[hf]' as well")
