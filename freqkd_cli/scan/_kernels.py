"""The loops of the compiled scan.

Importing this file imports numba. The first call with a type compiles; numba keeps the result on
disk.

A row is one channel of one image. It is walked in pieces of :data:`PIECE` steps, short enough that
all intermediates stay in a core's own caches. Everything that does not depend on the step before
(step sizes, exponentials, products) is a loop of its own that the compiler vectorises. Only
``h = a h + x`` runs step by step, in :data:`ABREAST` rows at once. The forward pass keeps the state
at the start of every piece. The backward pass computes the rest again, so memory does not grow with
N.

Shapes: u, delta, y ``[batch * d, L]``, B, C ``[batch * groups, N, L]``, A ``[d, N]``, all
contiguous and of one type.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

# Steps of a piece: shorter ones cost more calls, longer ones do not fit into the second cache.
PIECE = 1024
ABREAST = 4  # rows walked at once
SINGLE = np.float32
# Sums may be taken in any order and products fused. Infinities and NaN keep their meaning, so a
# diverged training is noticed.
SUMS = {"reassoc", "contract", "nsz"}


def compiled(function):
    """Compile with njit, without the interpreter's lock, and cache on disk where possible."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)(function)
    except RuntimeError:  # numba finds no folder that it may write
        return njit(nogil=True, error_model="numpy", fastmath=SUMS)(function)


MAGIC = SINGLE(1.5 * 2**23)  # adding it rounds to a whole number, which is then the lowest bits
LOG2_E, LN2_HIGH, LN2_LOW = (
    SINGLE(1 / math.log(2)),
    SINGLE(0.693359375),
    SINGLE(math.log(2) - 0.693359375),
)
E2, E3, E4, E5, E6, E7 = (SINGLE(1 / math.factorial(k)) for k in range(2, 8))
L3, L5, L7, L9, L11, L13 = (SINGLE(1 / k) for k in range(3, 14, 2))
ZERO, ONE, TWO, LOWEST, HIGHEST, LINEAR = (SINGLE(x) for x in (0, 1, 2, -87, 88, 20))


def exp(x):
    """Return e^x; a name for :func:`overload`, which compiles :func:`_exp_of` in its place."""
    raise NotImplementedError


def step_of(x):
    """Return softplus(x) as torch does (x itself above 20), and its slope."""
    raise NotImplementedError


@overload(exp, jit_options={"fastmath": {"contract"}})
def _exp_of(x):
    """Return e^x from libm in double precision, and as 2^n e^r in single precision.

    There e^r is a series with an error of 1e-7 of the value, eight numbers at a time.
    """

    def double(x):
        return math.exp(x)

    def single(x):
        x = LOWEST if x < LOWEST else x
        x = HIGHEST if x > HIGHEST else x
        shifted = x * LOG2_E + MAGIC
        n = shifted - MAGIC
        r = x - n * LN2_HIGH - n * LN2_LOW
        series = ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * (E6 + r * E7))))))
        return np.int32(
            SINGLE(series).view(np.int32) + (SINGLE(shifted).view(np.int32) << 23)
        ).view(np.float32)

    return single if x == types.float32 else double


@overload(step_of, jit_options={"fastmath": {"contract"}})
def _step_of(x):
    """Return max(x, 0) + log(1 + z) with z = e^-|x|, and its slope.

    In single precision the logarithm is 2 artanh(z / (2 + z)), a series in at most 1/3.
    """

    def double(x):
        z = math.exp(-abs(x))
        step = x if x > 20.0 else max(x, 0.0) + math.log1p(z)
        return step, 1.0 if x > 20.0 else (1.0 if x > 0 else z) / (1.0 + z)

    def single(x):
        z = exp(-abs(x))
        s = z / (TWO + z)
        q = s * s
        log = TWO * s * (ONE + q * (L3 + q * (L5 + q * (L7 + q * (L9 + q * (L11 + q * L13))))))
        return (x if x > ZERO else ZERO) + log, (ONE if x > ZERO else z) / (ONE + z)

    return single if x == types.float32 else double


