"""The selective scan and the four orders, against closed forms, autograd and each other."""

from __future__ import annotations

import subprocess
import sys
import types
from functools import lru_cache

import numpy as np
import pytest
import torch

from freqkd_cli.errors import ShapeError, UnknownName, UsageError
from freqkd_cli.scan import backends, selective
from freqkd_cli.scan.backends import choose
from freqkd_cli.scan.cross import cross_merge, cross_scan
from freqkd_cli.scan.selective import selective_scan


def problem(
    batch=2, rows=4, length=7, states=2, groups=2, dtype=torch.float64, seed=0
) -> dict[str, torch.Tensor]:
    """Arguments of a scan in the range of a fresh VMamba.

    Steps 1e-3 to 0.1, A = -1, -2, ..., the bias an inverse softplus.
    """
    rng = np.random.default_rng(seed)
    made = {
        "u": rng.standard_normal((batch, rows, length)),
        "delta": 0.5 * rng.standard_normal((batch, rows, length)),
        "A": -np.tile(np.arange(1.0, states + 1), (rows, 1)) * rng.uniform(0.5, 2, (rows, 1)),
        "B": rng.standard_normal((batch, groups, states, length)),
        "C": rng.standard_normal((batch, groups, states, length)),
        "D": rng.standard_normal(rows),
        "delta_bias": np.log(np.expm1(np.exp(rng.uniform(np.log(1e-3), np.log(0.1), rows)))),
    }
    return {name: torch.from_numpy(value).to(dtype) for name, value in made.items()}


