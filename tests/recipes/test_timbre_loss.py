"""Whose every pitch is: a loss of the trunk over pitch, which may learn by it alone."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mgdm_core.errors import SettingsError
from recipes.music_prior.training.loss import choose_bins
from recipes.music_prior.training.objective import Objective, TimbreLoss
from recipes.music_prior.training.presets import PRESETS
from recipes.music_prior.training.train import train
from tests.recipes.tiny_training import TINY, Tones, same, settings_of

PITCHED = replace(TINY, hidden=8, pitch_layers=3, pitch_width=8, pitch_tokens=2)


def timbre(rng):
    loss = TimbreLoss(3, 4)
    with torch.no_grad():
        loss.named.weight.copy_(torch.randn(loss.named.weight.shape, generator=rng))
    return loss


def test_of_two_notes_the_louder_counts_by_the_root_of_its_power():
    loss = TimbreLoss(2, 2)
    with torch.no_grad():
        loss.named.weight.copy_(torch.eye(2)[:, :, None, None])
    told = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])  # logits (3, 0) and (0, 1)
    power = torch.tensor([[[[4.0, 0.0]], [[0.0, 1.0]]]])  # the first stem's, then the second's
    expected = 2 / 3 * math.log(1 + math.exp(-3)) + 1 / 3 * math.log(1 + math.exp(-1))
    assert_close(loss(told, power, None), torch.tensor([expected]))


def test_items_are_independent_and_loudness_is_free_and_silence_is_nothing():
    rng = torch.Generator().manual_seed(0)
    loss, told = timbre(rng), torch.randn(3, 3, 4, 5, generator=rng)
    power = torch.rand(3, 4, 4, 5, generator=rng)
    power[2] = 0
    together = loss(told, power, None)
    for item in range(3):
        assert_close(loss(told[item : item + 1], power[item : item + 1], None)[0], together[item])
    assert_close(loss(told, 100 * power, None), together)
    assert together[2] == 0


def test_a_stem_that_is_told_to_be_silent_takes_no_part():
    rng = torch.Generator().manual_seed(1)
    loss, told = timbre(rng), torch.randn(1, 3, 4, 5, generator=rng)
    power = torch.rand(1, 4, 4, 5, generator=rng)
    power[:, 3] = 0
    three = TimbreLoss(3, 3)
    with torch.no_grad():
        three.named.weight.copy_(loss.named.weight[:3])
    absent = torch.tensor([[False, False, False, True]])
    assert_close(loss(told, power, absent), three(told, power[:, :3], None))


def test_what_is_told_is_the_same_with_and_without_the_rest_of_the_network():
    torch.manual_seed(0)
    network = PITCHED.build()
    torch.nn.init.normal_(network.pitch.told.weight)
    real, imaginary = torch.randn(2, 2, 4, 9, 33)
    seen, chosen = (real, imaginary, torch.tensor([0.1, 0.3])), torch.arange(0, 32, 3)
    estimate, told = network.denoise_and_tell(*seen, chosen)
    assert_close(network.tell_pitches(*seen), told, rtol=0, atol=0)
    for mine, theirs in zip(network.denoise_bins(*seen, chosen), estimate, strict=True):
        assert_close(mine, theirs, rtol=0, atol=0)


def test_shares_are_exact_where_the_network_computes_in_half_precision():
    torch.manual_seed(0)
    judge = Objective(PITCHED.build(), settings_of(network=PITCHED, timbre=1.0))
    asked = []
    judge.timbre.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    clean = torch.randn(2, 4, 33, 12, dtype=torch.complex64)
    sigma, chosen = torch.tensor([0.1, 0.3]), choose_bins(32, 0.5, torch.Generator())
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            judge(clean, clean, sigma, chosen, None)
    assert asked[1].dtype == torch.float32
    assert_close(asked[1], asked[0], rtol=0, atol=0)


def test_the_trunk_alone_learns_where_no_bins_are_looked_at(tmp_path):
    network = replace(PITCHED, pitch_tokens=0)
    settings = settings_of(network=network, bin_share=0.0, timbre=1.0, steps=3, decay_steps=0)
    before = train(settings, Tones(), tmp_path / "run", stop_after=1)
    after = train(settings, Tones(), tmp_path / "run")
    changed = {k for k, v in before["network"].items() if not torch.equal(v, after["network"][k])}
    assert changed
    assert all(name.startswith("pitch.") for name in changed)
    assert not same(before["timbre"], after["timbre"])
    # The whole goes on in the same folder, with what was learnt.
    whole = replace(settings, bin_share=0.5, steps=5)
    last = train(whole, Tones(), tmp_path / "run")
    assert last["step"] == 5
    assert any(
        not torch.equal(v, after["network"][k])
        for k, v in last["network"].items()
        if not k.startswith("pitch.")
    )


def test_a_run_that_resumes_is_the_same_to_the_bit(tmp_path):
    settings = settings_of(network=PITCHED, timbre=0.5)
    whole = train(settings, Tones(), tmp_path / "whole")
    train(settings, Tones(), tmp_path / "parts", stop_after=2)
    parts = train(settings, Tones(), tmp_path / "parts")
    for name in ("network", "average", "timbre"):
        assert same(whole[name], parts[name]), name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"timbre": 0.1}, "give the network pitch_layers"),
        ({"timbre": -1.0}, "must not be negative"),
        ({"bin_share": 0.0}, "set that too"),
        ({"bin_share": 1.1}, r"must be in \[0, 1\]; found 1.1"),
    ],
)
def test_settings_without_sense_are_refused(changes, says):
    with pytest.raises(SettingsError, match=says):
        settings_of(**changes)


def test_the_preset_of_the_trunk_alone_goes_on_as_the_other():
    alone, whole = PRESETS["cpu-4096-timbre"], PRESETS["cpu-4096-tokens-open"]
    assert alone.network == whole.network
    judge = Objective(alone.network.build(), replace(alone, compile=False))
    learning = {name for name, p in judge.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in learning} == {"pitch", "named"}
