"""A cheap deterministic separator for tests: fixed bands of the mixture, and noise by the seed."""

import os
import time

import numpy as np

from mgdm_audio.evaluation.estimators import Estimates

BANDS = {"bass": (0, 200), "guitar": (200, 700), "piano": (700, 2000), "drums": (2000, 1e9)}


def separate(mix, rate, seed):
    """Split the spectrum into bands; returns a dict of float32 arrays."""
    spectrum = np.fft.rfft(mix)
    frequencies = np.fft.rfftfreq(len(mix), 1 / rate)
    rng = np.random.default_rng(seed)
    stems = {}
    for name, (low, high) in BANDS.items():
        band = np.where((frequencies >= low) & (frequencies < high), spectrum, 0)
        noise = 1e-4 * rng.standard_normal(len(mix))
        stems[name] = (np.fft.irfft(band, len(mix)) + noise).astype(np.float32)
    return stems


def blended(mix, rate, seed=0, steps=8.0):
    """The bands with a share of the mixture that falls with ``steps``."""
    share = 1 / (1 + steps)
    stems = separate(mix, rate, seed)
    return {n: ((1 - share) * s + share * mix).astype(np.float32) for n, s in stems.items()}


class FakeSpec:
    """Behaves like the spec of the real separator: samplers, settings, evaluations, failures.

    ``sampler="bands"`` separates; its setting ``steps`` blends towards the mixture less and less.
    ``fail`` names tracks that raise, ``die`` a file: while it exists the worker kills itself.
    """

    def __init__(self, fail=(), delay=0.0, die=None, log=None):
        self.fail, self.delay, self.die, self.log = tuple(fail), delay, die, log

    def check(self, variants):
        pass

    def describe(self):
        return {"prior": "fake", "sha256": "0" * 64, "preset": "none"}

    def files(self, tracks):
        return {}

    def settings_of(self, variant):
        return {"steps": 8, **dict(variant.settings)}

    def load(self, device):
        if device == "nowhere":
            raise RuntimeError("no such device")
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"load {os.getpid()}\n")
        return self._one

    def _one(self, job):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{job.track.name} {os.getpid()}\n")
        time.sleep(self.delay)
        if job.track.name in self.fail:
            raise ValueError(f"cannot separate\n{job.track.name}")
        if self.die and os.path.exists(self.die):
            os.remove(self.die)
            os.kill(os.getpid(), 9)
        steps = float(dict(job.variant.settings).get("steps", 8))
        mix = job.audio.mixture
        if job.variant.sampler == "mixture":
            return Estimates({name: mix / 4 for name in BANDS})
        stems = blended(mix, job.audio.rate, job.seed, steps)
        return Estimates(stems, 10.0 * steps)
