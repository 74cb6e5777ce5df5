"""Log-likelihoods: one value per item, right up to a constant in y."""

import pytest
import torch

from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.likelihoods import (
    CallableLikelihood,
    GaussianLikelihood,
    ImageLikelihood,
    Likelihood,
    PoissonLikelihood,
)
from mgdm_core.operators import (
    FunctionOperator,
    Identity,
    LinearOperator,
    Matrix,
    SumOverChannels,
)
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.samplers import MGDMMarginal
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import OneGenerator, normal
from .samplers_support import CoordinatePrior

SINE = FunctionOperator(lambda x: torch.sin(x).flatten(1)[:, :4])


def gaussian(operator=None) -> GaussianLikelihood:
    operator = SumOverChannels(2) if operator is None else operator
    return GaussianLikelihood(operator, operator.forward(normal((3, 2, 4), 1)), 0.3)


def poisson() -> PoissonLikelihood:
    counts = torch.tensor([[3.0, 0.0], [1.0, 7.0], [0.0, 0.0]], dtype=torch.float64)
    rate = FunctionOperator(lambda x: torch.exp(x.flatten(1)[:, :2]))
    return PoissonLikelihood(rate, counts, gain=2.5)


def own() -> CallableLikelihood:
    y = normal((3, 8), 2)
    return CallableLikelihood(lambda x, y: -(x.flatten(1) - y).abs().sum(1), y)


ALL = {
    "gaussian": gaussian(),
    "gaussian-nonlinear": gaussian(SINE),
    "poisson": poisson(),
    "own": own(),
}
EACH = pytest.mark.parametrize("likelihood", ALL.values(), ids=ALL)


@EACH
def test_one_value_per_item(likelihood):
    assert isinstance(likelihood, Likelihood)
    x = normal((3, 2, 4), 3)
    value = likelihood.log_prob(x)
    assert value.shape == (3,)
    for i in range(3):
        alone = likelihood.select([i]).log_prob(x[i : i + 1])
        torch.testing.assert_close(alone[0], value[i], rtol=1e-12, atol=1e-12)


@EACH
def test_items_do_not_see_one_another(likelihood):
    x = normal((3, 2, 4), 3).requires_grad_(True)
    (grad,) = torch.autograd.grad(likelihood.log_prob(x)[1], x)
    assert bool((grad[[0, 2]] == 0).all())
    assert bool((grad[1] != 0).any())
    assert torch.autograd.gradcheck(likelihood.log_prob, x)


@EACH
def test_select_reorders_and_repeats(likelihood):
    x = normal((3, 2, 4), 3)
    value = likelihood.log_prob(x)
    order = [2, 0, 0, 1]
    torch.testing.assert_close(likelihood.select(order).log_prob(x[order]), value[order])
    chosen = likelihood.select(torch.tensor([1, 1]))
    assert torch.equal(chosen.observation, likelihood.observation[[1, 1]])


def test_gaussian_is_the_normal_density_up_to_a_constant():
    likelihood = gaussian()
    x, z = normal((3, 2, 4), 4), normal((3, 2, 4), 5)
    normal_law = torch.distributions.Normal(likelihood.observation, 0.3)
    want = (normal_law.log_prob(x.sum(1)) - normal_law.log_prob(z.sum(1))).sum(1)
    torch.testing.assert_close(likelihood.log_prob(x) - likelihood.log_prob(z), want)
    torch.testing.assert_close(likelihood.residual(x), likelihood.observation - x.sum(1))


def test_poisson_is_the_counting_density_up_to_a_constant():
    likelihood = poisson()
    x, z = normal((3, 2, 4), 4), normal((3, 2, 4), 5)

    def law(x):
        rate = 2.5 * torch.exp(x.flatten(1)[:, :2])
        return torch.distributions.Poisson(rate).log_prob(likelihood.observation).sum(1)

    torch.testing.assert_close(likelihood.log_prob(x) - likelihood.log_prob(z), law(x) - law(z))


@pytest.mark.parametrize("likelihood", [gaussian(), poisson()], ids=["gaussian", "poisson"])
def test_the_local_gaussian_has_the_slope_and_the_information(likelihood):
    assert isinstance(likelihood, ImageLikelihood)
    x = normal((3, 2, 4), 6)
    image = likelihood.operator.forward(x).flatten(1)
    torch.testing.assert_close(likelihood.image_log_prob(image), likelihood.log_prob(x))
    image = image.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(likelihood.image_log_prob(image).sum(), image)
    centre, variance = likelihood.local_gaussian(image.detach())
    torch.testing.assert_close((centre - image) / variance, slope)
    if isinstance(likelihood, GaussianLikelihood):
        assert bool((variance == 0.3**2).all())
    else:  # Fisher's information of a count: gain^2 over its rate
        counted = likelihood.observation > 0
        expected = image.detach() / 2.5
        torch.testing.assert_close(variance[counted], expected[counted])
        assert bool((variance[~counted] >= 1 / 2.5**2 - 1e-12).all())


def test_a_likelihood_of_your_own_has_no_local_gaussian():
    assert not isinstance(own(), ImageLikelihood)


