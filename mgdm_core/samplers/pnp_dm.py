"""PnP-DM, the split Gibbs sampler with a diffusion prior (Wu et al. 2024, arXiv 2405.18782)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgdm_core.kernels import backward_chain
from mgdm_core.likelihoods import Likelihood
from mgdm_core.priors import Prior
from mgdm_core.randomness import RandomStreams
from mgdm_core.run import Run, SampleResult, Start, check
from mgdm_core.samplers._common import draw_given_data, solves_linear, spread
from mgdm_core.schedule import NoiseSchedule
from mgdm_core.trace import Callback

__all__ = ["PRESETS", "PnPDMSettings", "coupling_levels", "pnp_dm"]


@dataclass(frozen=True)
class PnPDMSettings:
    """Settings of PnP-DM.

    Parameters
    ----------
    iterations : int
        Gibbs sweeps.
    rho : float
        First deviation of the coupling between the two copies of x_0.
    decay : float
        Factor per sweep.
    floor : float
        Smallest coupling deviation; the bias that remains is that of a sigma_y^2 enlarged by
        floor^2 A A^T.
    prior_steps : int
        Backward steps of the prior's half of a sweep.
    langevin_steps : int
        Langevin steps of the data's half where it has no closed form.
    learning_rate : float or None
        Largest Langevin step; None for the largest that is stable, whatever the data's scale.
    draw : {"auto", "exact", "langevin"}
        Data's half: closed form (linear, Gaussian), Langevin, or the former where it can.
    """

    iterations: int = 100
    rho: float = 10.0
    decay: float = 0.9
    floor: float = 0.3
    prior_steps: int = 20
    langevin_steps: int = 100
    learning_rate: float | None = None
    draw: str = "auto"

    def __post_init__(self) -> None:
        check(self.iterations >= 1, "iterations is at least 1", self.iterations)
        check(0 < self.floor <= self.rho, "0 < floor <= rho", (self.floor, self.rho))
        check(0 < self.decay <= 1, "decay lies in (0, 1]", self.decay)
        check(self.prior_steps >= 1, "prior_steps is at least 1", self.prior_steps)
        check(self.langevin_steps >= 1, "langevin_steps is at least 1", self.langevin_steps)
        check(
            self.learning_rate is None or self.learning_rate > 0,
            "learning_rate is positive or None",
            self.learning_rate,
        )
        check(
            self.draw in ("auto", "exact", "langevin"),
            "draw is one of auto, exact, langevin",
            self.draw,
        )


def coupling_levels(schedule: NoiseSchedule, cfg: PnPDMSettings) -> list[int]:
    """Level of each sweep: nearest to rho decay^k, not below the floor.

    The coupling's deviation is then the level's own sigma_t / alpha_t.
    """
    rhos = [max(cfg.rho * cfg.decay**k, cfg.floor) for k in range(cfg.iterations)]
    return [schedule.level_of_sigma(rho) for rho in rhos]


def pnp_dm(
    prior: Prior,
    likelihood: Likelihood,
    shape: Sequence[int],
    streams: RandomStreams,
    settings: PnPDMSettings | None = None,
    *,
    start: Start | None = None,
    callback: Callback | None = None,
) -> SampleResult:
    """Draw z ~ g(y | z) N(z; x, rho^2 I), then x ~ p(x) N(z; x, rho^2 I), while rho falls.

    The second draw is the backward diffusion from the level whose noise is rho, started at z. Both
    halves use the sweep's own rho. Works with any likelihood; no gradient of a network. A start
    gives x, and skips the sweeps at levels above its own (one sweep at its own level is left at
    least). Other parameters as in
    :func:`mgdm_core.samplers.mgdm.mgdm`.

    Raises
    ------
    CapabilityError
        If ``draw="exact"`` meets a likelihood that is not Gaussian on a linear operator.
    """
    cfg = settings or PnPDMSettings()
    schedule = prior.schedule
    levels = coupling_levels(schedule, cfg)
    if start is not None and start.level is not None:
        levels = [level for level in levels if level <= start.level] or [start.level]
    run = Run("pnp_dm", prior, likelihood, shape, streams, callback, len(levels))
    exact = cfg.draw == "exact" or (cfg.draw == "auto" and solves_linear(likelihood))
    x = run.first_state(levels[0], start)[0] / float(schedule.alpha[levels[0]])
    z = x
    for t in levels:
        z = draw_given_data(
            run,
            x,
            float(spread(schedule, t, None)),
            exact=exact,
            x_0=z,  # going on from the last z leaves its distribution invariant
            steps=cfg.langevin_steps,
            rate=cfg.learning_rate,
        )
        noisy = float(schedule.alpha[t]) * z
        x = backward_chain(schedule, run.denoise, noisy, t, cfg.prior_steps, streams, "ddpm")
        run.step(t, z, x)
    return run.finish(x)


PRESETS: dict[str, PnPDMSettings] = {
    "images": PnPDMSettings(),
    "audio": PnPDMSettings(floor=1e-3, draw="langevin"),
}
