"""Networks and schedulers of the form of diffusers, by their formulas; fakes, nothing installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mgdm_core import GaussianLikelihood, Matrix, MGDMMarginal
from mgdm_core.errors import SettingsError, ShapeError
from mgdm_core.priors import autoencoded, from_diffusers, text_conditions

from .closed_forms import OneGenerator, condition, normal
from .samplers_support import draw

MEANS = torch.tensor([-0.6, 0.8], dtype=torch.float64)  # of none, and of the class
VARIANCE = 0.7


class FlowMatchFake:
    config = {"num_train_timesteps": 1000, "shift": 3.0}


class DDPMFake:
    def __init__(self, prediction: str = "epsilon", betas: int = 1000) -> None:
        self.config = {"prediction_type": prediction}
        self.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, betas), 0)


def denoised(x, alpha, sigma, mean):
    """E[x_0 | x_t] for independent N(mean, VARIANCE) coordinates."""
    return mean + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * mean)


def flow_network(x, timestep, class_labels=None):
    """Velocity eps - x_0 of a Gaussian, as the straight line from x_0 to the noise has it."""
    u = (timestep / 1000).to(x.dtype)[:, None]
    mean = 0.0 if class_labels is None else MEANS[class_labels][:, None]
    x_0 = denoised(x, 1 - u, u, mean)
    eps = (x - (1 - u) * x_0) / u
    return SimpleNamespace(sample=eps - x_0)


def label(k: int) -> dict:
    return {"class_labels": torch.tensor([k])}


def test_a_flow_s_levels_and_times_are_its_scheduler_s():
    times = []

    def network(x, timestep):
        times.append(timestep)
        return flow_network(x, timestep)

    prior = from_diffusers(network, FlowMatchFake())
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    shifted = 3 * u / (1 + 2 * u)
    torch.testing.assert_close(prior.schedule.sigma[1:], shifted)
    torch.testing.assert_close(prior.schedule.alpha[1:], 1 - shifted)
    x = normal((2, 4), 1)
    for t in (1000, 400, 1):
        sigma = shifted[t - 1]
        got = prior.denoise(x, t)
        torch.testing.assert_close(times[-1], (1000 * sigma).expand(2))
        torch.testing.assert_close(got, denoised(x, 1 - sigma, sigma, 0.0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [0.1, 0.3, 7.0])
def test_a_shifted_flow_ends_in_pure_noise(shift):
    """Rounding missed alpha 0 at the last level of some shifts; below 0 is refused."""

    class Shifted:
        config = {"num_train_timesteps": 1000, "shift": shift}

    Shifted.__name__ = "FlowMatchShifted"
    assert float(from_diffusers(flow_network, Shifted()).schedule.alpha[-1]) == 0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_what_a_network_predicts_becomes_x_0(prediction):
    x, out, scheduler = normal((3, 5), 2), normal((3, 5), 3), DDPMFake(prediction)
    asked = []

    def network(x, timestep):
        asked.append(timestep.tolist())
        return SimpleNamespace(sample=out)

    prior, level = from_diffusers(network, scheduler), 400
    bar = scheduler.alphas_cumprod[level - 1].double()
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    want = {
        "epsilon": (x - sigma * out) / alpha,
        "v_prediction": alpha * x - sigma * out,
        "sample": out,
    }[prediction]
    torch.testing.assert_close(prior.denoise(x, level), want, rtol=1e-6, atol=1e-6)
    assert asked == [[level - 1] * 3]


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_guidance_weighs_the_condition_against_none(scale):
    told, untold = (from_diffusers(flow_network, FlowMatchFake(), label(k)) for k in (1, 0))
    prior = from_diffusers(flow_network, FlowMatchFake(), label(1), label(0), scale)
    x = normal((2, 4), 4)
    for t in (900, 30):
        a, b = told.denoise(x, t), untold.denoise(x, t)
        got = prior.denoise(x, t)
        if scale in (0.0, 1.0):
            assert torch.equal(got, a if scale else b)
        torch.testing.assert_close(got, b + scale * (a - b), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(a, b)


@pytest.mark.parametrize(("scale", "calls"), [(1.0, 1), (0.0, 1), (2.0, 2)])
def test_a_network_is_called_no_more_than_guidance_needs(scale, calls):
    asked = []

    def network(x, timestep, class_labels):
        asked.append(class_labels)
        return flow_network(x, timestep, class_labels)

    prior = from_diffusers(network, FlowMatchFake(), label(1), label(0), scale)
    prior.denoise(normal((2, 4), 4), 10)
    assert len(asked) == calls
    assert all(len(labels) == 2 for labels in asked)  # one row for every item


def test_the_posterior_of_a_flow_told_a_class_is_the_closed_form():
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 1.5]], dtype=torch.float64)
    y, sigma_y, count = torch.tensor([1.0, 0.3], dtype=torch.float64), 0.3, 2000
    prior = from_diffusers(flow_network, FlowMatchFake(), label(1))
    likelihood = GaussianLikelihood(Matrix(matrix), y.expand(count, -1), sigma_y)
    x = draw(prior, likelihood, (3,), OneGenerator(count), MGDMMarginal(budget=0)).x
    eye = torch.eye(3, dtype=torch.float64)
    mean, cov = condition(
        MEANS[1].expand(3),
        VARIANCE * eye,
        matrix,
        y,
        sigma_y**2 * torch.eye(2, dtype=torch.float64),
    )
    scale = cov.diagonal().sqrt()
    assert bool(((x.mean(0) - mean).abs() < 0.1 * scale).all())
    assert bool(((x.std(0) / scale - 1).abs() < 0.1).all())


def test_a_narrow_network_gets_narrow_numbers_and_the_state_stays_wide():
    class Half:
        dtype = torch.float16

        def __call__(self, x, timestep, encoder_hidden_states, added):
            assert x.dtype == encoder_hidden_states.dtype == added["text"].dtype == torch.float16
            assert added["text"].shape == (2, 7)
            return SimpleNamespace(sample=torch.cat([x, x], 1))  # a variance beside

    condition = {"encoder_hidden_states": torch.ones(1, 3, 5), "added": {"text": torch.ones(1, 7)}}
    prior = from_diffusers(Half(), DDPMFake(), condition)
    assert prior.denoise(normal((2, 4), 4).float(), 10).dtype == torch.float32


def test_what_cannot_be_is_said():
    with pytest.raises(SettingsError, match=r"takes both; found guidance 2.0 .*\['class_labels'\]"):
        from_diffusers(flow_network, FlowMatchFake(), label(1), None, 2.0)
    with pytest.raises(ShapeError, match=r"one row.*class_labels of shape \(2,\)"):
        from_diffusers(flow_network, FlowMatchFake(), {"class_labels": torch.tensor([1, 0])})
    with pytest.raises(SettingsError, match="found 'magic' in DDPMFake"):
        from_diffusers(flow_network, DDPMFake("magic"))
    for key, value in (("timestep_type", "continuous"), ("invert_sigmas", True)):
        odd = SimpleNamespace(config={"num_train_timesteps": 10, key: value})
        with pytest.raises(SettingsError, match=f"times are taken with {key} .* found {value!r}"):
            from_diffusers(flow_network, odd)
    with pytest.raises(SettingsError, match="alphas_cumprod or is one for flow"):
        from_diffusers(flow_network, SimpleNamespace(config={}))


class Pipeline:
    """Encodes a prompt as its length, one array or two beside those of no prompt."""

    def __init__(self, arrays: int, pooled: bool) -> None:
        self.arrays = arrays

        def plain(hidden_states, timestep, encoder_hidden_states): ...

        def told(hidden_states, timestep, encoder_hidden_states, pooled_projections): ...

        self.transformer = SimpleNamespace(forward=told if pooled else plain, device="meta")
        self.text_encoder = None  # the second is the first that there is
        self.text_encoder_2 = torch.nn.Embedding(9, 2)
        torch.nn.init.ones_(self.text_encoder_2.weight)
        self.text_encoder_2.device = torch.device("cpu")

    def encode_prompt(self, prompt, prompt_2, negative_prompt, device, **options):
        assert prompt_2 is None
        assert options["do_classifier_free_guidance"]
        sizes = (len(prompt), len(negative_prompt)) * 2
        token = torch.zeros(1, dtype=torch.long, device=device)
        return tuple(n * self.text_encoder_2(token) for n in sizes[: self.arrays])


def test_a_pipeline_encodes_the_prompt_and_none():
    for arrays, pooled, names in (
        (2, False, ["encoder_hidden_states"]),
        (4, True, ["encoder_hidden_states", "pooled_projections"]),
    ):
        told, untold = text_conditions(Pipeline(arrays, pooled), "abc", "z")
        assert list(told) == list(untold) == names
        assert all(float(v[0, 0]) == 3 for v in told.values())
        assert all(float(v[0, 0]) == 1 for v in untold.values())
        # Where the text is read, and no graph of the encoders hangs on to what they read.
        assert {v.device.type for v in (*told.values(), *untold.values())} == {"cpu"}
        assert not any(v.requires_grad for v in (*told.values(), *untold.values()))
    with pytest.raises(SettingsError, match="encodes a prompt as 4 arrays"):
        text_conditions(Pipeline(4, False), "abc")
    guided = Pipeline(2, False)
    guided.encode_prompt = lambda prompt, prompt_2, device: ()
    with pytest.raises(SettingsError, match="takes no negative prompt"):
        text_conditions(guided, "abc")


def test_latents_have_the_autoencoder_s_scale_and_shift():
    vae = SimpleNamespace(
        config=SimpleNamespace(scaling_factor=0.5, shift_factor=0.25),
        encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: 2 * x)),
        decode=lambda z: SimpleNamespace(sample=z / 2),
    )
    prior, x = autoencoded(from_diffusers(flow_network, FlowMatchFake()), vae), normal((1, 4), 1)
    torch.testing.assert_close(prior.encode(x), 0.5 * (2 * x - 0.25))
    torch.testing.assert_close(prior.decode(prior.encode(x)), x)


def test_a_narrow_autoencoder_gets_narrow_numbers_and_the_state_stays_wide():
    layer = torch.nn.Linear(4, 4).to(torch.bfloat16)
    vae = SimpleNamespace(
        dtype=torch.bfloat16,
        config=SimpleNamespace(scaling_factor=0.5),
        encode=lambda x: SimpleNamespace(latents=layer(x)),
        decode=lambda z: SimpleNamespace(sample=layer(z)),
    )
    prior = autoencoded(from_diffusers(flow_network, FlowMatchFake()), vae)
    for dtype in (torch.float32, torch.float64):
        x = normal((2, 4), 1).to(dtype)
        assert prior.encode(x).dtype == prior.decode(x).dtype == dtype