def hidden_attention(u, delta, A, B, C, D, delta_bias) -> np.ndarray:
    """y by the closed form of the recurrence in numpy: every step adds its own decayed share."""
    u, delta, A, B, C, D, bias = (x.detach().numpy() for x in (u, delta, A, B, C, D, delta_bias))
    step = np.logaddexp(0, delta + bias[:, None])
    y = D[:, None] * u
    block = u.shape[1] // B.shape[1]
    for b, d, i in np.ndindex(u.shape):
        for j in range(i + 1):
            decay = np.exp(A[d] * step[b, d, j + 1 : i + 1].sum())
            y[b, d, i] += (
                (C[b, d // block, :, i] * decay * B[b, d // block, :, j]).sum()
                * step[b, d, j]
                * u[b, d, j]
            )
    return y


@pytest.mark.parametrize("states", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_scan_is_its_closed_form(states, groups):
    given = problem(states=states, groups=groups)
    np.testing.assert_allclose(
        selective_scan(**given).numpy(), hidden_attention(**given), rtol=1e-12, atol=1e-13
    )


def test_a_constant_input_settles_where_it_must():
    """With constant u, delta, B, C the state ends at delta B u / (1 - exp(delta A))."""
    length = 4000
    ones = torch.ones(1, 1, length, dtype=torch.float64)
    y = selective_scan(
        ones,
        0.02 * ones,
        torch.tensor([[-0.5]]).double(),
        3 * ones[:, None],
        2 * ones[:, None],
        ones[0, :, 0],
        delta_softplus=False,
    )
    assert y[0, 0, -1].item() == pytest.approx(1 + 2 * 3 * 0.02 / (1 - np.exp(-0.01)), rel=1e-12)


def test_half_floats_are_widened_and_autocast_is_off():
    given = problem(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(selective_scan(**given), selective_scan(**given))
        y = selective_scan(**(given | {"u": given["u"].bfloat16()}))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, selective_scan(**(given | {"u": given["u"].bfloat16().float()})))


def test_tensors_that_do_not_belong_together_are_named():
    given = problem()
    with pytest.raises(ShapeError, match=r"B \(2, 2, 2, 6\), not \(2, 2, 2, 7\)"):
        selective_scan(**(given | {"B": given["B"][..., :-1]}))
    with pytest.raises(ShapeError, match="4 rows do not split into 3 groups"):
        selective_scan(**problem(groups=3))


@lru_cache
def agreed(
    states: int, length: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
    """A float32 problem, weights, and the result of the plain loop in float64."""
    given = problem(length=length, states=states, dtype=torch.float32)
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal(given["u"].shape))
    return (
        given,
        weight,
        gradients({name: value.double() for name, value in given.items()}, weight, "torch"),
    )


def gradients(
    given: dict[str, torch.Tensor], weight: torch.Tensor, backend: str
) -> dict[str, torch.Tensor]:
    """y and dL/d(every argument) of L = sum(weight * y), in float64."""
    leaves = {name: value.detach().clone().requires_grad_(True) for name, value in given.items()}
    y = selective_scan(**leaves, backend=backend)
    result = torch.autograd.grad(
        (weight.to(y.dtype) * y).sum(), list(leaves.values()), materialize_grads=True
    )
    return {"y": y.detach().double()} | {
        name: value.double() for name, value in zip(leaves, result, strict=True)
    }


@pytest.mark.parametrize("backend", ["numba", "parallel"])
@pytest.mark.parametrize("length", [1, 2, 255, 4097])
@pytest.mark.parametrize("states", [1, 16])
def test_backends_agree_in_float32(backend, states, length):
    """Relative to the largest entry of each tensor."""
    given, weight, true = agreed(states, length)
    result = gradients(given, weight, backend)
    for name in true:
        assert (
            (result[name] - true[name]).abs().max() / true[name].abs().max().clamp(min=1e-30)
        ).item() < 1e-5, name


@pytest.mark.parametrize("backend", ["numba", "parallel", "torch"])
@pytest.mark.parametrize("states", [1, 16])
def test_gradients_in_float64(backend, states):
    given = problem(batch=1, rows=2, length=4, states=states, groups=2)
    for softplus in (True, False):
        steps = (
            {}
            if softplus
            else {"delta": given["delta"].abs() + 0.1, "delta_bias": given["delta_bias"].abs()}
        )
        leaves = {name: value.requires_grad_(True) for name, value in (given | steps).items()}
        assert torch.autograd.gradcheck(
            lambda *x, s=softplus: selective_scan(*x, delta_softplus=s, backend=backend),
            tuple(leaves.values()),
        )


@pytest.mark.parametrize("backend", ["numba", "parallel"])
@pytest.mark.parametrize("rows", [1, 5, 18])
def test_rows_are_shared_among_threads_without_a_trace(backend, rows):
    """Odd numbers of rows, more threads than rows, strided arguments."""
    given = problem(rows=2 * rows, length=1025, dtype=torch.float64)
    given["u"] = given["u"].transpose(0, 2).contiguous().transpose(0, 2)
    given["B"] = given["B"].expand(2, 2, 2, 1025)
    weight = torch.ones_like(given["u"])[:, :, :1].expand(-1, -1, 1025)
    true = gradients(given, weight, "torch")
    threads = torch.get_num_threads()
    result = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            result.append(gradients(given, weight, backend))
    finally:
        torch.set_num_threads(threads)
    for name in true:
        torch.testing.assert_close(result[0][name], true[name], rtol=1e-10, atol=1e-12, msg=name)
        if backend == "parallel":  # sums of torch's own, whose order depends on the processor
            torch.testing.assert_close(
                result[0][name], result[1][name], rtol=1e-12, atol=1e-12, msg=name
            )
        else:
            assert torch.equal(result[0][name], result[1][name]), name


@pytest.mark.parametrize("backend", ["numba", "parallel", "torch"])
@pytest.mark.parametrize("level", [-40.0, 19.9, 20.1, 80.0, 1000.0])
def test_steps_of_any_size_are_finite(backend, level):
    """Steps so small that nothing moves, and so large that every step forgets the past.

    Then y = (1 + step B C) u.
    """
    given = problem(length=1100, dtype=torch.float32) | {"delta": torch.full((2, 4, 1100), level)}
    given["delta_bias"] = torch.zeros(4)
    result = gradients(given, torch.ones_like(given["u"]), backend)
    assert all(value.isfinite().all() for value in result.values())
    if level >= 80:
        u, B, C = (given[name].double() for name in "uBC")
        now = (B * C).sum(2).repeat_interleave(2, dim=1)
        torch.testing.assert_close(
            result["y"], (given["D"][:, None] + level * now) * u, rtol=1e-5, atol=1e-2
        )


@pytest.mark.parametrize("backend", ["numba", "parallel", "torch"])
def test_what_is_not_a_number_stays_visible(backend):
    given = problem(length=120, dtype=torch.float32)
    for name in ("u", "delta", "B"):
        broken = given[name].clone()
        broken[0, 0, ..., 60] = float("nan")
        y = selective_scan(**(given | {name: broken}), backend=backend)
        assert (
            y[0, 0, 60:].isnan().all() and y[0, 0, :60].isfinite().all() and y[1].isfinite().all()
        )


def test_auto_takes_the_kernel_of_the_place_and_says_so():
    assert choose("auto", "cpu", torch.float32) == backends.Choice(
        "numba", "the fastest on cpu; compiled at its first call, then kept on disk"
    )
    assert choose("auto", "mps", torch.float32) == backends.Choice(
        "parallel", "no kernel is made for mps"
    )
    assert choose("torch", "cuda", torch.float32) == backends.Choice("torch", "named")


def test_what_cannot_run_is_an_error_where_it_was_named():
    with pytest.raises(UnknownName, match="need one of auto, mamba-ssm, numba, parallel, torch"):
        selective_scan(**problem(), backend="nunba")
    with pytest.raises(UsageError, match="it needs tensors on CUDA, these are on cpu"):
        selective_scan(**problem(), backend="mamba-ssm")
    with pytest.raises(UsageError, match="it needs tensors on the CPU, these are on cuda"):
        choose("numba", "cuda", torch.float32)


@pytest.fixture
def mamba(monkeypatch):
    """Install a stand-in for mamba-ssm: ``mamba(kernel)``, or broken: ``mamba(None, error)``."""

    def put(kernel, error: Exception | None = None):
        interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
        interface.selective_scan_fn = kernel
        there = {
            interface.__name__: interface,
            "selective_scan_cuda": types.ModuleType("selective_scan_cuda"),
        }

        def imported(name):
            if error and name == "selective_scan_cuda":
                raise error
            return there[name]

        monkeypatch.setattr(backends, "find_spec", lambda name: name == "mamba_ssm")
        monkeypatch.setattr(backends, "import_module", imported)
        forget()

    def forget():
        choose.cache_clear()
        backends.mamba_kernel.cache_clear()

    yield put
    monkeypatch.undo()
    forget()


def test_mamba_broken_is_an_error_where_named_and_a_note_elsewhere(mamba):
    mamba(None, ImportError("selective_scan_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEi"))
    with pytest.raises(UsageError, match="installed but broken .*undefined symbol") as error:
        choose("mamba-ssm", "cuda", torch.float32)
    assert "scan: auto" in error.value.tip and "--device cpu" in error.value.tip
    chosen = choose("auto", "cuda", torch.float32)
    assert chosen.name == "parallel" and "undefined symbol" in chosen.reason


def test_mamba_absent_is_told():
    choose.cache_clear()
    backends.mamba_kernel.cache_clear()
    if backends.mamba_kernel()[0] is None:
        assert "mamba-ssm" in choose("auto", "cuda", torch.float32).reason


def test_mamba_gets_what_its_kernel_checks_for(mamba, monkeypatch):
    """A stand-in with the signature and checks of selective_scan_cuda.fwd.

    (state-spaces/mamba e9594ce.) It tests nothing about CUDA.
    """
    calls = []

    def kernel(
        u,
        delta,
        A,
        B,
        C,
        D=None,
        z=None,
        delta_bias=None,
        delta_softplus=False,
        return_last_state=False,
    ):
        assert (
            {x.dtype for x in (u, delta, A, B, C, D, delta_bias)} == {torch.float32}
            and z is None
            and not return_last_state
        )
        assert all(x.stride(-1) == 1 for x in (u, delta, B, C, D, delta_bias)) and u.is_contiguous()
        assert delta.shape == u.shape and B.shape == C.shape == (2, 2, A.shape[1], u.shape[-1])
        calls.append(u)
        return selective_scan(
            u, delta, A, B, C, D, delta_bias, delta_softplus=delta_softplus, backend="torch"
        )

    mamba(kernel)
    assert choose("auto", "cuda", torch.float32) == backends.Choice(
        "mamba-ssm", "the fastest on cuda"
    )
    assert choose("auto", "cuda", torch.float64) == backends.Choice(
        "parallel", "not mamba-ssm: it has no float64; slower, the same numbers"
    )
    given = problem(dtype=torch.float32)
    given = given | {
        "u": given["u"].bfloat16().transpose(1, 2).contiguous().transpose(1, 2),
        "B": given["B"].mT.contiguous().mT,
    }
    expected = selective_scan(**given, backend="torch")
    monkeypatch.setattr(
        selective, "choose", lambda name, device, dtype: choose(name, "cuda", dtype)
    )
    assert torch.equal(selective_scan(**given, backend="mamba-ssm"), expected) and len(calls) == 1


def test_the_room_opens_without_numba():
    imports = "import sys, freqkd_cli.scan.selective, freqkd_cli.scan.affinity"
    code = f"{imports}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class FourWays(torch.nn.Module):
    """A scan as a VMamba layer has it; ``backend`` is named, as a recipe may."""

    def __init__(self, length: int, backend: str) -> None:
        super().__init__()
        self.backend = backend
        for name, value in problem(
            batch=1, rows=8, length=length, states=2, groups=4, dtype=torch.float32
        ).items():
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = cross_scan(x)
        y = selective_scan(
            u.flatten(1, 2),
            self.delta.expand(u.shape[0], -1, -1),
            self.A,
            self.B,
            self.C,
            self.D,
            self.delta_bias,
            backend=self.backend,
        )
        return cross_merge(y.unflatten(1, (4, -1)), x.shape[-2:])


def test_an_exported_graph_holds_the_parallel_form(tmp_path):
    """64 x 64 cells: 12 halvings of some twenty nodes each, with the numbers of the plain loop."""
    onnxruntime = pytest.importorskip("onnxruntime")
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 2, 64, 64))).float()
    expected = FourWays(4096, "torch")(x)
    torch.testing.assert_close(
        torch.compile(FourWays(4096, "numba"), backend="eager")(x), expected, rtol=1e-5, atol=1e-5
    )
    program = torch.export.export(FourWays(4096, "numba").eval(), (x,))
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-5, atol=1e-5)
    torch.onnx.export(
        program,
        (),
        tmp_path / "scan.onnx",
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["x"],
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "scan.onnx"))
    np.testing.assert_allclose(
        session.run(None, {"x": x.numpy()})[0], expected.numpy(), rtol=1e-5, atol=1e-5
    )
    import onnx

    assert len(onnx.load(tmp_path / "scan.onnx").graph.node) < 350


SIZES = [(1, 1), (1, 5), (5, 1), (2, 3), (4, 4), (7, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_the_four_orders_are_the_published_ones(size):
    height, width = size
    x = torch.arange(height * width).reshape(1, 1, height, width)
    rows = [i * width + j for i in range(height) for j in range(width)]
    columns = [i * width + j for j in range(width) for i in range(height)]
    assert cross_scan(x)[0, :, 0].tolist() == [rows, columns, rows[::-1], columns[::-1]]


@pytest.mark.parametrize("size", SIZES)
def test_merge_is_the_adjoint_of_scan(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, 3, size[0] * size[1], dtype=torch.float64, requires_grad=True)
    scanned, merged = cross_scan(x), cross_merge(y, size)
    torch.testing.assert_close((scanned * y).sum(), (x.flatten(2) * merged).sum())
    torch.testing.assert_close(torch.autograd.grad(scanned, x, y.detach())[0].flatten(2), merged)
    torch.testing.assert_close(torch.autograd.grad(merged, y, x.detach().flatten(2))[0], scanned)
    torch.testing.assert_close(cross_merge(scanned, size), 4 * x.flatten(2))
