"""Power spectra against known answers and numpy, and the command on every kind of source."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from spectrum_fakes import run_command, write_cache
from torch import Tensor, nn
from without_float64 import on_apple_gpu

from freqkd_cli.build.saved import load_model
from freqkd_cli.errors import ShapeError, UsageError, WeightsMissing
from freqkd_cli.features.taps import Tap
from freqkd_cli.runtime.progress import Silent
from freqkd_cli.spectral.power import half_plane, radial_spectrum, ring_sums, ring_width, rings_of
from freqkd_cli.spectrum import locate
from freqkd_cli.spectrum.radial import choose_taps, cut_images, live_maps, measure, wanted_taps
from freqkd_cli.spectrum.subjects import Subject

SIZES = [(16, 16), (15, 21), (12, 17), (9, 8), (2, 2), (45, 60)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full_plane(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) / 0.5


@pytest.mark.parametrize("size", SIZES)
def test_the_half_plane_stands_for_the_whole_one(size):
    rho, twice = half_plane(*size)
    assert float(twice.sum()) == size[0] * size[1]
    np.testing.assert_allclose(rho.numpy(), full_plane(*size)[:, : size[1] // 2 + 1])


@pytest.mark.parametrize("size", SIZES)
def test_sum_of_power_is_the_sum_of_squares(size):
    maps = noise(2, 3, *size) + 0.7
    spectrum = radial_spectrum(ring_sums(maps, 0.25))
    energy = (
        sum(cells * power for cells, power in zip(spectrum.cells, spectrum.power, strict=True))
        + 6 * spectrum.dc_power
    )
    assert energy == pytest.approx(float(maps.double().square().sum()), rel=1e-6)
    assert sum(spectrum.cells) == 6 * (size[0] * size[1] - 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.5, 1.0])
def test_energy_shares_equal_numpys(size, cutoff):
    maps = noise(2, 3, *size, seed=1).cumsum(-1)
    power = np.abs(np.fft.fft2(maps.numpy().astype(np.float64))) ** 2
    rho = full_plane(*size)
    low = power[..., (rho > 0) & (rho <= cutoff + 1e-9)].sum()
    spectrum = radial_spectrum(ring_sums(maps, cutoff))
    assert spectrum.low_energy == pytest.approx(
        low / (power.sum() - power[..., 0, 0].sum()), rel=1e-5, abs=1e-9
    )
    assert spectrum.low_energy + spectrum.high_energy == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("size", [(24, 32), (25, 33), (16, 64)])
def test_ring_means_equal_numpys(size):
    maps = noise(1, 4, *size, seed=2).cumsum(-2)
    power = np.abs(np.fft.fft2(maps.numpy().astype(np.float64), norm="ortho")) ** 2
    rho, step = full_plane(*size), ring_width(*size)
    ring = np.maximum(np.floor(rho / step + 0.5 + 1e-9), 1)
    if (ring == ring.max()).sum() == 1:
        ring[ring == ring.max()] -= 1
    ring[0, 0] = 0
    spectrum = radial_spectrum(ring_sums(maps, 0.25))
    expected = [power[..., ring == k].mean() for k in np.unique(ring) if k > 0]
    np.testing.assert_allclose(spectrum.power, expected, rtol=1e-5)
    np.testing.assert_allclose(
        spectrum.rho, [rho[ring == k].mean() for k in np.unique(ring) if k > 0], rtol=1e-12
    )


@pytest.mark.parametrize("fy, fx", [(0, 1), (3, 0), (2, 5), (8, 8), (0, 16)])
def test_a_cosine_grating_lands_in_its_ring(fy, fx):
    height, width = 32, 32
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grating = torch.cos(2 * torch.pi * (fy * y / height + fx * x / width))[None, None] + 5.0
    sums = ring_sums(grating, cutoff=0.25)
    rho = np.hypot(fy / height, fx / width) / 0.5
    ring = min(round(rho / sums.step), len(sums.power) - 1)
    energy = float((grating - 5).double().square().sum())
    assert float(sums.power[ring]) == pytest.approx(energy, rel=1e-5)
    assert float(sums.power[1:].sum()) == pytest.approx(energy, rel=1e-5)
    assert (sums.low > sums.high) == (rho <= 0.25)


def test_white_noise_is_flat():
    spectrum = radial_spectrum(ring_sums(noise(8, 16, 48, 64), 0.25))
    spread = 4 / np.sqrt(
        np.array(spectrum.cells) / 2
    )  # the power of a complex normal has its mean as deviation; cells come in pairs
    assert np.all(np.abs(np.array(spectrum.power) - 1) < spread)
    assert np.abs(spectrum.relative_log_amplitude).max() < 0.1
    rho = full_plane(48, 64)
    assert spectrum.low_energy == pytest.approx(
        ((rho > 0) & (rho <= 0.25)).sum() / (48 * 64 - 1), abs=3e-3
    )


def test_an_exponential_amplitude_gives_a_straight_line():
    spectrum_of_noise = torch.fft.fft2(noise(2, 3, 39, 57).double())
    rho = torch.from_numpy(full_plane(39, 57))
    wanted = torch.exp(-2 * rho)
    maps = torch.fft.ifft2(spectrum_of_noise / spectrum_of_noise.abs() * wanted).real.float()
    spectrum = radial_spectrum(ring_sums(maps, 0.25))
    line = -2 * (np.array(spectrum.rho) - spectrum.rho[0])
    np.testing.assert_allclose(spectrum.relative_log_amplitude, line, atol=1e-4)
    assert spectrum.dc_relative_log_amplitude == pytest.approx(2 * spectrum.rho[0], abs=1e-4)


def test_scale_and_level_of_a_channel_do_not_change_the_log_amplitude():
    maps = noise(1, 3, 24, 24).cumsum(-1)
    moved = (
        maps * torch.tensor([1.0, 30.0, 0.01])[:, None, None]
        + torch.tensor([0.0, 5.0, -1.0])[:, None, None]
    )
    plain, other = (radial_spectrum(ring_sums(x, 0.25)) for x in (maps, moved))
    np.testing.assert_allclose(
        plain.relative_log_amplitude, other.relative_log_amplitude, atol=1e-3
    )


def test_flat_channels_are_left_out_and_flat_maps_have_no_shares():
    maps = noise(2, 3, 16, 16)
    with_dead = torch.cat([maps, torch.zeros(2, 5, 16, 16), torch.full((2, 1, 16, 16), 0.3)], dim=1)
    alive, mixed = (radial_spectrum(ring_sums(x, 0.25)) for x in (maps, with_dead))
    np.testing.assert_allclose(
        alive.relative_log_amplitude, mixed.relative_log_amplitude, atol=1e-9
    )
    flat = radial_spectrum(ring_sums(torch.full((1, 2, 15, 17), 0.3), 0.25))
    assert flat.low_energy is None and flat.high_energy is None and max(flat.power) == 0


def test_a_batch_is_the_sum_of_its_images_and_sizes_may_differ():
    maps = noise(4, 3, 20, 28)
    together = radial_spectrum(ring_sums(maps, 0.25))
    one_by_one = ring_sums(maps[:1], 0.25)
    for row in maps[1:]:
        one_by_one = one_by_one + ring_sums(row[None], 0.25)
    np.testing.assert_allclose(radial_spectrum(one_by_one).power, together.power, rtol=1e-9)
    wider = one_by_one + ring_sums(noise(1, 3, 28, 40), 0.25, one_by_one.step)
    assert float(wider.cells.sum()) == 3 * (4 * 20 * 28 + 28 * 40)


def test_half_precision_is_transformed_in_float32():
    maps = noise(1, 2, 16, 24)
    half = radial_spectrum(ring_sums(maps.half(), 0.25))
    np.testing.assert_allclose(
        half.power, radial_spectrum(ring_sums(maps.half().float(), 0.25)).power, rtol=1e-12
    )


def test_power_is_summed_where_there_is_float64():
    """An Apple GPU has none: --device mps, its default there, ended with a TypeError."""
    maps = noise(1, 2, 16, 24)
    sums = ring_sums(on_apple_gpu(maps), 0.25)
    assert radial_spectrum(sums) == radial_spectrum(ring_sums(maps, 0.25))


def test_rings_are_never_empty_below_nyquist_and_dc_is_alone():
    for size in SIZES:
        ring = rings_of(*size, ring_width(*size))
        assert (ring == 0).sum() == 1
        below = ring[half_plane(*size)[0] <= 1]
        assert set(range(int(below.max()) + 1)) == set(below.unique().tolist())


@pytest.mark.parametrize("maps", [torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 1)])
def test_maps_without_frequencies_are_refused(maps):
    with pytest.raises(ShapeError, match="2 x 2"):
        ring_sums(maps, 0.25)


def test_a_tensor_that_is_not_a_map_is_refused():
    with pytest.raises(ShapeError, match="B, C, h, w"):
        ring_sums(torch.zeros(3, 8, 8), 0.25)


class Pooled(nn.Module):
    """``stage1`` is the image, ``stage2`` its 2x2 mean."""

    def forward(self, images: Tensor, taps=()) -> dict[str, Tensor]:
        pooled = nn.functional.avg_pool2d(images, 2)
        taps_by_name = {"stage1": images, "stage2": pooled, "logits": images}
        return {name: taps_by_name[name] for name in ("logits", *taps)}


POOLED = {
    "stage1": Tap("stage1", 1, 3),
    "stage2": Tap("stage2", 2, 3),
    "logits": Tap("logits", 1, 3, "logits"),
    "keys": Tap("keys", 8, 4, "graph"),
}


def test_measure_gives_the_spectrum_of_the_tap():
    images = [noise(1, 3, 32, 64, seed=n) for n in range(3)]
    subjects = [
        Subject("student", "pooled", POOLED, Pooled()),
        Subject("teacher", "pooled", POOLED, Pooled()),
    ]
    names = dict.fromkeys(("student", "teacher"), ("stage1", "stage2"))
    maps = live_maps(subjects, images, names)
    count, spectra = measure(subjects, maps, ("stage1", "stage2"), 0.4, Silent())
    assert count == 3
    assert [(item.tap.name, item.role) for item in spectra] == [
        ("stage1", "student"),
        ("stage1", "teacher"),
        ("stage2", "student"),
        ("stage2", "teacher"),
    ]
    whole = radial_spectrum(ring_sums(torch.cat(images), 0.4))
    assert spectra[0].spectrum.low_energy == pytest.approx(whole.low_energy, rel=1e-9)
    np.testing.assert_allclose(spectra[0].spectrum.power, whole.power, rtol=1e-9)
    assert spectra[2].grid == (16, 32)
    np.testing.assert_allclose(spectra[2].cycles_per_pixel, np.array(spectra[2].spectrum.rho) / 4)


def test_default_taps_are_the_stages_that_exist():
    subject = Subject("student", "pooled", POOLED)
    assert choose_taps([subject], wanted_taps((), ()), named=False) == {
        "student": ("stage1", "stage2")
    }
    assert wanted_taps((3, 1), ("decoder", "stage3")) == ("stage3", "stage1", "decoder")


@pytest.mark.parametrize("name, text", [("stage3", "did you mean"), ("keys", "not a feature map")])
def test_a_tap_that_does_not_exist_or_is_not_a_map_is_refused(name, text):
    with pytest.raises(UsageError, match=text):
        choose_taps([Subject("student", "pooled", POOLED)], (name,), named=True)


@pytest.mark.parametrize(
    ("kind", "tip"),
    [
        ("graph", "--graph shows its graph"),
        ("nodes", "--graph shows its graph"),
        ("auxiliary", None),
    ],
)
def test_only_taps_with_a_graph_are_offered_as_one(kind, tip):
    taps = POOLED | {"other": Tap("other", 8, 4, kind)}
    with pytest.raises(UsageError, match="not a feature map") as caught:
        choose_taps([Subject("student", "pooled", taps)], ("other",), named=True)
    assert caught.value.tip == tip


def test_stage_5_is_refused():
    with pytest.raises(UsageError, match="stage 5"):
        wanted_taps((5,), ())


def test_no_image_is_an_error():
    with pytest.raises(UsageError, match="no images"):
        measure([Subject("student", "pooled", POOLED)], [], ("stage1",), 0.25, Silent())


def test_images_are_cut_to_multiples_of_32():
    class Two:
        def __len__(self):
            return 2

        def name(self, index):
            return f"p{index}"

        def read(self, index):
            return np.full((70, 100, 3) if index == 0 else (20, 100, 3), 51, np.uint8), None

    assert next(cut_images(Two(), 1)).shape == (1, 3, 64, 96)
    with pytest.raises(UsageError, match="p1 is too small"):
        list(cut_images(Two(), 2))


# Files


def test_only_a_run_folder_gets_a_figure_without_being_asked(folders, tmp_path):
    """A spectrum.png of the working folder, a cache or another model is never replaced."""
    (tmp_path / "spectrum.png").write_text("mine")
    for name in ("cache", "model"):
        (folders[name] / "spectrum.png").write_text("mine")
    try:
        for source in (folders["cache"], folders["model"], folders["run"] / "recipe.yaml"):
            code, out, err = run_command(
                str(source), "--stage", "3", "--limit", "1", "--json", folder=tmp_path
            )
            assert code == 0 and json.loads(out)["png"] is None, err
            assert "no figure written; --out DIR or --png FILE" in err
        for folder in (tmp_path, folders["cache"], folders["model"]):
            assert (folder / "spectrum.png").read_text() == "mine"
            assert [path.name for path in folder.glob("*.png")] == ["spectrum.png"]
    finally:
        for name in ("cache", "model"):
            (folders[name] / "spectrum.png").unlink()


def test_a_read_only_run_folder_gets_no_figure(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _, mode, **__: not mode & os.W_OK)
    words = (str(folders["run"]), "--stage", "3", "--limit", "1", "--json")
    code, out, err = run_command(*words, folder=tmp_path)
    assert code == 0 and json.loads(out)["png"] is None, err
    for option in ("--out", "--png"):
        code, out, err = run_command(*words, option, "a.png", folder=tmp_path)
        assert (code, out) == (1, "") and f"{option} a.png cannot be written" in err


def test_out_gets_the_figure_and_the_table(folders, tmp_path):
    words = (str(folders["model"]), "--stage", "3", "--limit", "1", "--out", "o", "--json")
    code, out, err = run_command(*words, folder=tmp_path)
    assert code == 0, err
    assert (json.loads(out)["png"], json.loads(out)["csv"]) == ("o/spectrum.png", "o/spectrum.csv")
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"spectrum.png", "spectrum.csv"}
    assert "written: o/spectrum.png" in err and "Next: freqkd spectrum" in err
    (tmp_path / "o" / "mine.txt").write_text("kept")
    code, out, err = run_command(*words, folder=tmp_path)
    assert (code, out) == (2, "") and "--out o is not empty" in err
    assert run_command(*words, "--overwrite", folder=tmp_path)[0] == 0
    assert (tmp_path / "o" / "mine.txt").read_text() == "kept"
    (tmp_path / "empty").mkdir()
    words = (*words[:-3], "--out", "empty")
    assert run_command(*words, folder=tmp_path)[0] == 0


@pytest.mark.parametrize(
    "words, text",
    [
        (("--png", "a.png"), "--png would replace a.png"),
        (("--csv", "a.csv"), "--csv would replace a.csv"),
        (("--graph", "--png", "b.png"), "--png would replace b_maps.png"),
        (("--out", "a.csv"), "a.csv is a file"),
        (("--out", "a.csv/below"), "a.csv, which is a file"),
    ],
)
def test_an_existing_file_is_refused_without_overwrite(folders, tmp_path, words, text):
    names = ("a.png", "a.csv", "b_maps.png")
    for name in names:
        (tmp_path / name).write_text("mine")
    code, out, err = run_command(str(folders["run"]), *words, folder=tmp_path)
    assert (code, out) == (2, "") and text in err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        names, "mine"
    )


# Sources


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A run with its teacher, the teacher's own folder, and a cache of the teacher's taps."""
    from freqkd_cli.build.saved import save_model
    from freqkd_cli.datasets import scenes
    from freqkd_cli.models import fast_scnn, segformer

    root = tmp_path_factory.mktemp("sources")
    names = scenes.classes()
    torch.manual_seed(0)
    student = fast_scnn.build(classes=len(names), width=0.25).eval()
    teacher = segformer.build(
        classes=len(names),
        channels=[8, 8, 16, 16],
        heads=[1, 1, 2, 2],
        depths=[1, 1, 1, 1],
        decoder=16,
    ).eval()
    run, model, cache = root / "a" / "run", root / "model", root / "cache"
    save_model(run, student, "fast_scnn", dict(enumerate(names)))
    save_model(model, teacher, "segformer", dict(enumerate(names)))
    recipe = "version: 1\ndata: {name: scenes, size: [96, 128]}\n"
    recipe += "%sstudent: {name: fast_scnn, width: 0.25}\n"
    recipe += "losses: [{name: cross_entropy}]\ntrain: {epochs: 1}\n"
    (run / "recipe.yaml").write_text(
        recipe % f"teacher: {{name: segformer, weights: {json.dumps(str(model))}}}\n"
    )
    (root / "plain.yaml").write_text(recipe % "")
    write_cache(cache, teacher, ("stage3", "decoder"))
    for age, path in enumerate(
        (run / "model.safetensors", model / "model.safetensors", cache / "index.json")
    ):
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return {"root": root, "run": run, "model": model, "cache": cache, "plain": root / "plain.yaml"}


