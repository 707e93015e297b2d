"""The example of docs/file-formats.md reads a real cache, and its tables name the real keys."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cache_fakes import Notes, make_job

from freqkd_cli.teacher.dump import dump

DOCUMENT = Path(__file__).parents[2] / "docs" / "file-formats.md"


def example() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_the_example_reads_a_row(tmp_path, monkeypatch, capsys, storage):
    monkeypatch.chdir(tmp_path)
    dump(make_job(storage=storage), Path("caches/a"), Notes(), shard_bytes=12_000)
    exec(compile(example(), str(DOCUMENT), "exec"), {})
    assert capsys.readouterr().out == f"stage1 {storage} (6, 8, 16)\n"


def test_the_example_notices_a_changed_index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dump(make_job(), Path("caches/a"), Notes())
    index = Path("caches/a/index.json")
    index.write_text(index.read_text().replace('"images":6', '"images":7'))
    with pytest.raises(AssertionError):
        exec(compile(example(), str(DOCUMENT), "exec"), {})


def test_every_key_of_an_index_is_specified(tmp_path):
    dump(make_job(content="targets"), tmp_path / "a", Notes())
    index = json.loads((tmp_path / "a" / "index.json").read_text())
    text = DOCUMENT.read_text(encoding="utf-8")
    keys = {*index, *index["shards"][0], *index["fingerprint"], *index["fingerprint"]["teacher"]}
    keys |= set(next(iter(index["tensors"].values())))
    missing = {key for key in keys if not re.search(rf"`[^`]*\b{key}\b[^`]*`", text)}
    assert missing == set()
