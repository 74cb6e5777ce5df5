"""Several denoisers as one: their mean, stored, loaded, closed and refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors.checkpoint.store import load_prior, read_header, save_prior
from mgdm_audio.priors.closed import closed_prior
from mgdm_audio.priors.dual_path.config import DualPathConfig
from mgdm_audio.priors.ensemble import Ensemble, EnsembleConfig
from mgdm_audio.priors.levels import Levels
from mgdm_audio.priors.networks import kind_of, read_config
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.unet1d.config import UNet1dConfig
from mgdm_audio.priors.waveform_prior import SpectralWaveformPrior
from mgdm_core.errors import MGDMError, SettingsError
from recipes.music_prior.training.export import read_network
from recipes.music_prior.training.join import joined, taken
from recipes.music_prior.training.kit import write_kit

SIZES = dict(bands=8, min_band=2, widths=(8, 16), blocks=(1, 1), heads=2, embedding=16, hidden=12)
PATH = dict(path_width=16, path_layers=1, path_heads=2, path_patch=4, path_features=4, path_rank=8)
SHORT = STFTUNetConfig(n_fft=128, hop=32, **SIZES)
LONG = DualPathConfig(n_fft=256, hop=64, **SIZES, **PATH)
STEMS = ("bass", "drums", "guitar", "piano")
LEVELS = Levels(sigma_min=1e-3, sigma_max=1.0, rho=3.0, steps=100)


def filled(config, seed):
    network = config.build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))
    power = 0.003 * torch.rand(network.average_power.shape, generator=generator) + 1e-4
    network.start_from_average(power)
    return network.eval()


def stored(folder, name, config, seed, **changes):
    fields = dict(stems=STEMS, rate=22_050, window=4096, levels=LEVELS, licence="MIT")
    fields |= {"training": {"cpu_seconds": 10 * seed, "mixture_rms": 0.1}, **changes}
    path = folder / f"{name}.safetensors"
    save_prior(
        path,
        filled(config, seed),
        kind=kind_of(config),
        config=config.to_dict(),
        sigma_data=config.sigma_data,
        name="tiny",
        **fields,
    )
    return path


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    return stored(folder, "short", SHORT, 1), stored(folder, "long", LONG, 2)


@pytest.fixture(scope="module")
def both(members):
    path = members[0].with_name("both.safetensors")
    joined(members, [0.75, 0.25], path, torch.float32)
    return load_prior(path, device="cpu", precision="float32")


@torch.no_grad()
def test_what_is_loaded_estimates_the_weighted_mean(members, both):
    short, long = (load_prior(path, device="cpu", precision="float32") for path in members)
    assert isinstance(both, SpectralWaveformPrior)
    assert both.kind == "ensemble"
    assert both.stems == STEMS
    x = 0.05 * torch.randn(2, 4, 900, generator=torch.Generator().manual_seed(3))
    for t in (1, 60):
        mean = 0.75 * short.denoise(x, t) + 0.25 * long.denoise(x, t)
        torch.testing.assert_close(both.denoise(x, t), mean)
    # Masks, and so variances, are the first member's.
    found, mask = both.denoise_with_mask(x, 60)
    torch.testing.assert_close(mask, short.denoise_with_mask(x, 60)[1])
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(both.average_power, short.average_power)
    assert both.spectral == short.spectral
    count = [sum(p.numel() for p in prior.network.parameters()) for prior in (both, short, long)]
    assert count[0] == count[1] + count[2]


def test_its_header_says_what_its_members_are(members, both):
    sums = [load_prior(path, device="cpu").checksum for path in members]
    assert [member["checksum"] for member in both.training["members"]] == sums
    assert [member["kind"] for member in both.training["members"]] == ["stft_unet", "dual_path"]
    assert both.training["cpu_seconds"] == 30


@torch.no_grad()
def test_all_members_are_told_which_stems_are_silent(members, both):
    priors = [load_prior(path, device="cpu", precision="float32") for path in members]
    x = 0.05 * torch.randn(1, 3, 900, generator=torch.Generator().manual_seed(3))
    apart = [closed_prior(prior, ["guitar"]).denoise(x, 50) for prior in priors]
    closed = closed_prior(both, ["guitar"])
    assert closed.stems == ("bass", "drums", "piano")
    torch.testing.assert_close(closed.denoise(x, 50), 0.75 * apart[0] + 0.25 * apart[1])


@torch.no_grad()
def test_twice_the_same_member_is_that_member(members):
    config = EnsembleConfig.of([SHORT, SHORT], [0.3, 0.7])
    network, member = Ensemble(config).eval(), filled(SHORT, 1)
    for one in network.members:
        one.load_state_dict(member.state_dict())
    x, sigma = 0.05 * torch.randn(1, 4, 500), torch.tensor([0.2])
    torch.testing.assert_close(network(x, sigma), member(x, sigma))


def test_the_configuration_survives_json():
    config = EnsembleConfig.of([SHORT, LONG], [0.5, 0.5])
    again = read_config("ensemble", json.loads(json.dumps(config.to_dict())))
    assert again.configs == (SHORT, LONG)
    assert (again.n_fft, again.hop, again.stems) == (128, 32, 4)


@pytest.mark.parametrize(
    ("configs", "weights", "word"),
    [
        ([SHORT], [1.0], "two members"),
        ([SHORT, LONG], [1.0], "two members"),
        ([SHORT, LONG], [0.5, 0.6], "sum to 1"),
        ([SHORT, LONG], [1.5, -0.5], "positive"),
        ([SHORT, LONG], [float("nan"), 0.5], "positive"),
        ([SHORT, STFTUNetConfig(n_fft=128, hop=32, stems=5, **SIZES)], [0.5, 0.5], "one stems"),
        ([SHORT, UNet1dConfig()], [0.5, 0.5], "work on spectra"),
        ([SHORT, EnsembleConfig.of([SHORT, LONG], [0.5, 0.5])], [0.5, 0.5], "cannot be"),
    ],
)
def test_members_that_do_not_fit_are_refused(configs, weights, word):
    with pytest.raises(SettingsError, match=word):
        EnsembleConfig.of(configs, weights)


def test_a_header_with_a_member_that_there_is_not_is_refused():
    values = EnsembleConfig.of([SHORT, LONG], [0.5, 0.5]).to_dict()
    values["members"][1] = {"kind": "nothing"}
    with pytest.raises(CheckpointError, match="nothing"):
        read_config("ensemble", values)


def nested(depth):
    values = EnsembleConfig.of([SHORT, LONG], [0.5, 0.5]).to_dict()
    for _ in range(depth):
        inner = {"kind": "ensemble", **values}
        values = {"members": [inner, values["members"][1]], "weights": [0.5, 0.5]}
    return values


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (nested(1), "cannot be an ensemble"),
        (nested(300), "cannot be an ensemble"),
        ({"members": ["stft_unet", "stft_unet"]}, "members"),
        ({"members": [[["kind", "stft_unet"]]] * 2}, "members"),
        ({"members": [None, None]}, "members"),
        ({"members": 5}, "not valid"),
        ({"members": [{"kind": "stft_unet"}] * 17, "weights": [1 / 17] * 17}, "up to 16"),
        ({"members": [{"kind": ["stft_unet"]}] * 2}, "not valid"),
        ({"members": [{"kind": "stft_unet", "heads": 0}] * 2}, "heads"),
        ({"members": [{"kind": "stft_unet", "n_fft": 1 << 30}] * 2}, "too large"),
        ({"members": [{"kind": "stft_unet", "pitch_layers": 10**9}] * 2}, "too large"),
        ({"members": [{"kind": "dual_path", "path_layers": 10**9}] * 2}, "path_layers"),
        ({"members": [{"kind": "stft_unet", "hidden": 1 << 60}] * 2}, "cannot be built"),
        ({"weights": [0.5, None]}, "not valid"),
    ],
)
def test_whatever_a_header_says_is_refused_in_one_line(members, both, tmp_path, change, word):
    whole = members[0].with_name("both.safetensors")
    with safe_open(whole, "pt") as file:
        header = json.loads(file.metadata()["mgdm"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["config"].update(change)
    forged = tmp_path / "forged.safetensors"
    save_file(tensors, forged, {"mgdm": json.dumps(header)})
    with pytest.raises(CheckpointError, match=word) as refused:
        load_prior(forged, device="cpu")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 2000  # 300 times the same words are more


@pytest.mark.parametrize(("name", "value"), [("rate", 44_100), ("licence", "CC-BY-NC-4.0")])
def test_priors_that_do_not_fit_are_refused(members, tmp_path, name, value):
    other = stored(tmp_path, "other", SHORT, 1, **{name: value})
    with pytest.raises(SettingsError, match=f"one {name}"):
        joined([members[0], other], [0.5, 0.5], tmp_path / "both.safetensors")
    assert not (tmp_path / "both.safetensors").exists()


def test_other_shares_of_the_same_members_are_another_prior(members, both, tmp_path):
    """Fits of error bars and resumed results are kept by this checksum."""
    header = joined(members, [0.5, 0.5], tmp_path / "half.safetensors", torch.float32)
    first = read_header(members[0].with_name("both.safetensors"))
    assert header.tensors_sha256 == first.tensors_sha256
    assert header.checksum != first.checksum
    assert read_header(tmp_path / "half.safetensors").checksum == header.checksum
    assert both.checksum == first.checksum


def test_an_ensemble_is_not_joined_again(members, both, tmp_path):
    path = members[0].with_name("both.safetensors")
    with pytest.raises(MGDMError, match="no network on spectra"):
        joined([path, members[0]], [0.5, 0.5], tmp_path / "out.safetensors")


def test_a_member_is_taken_out_as_it_was(members, both, tmp_path):
    whole = members[0].with_name("both.safetensors")
    header = taken(whole, 1, tmp_path / "long.safetensors", torch.float32)
    assert header.checksum == load_prior(members[1], device="cpu").checksum
    assert header.training["cpu_seconds"] == 20
    assert isinstance(read_network(tmp_path / "long.safetensors"), type(LONG.build()))


@pytest.mark.parametrize("training", [{}, {"members": [1, 2]}, {"members": {"1": {}}}])
def test_a_member_of_which_nothing_is_said_is_taken_out(both, tmp_path, training):
    whole = tmp_path / "whole.safetensors"
    config = both.network.config
    facts = dict(stems=STEMS, rate=22_050, window=4096, levels=LEVELS, licence="MIT")
    save_prior(
        whole,
        both.network,
        kind="ensemble",
        config=config.to_dict(),
        sigma_data=config.sigma_data,
        training=training,
        **facts,
    )
    header = taken(whole, 1, tmp_path / "long.safetensors", torch.float32)
    assert (header.network, header.training) == ("dual_path", {})


def test_what_is_read_is_not_written_over(members, both, tmp_path):
    whole = members[0].with_name("both.safetensors")
    before = whole.read_bytes(), members[1].read_bytes()
    (tmp_path / "link.safetensors").symlink_to(members[1])
    for out in (members[1], tmp_path / "link.safetensors"):
        with pytest.raises(SettingsError, match="another file"):
            joined(members, [0.5, 0.5], out)
    with pytest.raises(SettingsError, match="another file"):
        taken(whole, 0, whole)
    assert (whole.read_bytes(), members[1].read_bytes()) == before


def test_what_cannot_be_taken_out_is_refused(members, both, tmp_path):
    whole = members[0].with_name("both.safetensors")
    with pytest.raises(SettingsError, match="members 0 to 1; found 2"):
        taken(whole, 2, tmp_path / "out.safetensors")
    with pytest.raises(MGDMError, match="no ensemble"):
        taken(members[0], 0, tmp_path / "out.safetensors")
    with pytest.raises(MGDMError, match="take one out"):
        read_network(whole)


def test_a_kit_does_not_start_from_an_ensemble(members, tmp_path):
    joined(members, (0.7, 0.3), tmp_path / "both.safetensors")
    with pytest.raises(MGDMError, match="take one out of it by"):
        write_kit(tmp_path / "kit.tar.xz", (), init=tmp_path / "both.safetensors")
    assert not (tmp_path / "kit.tar.xz").exists()
