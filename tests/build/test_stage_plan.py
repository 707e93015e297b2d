"""The vmamba_* recipes: four stages against four, and plans that are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import layouts
import pytest

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.errors import RecipeError
from freqkd_cli.recipe import shipped

STAGES = ["stage1", "stage2", "stage3", "stage4"]
PLANS = {  # one letter a stage: h(igh), l(ow)
    "vmamba_basic": "hhll",
    "vmamba_reversed": "llhh",
    "vmamba_split_1_3": "hlll",
    "vmamba_split_3_1": "hhhl",
    "vmamba_filter_teacher": "hhll",
    "vmamba_filter_student": "hhll",
    "vmamba_attention_map": "hhll",
    "vmamba_kl_basic": "hhll",
    "camvid_vmamba_basic": "hhll",
    "cityscapes_vmamba_tiny_basic": "hhll",
    "cityscapes_vmamba_tiny_reversed": "llhh",
    "cityscapes_vmamba_small_basic": "hhll",
    "cityscapes_vmamba_small_reversed": "llhh",
}
RATIOS = ["vmamba_ratio", "cityscapes_vmamba_tiny_ratio", "cityscapes_vmamba_small_ratio"]
BASELINES = ["vmamba_ce", "vmamba_kl", "vmamba_feature", "vmamba_best"]
BOTH_BANDS = ["vmamba_strict_low"]
CAMVID = ["camvid_vmamba_best", "camvid_vmamba_ce", "camvid_vmamba_feature"]
GRAPHS = ["vmamba_graph_similarity", "vmamba_graph_query_key", "vmamba_graph_state_affinity"]
OTHER_GRAPHS = [
    "vmamba_context",
    "vmamba_graph_laplacian",
    "vmamba_graph_lowrank_power2",
    "vmamba_graph_lowrank_power3",
    "vmamba_graph_spectrum_mean",
    "vmamba_graph_state_attention",
    "vmamba_kl_graph",
]


def test_these_are_all_recipes_of_vmamba() -> None:
    assert {*PLANS, *RATIOS, *BASELINES, *BOTH_BANDS, *CAMVID, *GRAPHS, *OTHER_GRAPHS} == {
        name for name in shipped.paths() if "vmamba" in name
    }


@pytest.mark.parametrize("name", [*PLANS, *RATIOS])
def test_a_plan_pairs_each_stage_once_at_one_weight(name: str) -> None:
    loaded = recipes.load(name)
    plan = assemble.check(loaded, data=False)
    lines = [line for line in loaded.losses if line.name == "band"]
    weight = 1.0 if name.startswith("vmamba_") else 0.25  # tuned on scenes alone
    assert [
        (line.id, line.arguments["student"], line.arguments["teacher"], line.weight)
        for line in lines
    ] == [(stage, stage, stage, weight) for stage in STAGES]
    assert (
        [plan.student_taps[stage].stride for stage in STAGES]
        == [plan.teacher_taps[stage].stride for stage in STAGES]
        == [4, 8, 16, 32]
    )
    if name in PLANS:
        assert "".join(line.arguments["band"][0] for line in lines) == PLANS[name]
    else:
        assert [(line.arguments["band"], line.arguments["high_share"]) for line in lines] == [
            ("mix", s) for s in (0.8, 0.6, 0.4, 0.2)
        ]


def test_filtered_sides_are_those_of_the_names() -> None:
    for side in ("teacher", "student"):
        lines = [
            line for line in recipes.load(f"vmamba_filter_{side}").losses if line.name == "band"
        ]
        assert {line.arguments["filter_side"] for line in lines} == {side}


def test_recipes_on_scenes_differ_in_their_losses_alone() -> None:
    scenes = [name for name in (*PLANS, *RATIOS, *BASELINES) if name.startswith("vmamba_")]
    loaded = [recipes.load(name) for name in scenes]
    assert len({repr((one.data, one.student, one.train)) for one in loaded}) == 1
    fast = recipes.load("fastscnn_basic")
    # A step of the narrow VMamba takes twice the time, and its best learning rate is lower.
    steps = fast.train.model_copy(update={"epochs": fast.train.epochs // 2, "lr": 8e-3})
    assert (loaded[0].data, loaded[0].train) == (fast.data, steps)
    plain = [line for line in recipes.load("vmamba_feature").losses if line.name == "feature"]
    assert [
        (line.arguments["student"], line.arguments["teacher"], line.weight) for line in plain
    ] == [(s, s, 1.0) for s in STAGES]


def test_a_doubled_tap_is_an_error_at_its_line() -> None:
    with pytest.raises(
        RecipeError,
        match=r"vmamba_basic.yaml:\d+:5 losses.2: band compares student stage1 with teacher stage1",
    ):
        assemble.check(
            recipes.load(
                "vmamba_basic", ["losses.stage2.student=stage1", "losses.stage2.teacher=stage1"]
            )
        )


def test_an_alias_is_the_place_it_stands_for() -> None:
    with pytest.raises(
        RecipeError,
        match=r"losses.4: band compares student stage4 with teacher stage4, as losses.3",
    ):
        sets = [f"losses.stage3.{key}" for key in ("student=encoder", "teacher=stage4")]
        sets.append("losses.stage3.cutoff=0.5")
        assemble.check(recipes.load("vmamba_basic", sets))


@pytest.mark.parametrize("change", ["band=low", "cutoff=0.5", "weight=0"])
def test_two_bands_of_one_pair_are_accepted(change: str) -> None:
    sets = [
        "losses.stage2.student=stage1",
        "losses.stage2.teacher=stage1",
        f"losses.stage2.{change}",
    ]
    assemble.check(recipes.load("vmamba_basic", sets))


def test_a_tap_that_is_not_there_is_an_error() -> None:
    with pytest.raises(
        RecipeError,
        match=r"losses.2.student: the student 'vmamba' has no tap 'stage5', did you mean 'stage4'",
    ):
        assemble.check(recipes.load("vmamba_basic", ["losses.stage2.student=stage5"]))


def test_unequal_strides_are_a_warning(freqkd) -> None:
    assert "warning" not in freqkd("recipe", "check", "vmamba_basic", "fastscnn_basic")[2]
    code, _, err = freqkd(
        "recipe", "check", "vmamba_basic", "--set", "losses.stage2.student=stage1"
    )
    assert code == 0
    (warning,) = [line for line in err.splitlines() if line.startswith("warning")]
    assert re.fullmatch(
        r"warning: \S+vmamba_basic.yaml: losses.2 pairs unequal strides: "
        r"student stage1 1/4, teacher stage2 1/8",
        warning,
    )


FRESH = [
    "student.encoder_weights=null",
    "teacher.weights=null",
]  # what they name is nowhere but on the net
CITYSCAPES = [name for name in (*PLANS, *RATIOS) if name.startswith("cityscapes_")]


def set_to(*changes: str) -> list[str]:
    return [word for one in changes for word in ("--set", one)]


@pytest.mark.parametrize("name", ["cityscapes_vmamba_tiny_basic", "cityscapes_vmamba_small_ratio"])
def test_those_of_cityscapes_would_start_on_its_layout(
    freqkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    layouts.cityscapes(Path("d"))
    changes = set_to(
        *FRESH,
        "teacher.variant=mini",
        "losses.kl.weight=0",
        "data.size=[256,512]",
        "train.batch_size=3",
    )
    code, out, err = freqkd(
        "distill", name, "--out", "a", "--data-root", "d", "--dry-run", "--json", *changes
    )
    assert code == 0, err
    assert json.loads(out)["steps"] == 40000


@pytest.mark.slow
@pytest.mark.parametrize("name", CITYSCAPES)
def test_two_steps_of_those_of_cityscapes(
    freqkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """VMamba-Tiny or -Small of full size from SegFormer-B5, from scratch and on small views."""
    monkeypatch.chdir(tmp_path)
    layouts.cityscapes(Path("d"))
    changes = set_to(
        *FRESH,
        "teacher.variant=b5",
        "data.size=[128,256]",
        "data.workers=0",
        "train={steps: 2, batch_size: 2}",
    )
    code, out, err = freqkd("distill", name, "--out", "a", "--data-root", "d", "--json", *changes)
    assert code == 0, err
    assert json.loads(out)["steps"] == 2
    assert Path("a/model.safetensors").exists()


def test_a_checkpoint_that_is_not_there_is_told_before_any_work(
    freqkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = ["--set", "student.encoder_weights=none.pth", "--set", "train={steps: 1}"]
    code, _, err = freqkd("distill", "vmamba_ce", "--out", "a", *sets)
    assert code == 4
    assert "no weights at none.pth" in err
    assert not Path("a").exists()


SMP = "student={name: smp, arch: fpn, encoder: mobilenet_v2}"


@pytest.mark.parametrize(
    "name, changes",
    [
        ("vmamba_basic", ()),
        ("vmamba_graph_state_affinity", ()),
        ("vmamba_graph_query_key", ()),
        (
            "fastscnn_graph_lowrank",
            (SMP, "losses.encoder16.student=stage3", "losses.encoder.student=stage4"),
        ),
    ],
)
def test_two_steps(
    freqkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = set_to(
        "train={steps: 2, batch_size: 2, eval_every: 0}",
        "data.length=4",
        "data.held_out=2",
        *changes,
    )
    code, out, err = freqkd("distill", name, "--out", "a", "--json", *short)
    assert code == 0, err
    assert json.loads(out)["steps"] == 2


def test_the_three_graphs_of_vmamba_differ_in_nothing_but_the_graph() -> None:
    loaded = [recipes.load(name) for name in GRAPHS]
    assert [{line.arguments["graph"] for line in one.losses[1:]} for one in loaded] == [
        {name.removeprefix("vmamba_graph_")} for name in GRAPHS
    ]
    for one in loaded[1:]:
        assert (one.data, one.teacher, one.student, one.train) == (
            loaded[0].data,
            loaded[0].teacher,
            loaded[0].student,
            loaded[0].train,
        )
        assert [line.weight for line in one.losses] == [line.weight for line in loaded[0].losses]
        assert [line.arguments.get("teacher") for line in one.losses] == [None, "keys3", "keys4"]


def test_two_figures_of_one_graph_are_no_doubled_pair() -> None:
    changed = ["losses.regions.compare=smoothness"]
    assemble.check(recipes.load("fastscnn_graph_laplacian"))
    with pytest.raises(RecipeError, match="need another tap"):
        assemble.check(recipes.load("fastscnn_graph_laplacian", changed))