KEYS = {"rho", "power", "cycles_per_pixel", "relative_log_amplitude", "low_energy", "high_energy"}


def test_a_run_shows_student_and_teacher(folders, tmp_path):
    code, out, err = run_command(
        str(folders["run"]),
        "--limit",
        "2",
        "--json",
        "--png",
        str(tmp_path / "a.png"),
        "--csv",
        str(tmp_path / "a.csv"),
        folder=tmp_path,
    )
    assert code == 0, err
    document = json.loads(out)
    assert (
        document["source"] == str(folders["run"])
        and document["images"] == 2
        and document["of"] == "student"
    )
    assert (
        list(document["stages"])
        == list(document["teacher"])
        == ["stage1", "stage2", "stage3", "stage4"]
    )
    assert all(
        set(stage) >= KEYS for side in ("stages", "teacher") for stage in document[side].values()
    )
    assert [document[side]["stage3"]["channels"] for side in ("stages", "teacher")] == [16, 16]
    assert document["stages"]["stage3"]["low_energy"] != document["teacher"]["stage3"]["low_energy"]
    rows = (tmp_path / "a.csv").read_text().splitlines()
    rings = sum(
        len(stage["rho"]) for side in ("stages", "teacher") for stage in document[side].values()
    )
    assert len(rows) == 1 + rings and rows[0].startswith("tap,role,model,stride,rho")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert str(tmp_path / "a.png") in err


