"""Train the embedded digits prior: a few minutes on one CPU core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mgdm_core.errors import SettingsError
from mgdm_core.schedule import NoiseSchedule
from recipes.images.priors.digits import (
    DIGITS_FILE,
    digits,
    empty_digits_network,
    save_digits,
)

__all__ = ["train_digits"]


def _noise_levels(count: int, ratios: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw noise-to-signal ratios, one per image.

    Half are log-normal about the levels that decide a digit's shape, half are levels that a sampler
    visits, so that none is unknown.
    """
    normal = torch.randn(count, generator=generator)
    shape = (1.2 * normal - 0.4).exp()
    visited = ratios[torch.randint(len(ratios), (count,), generator=generator)]
    pick = torch.rand(count, generator=generator) < 0.5
    return torch.where(pick, shape, visited)


def train_digits(
    path: Path = DIGITS_FILE,
    *,
    steps: int = 3000,
    batch: int = 32,
    learning_rate: float = 2e-3,
    average: float = 0.995,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
    report_every: int = 100,
) -> float:
    """Train with EDM's loss, keep an exponential average of the weights, write them to ``path``.

    Returns
    -------
    float
        Loss of the averaged network on the held-out digits.

    Raises
    ------
    SettingsError
        If ``steps`` or ``batch`` is not positive.
    """
    if steps < 1 or batch < 1:
        raise SettingsError(f"steps and batch are at least 1; found {steps} and {batch}")
    train, _ = digits(held_out=False)
    test, _ = digits(held_out=True)
    sigma_data = float(train.square().mean().sqrt())
    generator = torch.Generator().manual_seed(seed)
    network, averaged = (empty_digits_network() for _ in range(2))
    network.unet.draw_weights(generator)
    averaged.load_state_dict(network.state_dict())
    schedule = NoiseSchedule.vp_linear()
    ratios = (schedule.sigma / schedule.alpha)[1:].float()
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-3)

    def loss_of(net: torch.nn.Module, x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        sigma = _noise_levels(len(x), ratios, g)
        noisy = x + sigma[:, None, None, None] * torch.randn(x.shape, generator=g)
        total = (sigma**2 + sigma_data**2)[:, None, None, None]
        raw = net(noisy / total.sqrt(), sigma.log() / 4)
        # In terms of F the weighted loss of EDM is plain: F against (x - c_skip x_noisy) / c_out.
        target = (x - sigma_data**2 / total * noisy) / (
            sigma[:, None, None, None] * sigma_data / total.sqrt()
        )
        return (raw - target).square().mean()

    def held_out_loss() -> float:
        with torch.no_grad():
            g = torch.Generator().manual_seed(1)
            return sum(float(loss_of(averaged, test, g)) for _ in range(4)) / 4

    running = math.nan
    for step in range(1, steps + 1):
        warm = min(1.0, step / 100)
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * warm * (0.02 + 0.98 * decay)
        rows = torch.randint(len(train), (batch,), generator=generator)
        loss = loss_of(network, train[rows], generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        keep = min(average, (1 + step) / (10 + step))
        with torch.no_grad():
            for slow, fast in zip(averaged.parameters(), network.parameters()):
                slow.lerp_(fast, 1 - keep)
        value = float(loss.detach())
        running = value if math.isnan(running) else 0.98 * running + 0.02 * value
        if report is not None and step % report_every == 0:
            report(step, running)
    final = held_out_loss()
    day = time.strftime("%Y-%m-%d")
    save_digits(
        averaged,
        sigma_data,
        path,
        f"digits prior, {steps} steps of {batch}, seed {seed}, held-out loss {final:.4f}, {day}",
    )
    return final
