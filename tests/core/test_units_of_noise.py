"""Settings in the observation's units mean the same whether sigma_y is a number or a tensor."""

from __future__ import annotations

import pytest
import torch

from mgdm_core.likelihoods import GaussianLikelihood
from mgdm_core.operators import FunctionOperator, Mask, ReflectBlur
from mgdm_core.problem import Problem
from mgdm_core.sample import sample
from mgdm_core.samplers import DAPS, DPS, PSLD, REDDiff, TwistedSMC
from mgdm_core.schedule import NoiseSchedule

from .closed_forms import normal
from .samplers_support import CoordinatePrior

SAMPLERS = {
    "dps": DPS(steps=20, gamma=0.3),
    "psld": PSLD(steps=20, eta=0.3),
    "red_diff": REDDiff(steps=20),
    "daps": DAPS(levels=8, tau=0.1, draw="langevin", langevin_steps=5),
    "daps-exact": DAPS(levels=8, tau=0.1),
    "twisted_smc": TwistedSMC(steps=10, particles=4),
}
DEVIATIONS = (0.05, 0.4)
KERNEL = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64)
OPERATORS = {
    "linear": (ReflectBlur(KERNEL), (1, 3, 4)),
    "any": (FunctionOperator(lambda x: x.flatten(1)[:, :5] ** 3), (6,)),
}


def drawn(kind, sampler, y, sigma_y, seed):
    operator, shape = OPERATORS[kind]
    prior = CoordinatePrior(NoiseSchedule.vp_linear(), 0.2, 0.5)
    return sample(
        Problem(prior, GaussianLikelihood(operator, y, sigma_y), shape), sampler, seed=seed
    ).x


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in SAMPLERS for kind in OPERATORS if kind == "linear" or name != "psld"],
)
def test_a_deviation_per_item_is_that_of_the_item_alone(name, kind):
    operator, shape = OPERATORS[kind]
    y = operator.forward(normal((2, *shape), 1)) + 0.1
    sigma_y = torch.tensor(DEVIATIONS, dtype=torch.float64).reshape(2, *[1] * (y.ndim - 1))
    together = drawn(kind, SAMPLERS[name], y, sigma_y, 3)
    for i, deviation in enumerate(DEVIATIONS):
        alone = drawn(kind, SAMPLERS[name], y[i : i + 1], deviation, 3 + i)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_tensor_of_one_value_is_that_number(name):
    operator, shape = OPERATORS["linear"]
    y = operator.forward(normal((1, *shape), 1)) + 0.1
    number, tensor = (
        drawn("linear", SAMPLERS[name], y, sigma_y, 3) for sigma_y in (0.2, torch.full_like(y, 0.2))
    )
    assert torch.equal(number, tensor)


def test_a_tensor_of_one_value_keeps_the_operator_s_singular_values():
    likelihood = GaussianLikelihood(
        Mask(torch.tensor([True, False])), torch.zeros(3, 1), torch.full((3, 1), 0.2)
    )
    assert isinstance(likelihood.operator, Mask)
    assert likelihood.sigma_y == pytest.approx(0.2)