def test_a_poisson_rate_never_reaches_zero():
    dark = FunctionOperator(lambda x: 0 * x - 1)
    likelihood = PoissonLikelihood(dark, torch.tensor([[2.0]]), floor=1e-2)
    assert float(likelihood.rate(dark.forward(torch.zeros(1, 1)))) == pytest.approx(1e-2)
    assert bool(torch.isfinite(likelihood.log_prob(torch.zeros(1, 1))).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types(dtype):
    x, y = normal((3, 6), 6), normal((3, 2), 7)
    operator = Matrix(normal((2, 6), 8))
    value = GaussianLikelihood(operator, y.to(dtype), 1.0).log_prob(x.to(dtype))
    want = GaussianLikelihood(operator, y, 1.0).log_prob(x)
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shape", [(3, 1), (1, 4), (3, 4)], ids=["item", "entry", "both"])
@pytest.mark.parametrize("linear", [True, False])
def test_deviations_of_items_and_of_entries(shape, linear):
    deviations = 0.2 + normal(shape, 5).abs()
    matrix, y, x = normal((4, 6), 8), normal((3, 4), 7), normal((3, 6), 6)
    operator = Matrix(matrix) if linear else FunctionOperator(lambda x: x @ matrix.T)
    likelihood = GaussianLikelihood(operator, y, deviations)
    assert isinstance(likelihood.operator, LinearOperator) == linear
    want = -0.5 * ((y - x @ matrix.T) / deviations).square().sum(1)
    torch.testing.assert_close(likelihood.log_prob(x), want)
    order = [2, 0, 0]
    torch.testing.assert_close(likelihood.select(order).log_prob(x[order]), want[order])


def test_samples_under_deviations_of_items_and_of_entries():
    """Two observations, one entry each seen well: batches and repeats keep them apart."""
    deviations = torch.tensor([[0.1, 2.0], [2.0, 0.1]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    prior = CoordinatePrior(NoiseSchedule.vp_linear(), 0.0, 1.0)
    likelihood = GaussianLikelihood(Matrix(torch.eye(2, dtype=torch.float64)), y, deviations)
    problem, n = Problem(prior, likelihood, (2,)), 600
    walk = MGDMMarginal(levels=80, budget=0)
    streams = OneGenerator(2 * n)
    found = sample(problem, walk, n=n, noise=streams).samples
    precision = 1 + deviations**-2
    mean, spread = y * deviations**-2 / precision, precision**-0.5
    torch.testing.assert_close(found.mean(1), mean, rtol=0, atol=0.15)
    torch.testing.assert_close(found.std(1), spread, rtol=0.15, atol=0)
    few = MGDMMarginal(levels=4, budget=0)
    whole, parts = (sample(problem, few, n=3, batch_size=size).x for size in (6, 4))
    torch.testing.assert_close(parts, whole)


def test_a_deviation_s_precision_is_not_the_state_s():
    """A float64 deviation widens nothing, and a half one loses nothing of the observation."""
    y = torch.tensor([[7.0, -20.0]])
    wide = GaussianLikelihood(Identity(), y, torch.tensor([[1e-4, 2e-4]]).double())
    assert wide.observation.dtype == torch.float32
    half = torch.tensor([[1e-4, 2e-4]], dtype=torch.float16)
    narrow = GaussianLikelihood(Identity(), y.half(), half)
    torch.testing.assert_close(narrow.observation, wide.observation, rtol=1e-2, atol=0)


@pytest.mark.parametrize("likelihood", [gaussian(), poisson()], ids=["gaussian", "poisson"])
def test_an_observation_without_its_batch_axis_is_refused(likelihood):
    """It would be taken for one observation per number, and broadcast."""
    x = normal((3, 2, 4), 1)
    with pytest.raises(ShapeError, match=r"that A\(x_0\) has, here .* found \(\d,\)"):
        likelihood.observing(likelihood.observation[0]).log_prob(x)


def test_settings_outside_their_domain():
    y = torch.zeros(1, 2)
    with pytest.raises(SettingsError, match="sigma_y is positive; found"):
        GaussianLikelihood(SumOverChannels(2), y, torch.tensor([[0.1, 0.0]]))
    for bad in (torch.ones(2), torch.ones(1, 3)):
        with pytest.raises(ShapeError, match=r"broadcasts with the observation.*found"):
            GaussianLikelihood(SumOverChannels(2), y, bad)
    with pytest.raises(SettingsError, match=r"sigma_y is positive; found 0.0; .* small one"):
        GaussianLikelihood(SumOverChannels(2), y, 0.0)
    with pytest.raises(SettingsError, match="gain and floor are positive; found -1"):
        PoissonLikelihood(SumOverChannels(2), y, gain=-1.0)
    with pytest.raises(SettingsError, match="non-negative"):
        PoissonLikelihood(SumOverChannels(2), y - 1)


def test_a_callable_that_sums_over_the_batch_is_caught(unchecked_shapes):
    summed = CallableLikelihood(lambda x, y: -(x - y).square().sum(), torch.zeros(3, 2))
    with pytest.raises(SettingsError, match=r"shape \(3,\); found \(\); sum over the event"):
        summed.log_prob(torch.zeros(3, 2))