def test_a_teacher_alone_and_a_folder_on_the_data_of_a_recipe(folders, tmp_path):
    """The run's teacher is the model's folder: the same images give the same numbers."""
    words = ("--stage", "3", "--limit", "2", "--json", "--out", str(tmp_path / "x"), "--overwrite")
    recipe = folders["run"] / "recipe.yaml"
    ways = [
        (folders["run"], "--teacher"),
        (recipe, "--teacher"),
        (recipe,),
        (folders["model"], "--recipe", recipe),
    ]
    documents = []
    for way in ways:
        code, out, err = run_command(*map(str, way), *words, folder=tmp_path)
        assert code == 0, err
        documents.append(json.loads(out))
    assert f"Next: freqkd spectrum {folders['model']} --recipe {recipe} --graph" in err
    assert [(document["of"], "teacher" in document) for document in documents] == [
        ("teacher", False)
    ] * 4
    assert all(document["stages"] == documents[0]["stages"] for document in documents)
    other = json.loads(run_command(str(folders["model"]), *words, folder=tmp_path)[1])
    assert other["stages"]["stage3"]["grid"] != documents[0]["stages"]["stage3"]["grid"], (
        "scenes of another size without --recipe"
    )


def test_a_cache_gives_what_its_teacher_gives_live(folders, tmp_path):
    words = ("--stage", "3", "--tap", "decoder", "--limit", "2", "--json")
    code, out, err = run_command(str(folders["cache"]), *words, folder=tmp_path)
    assert code == 0, err
    live = run_command(
        str(folders["model"]), *words, "--set", "data.size=[96,128]", folder=tmp_path
    )
    assert "teacher segformer on stored views of scenes, split val" in err
    cached, alive = json.loads(out)["stages"], json.loads(live[1])["stages"]
    assert list(cached) == list(alive) == ["stage3", "decoder"]
    for tap in cached:
        assert (cached[tap]["stride"], cached[tap]["channels"]) == (
            alive[tap]["stride"],
            alive[tap]["channels"],
        )
        np.testing.assert_allclose(cached[tap]["power"], alive[tap]["power"], rtol=1e-4)


