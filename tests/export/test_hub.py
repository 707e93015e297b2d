"""``freqkd export --push`` and ``freqkd_cli.from_pretrained``, against a hub that is a folder."""

from __future__ import annotations

import fnmatch
import json
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

import freqkd_cli
from freqkd_cli.build.saved import save_model
from freqkd_cli.errors import UsageError, WeightsMissing
from freqkd_cli.export import hub_upload
from freqkd_cli.models import fast_scnn


class FakeHub:
    """Repositories as folders, instead of ``HfApi``."""

    def __init__(self, root):
        self.root, self.created, self.error, self.commit_error = root, {}, None, None

    def __call__(self):
        return self

    def whoami(self):
        if self.error:
            raise self.error
        return {"name": "me"}

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        self.created[name] = private
        return f"hub/{name}"

    def create_commit(self, name, operations, *, commit_message):
        if self.commit_error:
            raise self.commit_error
        for operation in operations:
            path = self.root / name / operation.path_in_repo
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(operation.path_or_fileobj, path)

    def snapshot(self, name, *, revision, allow_patterns):
        if self.error:
            raise self.error
        copy = self.root / "cache" / (revision or "main")
        for path in (self.root / name).iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                copy.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy / path.name)
        return str(copy)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot)
    return fake


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = fast_scnn.build(classes=3, width=0.25).eval()
    save_model(folder, model, "fast_scnn", {0: "a", 1: "b", 2: "c"})
    return folder, model


def test_a_pushed_folder_is_loaded_again(hub, trained, tmp_path, freqkd):
    folder, model = trained
    out = tmp_path / "export"
    out.mkdir()
    words = ("--format", "safetensors", "--latency", "0", "--push", "me/student", "--json")
    code, text, err = freqkd("export", folder, "--out", out, *words)
    assert code == 0 and json.loads(text)["pushed"] == "hub/me/student", err
    assert hub.created == {"me/student": True}
    pushed = hub.root / "me/student"
    assert {"README.md", "config.json", "model.safetensors"} <= {p.name for p in pushed.iterdir()}
    (pushed / "pytorch_model.bin").write_bytes(b"a pickle")
    again = freqkd_cli.from_pretrained("me/student", revision="v1")
    assert sorted(p.suffix for p in (hub.root / "cache/v1").iterdir() if p.suffix == ".bin") == []
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(images)["logits"], model(images)["logits"])


def test_other_files_of_a_folder_are_not_uploaded(hub, tmp_path):
    for name in ("config.json", "model.safetensors", "private.txt"):
        (tmp_path / name).write_text("{}")
    assert hub_upload.upload(tmp_path, "me/x", public=True) == "hub/me/x"
    assert hub.created == {"me/x": False}
    assert {p.name for p in (hub.root / "me/x").iterdir()} == {"config.json", "model.safetensors"}


def test_a_file_is_uploaded_with_its_card(hub, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.onnx.md").write_text("card")
    hub_upload.upload(tmp_path / "model.onnx", "me/x")
    assert {p.name for p in (hub.root / "me/x").iterdir()} == {"model.onnx", "README.md"}


@pytest.mark.parametrize(
    ("words", "error", "code", "texts"),
    [
        (("--push", "me/x"), LocalTokenNotFoundError("no token"), 2, ("hf auth login", "HF_TOKEN")),
        (("--push", "me/x"), OfflineModeIsEnabled("offline"), 1, ("cannot be reached", "offline")),
        (("--push", "me/x"), ConnectionError("no route"), 1, ("cannot be reached", "no route")),
        (("--push", "nothing"), None, 2, ("OWNER/NAME",)),
        (("--public",), None, 2, ("--public has no effect without --push",)),
    ],
)
def test_what_cannot_be_pushed_is_one_message_before_the_export(
    hub, trained, tmp_path, freqkd, words, error, code, texts
):
    hub.error = error
    out = tmp_path / "export"
    got, text, err = freqkd("export", trained[0], "--format", "safetensors", "--out", out, *words)
    assert (got, text) == (code, "") and err.count("error: ") == 1 and "Traceback" not in err
    assert all(part in err for part in texts), err
    assert not out.exists() and not hub.created


def test_a_refused_upload_keeps_the_export(hub, trained, tmp_path, freqkd):
    hub.commit_error = PermissionError("403 Forbidden")
    out, words = tmp_path / "export", ("--latency", "0", "--push", "other/x")
    code, text, err = freqkd("export", trained[0], "--format", "safetensors", "--out", out, *words)
    assert (code, text) == (1, "") and f"hf upload other/x {out}" in err and "403" in err
    assert (out / "model.safetensors").is_file()


def test_from_pretrained_of_a_folder_is_load(trained):
    folder, model = trained
    images = torch.rand(1, 3, 64, 64)
    out = freqkd_cli.from_pretrained(folder)(images)["logits"]
    assert torch.equal(out, freqkd_cli.load(folder)(images)["logits"])
    with pytest.raises(UsageError, match="a folder, which has no revisions"):
        freqkd_cli.from_pretrained(folder, revision="v1")
    with pytest.raises(WeightsMissing, match="does not exist"):
        freqkd_cli.from_pretrained("/no/such/folder")


def test_a_hub_that_cannot_be_reached_is_one_message():
    with pytest.raises(WeightsMissing, match="nobody/nothing is not a folder here and could not"):
        freqkd_cli.from_pretrained("nobody/nothing")  # offline in tests
