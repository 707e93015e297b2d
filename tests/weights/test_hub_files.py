"""Files of the hub: what is logged, and what is asked for without a connection."""

from __future__ import annotations

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.weights import hub


@pytest.fixture
def asked(monkeypatch):
    """The names that the hub library was asked for, each with whether the network was allowed."""
    calls = []

    def download(repository, name, *, local_files_only, **_):
        calls.append((name, not local_files_only))
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._announce.cache_clear()
    return calls


def test_the_hub_is_announced_once_and_not_waited_for_twice(asked, caplog):
    """Half a minute passed in silence, for each name."""
    caplog.set_level("INFO", "freqkd_cli")
    for _ in range(2):
        with pytest.raises(WeightsMissing, match="nobody/nothing is not a folder here"):
            hub.hub_file("nobody/nothing", ("a", "b"))
    assert asked == [("a", True), ("b", False)] * 2
    (record,) = caplog.records
    assert record.getMessage().startswith("looking for nobody/nothing on the Hugging Face hub")


@pytest.mark.parametrize("option", [True, False])
def test_a_search_on_this_machine_is_not_announced(asked, caplog, monkeypatch, option):
    caplog.set_level("INFO", "freqkd_cli")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not option)
    with pytest.raises(WeightsMissing):
        hub.hub_file("nobody/nothing", ("a",), offline=option)
    assert not caplog.records