def test_a_cache_of_padded_images_has_a_warning(folders, tmp_path):
    """Live images are cut to multiples of 32, so 70 x 90 pixels have two different spectra."""
    model, words = load_model(folders["model"]), ("--stage", "3", "--json")
    warned = []
    for size in ((70, 90), (64, 96)):
        write_cache(tmp_path / str(size), model, ("stage3",), size)
        code, out, err = run_command(str(size), "--limit", "2", *words, folder=tmp_path)
        warned.append(f"2 of 2 views of the cache {size} are padded" in err)
        assert code == 0 and ("of an image of 70x90" in err) == warned[-1]
        assert ("freqkd spectrum RECIPE" in err) == warned[-1]
    assert warned == [True, False]


def test_without_a_source_the_newest_is_taken_and_named(folders):
    assert locate.newest(folders["root"]) == locate.SpectrumSource("run", folders["run"])
    code, out, err = run_command("--stage", "3", "--limit", "1", folder=folders["root"])
    assert code == 0 and f"using {folders['run']}" in err
    assert out.splitlines()[0].startswith("tap\tmodel\tstride") and len(out.splitlines()) == 3
    assert (folders["run"] / "spectrum.png").is_file()
    (folders["run"] / "spectrum.png").unlink()


def test_the_newest_is_the_embedded_teacher_where_there_is_nothing(tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "index.json").write_text('{"format": "freqkd-cache"}')
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "index.json").write_text('{"format": "something else"}')
    (tmp_path / "web" / "model.safetensors").write_text("no model")
    assert locate.newest(tmp_path) == locate.SpectrumSource("embedded", None)


