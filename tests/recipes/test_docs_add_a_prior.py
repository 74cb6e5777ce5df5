"""docs/add_a_prior.md runs as it stands, and a package that follows it is found."""

import re
import sys

import numpy as np
import pytest
import torch

from mgdm_audio.errors import CheckpointError
from mgdm_audio.priors import networks, register_network
from mgdm_audio.priors.networks import kind_of, network_kinds, read_config
from mgdm_audio.priors.spectral_network import SpectralNetwork, build_spectral
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.unet1d.config import UNet1dConfig
from mgdm_core.errors import SettingsError
from recipes.music_prior.training.presets import TrainSettings
from recipes.music_prior.training.widen import widened
from tests.audio.checkpoint_helpers import SMALL


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(networks, "_KINDS", dict(networks._KINDS))


@pytest.fixture(scope="module")
def blocks(repo_root):
    page = (repo_root / "docs" / "add_a_prior.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def module(blocks, tmp_path, monkeypatch):
    """The first block as a module of its own, as a package would hold it."""
    (tmp_path / "gain_for_tests.py").write_text(blocks[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "gain_for_tests"
    sys.modules.pop("gain_for_tests", None)


def test_the_page_runs(blocks, tmp_path, monkeypatch, capsys):
    (tmp_path / "shards").mkdir()
    rng = np.random.default_rng(0)
    shard = (400 * rng.standard_normal((5, 4, 16_384))).astype(np.int16)
    np.save(tmp_path / "shards" / "a.npy", shard)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/add_a_prior.md", "exec"), names)
    said = capsys.readouterr().out
    assert "gain {'stems': 4, 'n_fft': 512" in said
    assert "'piano': (2, 22050)" in said
    stored = (tmp_path / "run" / "settings.json").read_text()
    assert '"kind": "gain"' in stored


def test_the_example_is_the_wiener_filter_before_training(module):
    gain = __import__(module)
    network = build_spectral(gain.GainConfig())
    power = torch.rand(4, 257) + 0.1
    network.start_from_average(power)
    x, sigma = torch.randn(2, 4, 3000), torch.tensor([0.3, 2.0])
    mask = network.denoise_with_mask(x, sigma)[1]
    expected = power / (power + sigma[:, None, None] ** 2)
    got = mask[..., :-1, 0]
    torch.testing.assert_close(got, expected[..., :-1], rtol=1e-4, atol=1e-6)


def test_an_installed_package_is_found_by_its_entry_point(module, tmp_path, monkeypatch):
    # The module must not register itself here: only what the package announces counts.
    path = tmp_path / f"{module}.py"
    path.write_text(path.read_text().replace('register_network("gain", GainConfig)', ""))
    with pytest.raises(CheckpointError, match=r"unknown network 'gain'.*add_a_prior"):
        read_config("gain", {})
    folder = tmp_path / "their_priors-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-priors\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[mgdm.networks]\ngain = {module}:GainConfig\nlost = {module}:Nothing\n"
    )
    assert "gain" in network_kinds()
    config = read_config("gain", {"n_fft": 256, "hop": 64})
    assert config.n_fft == 256
    assert kind_of(config) == "gain"
    with pytest.raises(CheckpointError, match=r"'lost' comes from .*cannot be imported"):
        read_config("lost", {})


def test_a_kind_has_one_meaning(module):
    gain = __import__(module)
    register_network("gain", gain.GainConfig)  # the same again is no error
    with pytest.raises(SettingsError, match="'gain' is taken"):
        register_network("gain", STFTUNetConfig)
    with pytest.raises(SettingsError, match="'stft_unet' is taken"):
        register_network("stft_unet", gain.GainConfig)
    assert kind_of(STFTUNetConfig()) == "stft_unet"


def test_a_configuration_nobody_registered_has_no_kind():
    class Unknown(STFTUNetConfig):
        pass

    with pytest.raises(SettingsError, match="Unknown is no registered network"):
        TrainSettings(network=Unknown()).to_dict()


def test_only_networks_on_spectra_are_trained():
    config = UNet1dConfig.from_dict(SMALL)
    with pytest.raises(SettingsError, match="UNet1d does not work on spectra"):
        build_spectral(config)


def test_a_network_that_says_nothing_of_its_channels_is_not_widened(module):
    gain = __import__(module)
    narrow, wide = (build_spectral(gain.GainConfig(n_fft=n)) for n in (256, 512))
    assert isinstance(narrow, SpectralNetwork)
    same = widened(narrow, build_spectral(gain.GainConfig(n_fft=256)), 0.1, torch.Generator())
    assert torch.equal(same["bias"], narrow.state_dict()["bias"])
    with pytest.raises(SettingsError, match="cannot be repeated"):
        widened(narrow, wide, 0.1, torch.Generator())
    config = STFTUNetConfig(n_fft=64, hop=32, bands=8, min_band=2, widths=(8,), blocks=(1,))
    other = build_spectral(config)
    with pytest.raises(SettingsError, match="of its own kind"):
        widened(narrow, other, 0.1, torch.Generator())
