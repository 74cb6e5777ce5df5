"""The fit of shares undoes what was done to them, and strangers weigh what they are told to."""

import torch

from mgdm_audio.priors.spectral import SpectralTransform
from mgdm_audio.sampling.share_recalibration import recalibrate_shares
from recipes.calibration.fit_shares import HZ, Separated, fit_shares

SPECTRAL = SpectralTransform(512, 128)
RATE = 22_050
STEMS = ("bass", "guitar", "other")


def _piece(seed, loudness=(1.0, 1.0, 0.7)):
    """Noise whose bins belong now more to one stem and now to another."""
    g = torch.Generator().manual_seed(seed)
    blocks = torch.randn(3, 20, 1, generator=g).mul(1.5).exp()
    parts = 0.05 * torch.randn(3, 20, 1102, generator=g) * blocks / blocks.mean()
    return parts.reshape(3, -1) * torch.tensor(loudness)[:, None]


def _distorted(truth, power, weight):
    count = len(truth)
    table = torch.tensor([[power] * count, [0.0] * (count - 1) + [weight], [0.0] * count])
    return recalibrate_shares(truth, SPECTRAL, table[..., None].expand(3, count, SPECTRAL.bins))


def _gain(pieces, fit):
    corrected = [p.corrected(fit, SPECTRAL, RATE) for p in pieces]
    return sum(float(p.gain(p.estimate, 0.0)) for p in corrected) / len(pieces)


def test_shares_that_were_too_soft_and_too_light_are_put_right():
    """On pieces that the fit has not seen."""
    stems = ("bass", "guitar", "piano")
    pieces = [
        Separated(stems, _distorted(truth, 0.5, -0.5), truth) for truth in map(_piece, range(16))
    ]
    told = []
    fit = fit_shares(
        pieces[:12],
        SPECTRAL,
        RATE,
        unknown_db=0.0,
        epochs=12,
        on_epoch=lambda epoch, gain: told.append((epoch, gain)),
    )
    assert [epoch for epoch, _ in told] == list(range(12))
    assert told[-1][1] > told[0][1] + 1
    before = sum(float(p.gain(p.estimate, 0.0)) for p in pieces[12:]) / 4
    assert _gain(pieces[12:], fit) > before + 2
    middle = [fit.power[stem][HZ.index(1500)] for stem in stems]
    assert min(middle) > 1.2
    assert not fit.present


def test_the_worth_of_strangers_moves_what_is_theirs():
    pieces = [
        Separated(STEMS, _distorted(truth, 0.7, 0.0), truth) for truth in map(_piece, range(8))
    ]

    def part_of_other(worth):
        fit = fit_shares(pieces, SPECTRAL, RATE, unknown_db=worth)
        found = [p.corrected(fit, SPECTRAL, RATE).estimate for p in pieces]
        return sum(
            float((x[2] * p.truth[2]).sum() / p.truth[2].square().sum())
            for x, p in zip(found, pieces)
        ) / len(pieces)

    assert part_of_other(60.0) > part_of_other(0.0) + 0.05


def test_stems_are_fitted_without_strangers_and_strangers_with_them():
    """Whatever strangers are worth; a silent stem counts for nothing."""
    truth = _piece(3, (1.0, 1.0, 0.0))
    pieces = [
        Separated(STEMS, _distorted(truth, 0.5, 0.0), truth),
        Separated(STEMS[:2], _distorted(truth[:2], 0.5, 0.0), truth[:2]),
    ]
    fits = [fit_shares(pieces, SPECTRAL, RATE, epochs=8, unknown_db=worth) for worth in (0.0, 9.0)]
    for fit in fits:
        assert fit.power["bass"][HZ.index(1500)] > 1.05
        assert set(fit.present) == {"other"}
    alone = fit_shares(pieces[1:], SPECTRAL, RATE, epochs=8)
    assert set(alone.power) == set(STEMS[:2])
    # Of open pieces alone the stems learn nothing.
    open_alone = fit_shares(pieces[:1], SPECTRAL, RATE, epochs=2)
    assert set(open_alone.power["bass"] + open_alone.power["guitar"]) == {1.0}
    silent = Separated(STEMS, torch.zeros_like(truth), torch.zeros_like(truth))
    assert float(silent.gain(silent.estimate, 9.0)) == 0.0


def test_two_fits_are_the_same():
    pieces = [
        Separated(STEMS, _distorted(truth, 0.7, 0.0), truth) for truth in map(_piece, range(4))
    ]
    first, second = (fit_shares(pieces, SPECTRAL, RATE, epochs=1) for _ in range(2))
    assert first == second
