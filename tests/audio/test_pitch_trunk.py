"""The trunk over pitch: a note that is played higher is the same picture, shifted."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from mgdm_audio.priors.dual_path.config import DualPathConfig
from mgdm_audio.priors.dual_path.network import DualPath
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_audio.priors.stft_unet.pitch import (
    PitchBlock,
    PitchSummary,
    PitchTrunk,
    pitch_places,
)
from mgdm_core.errors import SettingsError

SIZES = dict(n_fft=128, hop=32, bands=8, min_band=2, widths=(8, 16), blocks=(1, 1), heads=2)
SIZES.update(embedding=16, hidden=12, pitch_layers=2, pitch_width=6)
PATH = dict(path_width=16, path_layers=1, path_heads=2, path_patch=4, path_features=4, path_rank=8)
OCTAVE = 24


def filled(module, seed=1, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return module.eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pitches_are_even_steps_of_the_octave_up_to_the_last_bin():
    places = pitch_places(1024)
    np.testing.assert_allclose(places[OCTAVE:] / places[:-OCTAVE], 2.0)
    # C1, 32.7 Hz, in bins of 22050 / 2048 Hz.
    assert places[0] == pytest.approx(32.7 / (22_050 / 2048), rel=0.02)
    assert 1023 / 2 ** (1 / OCTAVE) < places[-1] <= 1023


@torch.no_grad()
def test_a_note_an_octave_higher_is_told_the_same_an_octave_higher():
    block = filled(PitchBlock(6, 16, 2))
    embedding = noise(1, 16, seed=2)
    x = torch.zeros(1, 6, 260, 9)
    x[:, :, 100:110] = noise(1, 6, 10, 9)
    told = block(x, embedding)
    higher = block(x.roll(OCTAVE, 2), embedding)
    # Away from the ends of the scale, beyond which there is nothing.
    torch.testing.assert_close(higher[:, :, 84:200], told[:, :, 60:176], atol=1e-5, rtol=1e-5)
    assert (told[:, :, 60:176] - told[:, :, 84:200]).abs().max() > 0.1


@torch.no_grad()
def test_a_pitch_hears_its_neighbours_and_its_harmonics_alone():
    block = filled(PitchBlock(6, 16, 4))
    embedding = noise(1, 16, seed=2)
    x = noise(1, 6, 260, 12)
    other = x.clone()
    other[:, :, 130, 6] += 1.0
    moved = (block(other, embedding) - block(x, embedding)).abs().amax((0, 1)) > 1e-6
    # Two convolutions of three taps reach two pitches; harmonics are heard one pitch around.
    ratios = np.array([1 / 4, 1 / 3, 1 / 2, 1, 2, 3, 4, 5])
    far = np.round(OCTAVE * np.log2(ratios)).astype(int)
    heard = {130 - shift + step for shift in far for step in (-1, 0, 1)} | set(range(128, 133))
    assert set(moved.any(1).nonzero().flatten().tolist()) == heard
    # In time: four columns by the dilation, one more by the second convolution.
    assert set(moved.any(0).nonzero().flatten().tolist()) == {1, 2, 3, 5, 6, 7, 9, 10, 11}


def test_bins_become_pitches_and_pitches_bins():
    trunk = PitchTrunk(1024, 3, 2, 6, 1, 16, 12)
    pitches = len(pitch_places(1024))
    assert trunk.gather.shape == (1024, pitches)
    torch.testing.assert_close(trunk.gather.sum(0), torch.ones(pitches))
    torch.testing.assert_close(trunk.weights.sum(0), torch.ones(1024))
    # A partial at 440 Hz is highest at A4, 3.75 octaves above the lowest pitch.
    place = 440 / (22_050 / 2048)
    bins = torch.zeros(1024)
    bins[math.floor(place)] = bins[math.ceil(place)] = 1.0
    found = int((bins @ trunk.gather).argmax())
    assert abs(found - OCTAVE * math.log2(440 / 33.075)) <= 1.5
    # What this pitch says is heard at its bin most.
    told = torch.zeros(1, 1, 1, pitches)
    told[..., found] = 1.0
    heard = trunk.spread(told, torch.arange(1024)).flatten()
    assert abs(int(heard.argmax()) - place) <= 1


@pytest.mark.parametrize("make", [STFTUNetConfig, lambda **k: DualPathConfig(**k, **PATH)])
@torch.no_grad()
def test_a_network_with_a_pitch_trunk_decides_some_bins_as_it_decides_all(make):
    network = filled(make(**SIZES).build(), size=0.15)
    network.start_from_average(0.002 * torch.rand(4, 65) + 1e-4)
    real, imaginary = noise(2, 4, 7, 65, seed=4), noise(2, 4, 7, 65, seed=5)
    sigma = torch.tensor([0.1, 0.4])
    chosen = torch.tensor([0, 3, 17, 40, 63])
    some = network.denoise_bins(real, imaginary, sigma, chosen)
    whole = network.denoise_parts(real, imaginary, sigma)
    torch.testing.assert_close(some.real, whole.real[..., chosen], atol=1e-5, rtol=1e-4)


def test_a_compiler_takes_the_network_whole(repo_root):
    command = [sys.executable, "-m", "tests.audio.compiled_network", "trace"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@torch.no_grad()
def test_what_pitches_tell_reaches_the_stems():
    network = filled(STFTUNet(STFTUNetConfig(**SIZES)), size=0.15)
    network.start_from_average(0.002 * torch.rand(4, 65) + 1e-4)
    x, sigma = 0.05 * noise(1, 4, 700), torch.tensor([0.2])
    before = network(x, sigma)
    network.pitch.told.weight.zero_()
    assert (network(x, sigma) - before).abs().max() > 1e-5


def test_networks_without_it_are_what_they_were():
    plain = {k: v for k, v in SIZES.items() if not k.startswith("pitch")}
    stored = STFTUNetConfig(**plain).to_dict()
    old = {k: v for k, v in stored.items() if not k.startswith("pitch")}
    network = STFTUNetConfig.from_dict(old).build()
    assert not any(name.startswith("pitch") for name in network.state_dict())
    assert isinstance(DualPath(DualPathConfig(**SIZES, **PATH)).pitch, PitchTrunk)


@torch.no_grad()
def test_what_sums_up_does_not_know_places_and_hears_the_loud_first():
    summary = filled(PitchSummary(6, 3), size=0.5)
    x, level = noise(1, 6, 20, 7), noise(1, 1, 20, 7, seed=3).abs()
    told = summary(x, level) - x
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(summary(x[:, :, order], level[:, :, order]) - x[:, :, order],
                               told[:, :, order], atol=1e-5, rtol=1e-4)  # fmt: skip
    # One place that is changed is heard at every other, the more the louder it is.
    other = x.clone()
    other[:, :, 11, 2] += 2.0
    summary.loudness.fill_(1.0)
    heard = []
    for loud in (-3.0, 0.0, 3.0):
        level[..., 11, 2] = loud
        change = (summary(other, level) - other - summary(x, level) + x).abs()
        change[:, :, 11, 2] = 0
        heard.append(float(change.mean()))
    assert 0 < 3 * heard[0] < heard[1] < heard[2] / 3


@torch.no_grad()
def test_tokens_bring_news_from_any_distance():
    """Farther in time than the blocks' convolutions reach."""
    x = noise(1, 17, 128, 64)
    other = x.clone()
    other[:, :, :4] += 1.0
    told = {}
    for tokens in (0, 4):
        trunk = filled(PitchTrunk(64, 17, 2, 8, 3, 16, 12, tokens=tokens))
        assert len(trunk.summaries) == (1 if tokens else 0)
        change = trunk(other, noise(1, 16)) - trunk(x, noise(1, 16))
        told[tokens] = change[:, :, 30:].abs().max()
    assert told[0] == 0 < told[4]


@pytest.mark.parametrize(
    "change",
    [{"pitch_layers": -1}, {"pitch_width": 0}, {"pitch_tokens": -1}, {"pitch_tokens": 4}],
)
def test_sizes_that_cannot_be_are_refused(change):
    with pytest.raises(SettingsError, match="pitch_layers"):
        STFTUNetConfig(**{**SIZES, **change})