def test_a_cache_of_targets_is_not_taken(tmp_path):
    (tmp_path / "index.json").write_text(
        '{"format": "freqkd-cache", "fingerprint": {"content": "targets"}}'
    )
    assert locate.newest(tmp_path).kind == "embedded"
    (tmp_path / "index.json").write_text(
        '{"format": "freqkd-cache", "fingerprint": {"content": "taps"}}'
    )
    assert locate.newest(tmp_path).kind == "cache"


def test_the_newest_of_several(folders):
    index = folders["cache"] / "index.json"
    stamp = index.stat().st_mtime
    os.utime(index, (2_000_000, 2_000_000))
    try:
        assert locate.newest(folders["root"]).kind == "cache"
    finally:
        os.utime(index, (stamp, stamp))


def test_kinds_of_sources(folders, tmp_path):
    kinds = {
        name: locate.identify(folders[name]).kind for name in ("run", "cache", "model", "plain")
    }
    assert kinds == {"run": "run", "cache": "cache", "model": "model", "plain": "recipe"}
    with pytest.raises(UsageError, match="no model and no cache"):
        locate.identify(tmp_path)
    with pytest.raises(WeightsMissing, match="does not exist"):
        locate.identify(tmp_path / "nothing")


def test_a_folder_of_smp_is_a_model(tmp_path):
    """Before, it "contains no model", while eval and predict read it."""
    import segmentation_models_pytorch as library

    library.create_model("unet", "resnet18", None, classes=3).save_pretrained(tmp_path / "unet")
    words = ("unet", "--limit", "1", "--stage", "4", "--set", "data.size=[64,96]", "--json")
    code, out, err = run_command(*words, folder=tmp_path)
    assert code == 0, err
    (numbers,) = json.loads(out)["stages"].values()
    assert (numbers["model"], numbers["stride"], numbers["grid"]) == ("smp", 32, [2, 3])