@compiled
def _steps(delta, bias, softplus, step, slope):
    if softplus:
        for i in range(delta.size):
            step[i], slope[i] = step_of(delta[i] + bias)
    else:
        for i in range(delta.size):
            step[i] = delta[i] + bias
            slope[i] = 1


@compiled
def _drive(u, step, rate, B, decay, states):
    """Write one row's recurrence inputs: a to ``decay``, x one place further to ``states``."""
    for i in range(u.size):
        decay[i] = exp(rate * step[i])
        states[i + 1] = step[i] * u[i] * B[i]


@compiled
def _forth(n, decay, states, h):
    """Run ``h = a h + x`` in four rows at once: a single one would wait for its own last step.

    ``h`` holds the states at the start, and then those at the end.
    """
    h0, h1, h2, h3 = h[0], h[1], h[2], h[3]
    states[0, 0], states[1, 0], states[2, 0], states[3, 0] = h0, h1, h2, h3
    for i in range(n):
        h0 = decay[0, i] * h0 + states[0, i + 1]
        h1 = decay[1, i] * h1 + states[1, i + 1]
        h2 = decay[2, i] * h2 + states[2, i + 1]
        h3 = decay[3, i] * h3 + states[3, i + 1]
        states[0, i + 1], states[1, i + 1], states[2, i + 1], states[3, i + 1] = h0, h1, h2, h3
    h[0], h[1], h[2], h[3] = h0, h1, h2, h3


@compiled
def _back(n, decay, costates, g):
    """Run the adjoint of :func:`_forth` in place: ``g = C dy + a g`` with the a of the step after.

    ``g`` holds a g at the end of the piece, and then at its start.
    """
    g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
    a0 = a1 = a2 = a3 = decay.dtype.type(1)
    for i in range(n - 1, -1, -1):
        g0 = a0 * g0 + costates[0, i]
        g1 = a1 * g1 + costates[1, i]
        g2 = a2 * g2 + costates[2, i]
        g3 = a3 * g3 + costates[3, i]
        costates[0, i], costates[1, i], costates[2, i], costates[3, i] = g0, g1, g2, g3
        a0, a1, a2, a3 = decay[0, i], decay[1, i], decay[2, i], decay[3, i]
    g[0], g[1], g[2], g[3] = a0 * g0, a1 * g1, a2 * g2, a3 * g3


