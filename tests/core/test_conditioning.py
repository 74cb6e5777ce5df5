"""Gaussian conditioning against dense float64 algebra, for every basis and operator."""

import math

import pytest
import torch

from mgdm_core.noise import RandomStreams
from mgdm_core.operators import (
    Identity,
    Mask,
    Matrix,
    Operator,
    SumOverChannels,
    compose,
    flat,
)
from mgdm_core.steps.conditioning import IdentityBasis, condition_gaussian

from .closed_forms import OneGenerator, assert_moments, condition, dense, normal


class CosineBasis:
    """Orthonormal DCT-II of the last axis."""

    def __init__(self, length: int) -> None:
        k, n = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
        rows = (2 / length) ** 0.5 * torch.cos(math.pi / length * (n.double() + 0.5) * k)
        rows[0] /= 2**0.5
        self.rows = rows

    def forward(self, x):
        return x @ self.rows.T

    def inverse(self, coefficients, length):
        assert length == len(self.rows)
        return coefficients @ self.rows


class FourierBasis:
    """Unitary FFT of real signals: complex coefficients, the redundant half left out."""

    def forward(self, x):
        return torch.fft.rfft(x, norm="ortho")

    def inverse(self, coefficients, length):
        return torch.fft.irfft(coefficients, n=length, norm="ortho")


SHAPE = (3, 6)
BASES = {"samples": None, "identity": IdentityBasis(), "dct": CosineBasis(6), "fft": FourierBasis()}
OPERATORS: dict[str, Operator] = {
    "mixing": SumOverChannels(3),
    "identity": Identity(),
    "mask": Mask(normal(SHAPE, 1) > 0),
    "matrix": Matrix(normal((4, 18), 2), SHAPE),
    "mask-of-mix": compose(Mask(normal((6,), 3) > -0.5), SumOverChannels(3)),
}


def diagonal(basis, seed: int = 5) -> torch.Tensor:
    """Positive variances in the shape of the basis's coefficients, one zero among them."""
    like = torch.zeros(1, *SHAPE, dtype=torch.float64)
    size = like.shape if basis is None else basis.forward(like).shape
    variance = normal(tuple(size), seed).square() + 0.05
    variance[0, 0, 0] = 0.0
    return variance


def dense_covariance(basis, variance: torch.Tensor) -> torch.Tensor:
    eye = torch.eye(18, dtype=torch.float64).reshape(18, *SHAPE)
    basis = IdentityBasis() if basis is None else basis
    return basis.inverse(variance * basis.forward(eye), SHAPE[-1]).reshape(18, 18)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
def test_mean_and_covariance_of_the_draw(basis, operator):
    sigma_y, n = 0.3, 20000
    mean, variance = normal((1, *SHAPE), 4), diagonal(basis)
    y = 2 * normal(tuple(operator.forward(mean).shape), 6)
    cov = dense_covariance(basis, variance)
    want, spread = condition(flat(mean)[0], cov, dense(operator, SHAPE), flat(y)[0], sigma_y**2)
    got = condition_gaussian(mean, variance, operator, y, sigma_y, basis=basis)
    torch.testing.assert_close(flat(got)[0], want, rtol=1e-4, atol=1e-5)

    draws = condition_gaussian(
        mean.expand(n, *SHAPE),
        variance.expand(n, *variance.shape[1:]),
        operator,
        y.expand(n, *y.shape[1:]),
        sigma_y,
        basis=basis,
        noise=OneGenerator(n),
    )
    assert_moments(flat(draws), want, spread)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_one_variance_per_item_is_the_proximal_solve(operator):
    n = 20000
    mean = normal((1, *SHAPE), 4)
    y = 2 * normal(tuple(operator.forward(mean).shape), 6)
    for value in (0.0, 0.7):
        v = torch.tensor([value], dtype=torch.float64)
        cov = value * torch.eye(18, dtype=torch.float64)
        want, spread = condition(flat(mean)[0], cov, dense(operator, SHAPE), flat(y)[0], 0.01)
        got = condition_gaussian(mean, v, operator, y, 0.1)
        torch.testing.assert_close(flat(got)[0], want, rtol=1e-4, atol=1e-5)
    draws = condition_gaussian(
        mean.expand(n, *SHAPE),
        v.expand(n),
        operator,
        y.expand(n, *y.shape[1:]),
        0.1,
        noise=OneGenerator(n),
    )
    assert_moments(flat(draws), want, spread)


def test_the_mixing_operator_is_a_wiener_filter():
    mean = torch.zeros(1, *SHAPE, dtype=torch.float64)
    basis, y = FourierBasis(), normal((1, 6), 7)
    variance = diagonal(basis)
    got = condition_gaussian(mean, variance, SumOverChannels(3), y, 0.05, basis=basis)
    mask = variance / (variance.sum(1, keepdim=True) + 0.05**2)
    want = basis.inverse(mask * basis.forward(y)[:, None], 6)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    # With next to no observation noise the stems sum to the mixture.
    exact = condition_gaussian(mean, variance, SumOverChannels(3), y, 1e-6, basis=basis)
    torch.testing.assert_close(exact.sum(1), y, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("basis", [None, FourierBasis()], ids=["samples", "fft"])
def test_items_are_conditioned_on_their_own(basis):
    operator, mean = OPERATORS["matrix"], normal((3, *SHAPE), 8)
    variance = torch.cat([diagonal(basis, seed) for seed in (1, 2, 3)])
    y = normal((3, 4), 9)
    together = condition_gaussian(
        mean, variance, operator, y, 0.2, basis=basis, noise=RandomStreams([4, 5, 6])
    )
    for i in range(3):
        one = slice(i, i + 1)
        alone = condition_gaussian(
            mean[one],
            variance[one],
            operator,
            y[one],
            0.2,
            basis=basis,
            noise=RandomStreams([4 + i]),
        )
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types(dtype):
    mean = normal((2, *SHAPE), 8)
    variance, y = diagonal(None).expand(2, -1, -1), normal((2, 6), 9)
    args = (mean.to(dtype), variance.to(dtype), SumOverChannels(3), y.to(dtype), 0.2)
    got = condition_gaussian(*args)
    assert got.dtype == dtype
    want = condition_gaussian(mean, variance, SumOverChannels(3), y, 0.2)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