@pytest.mark.parametrize(
    "words, code, text",
    [
        (("{plain}",), 2, "no teacher"),
        (("nowhere/at/all",), 4, "does not exist"),
        (("-",), 2, "<stdin>:1:1: the recipe is empty"),
        (("{run}", "--tap", "stag3"), 2, "did you mean"),
        (("{model}", "--teacher"), 2, "so it has no teacher"),
        (("{run}", "--recipe", "{plain}"), 2, "has its own data set"),
        (("{plain}", "--teacher"), 2, "no teacher"),
        (("{cache}", "--set", "data.size=[64,64]"), 2, "has its own data set"),
        (("{cache}", "--split", "train"), 2, "has its own images"),
    ],
)
def test_bad_input_is_one_message(folders, tmp_path, words, code, text):
    actual, out, err = run_command(*(word.format(**folders) for word in words), folder=tmp_path)
    assert actual == code and text in err and out == "" and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_teacher_is_gone_still_shows_the_student(folders, tmp_path):
    code, out, err = run_command(
        str(folders["run"]),
        "--set",
        "teacher.weights=/nowhere",
        "--stage",
        "3",
        "--limit",
        "1",
        "--json",
        "--png",
        str(tmp_path / "a.png"),
        folder=tmp_path,
    )
    assert code == 0 and "teacher is left out" in err
    assert "teacher" not in json.loads(out)