@compiled
def forward(start, stop, u, delta, A, B, C, D, bias, softplus, y, marks):
    """Write rows start to stop of y, and the states at the start of every piece.

    Those are ``marks`` ``[batch * d, pieces, N]``.
    """
    rows, block = A.shape[0], u.shape[0] // B.shape[0]
    step, slope, decay = (
        np.zeros((ABREAST, PIECE), u.dtype),
        np.empty(PIECE, u.dtype),
        np.zeros((ABREAST, PIECE), u.dtype),
    )
    states = np.zeros((ABREAST, PIECE + 1), u.dtype)
    for first in range(start, stop, ABREAST):
        last = min(first + ABREAST, stop)
        h = np.zeros((A.shape[1], ABREAST), u.dtype)
        for piece in range(marks.shape[1]):
            t, end = piece * PIECE, min((piece + 1) * PIECE, u.shape[1])
            for row in range(first, last):
                _steps(delta[row, t:end], bias[row % rows], softplus, step[row - first], slope)
                _copy(D[row % rows], u[row, t:end], y[row, t:end])
            for k in range(A.shape[1]):
                for row in range(first, last):
                    marks[row, piece, k] = h[k, row - first]
                    _drive(
                        u[row, t:end],
                        step[row - first],
                        A[row % rows, k],
                        B[row // block, k, t:end],
                        decay[row - first],
                        states[row - first],
                    )
                _forth(end - t, decay, states, h[k])
                for row in range(first, last):
                    _add_product(C[row // block, k, t:end], states[row - first, 1:], y[row, t:end])


@compiled
def _copy(factor, x, out):
    for i in range(x.size):
        out[i] = factor * x[i]


@compiled
def _add_product(x, y, out):
    for i in range(x.size):
        out[i] += x[i] * y[i]


@compiled
def _dot(x, y):
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@compiled
def _product(x, y, out):
    for i in range(x.size):
        out[i] = x[i] * y[i]


@compiled
def _gradients(dy, u, step, rate, B, decay, states, costates, dB, dC, du, dstep):
    """Add one row's share of one state's gradients over one piece; return dL/dA."""
    drate = rate * 0
    for i in range(u.size):
        dC[i] += dy[i] * states[i + 1]
        dB[i] += costates[i] * step[i] * u[i]
    for i in range(u.size):
        along = costates[i] * decay[i] * states[i]
        drate += along * step[i]
        dstep[i] += costates[i] * B[i] * u[i] + rate * along
        du[i] += costates[i] * step[i] * B[i]
    return drate


@compiled
def backward(
    start, stop, dy, u, delta, A, B, C, D, bias, softplus, marks, du, ddelta, dA, dB, dC, dD, dbias
):
    """Write the gradients of rows start to stop, all of one group.

    Args:
        dB, dC: ``[N, L]``, added to; every call has its own.
        dA, dD, dbias: ``[batch * d, N]`` and ``[batch * d]`` float64, one entry a row, which the
            caller sums over the batch.
    """
    rows, group = A.shape[0], start // (u.shape[0] // B.shape[0])
    step, slope = np.zeros((ABREAST, PIECE), u.dtype), np.zeros((ABREAST, PIECE), u.dtype)
    decay, dstep = np.zeros((ABREAST, PIECE), u.dtype), np.zeros((ABREAST, PIECE), u.dtype)
    costates, states, h = (
        np.zeros((ABREAST, PIECE), u.dtype),
        np.zeros((ABREAST, PIECE + 1), u.dtype),
        np.zeros(ABREAST, u.dtype),
    )
    for first in range(start, stop, ABREAST):
        last = min(first + ABREAST, stop)
        g = np.zeros((A.shape[1], ABREAST), u.dtype)
        for piece in range(marks.shape[1] - 1, -1, -1):
            t, end = piece * PIECE, min((piece + 1) * PIECE, u.shape[1])
            for row in range(first, last):
                _steps(
                    delta[row, t:end],
                    bias[row % rows],
                    softplus,
                    step[row - first],
                    slope[row - first],
                )
                _copy(D[row % rows], dy[row, t:end], du[row, t:end])
                dD[row] += _dot(dy[row, t:end], u[row, t:end])
            dstep[:] = 0
            for k in range(A.shape[1]):
                b, c = B[group, k, t:end], C[group, k, t:end]
                for row in range(first, last):
                    lane = row - first
                    h[lane] = marks[row, piece, k]
                    _drive(
                        u[row, t:end], step[lane], A[row % rows, k], b, decay[lane], states[lane]
                    )
                    _product(c, dy[row, t:end], costates[lane])
                _forth(end - t, decay, states, h)
                _back(end - t, decay, costates, g[k])
                for row in range(first, last):
                    lane = row - first
                    given = (
                        dy[row, t:end],
                        u[row, t:end],
                        step[lane],
                        A[row % rows, k],
                        b,
                        decay[lane],
                        states[lane],
                        costates[lane],
                    )
                    dA[row, k] += _gradients(
                        *given, dB[k, t:end], dC[k, t:end], du[row, t:end], dstep[lane]
                    )
            for row in range(first, last):
                _product(dstep[row - first, : end - t], slope[row - first], ddelta[row, t:end])
                dbias[row] += ddelta[row, t:end].sum()
